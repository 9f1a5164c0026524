"""``trajworld data corpus``: what a corpus holds."""

import json
from collections.abc import Sequence
from pathlib import Path

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from trajworld.collect.corpus_manifest import DEFAULT_NAME
from trajworld.collect.corpus_summary import Description, Entry, describe_corpus, draw_corpus
from trajworld.collect.corpus_table import PRETRAIN


@click.command(short_help="Show what a corpus holds.")
@click.argument("name", default=DEFAULT_NAME)
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Also draw a picture here (.png)."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def corpus(name: str, output: Path | None, as_json: bool) -> None:
    """Show the datasets of the corpus NAME (default: corpus), made by `trajworld data collect-corpus`.

    Coverage says how evenly a dataset's observations fill their ranges: 1 evenly, near 0 in one place.

    \b
    Examples:
      trajworld data corpus
      trajworld data corpus snakes -o snakes.png
    """
    description = describe_corpus(name)
    if output is not None:
        draw_corpus(description, output)
    if as_json:
        click.echo(json.dumps(description.as_json(), indent=2))
        return
    console = Console()
    if not console.is_terminal:
        # A pipe has no width: names must come through whole.
        console = Console(width=250)
    table = Table(box=None, pad_edge=False)
    table.add_column("environment", overflow="fold")
    table.add_column("role")
    for heading in ("share", "M", "transitions", "episodes", "mean length", "terminated", "coverage"):
        table.add_column(heading, justify="right")
    table.add_column("behaviours")
    for entry in description.entries:
        table.add_row(
            escape(entry.environment),
            entry.role,
            f"{entry.weight:.2%}" if entry.role == PRETRAIN else "",
            str(entry.variates),
            f"{entry.transitions:,}",
            f"{entry.episodes:,}",
            f"{entry.mean_length:.0f}",
            f"{entry.terminated:,}",
            f"{entry.coverage:.2f}",
            " ".join(f"{kind} {share:.0%}" for kind, share in entry.behaviours.items()),
        )
    console.print(table)
    for role in sorted({entry.role for entry in description.entries}):
        console.print(_sum(role, description.of_role(role)), highlight=False)
    if description.missing:
        console.print(_missing(description), highlight=False)
    if output is not None:
        console.print(f"Picture: {output}", highlight=False)


def _sum(role: str, entries: Sequence[Entry]) -> str:
    return (
        f"{role}: {len(entries)} environments of {len({entry.variates for entry in entries})} different M, "
        f"{sum(entry.transitions for entry in entries):,} transitions in "
        f"{sum(entry.episodes for entry in entries):,} episodes"
    )


def _missing(description: Description) -> str:
    shown = ", ".join(description.missing[:3])
    more = f" and {len(description.missing) - 3} more" if len(description.missing) > 3 else ""
    return f"still to be made: {shown}{more}"
