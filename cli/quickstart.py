"""``trajworld quickstart``: the whole story on one machine."""

import contextlib
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table

from .training_progress import training_progress

if TYPE_CHECKING:
    from trajworld.quickstart.plan import Plan


@click.command(short_help="Fine-tune a pre-trained model on an unseen robot, compare, report.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default=Path("trajworld-quickstart"),
    show_default=True,
    help="Folder for everything: datasets, runs, report. Must not exist, or be empty.",
)
@click.option(
    "--scale",
    type=click.Choice(["small", "tiny"]),
    default="small",
    show_default=True,
    help="small: a real result, at most 5 minutes on two cores; tiny: a try of the machinery in half a minute.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of everything that is random.")
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON.")
def quickstart(output: Path, scale: str, seed: int, as_json: bool) -> None:
    """Show what pre-training buys on a robot that the model has never seen.

    Collects trajectories of Gymnasium's hopper and fine-tunes the model that ships, trajworld-small, on several
    amounts of them, against training from scratch with equal steps and learning rates, and against copying the
    last row. Writes a report (index.html) with pictures and the command that repeats each step.

    \b
    Examples:
      trajworld quickstart
      KERAS_BACKEND=torch trajworld quickstart -o quick-torch
      trajworld quickstart --scale tiny -o /tmp/try
    """
    from trajworld.quickstart.plan import quickstart_plan
    from trajworld.quickstart.report import main_table
    from trajworld.quickstart.story import run_quickstart

    console = Console(stderr=True)
    plan = quickstart_plan(scale, seed)
    console.print(_plan_table(plan))
    began = time.perf_counter()
    with contextlib.ExitStack() as bars:

        def observe(run: Any) -> Any:
            # One bar at a time: the one of the run before ends where the next begins.
            bars.close()
            return bars.enter_context(training_progress(run, console))

        def say(line: str) -> None:
            bars.close()
            console.print(line, highlight=False, soft_wrap=True)

        results, page = run_quickstart(plan, output, say, observe)
    if as_json:
        click.echo(json.dumps(results.to_json(), indent=2))
        return
    out = Console()
    out.print(main_table(results))
    for finding in results.findings:
        out.print(f"- {finding}", highlight=False)
    out.print(f"{time.perf_counter() - began:.0f} s in all. Report: {page}", highlight=False, soft_wrap=True)


def _plan_table(plan: "Plan") -> Table:
    table = Table(title="The plan", show_header=False, title_justify="left")
    trials = len(plan.sizes) * len(plan.learning_rates) * 2
    table.add_row(
        "collect",
        f"{plan.pool_transitions + plan.test_transitions:,} transitions of {plan.target}, never in pre-training",
    )
    table.add_row(
        "fine-tune",
        f"{plan.model} on {', '.join(f'{size:,}' for size in plan.sizes)} transitions; rates "
        f"{', '.join(f'{rate:g}' for rate in plan.learning_rates)}; {plan.steps} steps of batch {plan.batch}, "
        f"and the same from scratch: {trials} runs",
    )
    table.add_row(
        "test", f"{plan.test_windows:,} windows of other episodes; beside copying the last row and zero-shot"
    )
    return table
