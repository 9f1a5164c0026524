"""Tasks that several studies have in common: training runs that are measured as they go, and their baselines."""

import functools
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from trajworld.data.resolve import open_dataset
from trajworld.evaluation.one_step import (
    Choice,
    OneStep,
    PredictionErrors,
    compile_one_step,
    copy_last_row_errors,
    prediction_errors,
    support_for,
)
from trajworld.models.files import load_model, weights_digest
from trajworld.models.identity import Identity
from trajworld.models.interface import Sizes, kind_of, kind_of_sizes, new_model
from trajworld.models.names import find_model
from trajworld.models.ranges import pretraining_support
from trajworld.models.seen import environments_seen
from trajworld.studies.data import StudyData
from trajworld.studies.fine_tuning import FINE_TUNED, FROM_SCRATCH
from trajworld.study.cells import Cell, Result, Row, Task
from trajworld.training.config import DatasetChoice, TrainingConfig, resolve_config
from trajworld.training.loop import DivergedError, Report, train
from trajworld.training.parts import open_parts
from trajworld.training.run import start_run

WEIGHTS = ".keras"
"""Suffix of a cell's file with the final weights."""

_TRAINING: dict[str, Any] = {
    name: getattr(TrainingConfig, name)
    for name in ("weight_decay", "clip_norm", "holdout_fraction", "holdout_windows", "dtype")
}


class Pretrained(NamedTuple):
    """A model that a study starts from: its file, the digest of its sizes and weights, and its sizes."""

    path: Path
    digest: str
    sizes: Sizes


def pretrained(name: str) -> Pretrained:
    """Read a model by its name; see :func:`trajworld.models.names.find_model`."""
    path = find_model(name)
    model = load_model(path)
    return Pretrained(path, weights_digest(model), model.sizes)


def training_cell(
    data: StudyData,
    start: Pretrained | Sizes,
    *,
    transitions: int,
    steps: Sequence[int],
    learning_rate: float,
    seed: int,
    batch_size: int,
    windows: int,
    windows_seed: int = 0,
    targets: str = "onehot",
    keep: bool = False,
    **training: float | str,
) -> Cell:
    """A cell of :func:`train_and_measure`: a model that is fine-tuned, or one of ``start``'s sizes from scratch.

    It is given ``transitions`` of the pool, holdout included. At ``steps``, which ascend and end the training, at most
    ``windows`` of the test set are predicted. ``seed`` decides on its episodes, initial weights, batches and dropout;
    ``keep`` keeps the final weights as the cell's file ``.keras``; ``training`` are other fields of
    :class:`~trajworld.training.config.TrainingConfig`.
    """
    given, sizes = (start, start.sizes) if isinstance(start, Pretrained) else (None, start)
    settings = {
        "transitions": transitions,
        "learning_rate": learning_rate,
        "seed": seed,
        "batch_size": batch_size,
        "targets": targets,
        "steps": list(steps),
        "training": {**_TRAINING, **training},
        "model": {"kind": kind_of_sizes(sizes).name, **asdict(sizes)},
        "keep": [WEIGHTS] if keep else [],
    }
    side = FROM_SCRATCH if given is None else FINE_TUNED
    return _cell(train_and_measure, data, side, windows, windows_seed, given, {"init": {}, **settings})


def zero_shot_cell(
    data: StudyData, model: Pretrained, *, transitions: int, seed: int, windows: int, windows_seed: int = 0
) -> Cell:
    """A cell of :func:`predict_zero_shot`; for the arguments see :func:`training_cell`."""
    settings = {"transitions": transitions, "seed": seed}
    return _cell(predict_zero_shot, data, "zero-shot", windows, windows_seed, model, settings)


def copying_cell(data: StudyData, *, windows: int, windows_seed: int = 0) -> Cell:
    """A cell of :func:`copy_last_row`; for the arguments see :func:`training_cell`."""
    return _cell(copy_last_row, data, "copy", windows, windows_seed, None, {})


def _cell(
    task: Task,
    data: StudyData,
    side: str,
    windows: int,
    windows_seed: int,
    model: Pretrained | None,
    settings: Mapping[str, Any],
) -> Cell:
    about = {"environment": data.environment, "side": side}
    test = {"test": {"windows": windows, "seed": windows_seed}, "data": data.digests}
    init = {} if model is None else {"init": {"digest": model.digest}}
    places = {} if model is None else {"init": str(model.path)}
    return Cell(task, {**about, **settings, **test, **init}, {**data.places, **places})


def train_and_measure(settings: Mapping[str, Any], places: Mapping[str, str]) -> Result:
    """Train on a pool of episodes, and measure the one-step error on the test set at several steps.

    A row for each measured step, step 0 being the model that training starts from: ``step``, the errors (see
    :func:`error_row`), ``holdout_loss`` (on the run's held-out episodes, nats), ``training_transitions``,
    ``holdout_transitions``, ``seen`` (whether the training of the model that is fine-tuned had this environment),
    ``seconds`` since the run began, and ``diverged``. A run whose loss is no longer finite
    ends with a row without errors whose ``diverged`` is true, at the step where that was found.
    """
    steps, began = settings["steps"], time.perf_counter()
    config = _config(settings, places)
    test, init, rows = open_dataset(places["test"]), places.get("init"), []
    # Those of the models that the initial one was itself started from included.
    seen = environments_seen(load_model(init).identity)[0] if init else []
    with tempfile.TemporaryDirectory(prefix="trajworld-", ignore_cleanup_errors=True) as folder:
        run = start_run(Path(folder) / "run", config)
        part, support = run.parts[0], support_for(run.model, test)
        tester, one_step = _tester(run.model.sizes)
        facts = {
            "training_transitions": part.transitions,
            "seen": test.environment in seen,
            "holdout_transitions": int(part.dataset.transitions_per_episode[part.holdout].sum()),
        }

        def note(step: int, errors: PredictionErrors | None, holdout_loss: float | None) -> None:
            seconds = round(time.perf_counter() - began, 3)
            row = {"step": step, **error_row(errors), "holdout_loss": holdout_loss, **facts}
            rows.append({**row, "seconds": seconds, "diverged": errors is None})

        def measure(step: int, holdout_loss: float | None) -> None:
            tester.set_weights(run.model.get_weights())
            errors = prediction_errors(tester, test, support=support, one_step=one_step, **_windows(settings))
            note(step, errors, holdout_loss)

        def look(report: Report) -> None:
            if report.step in steps:
                measure(report.step, report.holdout_loss)

        if steps[0] == 0:
            measure(0, None)
        try:
            if not train(run, look, at=steps).finished:
                raise KeyboardInterrupt
        except DivergedError as error:
            note(error.step, None, None)
        last = run.path / "last.keras"
        keep = WEIGHTS in settings["keep"] and last.is_file()
        return Result(rows, {WEIGHTS: last.read_bytes()} if keep else {})


def predict_zero_shot(settings: Mapping[str, Any], places: Mapping[str, str]) -> list[Row]:
    """The errors of a model without any update, on the test set.

    The environment's range, which such a model does not know, is that of the episodes that a run on ``transitions``
    of the pool trains on.
    """
    test, model = open_dataset(places["test"]), load_model(places["init"])
    choice = {"transitions": settings["transitions"], "seed": settings["seed"]}
    config = resolve_config("train", options={"datasets": [places["pool"]], **choice})
    known = open_parts(config)[0].support
    support = pretraining_support(known.lower, known.upper)
    return [error_row(prediction_errors(model, test, support=support, **_windows(settings)))]


def copy_last_row(settings: Mapping[str, Any], places: Mapping[str, str]) -> list[Row]:
    """The errors of predicting no change, on the test set."""
    return [error_row(copy_last_row_errors(open_dataset(places["test"]), **_windows(settings)))]


def _windows(settings: Mapping[str, Any]) -> Choice:
    return {"limit": settings["test"]["windows"], "seed": settings["test"]["seed"]}


def error_row(errors: PredictionErrors | None) -> Row:
    """The columns of one-step errors; empty where there are none.

    ``mae_std`` is the mean absolute error in standard deviations of each variate over observation and reward,
    ``mae_std_observation`` that over the observation alone, ``mae`` and ``mse`` are in raw units, ``nll`` is the
    negative log-likelihood of the true bins in nats.
    """
    names = ("mae_std", "mae_std_observation", "mae", "mse", "nll")
    if errors is None:
        return dict.fromkeys(names)
    every, observation = errors.table["all"], errors.table["observations"]
    values = (
        every["normalised_mae"],
        observation["normalised_mae"],
        every["mae"],
        every["mse"],
        every["nll"],
    )
    return dict(zip(names, values, strict=True))


def _config(settings: Mapping[str, Any], places: Mapping[str, str]) -> TrainingConfig:
    last, sizes = settings["steps"][-1], dict(settings["model"])
    shown = ("transitions", "learning_rate", "seed", "batch_size", "targets")
    return TrainingConfig(
        kind="train",
        datasets=(DatasetChoice(places["pool"]),),
        preset="small",
        model=kind_of(sizes.pop("kind")).sizes(**sizes),
        init=places.get("init", ""),
        steps=last,
        log_every=last,
        evaluate_every=last,
        checkpoint_every=last,
        **{name: settings[name] for name in shown},
        **settings["training"],
    )


@functools.cache
def _tester(sizes: Sizes) -> tuple[Any, OneStep]:
    """A model that is given the weights of every run in turn, so that a process compiles its prediction once."""
    model = new_model(sizes, Identity())
    return model, compile_one_step(model)
