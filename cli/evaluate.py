"""``trajworld evaluate``: how well a model predicts the transitions of datasets."""

import contextlib
import re
from pathlib import Path
from typing import Annotated, Any

import click

from trajworld.backend import require_framework
from trajworld.evaluation.report import Evaluation, Settings
from trajworld.evaluation.report import evaluate as evaluate_dataset
from trajworld.text import number

from .commands import Folder, Json, With, command, parameters_of
from .output import print_json, print_rows
from .progress import job_progress

_STEPS_SHOWN = (1, 10, 25, 50, 100)
_METRICS = {
    "mae": "mean absolute error",
    "mse": "mean squared error",
    "normalised_mae": "absolute error / std",
    "normalised_mse": "squared error / variance",
    "nll": "negative log-likelihood, nats",
}


@command(params=parameters_of(Settings))
def evaluate(
    model_name: Annotated[str, With(metavar="MODEL")],
    specs: Annotated[tuple[str, ...], With(metavar="DATASET...")],
    *,
    ranges: Annotated[str, With(metavar="DATASET")] | None = None,
    ridge: Annotated[str, With(metavar="DATASET")] | None = None,
    as_json: Json = False,
    output: Folder | None = None,
    **options: Any,
) -> None:
    """Measure how MODEL predicts the transitions of each DATASET.

    One step ahead: the last row of each window of the model's length, from the rows before it; beside it the
    baseline that copies the row before. Open loop: rollouts that are given the real actions only. A DATASET is
    what `trajworld data inspect` takes. A MODEL is one that ships (`trajworld-small`), one on the Hugging Face hub
    (`hf://USER/REPO`) or a file. A model reads data over its own range if it has one.

    \b
    Examples:
      trajworld evaluate trajworld-small trajworld/gymnasium-hopper-v5/ou-v0
      trajworld evaluate runs/hopper/best.keras trajworld/gymnasium-hopper-v5/ou-v0 -o evaluation
      trajworld evaluate runs/hopper/best.keras hopper_medium-v2.hdf5 hopper_expert-v2.hdf5 --windows 0
      trajworld evaluate runs/pre/best.keras test-v0 --ranges train-v0 --json
      trajworld evaluate runs/tank/best.keras mine/tank-test-v0 --ridge mine/tank-v0 -o evaluation

    Options:
        ranges: Where a pre-trained model takes the range of an environment that it never saw, or saw in several
            datasets: data, or the name of one of its own datasets.  [default: the dataset itself]
        ridge: Fit ridge regressions on this dataset, such as what the model was trained on, and measure them too.
        output: Make this folder: results.json and pictures.
    """
    require_framework()
    settings = Settings(**options)
    from trajworld.data.resolve import open_dataset
    from trajworld.evaluation.one_step import compile_predictions
    from trajworld.evaluation.ranges import named_ranges, support_for
    from trajworld.files import atomic_folder, write_json
    from trajworld.models.files import load_model
    from trajworld.models.names import find_model

    model_path = find_model(model_name)
    model = load_model(model_path)
    with job_progress("Converting") as progress:
        datasets = [open_dataset(spec, progress=progress) for spec in specs]
        chosen = named_ranges(ranges, [model], progress=progress)
        fitted = None if ridge is None else open_dataset(ridge, progress=progress)

    # All of them before anything is computed: the last may be the one that does not fit.
    supports = [support_for(model, dataset, chosen) for dataset in datasets]
    compiled, found = compile_predictions(model), []
    # As it was given, but a file with its folder, which distinguishes a run's best.keras.
    name = model_name if Path(model_name) != model_path else "/".join(model_path.absolute().parts[-2:])
    with atomic_folder(output) if output else contextlib.nullcontext() as folder:
        with job_progress("Predicting") as progress:
            for index, (dataset, support) in enumerate(zip(datasets, supports, strict=True), start=1):
                place = folder
                if folder is not None and len(datasets) > 1:
                    slug = re.sub(r"[^A-Za-z0-9.]+", "-", dataset.name).strip("-.")
                    place = folder / f"{index}-{slug}"
                parts = model, dataset, support, compiled, settings
                measured = evaluate_dataset(*parts, folder=place, name=name, progress=progress, fitted=fitted)
                found.append(measured)
        results = {
            "kind": "evaluation",
            "model": model_name,
            "environment": model.identity.environment,
            "settings": {
                **vars(settings),
                "windows": settings.windows or None,
                "ranges": ranges,
                "ridge": ridge,
            },
            "datasets": [each.as_json() for each in found],
        }
        if folder is not None:
            write_json(folder / "results.json", results)
    if as_json:
        return print_json(results)
    for each in found:
        _print(each)
    if output is not None:
        click.echo(f"Results and pictures: {output}")


def _print(found: Evaluation) -> None:
    """A table of one dataset's errors, and the open-loop error at a few horizons."""
    ours, copy, growth = found.prediction, found.copy_last_row, found.open_loop
    sides = (ours, *found.others, copy, *found.ridges)
    groups = (("observations", "observations"), ("and reward", "all"))
    rows = [
        (label * (row == "observations"), of, *(number(side.table[row][field], 4) for side in sides))
        for field, label in _METRICS.items()
        for of, row in groups[: 1 + ours.rewarded]
    ]
    title = f"{ours.dataset}: {ours.windows:,} transitions, one step ahead"
    print_rows(("", "of", *(side.predictor.replace("of the ", "") for side in sides)), rows, title)
    if not ours.rewarded:
        click.echo("No reward is recorded: only the observations are predicted and measured.")
    own = "the model's own"
    over = ours.ranges.replace(own, f"{own} range", 1)
    unseen = " itself: --ranges takes it from other data" if ours.ranges == f"of {ours.dataset}" else ""
    click.echo(f"Read over {over if over.startswith(own) else f'the range {over}'}{unseen}.")
    if ours.still:
        click.echo(f"Left out of what is divided, since they do not vary: {', '.join(ours.still)}.")
    if growth is not None:
        steps = sorted({*(step for step in _STEPS_SHOWN if step < growth.horizon), growth.horizon})
        rows = [
            (label, *(number(errors[step - 1], 4) for step in steps))
            for label, errors in (("model", growth.mae), ("starting row held", growth.held_row))
        ]
        title = f"Open loop, {growth.starts} rollouts: absolute error / std by steps ahead"
        print_rows(("", *map(str, steps)), rows, title)
    click.echo()
