"""Training that several studies share: a model of one dataset, and pre-training for a given time.

Off-policy evaluation and the grid of pairs name these cells by their keys, so that no model is trained twice. A share
of each dataset's episodes, the same for every model and seed, is set aside: no model trains on them or is chosen by
them.
"""

import math
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from trajworld.api import train
from trajworld.data.dataset import Dataset
from trajworld.data.resolve import open_dataset
from trajworld.errors import UsageError
from trajworld.files import json_digest
from trajworld.models.files import load_model
from trajworld.models.interface import Sizes, kind_of, kind_of_sizes
from trajworld.models.sizes import EnsembleSizes
from trajworld.studies.data import Pretrained, open_datasets, pretrained
from trajworld.studies.fine_tuning import FINE_TUNED, FROM_SCRATCH, WEIGHTS, run_folder
from trajworld.study.cells import Cell, Result, Row
from trajworld.training.config import WEIGHT_DECAYS, TrainingConfig, resolve_config, whole_path
from trajworld.training.loop import Report
from trajworld.training.loop import train as train_run
from trajworld.training.parts import expanded
from trajworld.training.record import is_run
from trajworld.training.run import Run, resume_run, start_run

TEST_FRACTION = 0.1
"""Of each dataset's episodes; see :func:`trajworld.data.split.set_aside`."""

ENSEMBLE = "MLP ensemble"
"""What studies call it, beside fine-tuned and from scratch."""

_ENSEMBLE = "mlp-ensemble"
# Steps of a pre-training run until its speed is known.
_UNKNOWN = 10**6
# Of its time, after which the speed is known.
_MEASURED = 0.1


@dataclass(frozen=True)
class TrainedOnEach:
    """The options of a study that trains models on each of several datasets.

    Attributes:
        suite: Name of a suite of behaviour datasets that trajworld data collect-suite made.
        datasets: Datasets in place of a suite's, as trajworld data inspect takes them.
        model: The model to fine-tune: a name that ships, such as trajworld-small, a file, or hf://USER/REPO.
        steps: Steps of fine-tuning and of training from scratch.
        batch_size: Windows in a batch of these.
        learning_rate: Of both; by default the preset's.
        ensemble_steps: The most steps of the ensemble, with its own batches and rate.
    """

    suite: str = ""
    datasets: tuple[str, ...] = ()
    model: str = "trajworld-small"
    steps: int = 1500
    batch_size: int = 16
    learning_rate: float | None = None
    ensemble_steps: int = 5000

    def __post_init__(self) -> None:
        rate = 1.0 if self.learning_rate is None else self.learning_rate
        if min(self.steps, self.batch_size, self.ensemble_steps) < 1 or not 0 < rate < math.inf:
            raise UsageError("at least 1 step, a batch of at least 1 and a learning rate above 0 are needed")
        if len(set(self.datasets)) < len(self.datasets):
            raise UsageError("name each dataset only once")

    @cached_property
    def _data(self) -> list[Dataset]:
        return open_datasets(self.datasets, self.suite)

    @cached_property
    def _model(self) -> Pretrained:
        return pretrained(self.model)

    def _training(self, data: Dataset, method: str, seed: int) -> Cell:
        """Of a model that is fine-tuned, of one from scratch, or of an MLP ensemble."""
        scratch, ensemble = self._model.sizes, EnsembleSizes.presets["small"]
        start: Any = {FINE_TUNED: self._model, FROM_SCRATCH: scratch, ENSEMBLE: ensemble}[method]
        return model_cell(data, start, seed, self)


def model_cell(data: Dataset, start: Sizes | Pretrained | Cell, seed: int, plan: TrainedOnEach) -> Cell:
    """A cell of :func:`train_model`: from scratch, or fine-tuned from a model or from what a cell pre-trained.

    The seed decides on held-out episodes, initial weights, batches and dropout.
    """
    places, fixed = {"dataset": str(data.path)}, ("clip_norm", "holdout_fraction", "holdout_windows", "dtype")
    if isinstance(start, Cell):
        kind, own = start.settings["kind"], {"init": {"cell": start.key}}
    elif isinstance(start, Pretrained):
        kind, own = kind_of_sizes(start.sizes).name, {"init": {"digest": start.digest}}
        places["init"] = str(start.path)
    else:
        kind = kind_of_sizes(start).name
        sizes = asdict(start)
        if kind == _ENSEMBLE:
            # Of one robot nothing needs to be padded.
            sizes |= {"observations": data.observation_size, "actions": max(1, data.action_size)}
        own = {"model": {"kind": kind, **sizes}}
    given: dict[str, Any] = {"steps": plan.ensemble_steps}
    runs, from_model = kind_of(kind).sizes.runs, "init" in own
    preset = runs["small", "init" if from_model and ("small", "init") in runs else "train"]
    if kind != _ENSEMBLE:
        given = {"steps": plan.steps, "batch_size": plan.batch_size, "targets": "gauss"}
        given["learning_rate"] = plan.learning_rate or preset["learning_rate"]
        given["optimizer"] = preset["optimizer"]
        given["weight_decay"] = WEIGHT_DECAYS[given["optimizer"]]
    about: dict[str, Any] = {"data": {"content": data.content}, "kind": kind}
    about |= {"start": FINE_TUNED if from_model else FROM_SCRATCH, "seed": seed}
    # What training takes by itself, where it is not given: another value is another cell.
    about["defaults"] = {name: getattr(TrainingConfig, name) for name in fixed} | preset
    settings = {**about, "test_fraction": TEST_FRACTION, **given, **own}
    return Cell(train_model, settings, places, {"dataset": data.name})


def train_model(settings: Mapping[str, Any], places: Mapping[str, str]) -> Result:
    """Train a model on a dataset; its weights of the lowest holdout loss are the cell's file ``.keras``.

    The row: ``step``, where training ended, ``holdout_loss``, ``seconds`` and the number of ``parameters``.
    """
    names = (
        *("steps", "batch_size", "learning_rate", "optimizer", "weight_decay", "targets"),
        *("model", "seed", "test_fraction"),
    )
    given: dict[str, Any] = {name: settings[name] for name in names if name in settings}
    init = places.get("init")
    if source := settings.get("init", {}).get("cell"):
        init = str(weights_of(source, places))
        # Its weights are kept by now: what it would have continued from is no longer needed.
        shutil.rmtree(_run_folder(source, places), ignore_errors=True)
    news: list[Report] = []
    began = time.perf_counter()
    with run_folder(places) as run:
        model = train(places["dataset"], init=init, run=run, observe=news.append, **given)
        best = run / "best.keras"
        weights = best if best.is_file() else run / "last.keras"
        held = [one.holdout_loss for one in news if one.holdout_loss is not None]
        row = {"step": news[-1].step, "holdout_loss": min(held, default=None)}
        row |= {"seconds": round(time.perf_counter() - began, 3), "parameters": model.sizes.parameters}
        return Result([row], {WEIGHTS: weights.read_bytes()})


def weights_of(key: str, places: Mapping[str, str]) -> Path:
    """The file of weights of a finished cell, in the store that a task finds in its places."""
    return Path(places["store"]) / (key + WEIGHTS)


def trained_model(key: str, places: Mapping[str, str]) -> Any:
    """The model that a cell trained."""
    return load_model(weights_of(key, places))


def pretraining_cell(sizes: Sizes, corpus: Sequence[str], content: str, minutes: float) -> Cell:
    """A cell of :func:`pretrain_model`, of a corpus whose :func:`corpus_content` it is."""
    kind = kind_of_sizes(sizes).name
    # An ensemble has a place for each variate, which moving them would mix.
    own: dict[str, Any] = (
        {} if kind == _ENSEMBLE else {"warmup_steps": 100, "targets": "gauss", "augment": 0.8}
    )
    # All pairs of 1,820 values attend in its windows of a humanoid: 32 windows need more than 24 GB.
    own |= {"batch_size": 8} if kind == "tdm" else {}
    # Evaluated only at the end: a corpus has many holdout sets.
    own |= {"holdout_windows": 64, "padded_sizes": 8, "patience": 0, "checkpoint_every": 50}
    settings: dict[str, Any] = {"kind": kind, "minutes": float(minutes), "seed": 0}
    settings |= {"data": {"content": content}, "model": {"kind": kind, **asdict(sizes)}, "training": own}
    settings["defaults"] = kind_of(kind).sizes.runs["small", "pretrain"]
    return Cell(pretrain_model, settings, {"corpus": ",".join(map(whole_path, corpus))})


def corpus_content(corpus: Sequence[str]) -> str:
    """The digest of the contents and shares of all datasets to pre-train on, as ``trajworld pretrain`` takes them."""
    found = [one for spec in corpus for one in expanded(spec, "pretrain")]
    return json_digest([[open_dataset(spec).content, share] for spec, share, _ in found])[:16]


def pretrain_model(settings: Mapping[str, Any], places: Mapping[str, str]) -> Result:
    """Pre-train a model for about ``minutes``; its last weights are the cell's file ``.keras``.

    After a tenth of the time the number of steps is set by the speed until then, so that the learning rate's cosine
    ends with them. The run lies beside the cell's files and is continued after a kill; the cell that uses the weights
    removes it. The row: ``step``, the number of steps; ``seconds`` of training; ``holdout_loss`` at the end; and
    ``parameters``.
    """
    path = _run_folder(Cell(pretrain_model, settings).key, places)
    run = resume_run(path)[0] if is_run(path) else start_run(path, _pretraining(settings, places))
    if run.config.steps == _UNKNOWN:
        steps = _affordable(run, 60 * settings["minutes"])
        run, _ = resume_run(path, steps=steps)
    if not train_run(run).finished:
        raise KeyboardInterrupt
    row: Row = {"step": run.state.step, "seconds": round(run.state.seconds, 3)}
    row |= {"holdout_loss": run.state.best_loss, "parameters": run.config.model.parameters}
    return Result([row], {WEIGHTS: (path / "last.keras").read_bytes()})


class _Measured(Exception):
    """The speed of a run is known."""


def _affordable(run: Run, seconds: float) -> int:
    """Train until the speed is known; returns how many steps ``seconds`` allow, those done included."""
    seen = [(run.state.step, run.state.seconds)]
    began = time.perf_counter() - run.state.seconds

    def look(report: Report) -> None:
        if report.step % run.config.checkpoint_every:
            return
        seen.append((report.step, time.perf_counter() - began))
        if seen[-1][1] > _MEASURED * seconds:
            raise _Measured

    try:
        train_run(run, look)
        raise KeyboardInterrupt
    except _Measured:
        pass
    # The later half: the first steps compile. As much is compiled again when the run continues.
    (first, start), (last, now) = seen[(len(seen) - 1) // 2], seen[-1]
    rate = (last - first) / (now - start)
    compiling = max(0.0, now - last / rate)
    return last + max(1, int(rate * (seconds - now - compiling)))


def _run_folder(key: str, places: Mapping[str, str]) -> Path:
    return Path(places["store"]) / f"{key}-run"


def _pretraining(settings: Mapping[str, Any], places: Mapping[str, str]) -> TrainingConfig:
    fixed = dict.fromkeys(("steps", "decay_steps", "evaluate_every"), _UNKNOWN)
    given = {"datasets": places["corpus"].split(","), "model": dict(settings["model"])}
    return resolve_config(
        "pretrain", options={**fixed, **given, "seed": settings["seed"], **settings["training"]}
    )
