"""Fine-tuning against training from scratch: the cells and their tasks, the chosen runs, and what fine-tuning saves."""

import contextlib
import functools
import math
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from trajworld.data.dataset import Dataset
from trajworld.data.resolve import open_dataset
from trajworld.errors import UsageError
from trajworld.evaluation import one_step
from trajworld.evaluation.ranges import support_for
from trajworld.models.files import load_model
from trajworld.models.identity import Identity
from trajworld.models.interface import Sizes, kind_of, kind_of_sizes, new_model
from trajworld.models.ranges import pretraining_support
from trajworld.models.seen import environments_seen
from trajworld.studies.data import Pretrained, StudyData
from trajworld.study.cells import Cell, Result, Row
from trajworld.training.config import WEIGHT_DECAYS, DatasetChoice, TrainingConfig, resolve_config
from trajworld.training.loop import DivergedError, Report, train
from trajworld.training.parts import open_parts
from trajworld.training.run import start_run

SIDES = FROM_SCRATCH, FINE_TUNED = ("from scratch", "fine-tuned")
GROUP = ["transitions", "environment", "side"]
"""What the runs of a group have in common: they are tried with several learning rates."""

WEIGHTS = ".keras"
"""Suffix of a cell's file with weights."""

_SHOWN = ("transitions", "learning_rate", "seed", "batch_size", "targets", "optimizer")
_FIXED = ("clip_norm", "holdout_fraction", "holdout_windows", "dtype")
# Columns of one-step errors, and where they are in the table of errors.
_ERRORS = {
    "mae_std": ("all", "normalised_mae"),
    "mae_std_observation": ("observations", "normalised_mae"),
    **{name: ("all", name) for name in ("mae", "mse", "nll")},
}
_OF_RUNS = ["learning_rate", "seed", "step", "mae_std", "nll", "holdout_loss", "diverged", "seen"]


def check_plan(sizes: Sequence[int], learning_rates: Sequence[float], pool: int, **counts: int) -> None:
    """Refuse a plan without a possible run; ``counts`` must be at least 1."""
    check_ascending("sizes", sizes, 1)
    if sizes[-1] > pool:
        raise UsageError(f"{pool:,} transitions collected cannot give {sizes[-1]:,} to train on")
    distinct = len(set(learning_rates)) == len(learning_rates) > 0
    if not distinct or not all(0 < rate < math.inf for rate in learning_rates):
        shown = ", ".join(map(str, learning_rates)) or "none"
        raise UsageError(f"learning rates must be above 0, each named once, not {shown}")
    for name, value in counts.items():
        if value < 1:
            raise UsageError(f"{name.replace('_', ' ')} must be at least 1, not {value}")


def check_ascending(name: str, values: Sequence[int], least: int) -> None:
    """Refuse values that do not ascend from ``least`` or more."""
    if not values or list(values) != sorted(set(values)) or values[0] < least:
        shown = ", ".join(map(str, values)) or "none"
        raise UsageError(f"{name} must ascend from {least} or more, not {shown}")


def training_cell(
    data: StudyData, start: Pretrained | Sizes, *, steps: Sequence[int], keep: bool = False, **options: Any
) -> Cell:
    """A cell of :func:`train_and_measure`: a model that is fine-tuned, or one of ``start``'s sizes from scratch.

    At ``steps``, which ascend and end the training, the test set is predicted; ``keep`` keeps the final weights as the
    cell's file ``.keras``. The ``options`` are ``transitions`` of the pool, holdout included; ``learning_rate``;
    ``seed``, which decides on episodes, initial weights, batches and dropout; ``batch_size``; and other fields of
    :class:`~trajworld.training.config.TrainingConfig`.
    """
    model, sizes = (start, start.sizes) if isinstance(start, Pretrained) else (None, start)
    fixed = {name: getattr(TrainingConfig, name) for name in _FIXED}
    options = {"targets": "gauss", "optimizer": "muon", **fixed, **options}
    options.setdefault("weight_decay", WEIGHT_DECAYS[options["optimizer"]])
    return data.cell(
        train_and_measure,
        FINE_TUNED if model else FROM_SCRATCH,
        model,
        init={},
        **{name: options.pop(name) for name in _SHOWN},
        steps=list(steps),
        training=options,
        model={"kind": kind_of_sizes(sizes).name, **asdict(sizes)},
        keep=[WEIGHTS] if keep else [],
    )


def train_and_measure(settings: Mapping[str, Any], places: Mapping[str, str]) -> Result:
    """Train on a pool of episodes, and measure the one-step error on the test set at several steps.

    A row for each measured step, step 0 being the model that training starts from: ``step``, the errors (see
    :func:`error_row`), ``holdout_loss`` (on the run's held-out episodes, nats), ``training_transitions``,
    ``holdout_transitions``, ``seen`` (whether the training of the model that is fine-tuned had this environment),
    ``seconds`` since the run began, and ``diverged``. A run whose loss is no longer finite ends with a row without
    errors whose ``diverged`` is true, at the step where that was found.
    """
    steps, began = settings["steps"], time.perf_counter()
    test, init, rows = open_dataset(places["test"]), places.get("init"), []
    # Including those of the models that the initial one started from.
    seen = environments_seen(load_model(init).identity)[0] if init else []
    with run_folder(places) as folder:
        run = start_run(folder, _config(settings, places))
        part, support = run.parts[0], support_for(run.model, test)
        tester, compiled = tester_of(run.model.sizes)
        measured = {"support": support, **_windows(settings)}
        facts = {
            "training_transitions": part.transitions,
            "seen": test.environment in seen,
            "holdout_transitions": int(part.dataset.transitions_per_episode[part.holdout].sum()),
        }

        def measure(step: int, holdout_loss: float | None, diverged: bool = False) -> None:
            errors = error_row(None)
            if not diverged:
                tester.set_weights(run.model.get_weights())
                errors = _model_row(tester, test, compiled, **measured)
            row = {"step": step, **errors, "holdout_loss": holdout_loss, **facts}
            rows.append({**row, "seconds": round(time.perf_counter() - began, 3), "diverged": diverged})

        def look(report: Report) -> None:
            if report.step in steps:
                measure(report.step, report.holdout_loss)

        if steps[0] == 0:
            measure(0, None)
        try:
            if not train(run, look, at=steps).finished:
                raise KeyboardInterrupt
        except DivergedError as error:
            measure(error.step, None, diverged=True)
        last = run.path / "last.keras"
        keep = WEIGHTS in settings["keep"] and last.is_file()
        return Result(rows, {WEIGHTS: last.read_bytes()} if keep else {})


@contextlib.contextmanager
def run_folder(places: Mapping[str, str]) -> Iterator[Path]:
    """A run's folder for the time being, in the store: what a killed process leaves is removed with the next lock."""
    if store := places.get("store"):
        Path(store).mkdir(parents=True, exist_ok=True)
    given: dict[str, Any] = {"prefix": ".", "suffix": ".tmp", "ignore_cleanup_errors": True}
    with tempfile.TemporaryDirectory(dir=store, **given) as folder:
        yield Path(folder) / "run"


def predict_zero_shot(settings: Mapping[str, Any], places: Mapping[str, str]) -> list[Row]:
    """The errors of a model without any update, on the test set.

    The range, which such a model does not know, is that of the episodes that a run on ``transitions`` of the pool
    trains on.
    """
    test, model = open_dataset(places["test"]), load_model(places["init"])
    choice = {"transitions": settings["transitions"], "seed": settings["seed"]}
    config = resolve_config("train", options={"datasets": [places["pool"]], **choice})
    known = open_parts(config)[0].support
    support = pretraining_support(known.lower, known.upper)
    compiled = one_step.compile_predictions(model)
    return [_model_row(model, test, compiled, support=support, **_windows(settings))]


def copy_last_row(settings: Mapping[str, Any], places: Mapping[str, str]) -> list[Row]:
    """The errors of predicting no change, on the test set."""
    return [error_row(one_step.copy_last_row_errors(open_dataset(places["test"]), **_windows(settings)))]


def _windows(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {"limit": settings["test"]["windows"], "seed": settings["test"]["seed"]}


def error_row(errors: one_step.PredictionErrors | None) -> Row:
    """The columns of one-step errors; empty where there are none.

    ``mae_std`` is the mean absolute error in standard deviations of each variate over observation and reward,
    ``mae_std_observation`` that over the observation alone, ``mae`` and ``mse`` are in raw units, ``nll`` is the
    negative log-likelihood of the true bins in nats.
    """
    return {name: errors and errors.table[part][metric] for name, (part, metric) in _ERRORS.items()}


def _model_row(model: Any, test: Dataset, compiled: Mapping[str, one_step.OneStep], **choice: Any) -> Row:
    """:func:`error_row` of a model, and of its other ways to predict, with the predictor in the columns' names."""
    row: Row = {}
    for predictor, each in compiled.items():
        errors = error_row(one_step.prediction_errors(model, test, one_step=each, **choice))
        row |= {f"{name}, {predictor}" if row else name: value for name, value in errors.items()}
    return row


def _config(settings: Mapping[str, Any], places: Mapping[str, str]) -> TrainingConfig:
    last, sizes = settings["steps"][-1], dict(settings["model"])
    return TrainingConfig(
        kind="train",
        datasets=(DatasetChoice(places["pool"]),),
        preset="small",
        model=kind_of(sizes.pop("kind")).sizes(**sizes),
        init=places.get("init", ""),
        **dict.fromkeys(("steps", "log_every", "evaluate_every", "checkpoint_every"), last),
        **{name: settings[name] for name in _SHOWN},
        **settings["training"],
    )


@functools.cache
def tester_of(sizes: Sizes) -> tuple[Any, dict[str, one_step.OneStep]]:
    """A model that is given the weights of every run in turn, so that a process compiles its prediction once."""
    model = new_model(sizes, Identity())
    return model, one_step.compile_predictions(model)


def rows_of(table: pd.DataFrame, task: str = "train_and_measure") -> pd.DataFrame:
    """The rows of a task, with the columns of training runs even where none is finished."""
    columns = dict.fromkeys([*table.columns, "task", *GROUP, *_OF_RUNS])
    table = table.reindex(columns=list(columns))
    return table[table["task"] == task].astype({"diverged": bool})


def error_columns(rows: pd.DataFrame) -> dict[str, str]:
    """The columns of the mean error of rows, by predictor: the model, and its other ways to predict."""
    others = (name for name in rows.columns if name.startswith("mae_std, "))
    return {"model": "mae_std"} | {name.removeprefix("mae_std, "): name for name in others}


def chosen_rate(rows: pd.DataFrame, rates: int) -> float | None:
    """The learning rate with the lowest last holdout loss of the first seed, of those with which no seed diverged.

    ``rows`` are of the runs of one group; until the first seed has tried all ``rates``, none is chosen.
    """
    first = rows[rows["seed"] == rows["seed"].min()]
    if first["learning_rate"].nunique() < rates:
        return None
    first = first[~first["learning_rate"].isin(rows.loc[rows["diverged"], "learning_rate"])]
    last = first[first["step"] == first["step"].max()]
    return float(last.loc[last["holdout_loss"].idxmin(), "learning_rate"]) if len(last) else None


def chosen_runs(table: pd.DataFrame, rates: int, seeds: int) -> pd.DataFrame:
    """The rows of the runs with the chosen rate, of the groups of which all ``seeds`` are finished with it."""
    runs, found = rows_of(table), []
    for _, rows in runs.groupby(GROUP, sort=False):
        chosen = rows[rows["learning_rate"] == chosen_rate(rows, rates)]
        found += [chosen] if chosen["seed"].nunique() == seeds else []
    return pd.concat(found) if found else runs.head(0)


def savings(runs: pd.DataFrame) -> list[tuple[float, dict[str, dict[str, float]]]]:
    """The measured amounts with which both sides reach scratch's last and its least mean error on the most data.

    Returns:
        Each of the two errors, and for it, of ``transitions`` (after the last step; from scratch at any step, if the
        error rises again before the last) and of ``steps`` (on the most transitions): what is needed ``from scratch``
        and ``fine-tuned``, infinite if it never reaches the error; ``≈``, an estimate of the latter by interpolation;
        and ``factor``, the first divided by the second. Of ``transitions``, too, ``at any step``: the least with which
        fine-tuning reaches the error at any step.
    """
    scratch, tuned = (
        runs[runs["side"] == side].pivot_table(index="transitions", columns="step", values="mae_std")
        for side in SIDES
    )
    most, found = scratch.iloc[-1], []
    for target in (float(most.iloc[-1]), float(most.min())):
        amount = _first(scratch.iloc[:, -1], target)
        amount = amount if math.isfinite(amount) else _first(scratch.min(axis=1), target)
        transitions = _needs(amount, tuned.iloc[:, -1], target)
        transitions["at any step"] = _first(tuned.min(axis=1), target)
        steps = _needs(_first(most, target), tuned.loc[most.name], target)
        found.append((target, {"transitions": transitions, "steps": steps}))
    return found


def interpolated(errors: "pd.Series[float]", target: float) -> float:
    """About where ascending places first have at most the error ``target``; infinite where none has.

    Between that place and the one before, the logarithm of the error is taken to be a straight line over the logarithm
    of the place, or over the place itself where that begins with 0.
    """
    reached = np.flatnonzero(errors <= target)
    if not len(reached) or not reached[0]:
        return float(errors.index[0]) if len(reached) else math.inf
    low, high = (float(place) for place in errors.index[reached[0] - 1 : reached[0] + 1])
    above, below = np.log(errors.iloc[reached[0] - 1 : reached[0] + 1])
    share = (above - math.log(target)) / (above - below)
    found = low + share * (high - low) if low <= 0 else low * (high / low) ** share
    # Rounding must not carry it out of where it lies.
    return float(np.clip(found, low, high))


def _first(errors: "pd.Series[float]", target: float) -> float:
    return float(min(errors.index[errors <= target], default=math.inf))


def _needs(scratch: float, errors: "pd.Series[float]", target: float) -> dict[str, float]:
    tuned = _first(errors, target)
    factor = scratch / tuned if tuned else math.inf if scratch else 1.0
    about = interpolated(errors, target)
    return {FROM_SCRATCH: scratch, FINE_TUNED: tuned, "≈": about, "factor": factor}
