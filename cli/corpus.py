"""``trajworld data collect-corpus`` and ``corpus``: make the pre-training corpus, and show what it holds."""

import json
import os
import time
from dataclasses import asdict
from pathlib import Path

import click

from trajworld.collect.collector import default_workers
from trajworld.collect.corpus import (
    DEFAULT_NAME,
    check_families,
    corpus_folder,
    make_datasets,
    member_of,
    open_corpus,
    plan_corpus,
)
from trajworld.collect.corpus_table import PRETRAIN, ROLES, Row, read_table, select
from trajworld.errors import UsageError

from .collect import seed_option, workers_option
from .output import make_table, print_table
from .progress import job_progress


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
@seed_option
@workers_option
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
    corpus that was stopped or killed continues where it was and ends the same, file by file.

    \b
    Examples:
      trajworld data collect-corpus --list
      trajworld data collect-corpus
      trajworld data collect-corpus --only 'robot/snake-*' --transitions 2000 --name snakes
      trajworld pretrain corpus:corpus -o runs/pre
    """
    rows = read_table(table)
    chosen = select(rows, only, role)
    corpus_folder(name)  # refuses a name that is none
    if list_only:
        _list(chosen, name, as_json)
        return
    factors = dict(_factor(text) for text in weights)
    if output is not None:
        # Where Minari and the worker processes look.
        os.environ["MINARI_DATASETS_PATH"] = str(output.absolute())
    began = time.monotonic()
    made: list[dict[str, object]] = []
    jobs, there = plan_corpus(name, chosen, transitions, seed)
    check_families(jobs)
    workers = workers or default_workers(sum(job.recipe.transitions for job in jobs))
    with open_corpus(name, rows, factors):
        try:
            with job_progress("Collecting") as progress:
                for job, gathered in make_datasets(jobs, workers, progress):
                    named = {"dataset": job.dataset_id, "environment": job.row.environment}
                    seconds = round(gathered.seconds, 3)
                    made.append({**named, **gathered.tally.row(), "seconds": seconds})
        finally:
            # After a failure or a Ctrl-C too: these datasets are whole and stay.
            if as_json:
                click.echo(json.dumps(made, indent=2))
    if not as_json:
        kept = sum(job.recipe.transitions for job in jobs)
        click.echo(
            f"Made {len(made)} datasets ({kept:,} transitions) in {time.monotonic() - began:.0f} s; "
            f"{len(there)} were there already. `trajworld data corpus {name}` describes the corpus."
        )


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
    # Only here are pandas and matplotlib needed.
    from trajworld.collect.corpus_summary import describe_corpus, draw_corpus

    entries, missing = describe_corpus(name)
    if output is not None:
        draw_corpus(name, entries, output)
    if as_json:
        click.echo(json.dumps({"name": name, "entries": entries, "missing": missing}, indent=2))
        return
    rows = []
    for entry in entries:
        share = f"{entry['weight']:.2%}" if entry["role"] == PRETRAIN else ""
        counts = (entry[name] for name in ("variates", "transitions", "episodes"))
        means = f"{entry['mean_length']:.0f}", entry["terminated"], f"{entry['coverage']:.2f}"
        behaviours = " ".join(f"{kind} {part:.0%}" for kind, part in entry["behaviours"].items())
        rows.append((entry["environment"], entry["role"], share, *counts, *means, behaviours))
    headings = ("environment", "role", "share", "M", "transitions", "episodes", "mean length", "terminated")
    right = [False, False, *[True] * 7, False]
    print_table(make_table((*headings, "coverage", "behaviours"), rows, right))
    for role in ROLES:
        if of_role := [entry for entry in entries if entry["role"] == role]:
            click.echo(
                f"{role}: {len(of_role)} environments of {len({one['variates'] for one in of_role})} different M, "
                f"{sum(one['transitions'] for one in of_role):,} transitions in "
                f"{sum(one['episodes'] for one in of_role):,} episodes"
            )
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        click.echo(f"still to be made: {', '.join(missing[:3])}{more}")
    if output is not None:
        click.echo(f"Picture: {output}")


def _factor(text: str) -> tuple[str, float]:
    source, _, factor = text.partition("=")
    try:
        return source, float(factor)
    except ValueError:
        raise UsageError(f"--weights takes SOURCE=FACTOR, as in legged=2, not {text!r}") from None


def _list(rows: list[Row], name: str, as_json: bool) -> None:
    if as_json:
        entries = [{"dataset": member_of(name, row).dataset_id, **asdict(row)} for row in rows]
        for entry in entries:
            entry["variates"] = entry.pop("num_variates")
        click.echo(json.dumps(entries, indent=2))
        return
    headings = ("environment", "source", "M", "role", "weight", "size", "behaviour", "search", "variants")
    cells = []
    for row in rows:
        role = row.role, f"{row.weight:g}", f"{row.size:g}"
        acts = row.behaviour, f"{row.search:g}k" if row.search else "", " ".join(row.variants)
        cells.append((row.environment, row.source, row.num_variates, *role, *acts))
    print_table(make_table(headings, cells, [name in ("M", "weight", "size", "search") for name in headings]))
    sizes = len({row.num_variates for row in rows})
    counts = ", ".join(f"{sum(row.role == role for row in rows)} {role}" for role in ROLES)
    click.echo(f"{len(rows)} environments ({counts}) of {sizes} different M")
