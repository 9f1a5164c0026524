"""``trajworld evaluate``: how well a model predicts the transitions of datasets."""

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .progress import job_progress
from .results_folder import RESULTS, check_overwrite, results_folder

if TYPE_CHECKING:
    from trajworld.evaluation.open_loop import OpenLoopErrors
    from trajworld.evaluation.report import Evaluation

_KIND = "evaluation"
# Of the only dataset, or each of several in a folder of its own: 1-NAME.
_CONTENTS = (RESULTS, "variates.png", "open-loop.png", "episode-*.png", "[0-9]*-*")
_WINDOWS = 5000
_STEPS_SHOWN = (1, 10, 25, 50, 100)
_METRICS = (
    ("mae", "mean absolute error"),
    ("mse", "mean squared error"),
    ("normalised_mae", "absolute error / std"),
    ("normalised_mse", "squared error / variance"),
    ("nll", "negative log-likelihood, nats"),
)


@click.command(short_help="Measure a model's predictions on datasets.")
@click.argument("model_name", metavar="MODEL")
@click.argument("specs", metavar="DATASET...", nargs=-1, required=True)
@click.option(
    "--ranges",
    metavar="DATASET",
    help="Where a pre-trained model takes the range of an environment that it never saw.  [default: the "
    "dataset itself]",
)
@click.option(
    "--windows",
    type=click.IntRange(min=0),
    default=_WINDOWS,
    show_default=True,
    help="The most transitions of each dataset to predict, drawn at random; 0 for all.",
)
@click.option(
    "--horizon",
    type=click.IntRange(min=0),
    default=100,
    show_default=True,
    help="Steps of the open-loop rollouts, fewer in short episodes; 0 for none.",
)
@click.option(
    "--pictures",
    type=click.IntRange(min=0),
    default=2,
    show_default=True,
    help="Episodes of each dataset to draw, with -o.",
)
@click.option(
    "--batch-size", type=click.IntRange(min=1), default=64, show_default=True, help="Windows at once."
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Of the random draws.")
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON, and nothing else.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="Make this folder: results.json and pictures."
)
@click.option("--overwrite", is_flag=True, help="Replace the output folder if it is there.")
def evaluate(
    model_name: str,
    specs: tuple[str, ...],
    ranges: str | None,
    windows: int,
    horizon: int,
    pictures: int,
    batch_size: int,
    seed: int,
    as_json: bool,
    output: Path | None,
    overwrite: bool,
) -> None:
    """Measure how MODEL predicts the transitions of each DATASET.

    One step ahead: the last row of each window of at most 20 rows, from the rows before it; beside it the
    baseline that copies the row before. Open loop: rollouts that are given the real actions only. A DATASET is
    what `trajworld data inspect` takes. A MODEL is one that ships (`trajworld-small`), one on the Hugging Face hub
    (`hf://USER/REPO`) or a file. A model reads data over its own range wherever it has one.

    \b
    Examples:
      trajworld evaluate trajworld-small trajworld/gymnasium-hopper-v5/ou-v0
      trajworld evaluate runs/hopper/best.keras trajworld/gymnasium-hopper-v5/ou-v0 -o evaluation
      trajworld evaluate runs/hopper/best.keras hopper_medium-v2.hdf5 hopper_expert-v2.hdf5 --windows 0
      trajworld evaluate runs/pre/best.keras test-v0 --ranges train-v0 --json
    """
    check_overwrite(output, overwrite)
    from trajworld.data.resolve import open_dataset
    from trajworld.models.files import load_model
    from trajworld.models.names import find_model

    model_path = find_model(model_name)
    with job_progress("Converting") as progress:
        datasets = [open_dataset(spec, progress=progress) for spec in specs]
        ranges_from = None if ranges is None else open_dataset(ranges, progress=progress)
    model = load_model(model_path)

    from trajworld.evaluation.one_step import compile_one_step, support_for
    from trajworld.evaluation.report import evaluate as evaluate_dataset

    # All of them before anything is computed: the last may be the one that does not fit.
    supports = [support_for(model, dataset, ranges_from) for dataset in datasets]
    one_step, name = compile_one_step(model), _title(model_name, model_path)
    found: list[Evaluation] = []
    with results_folder(output, overwrite, _KIND, _CONTENTS) as folder:
        with job_progress("Predicting") as progress:
            for dataset, support, place in zip(datasets, supports, _places(folder, datasets), strict=True):
                found.append(
                    evaluate_dataset(
                        model,
                        dataset,
                        support,
                        windows=windows or None,
                        horizon=horizon,
                        batch_size=batch_size,
                        seed=seed,
                        one_step=one_step,
                        pictures=place,
                        drawn_episodes=pictures,
                        name=name,
                        progress=progress,
                    )
                )
        results = {
            "kind": _KIND,
            "model": model_name,
            "environment": model.identity.environment,
            "settings": {"windows": windows or None, "horizon": horizon, "seed": seed, "ranges": ranges},
            "datasets": [each.as_json() for each in found],
        }
        if folder is not None:
            from trajworld.files import write_json

            write_json(folder / RESULTS, results)
    if as_json:
        click.echo(json.dumps(results, indent=2, allow_nan=False))
        return
    console = Console()
    for each in found:
        _print(console, each)
    if ranges is not None and all(support.origin == "the model's own" for support in supports):
        console.print("--ranges was not needed: the model has its own.", highlight=False)
    if output is not None:
        console.print(f"Results and pictures: {escape(str(output))}", highlight=False, soft_wrap=True)


def _print(console: Console, found: "Evaluation") -> None:
    """A table of one dataset's errors, and the open-loop error at a few horizons."""
    ours, copy, growth = found.prediction, found.copy_last_row, found.open_loop
    title = f"{ours.dataset}: {ours.windows:,} transitions, one step ahead"
    table = Table()
    table.add_column("")
    table.add_column("of", no_wrap=True)
    table.add_column("model", justify="right")
    table.add_column("copy last row", justify="right")
    for field, label in _METRICS:
        for row, of in (("observations", "observations"), ("all", "and reward")):
            cells = [_number(side.table[row][field]) for side in (ours, copy)]
            table.add_row("" if row == "all" else label, of, *cells, end_section=row == "all")
    console.print(escape(title), table, sep="\n", highlight=False)
    lines = [f"Read over {'the range ' if ours.ranges.startswith('of') else ''}{ours.ranges}"]
    lines[0] += " range." if ours.ranges.endswith("own") else "."
    if ours.still:
        lines.append(f"Left out of what is divided, since they do not vary: {', '.join(ours.still)}.")
    for line in lines:
        console.print(escape(line), highlight=False)
    if growth is not None:
        title = f"Open loop, {growth.starts} rollouts: absolute error / std by steps ahead"
        console.print(title, _growth_table(growth), sep="\n", highlight=False)
    console.print()


def _growth_table(growth: "OpenLoopErrors") -> Table:
    table = Table()
    table.add_column("")
    steps = sorted({*(step for step in _STEPS_SHOWN if step < growth.horizon), growth.horizon})
    for step in steps:
        table.add_column(str(step), justify="right")
    for label, errors in (("model", growth.mae), ("starting row held", growth.held_row)):
        table.add_row(label, *(_number(errors[step - 1]) for step in steps))
    return table


def _number(value: float | None) -> str:
    """Four significant digits."""
    if value is None:
        return "–"
    return f"{value:,.4g}" if value == 0 or 1e-4 <= abs(value) < 1e6 else f"{value:.3e}"


def _title(name: str, path: Path) -> str:
    """A name as it was given, but a file with its folder, which for a run's ``best.keras`` tells it from others."""
    if Path(name) != path:
        return name
    path = path.absolute()
    return f"{path.parent.name}/{path.name}"


def _places(folder: Path | None, datasets: list[Any]) -> list[Path | None]:
    """Where each dataset's pictures go: the folder itself for one, else a folder of each one's name."""
    if folder is None or len(datasets) == 1:
        return [folder] * len(datasets)
    slugs = [re.sub(r"[^A-Za-z0-9.]+", "-", dataset.name).strip("-.") for dataset in datasets]
    return [folder / f"{number}-{slug}" for number, slug in enumerate(slugs, start=1)]
