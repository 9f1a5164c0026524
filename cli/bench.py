"""``trajworld bench``: compare the backends on this machine."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

if TYPE_CHECKING:
    from trajworld.benchmarks.tables import Table as Cells

_FOLDER = Path("trajworld-bench")
_WIDTH = 120
_SUITES = ("accuracy", "training", "rollout", "forward", "tokenizing", "windows", "startup", "memory")


@click.group(short_help="Compare the backends on this machine.")
def bench() -> None:
    """Compare JAX, TensorFlow and PyTorch on this machine: whether they are the same model, and which is faster."""


@bench.command()
@click.option("--quick", is_flag=True, help="Few cases and rounds: minutes rather than hours.")
@click.option(
    "--backend",
    "backends",
    multiple=True,
    type=click.Choice(["jax", "tensorflow", "torch"]),
    help="Which; may be repeated.  [default: all that are installed]",
)
@click.option(
    "--suite",
    "suites",
    multiple=True,
    type=click.Choice(_SUITES),
    help="Which; may be repeated.  [default: all]",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    default=_FOLDER,
    show_default=True,
    help="Folder for the results; those of the same backend and suite are replaced.",
)
@click.pass_context
def run(
    context: click.Context, quick: bool, backends: tuple[str, ...], suites: tuple[str, ...], output: Path
) -> None:
    """Run the benchmark suites under each backend that is installed, each in its own process.

    They run one after another; leave the machine alone meanwhile. A suite that fails is named, the others still run,
    and the exit code is 1. After Ctrl-C what was finished is kept.

    \b
    Examples:
      trajworld bench run --quick
      trajworld bench run --suite training --suite rollout --backend jax --backend torch -o speed
      trajworld bench report trajworld-bench -o report
    """
    from trajworld.benchmarks.runner import run_suites

    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
        disable=not sys.stderr.isatty(),
    ) as bars:
        try:
            outcomes = run_suites(output, backends, suites, quick=quick, observer=_progress(bars))
        except KeyboardInterrupt:
            click.echo(f"Results until here are kept in {output}.", err=True)
            raise
    failed = [outcome for outcome in outcomes if not outcome.passed]
    passed = len(outcomes) - len(failed)
    seconds = sum(outcome.seconds for outcome in outcomes)
    click.echo(
        f"{passed} of {len(outcomes)} suites passed in {seconds:.0f} s. Compare: trajworld bench report {output}"
    )
    for outcome in failed:
        log = output / f"{outcome.backend}-{outcome.suite}.log"
        click.echo(f"Failed: {outcome.backend} {outcome.suite}: {outcome.problem} ({log})", err=True)
    context.exit(1 if failed else 0)


@bench.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, file_okay=False),
    help="Folder for report.md, report.json and report.png.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON, and nothing else.")
def report(folder: Path, output: Path | None, as_json: bool) -> None:
    """Join the results in FOLDER into tables, findings and, with -o, a picture.

    FOLDER is one that `trajworld bench run` wrote; results of several runs may lie in it.

    \b
    Examples:
      trajworld bench report trajworld-bench
      trajworld bench report trajworld-bench -o report
      trajworld bench report trajworld-bench --json | jq .findings
    """
    from trajworld.benchmarks import tables
    from trajworld.benchmarks.findings import findings
    from trajworld.benchmarks.report import read_report

    found = read_report(folder)
    if output is not None:
        from trajworld.benchmarks.pictures import draw_report
        from trajworld.files import atomic_file, write_json

        draw_report(output / "report.png", found)
        write_json(output / "report.json", tables.as_json(found))
        with atomic_file(output / "report.md") as temporary:
            temporary.write_text(tables.as_markdown(found, "report.png"), encoding="utf-8")
    if as_json:
        click.echo(json.dumps(tables.as_json(found), indent=2, allow_nan=False))
        return
    console = Console()
    if not console.is_terminal:
        # A file or another program has no width that the tables must fit into.
        console = Console(width=_WIDTH)
    console.print(escape(tables.machine_line(found)), highlight=False)
    for table in tables.tables(found):
        console.print()
        console.print(f"[bold]{escape(table.title)}[/bold]", highlight=False)
        console.print(_fitted(table, console))
    console.print(escape(tables.NOTES), style="dim", highlight=False)
    console.print()
    for line in findings(found):
        console.print(f"- {escape(line)}", highlight=False)
    if output is not None:
        console.print(
            f"Report: {escape(str(output / 'report.md'))}, its picture and JSON beside it", soft_wrap=True
        )


def _fitted(cells: "Cells", console: Console) -> Table:
    """The table, without as many of the dispensable columns as make it fit; report.md and --json have them all."""
    from trajworld.benchmarks.tables import DISPENSABLE

    for name in DISPENSABLE:
        if (
            Measurement.get(console, console.options.update(width=1000), _rich(cells)).maximum
            <= console.width
        ):
            break
        cells = cells.without_column(name)
    return _rich(cells)


def _rich(cells: "Cells") -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for place, name in enumerate(cells.header):
        table.add_column(name, justify="left" if place < 2 else "right", overflow="fold", no_wrap=place == 1)
    for number, row in enumerate(cells.rows):
        table.add_row(
            *(
                f"[bold]{escape(cell)}[/bold]" if (number, place) in cells.strong else escape(cell)
                for place, cell in enumerate(row)
            ),
            end_section=number in cells.ends,
        )
    return table


def _progress(bars: Progress) -> Any:
    """An observer that moves a bar, and prints a line for each suite that ended."""
    from trajworld.benchmarks.runner import Observer, Outcome

    task = bars.add_task("", total=None)

    class Shown(Observer):
        def begins(self, number: int, total: int, backend: str, suite: str) -> None:
            bars.update(task, description=f"{backend} {suite}", completed=number - 1, total=total)
            if bars.disable:
                click.echo(f"[{number}/{total}] {backend} {suite} ...", err=True)

        def ended(self, outcome: Outcome) -> None:
            how = "done" if outcome.passed else f"FAILED: {outcome.problem}"
            line = f"{outcome.backend} {outcome.suite}: {how} in {outcome.seconds:.0f} s"
            if bars.disable:
                click.echo(line, err=True)
            else:
                bars.console.print(escape(line), highlight=False)

    return Shown()
