"""``trajworld evaluate-zero-shot``: a pre-trained model in environments that it never saw."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from trajworld.errors import UsageError
from trajworld.zero_shot.defaults import CONTEXTS, TRANSITIONS, WINDOWS, default_contexts

from .progress import job_progress
from .results_folder import check_overwrite, results_folder

if TYPE_CHECKING:
    from trajworld.collect.corpus_table import Row
    from trajworld.zero_shot.results import Group, Results


@click.command("evaluate-zero-shot", short_help="Apply a model to environments that it never saw.")
@click.argument("model_name", metavar="MODEL")
@click.option(
    "--corpus",
    metavar="NAME",
    help="Take the unseen datasets of this corpus of `data collect-corpus`.  [default: collect what is needed]",
)
@click.option(
    "--only",
    multiple=True,
    metavar="PATTERN",
    help="Only environments or sources that fit, e.g. legged or 'gymnasium/Pendulum*'; may be repeated.",
)
@click.option(
    "--contexts",
    metavar="LIST",
    help="Rows of context, fewer than the model's window has.  [default: "
    f"{','.join(map(str, CONTEXTS))}; for another window, up to its last]",
)
@click.option(
    "--unpadded",
    is_flag=True,
    help="Give short contexts without padding, at the window's first positions.  [default: padded, as at an "
    "episode's start]",
)
@click.option(
    "--windows",
    type=click.IntRange(min=1),
    default=WINDOWS,
    show_default=True,
    help="Predict at most so many transitions of each environment, drawn at random.",
)
@click.option(
    "--transitions",
    type=click.IntRange(min=1),
    help=f"Collect so many of each environment, without --corpus.  [default: {TRANSITIONS}]",
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="Of the episodes' split, the windows and the bootstrap.",
)
@click.option("--workers", type=click.IntRange(min=1), help="Processes that collect.  [default: one a core]")
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON, and nothing else.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="Make this folder: results.json, results.md and zero-shot.png.",
)
@click.option("--overwrite", is_flag=True, help="Replace the output folder if it is there.")
def evaluate_zero_shot(
    model_name: str,
    corpus: str | None,
    only: tuple[str, ...],
    contexts: str | None,
    unpadded: bool,
    windows: int,
    transitions: int | None,
    seed: int,
    workers: int | None,
    as_json: bool,
    output: Path | None,
    overwrite: bool,
) -> None:
    """Measure how the pre-trained MODEL predicts environments that pre-training never saw, without an update.

    One step ahead, from a context of 1 row to all but one of the model's window, beside copying the last row and
    linear least squares fitted on the same context: pendulums of unseen gravity, a cart with three poles, unseen
    robots, and Gymnasium's hopper, walker2d and half-cheetah. What is not collected yet is collected first (with the
    default --transitions a minute or two) and kept for the next time.

    \b
    Examples:
      trajworld evaluate-zero-shot trajworld-small -o zero-shot
      trajworld evaluate-zero-shot runs/pre/best.keras --corpus corpus --only legged --only snake
      trajworld evaluate-zero-shot runs/pre/best.keras --only 'gymnasium/Pendulum*' --contexts 1,5,19 --json
    """
    check_overwrite(output, overwrite)
    if corpus is not None and (transitions is not None or workers is not None):
        raise UsageError("--transitions and --workers are for collecting, and --corpus was collected already")
    asked = None if contexts is None else _lengths(contexts)

    from trajworld.data.resolve import open_dataset
    from trajworld.models.files import load_model
    from trajworld.models.names import find_model

    file = find_model(model_name)
    model = load_model(file)

    from trajworld.backend import active_backend
    from trajworld.versions import versions
    from trajworld.zero_shot.environments import corpus_members, own_members, unseen_rows
    from trajworld.zero_shot.families import family_of
    from trajworld.zero_shot.findings import findings
    from trajworld.zero_shot.protocol import check_contexts, set_up
    from trajworld.zero_shot.report import FILES, write_results
    from trajworld.zero_shot.results import KIND, ModelFacts, Results
    from trajworld.zero_shot.study import Short, measure_all
    from trajworld.zero_shot.unseen import check_unseen

    facts = ModelFacts.of(model_name, file, model)
    window = model.sizes.window
    short: Short = "unpadded" if unpadded else "padded"
    lengths = check_contexts(default_contexts(window) if asked is None else asked, window)
    with results_folder(output, overwrite, KIND, FILES) as folder:
        rows = unseen_rows(only) if corpus is None else []
        members = corpus_members(corpus, only) if corpus else own_members(rows, transitions or TRANSITIONS)
        check_unseen(model.identity, [member.environment for member in members])
        if corpus is None:
            _collect(rows, transitions or TRANSITIONS, workers)
        with job_progress("Converting") as progress:
            datasets = [open_dataset(member.dataset_id, progress=progress) for member in members]
        trials = [set_up(dataset, window, windows, seed) for dataset in datasets]
        with job_progress("Predicting") as progress:
            measured = measure_all(model, trials, lengths, seed, short, progress)
        settings = {
            "contexts": list(lengths),
            "short_contexts": short,
            "windows": windows,
            "window": window,
            "seed": seed,
            "corpus": corpus,
            "only": list(only),
            "transitions": None if corpus else transitions or TRANSITIONS,
        }
        families = [family_of(member.environment, member.source) for member in members]
        results = Results(
            facts, settings, tuple(measured), tuple(families), active_backend().name, versions()
        )
        sentences = findings(results)
        found = results.as_json(sentences)
        if folder is not None:
            write_results(results, sentences, folder)
    if as_json:
        click.echo(json.dumps(found, indent=2, allow_nan=False))
        return
    console = Console()
    console.print(_table(results))
    for sentence in sentences:
        console.print(f"- {escape(sentence)}", highlight=False)
    if output is not None:
        console.print(f"Results, tables and picture: {escape(str(output))}", highlight=False, soft_wrap=True)


def _lengths(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"--contexts takes numbers of rows, as in 1,5,19, not {text!r}") from None


def _collect(rows: "list[Row]", transitions: int, workers: int | None) -> None:
    """Make those of the comparison's own datasets that are not there yet."""
    # Imported here: the simulators are slow to import.
    from trajworld.collect.collector import default_workers
    from trajworld.collect.corpus import check_families, make_datasets, open_corpus, plan_corpus
    from trajworld.zero_shot.environments import SEED, own_corpus, unseen_rows

    name = own_corpus(transitions)
    jobs, _ = plan_corpus(name, rows, transitions, SEED)
    if not jobs:
        return
    check_families(jobs)
    total = sum(job.recipe.transitions for job in jobs)
    with open_corpus(name, unseen_rows(), {}), job_progress("Collecting") as progress:
        for _ in make_datasets(jobs, workers or default_workers(total), progress):
            pass


def _table(results: "Results") -> Table:
    """A row an environment, families together; the smallest error with the whole context stands out."""
    from trajworld.text import number, short_name
    from trajworld.zero_shot.results import group_of
    from trajworld.zero_shot.study import COPY, MINIMUM_NORM, MODEL, RIDGE

    contexts = results.measured[0].errors.contexts
    first, last = contexts[0], contexts[-1]
    table = Table(
        title=f"One-step error with {last} rows of context"
        + f" (the model's with {first} too)" * (first != last),
        caption="Mean absolute error in standard deviations of each variate; less is better. Least squares on the "
        "context: min. norm and ridge.",
    )
    table.add_column("environment", min_width=20, overflow="fold")
    columns = [(COPY, last), (MINIMUM_NORM, last), (RIDGE, last), (MODEL, last)]
    headings = ["copy", "min. norm", "ridge", "model"]
    if first != last:
        columns.append((MODEL, first))
        headings.append(f"({first} row{'s' * (first > 1)})")
    table.add_column("M", justify="right")
    for heading in headings:
        table.add_column(heading, justify="right")

    def cells(group: "Group") -> list[str]:
        values = [group.errors.of(*column) for column in columns]
        best = min(values[:4])
        return [
            f"[bold green]{number(value)}[/]" if place < 4 and value == best else number(value)
            for place, value in enumerate(values)
        ]

    groups = {group.family: group for group in results.family_groups}
    for family, members in results.by_family.items():
        if len(members) > 1:
            table.add_row(f"[bold]{escape(family)}[/]: mean", "", *cells(groups[family]))
        for each in members:
            name = escape(short_name(each.trial.dataset.environment))
            last_row = each is members[-1]
            table.add_row(
                name, str(each.trial.dataset.num_variates), *cells(group_of(each)), end_section=last_row
            )
    return table
