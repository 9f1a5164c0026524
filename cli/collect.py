"""``trajworld data collect``: run simulators and keep what happened as Minari datasets."""

import contextlib
import json
import time
from collections.abc import Iterator

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from trajworld.collect.collector import Tally, default_workers
from trajworld.collect.datasets import DEFAULT_ID, Collected, collect_datasets, dataset_targets
from trajworld.errors import UsageError
from trajworld.policies.behaviour import BEHAVIOURS, make_behaviour

_TRANSITIONS = 20_000


@click.command(short_help="Run Gymnasium and dm_control environments into Minari datasets.")
@click.argument("environments", metavar="ENV...", nargs=-1, required=True)
@click.option(
    "--transitions",
    type=click.IntRange(min=1),
    help=f"Transitions of each environment; the last episode is cut there.  [default: {_TRANSITIONS}]",
)
@click.option("--episodes", type=click.IntRange(min=1), help="Episodes of each environment instead.")
@click.option(
    "--behaviour",
    type=click.Choice(BEHAVIOURS),
    default="ou",
    show_default=True,
    help="uniform: independent random actions; ou: Ornstein-Uhlenbeck (coloured) noise; constant: random "
    "pushes that are held; gait: sine waves; mixed: each episode one of the first three, of a random scale and "
    "correlation; varied: of the first four.",
)
@click.option(
    "--noise-scale",
    type=float,
    help="In half action ranges: ou's standard deviation (default 0.5), else the range drawn from (1).",
)
@click.option(
    "--noise-correlation",
    type=float,
    help="ou: of a step's noise with the next's (default 0.9); constant: that a push goes on (0.95).",
)
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Another seed, other episodes."
)
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    help="Processes; any number gives the same datasets.  [default: one a core, fewer for little to do]",
)
@click.option(
    "--id",
    "template",
    metavar="TEMPLATE",
    default=DEFAULT_ID,
    show_default=True,
    help="The Minari id of each dataset.",
)
@click.option("--replace", is_flag=True, help="Replace datasets of the same id.")
@click.option("--skip-existing", is_flag=True, help="Leave out environments whose dataset is there.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
def collect(
    environments: tuple[str, ...],
    transitions: int | None,
    episodes: int | None,
    behaviour: str,
    noise_scale: float | None,
    noise_correlation: float | None,
    seed: int,
    workers: int | None,
    template: str,
    replace: bool,
    skip_existing: bool,
    as_json: bool,
) -> None:
    """Collect transitions of each ENV into a Minari dataset of its own.

    ENV is a Gymnasium id with continuous actions (Hopper-v5, Pendulum-v1), dm_control/DOMAIN-TASK
    (dm_control/cheetah-run), or a procedural robot (robot/legged-17, robot/snake-3: each number is another).
    Changed physics follow a question mark, in quotes for the shell: Pendulum-v1 takes g, m and l; every MuJoCo
    environment takes gravity (m/s²), friction and mass (factors) and timestep (s), and Gymnasium's take their own
    arguments too (include_cfrc_ext_in_observation=false).

    An episode depends on the seed, the environment's name and its number alone. Where a simulator breaks
    (NaN, an exception) the episode is cut before the bad step. What is finished stays when a later one fails.

    \b
    Examples:
      trajworld data collect Hopper-v5
      trajworld data collect Swimmer-v5 dm_control/fish-swim robot/legged-17 --transitions 50000 --behaviour mixed
      trajworld data collect "Pendulum-v1?g=5.0&l=1.5" --episodes 100 --behaviour uniform
      trajworld data collect "Hopper-v5?gravity=5&mass=1.2" --id "moon/{environment}/{behaviour}-v1"
    """
    if transitions is not None and episodes is not None:
        raise UsageError("give --transitions or --episodes, not both")
    if replace and skip_existing:
        raise UsageError("give --replace or --skip-existing, not both")
    if episodes is None:
        transitions = transitions or _TRANSITIONS
    actions = make_behaviour(behaviour, noise_scale, noise_correlation)
    targets = dataset_targets(environments, behaviour, template)
    console = Console(stderr=True)
    if skip_existing:
        for target in targets:
            if target.exists:
                console.print(f"{target.dataset_id} is there already: left as it is", highlight=False)
        targets = [target for target in targets if not target.exists]
    expected = sum(transitions or (episodes or 0) * target.description.time_limit for target in targets)
    finished: list[Collected] = []
    try:
        with _progress(console, transitions, episodes, [target.environment for target in targets]) as report:
            for collected in collect_datasets(
                targets,
                behaviour_name=behaviour,
                behaviour=actions,
                transitions=transitions,
                episodes=episodes,
                seed=seed,
                workers=workers or default_workers(expected),
                replace=replace,
                progress=report,
            ):
                finished.append(collected)
    finally:
        # Printed after a failure or a Ctrl-C too: these datasets are whole and stay.
        if as_json:
            click.echo(json.dumps([_row(collected) for collected in finished], indent=2))
        elif finished:
            _print_table(finished)


@contextlib.contextmanager
def _progress(
    console: Console, transitions: int | None, episodes: int | None, environments: list[str]
) -> "Iterator[_Report]":
    """A bar per environment with rate and time left; where there is no terminal, a line every few seconds."""
    total = transitions or episodes or 0
    unit = "transitions" if transitions else "episodes"
    if not console.is_terminal:
        yield _Report(console, None, {}, total, unit)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        tasks = {name: progress.add_task(name, total=total, start=False, rate="") for name in environments}
        yield _Report(console, progress, tasks, total, unit)


class _Report:
    """Called after each episode; a class because it remembers when each environment began."""

    def __init__(
        self, console: Console, progress: Progress | None, tasks: dict[str, TaskID], total: int, unit: str
    ) -> None:
        self._console, self._progress, self._tasks = console, progress, tasks
        self._total, self._unit = total, unit
        self._began: dict[str, float] = {}
        self._last = self._printed = time.monotonic()

    def __call__(self, environment: str, tally: Tally) -> None:
        now = time.monotonic()
        first = environment not in self._began
        # One follows the other, so that an environment begins with the last episode of the one before.
        seconds = now - self._began.setdefault(environment, self._last)
        self._last = now
        done = tally.transitions if self._unit == "transitions" else tally.episodes
        rate = done / max(seconds, 1e-9)
        if self._progress is not None:
            if first:
                self._progress.start_task(self._tasks[environment])
            self._progress.update(self._tasks[environment], completed=done, rate=f"{rate:,.0f}/s")
        elif done >= self._total or now - self._printed > 5:
            left = f", {(self._total - done) / rate:.0f} s left" if done < self._total else ""
            line = f"{environment}: {done:,} of {self._total:,} {self._unit}, {rate:,.0f}/s{left}"
            self._console.print(line, highlight=False, soft_wrap=True)
            self._printed = now


def _row(collected: Collected) -> dict[str, object]:
    tally = collected.tally
    return {
        "dataset": collected.dataset_id,
        "environment": collected.environment,
        "path": str(collected.path),
        "episodes": tally.episodes,
        "transitions": tally.transitions,
        "mean_length": tally.transitions / tally.episodes,
        "mean_return": tally.total_return / tally.episodes,
        "terminated": tally.terminated,
        "unstable": tally.unstable,
        "dropped": tally.dropped,
        "unstable_reason": tally.reason,
        "seconds": round(collected.seconds, 3),
    }


def _print_table(finished: list[Collected]) -> None:
    table = Table(box=None, pad_edge=False)
    table.add_column("dataset", overflow="fold")
    for heading in ("episodes", "transitions", "mean length", "mean return", "seconds"):
        table.add_column(heading, justify="right")
    for collected in finished:
        tally = collected.tally
        table.add_row(
            collected.dataset_id,
            f"{tally.episodes:,}",
            f"{tally.transitions:,}",
            f"{tally.transitions / tally.episodes:.1f}",
            f"{tally.total_return / tally.episodes:.2f}",
            f"{collected.seconds:.1f}",
        )
    console = Console()
    if not console.is_terminal:
        # A pipe has no width: ids must come through whole.
        console = Console(width=160)
    console.print(table)
    for collected in finished:
        tally = collected.tally
        if tally.unstable:
            console.print(
                f"Warning: {collected.environment}: {tally.unstable} episodes broke and were cut before "
                f"the bad step ({tally.dropped} left out whole): {tally.reason}",
                highlight=False,
                soft_wrap=True,
            )
