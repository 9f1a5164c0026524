"""``trajworld data collect-corpus``: make the pre-training corpus."""

import json
import os
import time
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from trajworld.collect.corpus_manifest import DEFAULT_NAME, checked_name, member_id
from trajworld.collect.corpus_table import ROLES, Row, read_table, select
from trajworld.errors import UsageError

from .collection_progress import CollectionProgress


@click.command("collect-corpus", short_help="Make the corpus that models are pre-trained on.")
@click.option("--name", default=DEFAULT_NAME, show_default=True, help="What its datasets' ids begin with.")
@click.option("--list", "list_only", is_flag=True, help="Show the table of environments and do nothing.")
@click.option(
    "--table",
    type=click.Path(dir_okay=False, path_type=Path),
    help="A table (CSV) in place of the built-in one.",
)
@click.option(
    "--only",
    multiple=True,
    metavar="PATTERN",
    help="Only environments or sources that fit, e.g. dm_control or 'robot/*'; may be repeated.",
)
@click.option("--role", type=click.Choice(ROLES), help="Only environments of this role.  [default: both]")
@click.option(
    "--transitions",
    type=click.IntRange(min=1),
    default=20_000,
    show_default=True,
    help="Of an environment of size 1 in the table.",
)
@click.option(
    "--weights",
    multiple=True,
    metavar="SOURCE=FACTOR",
    help="Multiply the weights of a source in pre-training, e.g. legged=2; may be repeated.",
)
@click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Another seed, other episodes."
)
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    help="Processes; any number gives the same files.  [default: one a core, fewer for little to do]",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    help="The folder of Minari datasets to write to.  [default: Minari's, MINARI_DATASETS_PATH]",
)
@click.option("--json", "as_json", is_flag=True, help="Print what was made (or the table) as JSON.")
def collect_corpus(
    name: str,
    list_only: bool,
    table: Path | None,
    only: tuple[str, ...],
    role: str | None,
    transitions: int,
    weights: tuple[str, ...],
    seed: int,
    workers: int | None,
    output: Path | None,
    as_json: bool,
) -> None:
    """Make one Minari dataset of each environment of a table, for pre-training and for tests of the unseen.

    Behaviours are mixed within a dataset: uniform actions, coloured noise, pushes, gaits, and policies of a short
    search, from usual and perturbed starts. Each dataset is a function of the seed and its line of the table: a
    corpus that was stopped or killed goes on where it was and ends the same, file by file.

    \b
    Examples:
      trajworld data collect-corpus --list
      trajworld data collect-corpus
      trajworld data collect-corpus --only 'robot/snake-*' --transitions 2000 --name snakes
      trajworld pretrain corpus:corpus -o runs/pre
    """
    rows = read_table(table)
    chosen = select(rows, only, role)
    checked_name(name)
    if list_only:
        _show(chosen, name, as_json)
        return
    factors = dict(_factor(text) for text in weights)
    if output is not None:
        # Where Minari and the worker processes look.
        os.environ["MINARI_DATASETS_PATH"] = str(output.absolute())
    # Imported here: the simulators are slow to import.
    from trajworld.collect.collector import default_workers
    from trajworld.collect.corpus import check_families, make_datasets, open_corpus, plan_corpus

    console = Console(stderr=True)
    began, made = time.monotonic(), []
    jobs, there = plan_corpus(name, chosen, transitions, seed)
    check_families(jobs)
    total = sum(job.recipe.transitions for job in jobs)
    with open_corpus(name, rows, factors):
        try:
            with CollectionProgress(console, len(jobs), total) as report:
                for dataset in make_datasets(jobs, workers or default_workers(total)):
                    made.append(dataset)
                    report.add(dataset.job.row.environment, dataset.tally.transitions, dataset.seconds)
        finally:
            # After a failure or a Ctrl-C too: these datasets are whole and stay.
            if as_json:
                click.echo(json.dumps([_made(dataset) for dataset in made], indent=2))
    if not as_json:
        kept = sum(dataset.tally.transitions for dataset in made)
        click.echo(
            f"Made {len(made)} datasets ({kept:,} transitions) in {time.monotonic() - began:.0f} s; "
            f"{len(there)} were there already. `trajworld data corpus {name}` describes the corpus."
        )


def _factor(text: str) -> tuple[str, float]:
    source, _, factor = text.partition("=")
    try:
        return source, float(factor)
    except ValueError:
        raise UsageError(f"--weights takes SOURCE=FACTOR, as in legged=2, not {text!r}") from None


def _made(dataset: Any) -> dict[str, object]:
    tally = dataset.tally
    return {
        "dataset": dataset.job.dataset_id,
        "environment": dataset.job.row.environment,
        "transitions": tally.transitions,
        "episodes": tally.episodes,
        "unstable": tally.unstable,
        "unstable_reason": tally.reason,
        "seconds": round(dataset.seconds, 3),
    }


def _show(rows: list[Row], name: str, as_json: bool) -> None:
    if as_json:
        entries = [
            {
                "environment": row.environment,
                "dataset": member_id(name, row),
                "source": row.source,
                "variates": row.num_variates,
                "role": row.role,
                "weight": row.weight,
                "size": row.size,
                "behaviour": row.behaviour,
                "search": row.search,
                "variants": list(row.variants),
            }
            for row in rows
        ]
        click.echo(json.dumps(entries, indent=2))
        return
    table = Table(box=None, pad_edge=False)
    table.add_column("environment", overflow="fold")
    for heading in ("source", "M", "role", "weight", "size", "behaviour", "search", "variants"):
        table.add_column(heading, justify="right" if heading in ("M", "weight", "size", "search") else "left")
    for row in rows:
        table.add_row(
            escape(row.environment),
            row.source,
            str(row.num_variates),
            row.role,
            f"{row.weight:g}",
            f"{row.size:g}",
            row.behaviour,
            f"{row.search:g}k" if row.search else "",
            " ".join(row.variants),
        )
    console = Console()
    if not console.is_terminal:
        # A pipe has no width: names must come through whole.
        console = Console(width=320)
    console.print(table)
    sizes = len({row.num_variates for row in rows})
    counts = ", ".join(f"{sum(row.role == role for row in rows)} {role}" for role in ROLES)
    console.print(f"{len(rows)} environments ({counts}) of {sizes} different M", highlight=False)
