"""Tasks that several studies have in common: training runs that are measured as they go, and their baselines."""

import functools
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from trajworld.data.resolve import open_dataset
from trajworld.evaluation.one_step import (
    OneStep,
    PredictionErrors,
    Ranges,
    compile_one_step,
    copy_last_row_errors,
    prediction_errors,
    support_for,
)
from trajworld.models.files import describe_model, load_model, weights_digest
from trajworld.models.identity import Identity
from trajworld.models.interface import Sizes, kind_of, kind_of_sizes, new_model
from trajworld.models.names import find_model
from trajworld.models.ranges import pretraining_support
from trajworld.studies.data import StudyData
from trajworld.studies.factors import FINE_TUNED, FROM_SCRATCH
from trajworld.study.cells import Cell, Result, Row
from trajworld.training.config import DatasetChoice, TrainingConfig, resolve_config
from trajworld.training.data import open_parts
from trajworld.training.loop import DivergedError, Report, train
from trajworld.training.run import start_run

WEIGHTS = ".keras"
"""Suffix of a cell's file with the final weights."""

_TRAINING: dict[str, Any] = {
    name: getattr(TrainingConfig, name)
    for name in ("weight_decay", "clip_norm", "holdout_fraction", "holdout_windows", "dtype")
}


@dataclass(frozen=True)
class Pretrained:
    """A model that a study starts from.

    Attributes:
        path: Its file.
        digest: Of its sizes and weights.
        sizes: Its sizes.
    """

    path: Path
    digest: str
    sizes: Sizes


def pretrained(name: str) -> Pretrained:
    """Read a model by its name; see :func:`trajworld.models.names.find_model`.

    Raises:
        TrajWorldError: There is no such model, or its file is damaged.
    """
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
    """A cell of :func:`train_and_measure`.

    Args:
        data: The pool to draw from, and the test set.
        start: The model to fine-tune, or the sizes of one to train from scratch.
        transitions: Of the data that the run is given, holdout included.
        steps: Steps at which the error is measured, ascending; the last is where training ends.
        learning_rate: Its peak.
        seed: Of which episodes the run is given, the initial weights, batches and dropout.
        batch_size: Windows in a batch.
        windows: At most n windows of the test set are predicted.
        windows_seed: Of their choice.
        targets: Of the loss, ``onehot`` or ``gauss``.
        keep: Whether the final weights are kept as the cell's file ``.keras``.
        **training: ``warmup_steps``, ``decay_steps``, and where they are not to be the defaults, ``weight_decay``,
            ``clip_norm``, ``holdout_fraction``, ``holdout_windows``, ``dtype``; see
            :class:`~trajworld.training.config.TrainingConfig`.
    """
    given, sizes = (start, start.sizes) if isinstance(start, Pretrained) else (None, start)
    settings = {
        "environment": data.environment,
        "side": FROM_SCRATCH if given is None else FINE_TUNED,
        "transitions": transitions,
        "learning_rate": learning_rate,
        "seed": seed,
        "batch_size": batch_size,
        "targets": targets,
        "steps": list(steps),
        "training": {**_TRAINING, **training},
        "model": {"kind": kind_of_sizes(sizes).name, **asdict(sizes)},
        "init": {} if given is None else {"digest": given.digest},
        "test": {"windows": windows, "seed": windows_seed},
        "data": data.digests,
        "keep": [WEIGHTS] if keep else [],
    }
    places = data.places if given is None else {**data.places, "init": str(given.path)}
    return Cell(train_and_measure, settings, places)


def zero_shot_cell(
    data: StudyData, model: Pretrained, *, transitions: int, seed: int, windows: int, windows_seed: int = 0
) -> Cell:
    """A cell of :func:`predict_zero_shot`; for the arguments see :func:`training_cell`."""
    settings = {
        "environment": data.environment,
        "side": "zero-shot",
        "transitions": transitions,
        "seed": seed,
        "test": {"windows": windows, "seed": windows_seed},
        "init": {"digest": model.digest},
        "data": data.digests,
    }
    return Cell(predict_zero_shot, settings, {**data.places, "init": str(model.path)})


def copying_cell(data: StudyData, *, windows: int, windows_seed: int = 0) -> Cell:
    """A cell of :func:`copy_last_row`; for the arguments see :func:`training_cell`."""
    settings = {
        "environment": data.environment,
        "side": "copy",
        "test": {"windows": windows, "seed": windows_seed},
        "data": data.digests,
    }
    return Cell(copy_last_row, settings, data.places)


def train_and_measure(settings: Mapping[str, Any], places: Mapping[str, str]) -> Result:
    """Train on a pool of episodes, and measure the one-step error on the test set at several steps.

    A row for each measured step, step 0 being the model that training starts from: ``step``, the errors (see
    :func:`error_row`), ``holdout_loss`` (on the run's held-out episodes, nats), ``training_transitions``,
    ``holdout_transitions``, ``seen`` (whether the training of the model that is fine-tuned had this environment),
    ``seconds`` since the run began, and ``diverged``. A run whose loss is no longer finite
    ends with a row without errors whose ``diverged`` is true, at the step where that was found.

    Raises:
        TrajWorldError: The model does not fit the data, or a file cannot be written.
        KeyboardInterrupt: Ctrl-C.
    """
    steps, began = settings["steps"], time.perf_counter()
    config = _config(settings, places)
    test, rows = open_dataset(places["test"]), []
    with tempfile.TemporaryDirectory(prefix="trajworld-", ignore_cleanup_errors=True) as folder:
        run = start_run(Path(folder) / "run", config)
        part, support = run.parts[0], support_for(run.model, test)
        tester, one_step = _tester(run.model.sizes)
        facts = {
            "training_transitions": part.transitions,
            "seen": _seen(places.get("init"), test.environment),
            "holdout_transitions": int(part.dataset.transitions_per_episode[part.holdout].sum()),
        }

        def note(step: int, found: Row, holdout_loss: float | None, diverged: bool) -> None:
            seconds = round(time.perf_counter() - began, 3)
            row = {"holdout_loss": holdout_loss, **facts, "seconds": seconds, "diverged": diverged}
            rows.append({"step": step, **found, **row})

        def measure(step: int, holdout_loss: float | None) -> None:
            tester.set_weights(run.model.get_weights())
            test_of = settings["test"]
            errors = prediction_errors(
                tester,
                test,
                support=support,
                limit=test_of["windows"],
                seed=test_of["seed"],
                one_step=one_step,
            )
            note(step, error_row(errors), holdout_loss, False)

        def look(report: Report) -> None:
            if report.step in steps:
                measure(report.step, report.holdout_loss)

        if steps[0] == 0:
            measure(0, None)
        try:
            if not train(run, look, at=steps).finished:
                raise KeyboardInterrupt
        except DivergedError as error:
            note(error.step, error_row(None), None, True)
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
    support = Ranges(pretraining_support(known.lower, known.upper), "of the training episodes")
    limit, seed = settings["test"]["windows"], settings["test"]["seed"]
    return [error_row(prediction_errors(model, test, support=support, limit=limit, seed=seed))]


def copy_last_row(settings: Mapping[str, Any], places: Mapping[str, str]) -> list[Row]:
    """The errors of predicting no change, on the test set."""
    limit, seed = settings["test"]["windows"], settings["test"]["seed"]
    return [error_row(copy_last_row_errors(open_dataset(places["test"]), limit=limit, seed=seed))]


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


def _seen(model: str | None, environment: str) -> bool:
    """Whether a model file says that its training had the environment."""
    described = {} if model is None else describe_model(model)
    return environment in {*described.get("sources", ()), described.get("environment")}


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
