"""What a run's files record of a training run, gathered for its card; no framework is imported."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trajworld.card.stretches import Stretch, earlier_ends, stretches_of
from trajworld.collect.corpus_table import source_of
from trajworld.errors import TrajWorldError, UsageError
from trajworld.files import file_digest
from trajworld.models.files import describe_model
from trajworld.training.config import TrainingConfig, resolve_config
from trajworld.training.record import CONFIG, METRICS, distinct, is_run, read_metrics, read_record

_BEST = "best.keras"


@dataclass(frozen=True)
class TrainedOn:
    """One dataset of a run.

    Attributes:
        name: The dataset's.
        environment: Its environment's; the dataset's name where that is not known.
        source: The group it is reported with.
        variates: M.
        transitions: Trained on.
        training_episodes: Trained on.
        holdout_episodes: Held out.
        share: Of the batches, 0 to 1.
        holdout_loss: At the best step, nats; None where nothing was held out or evaluated.
    """

    name: str
    environment: str
    source: str
    variates: int
    transitions: int
    training_episodes: int
    holdout_episodes: int
    share: float
    holdout_loss: float | None


@dataclass(frozen=True)
class Evaluation:
    """A row of the log that ended in an evaluation.

    Attributes:
        step: Steps done.
        loss: Training loss, the mean since the row of the log before.
        holdout_loss: The mean over datasets, weighted as in training.
    """

    step: int
    loss: float
    holdout_loss: float


@dataclass(frozen=True)
class Weights:
    """The model file that a card is of.

    Attributes:
        path: ``best.keras`` of the run; ``last.keras`` where nothing was evaluated.
        digest: SHA-256 of its bytes, hex.
        step: The step of training that it says its weights are of; None where it does not say.
    """

    path: Path
    digest: str
    step: int | None


@dataclass(frozen=True)
class RunRecord:
    """A run.

    Attributes:
        path: Its directory.
        config: As it was resolved.
        parameters: Of the model.
        stretches: What it was computed on, from its start and from each resumption on something else.
        earlier_ends: Where it was to end before it was given another end, see :func:`earlier_ends`.
        datasets: What it was trained on.
        evaluations: In order of steps.
        step: Steps done so far.
        seconds: Trained so far.
        weights: The model file; None where the run has written none yet.
    """

    path: Path
    config: TrainingConfig
    parameters: int
    stretches: tuple[Stretch, ...]
    earlier_ends: tuple[tuple[int, int], ...]
    datasets: tuple[TrainedOn, ...]
    evaluations: tuple[Evaluation, ...]
    step: int
    seconds: float
    weights: Weights | None

    @property
    def best(self) -> Evaluation | None:
        """The first evaluation of the least holdout loss, whose weights ``best.keras`` holds; None without any."""
        return min(self.evaluations, key=lambda one: one.holdout_loss, default=None)

    @property
    def finished(self) -> bool:
        """Whether it came to its last step."""
        return self.step >= self.config.steps


def read_run(path: Path) -> RunRecord:
    """Gather what ``config.toml``, ``run.json``, ``metrics.jsonl`` and the model file of a run directory say.

    Raises:
        UsageError: ``path`` is no run.
        TrajWorldError: One of the files is damaged, or the model file is of another step than the others say.
    """
    if not is_run(path):
        raise UsageError(f"{path} is not a run directory: it has no {CONFIG}")
    weights = _weights(path)
    record, rows = read_record(path), read_metrics(path)
    config = resolve_config(record["kind"], file=path / CONFIG)
    try:
        evaluated = [row for row in rows if "holdout_loss" in row]
        evaluations = tuple(
            Evaluation(row["step"], _finite(row["loss"]), _finite(row["holdout_loss"])) for row in evaluated
        )
        best = min(evaluated, key=lambda row: row["holdout_loss"], default={})
        found = RunRecord(
            path,
            config,
            int(record["parameters"]),
            stretches_of(record),
            earlier_ends(record),
            _datasets(record["datasets"], best.get("holdout", {})),
            evaluations,
            rows[-1]["step"] if rows else 0,
            _finite(rows[-1]["seconds"]) if rows else 0.0,
            weights,
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise TrajWorldError(f"{path}: run.json or metrics.jsonl is damaged ({error!r})") from None
    _check_step(found)
    return found


def model_file(run: Path) -> Path | None:
    """The model file that a card is of: ``best.keras``, else ``last.keras``; None where the run has written neither."""
    return next((run / name for name in (_BEST, "last.keras") if (run / name).is_file()), None)


def _weights(run: Path) -> Weights | None:
    path = model_file(run)
    if path is None:
        return None
    step = describe_model(path)["history"].get("step")
    return Weights(path, file_digest(path), step if isinstance(step, int) else None)


def _check_step(record: RunRecord) -> None:
    """Refuse records of another step than the weights: while a run goes on, one is written after the other.

    Raises:
        TrajWorldError: They differ.
    """
    weights, best = record.weights, record.best
    if weights is None:
        return
    if weights.path.name == _BEST:
        logged, what = best and best.step, "the best evaluation"
    elif best is not None:
        raise TrajWorldError(f"{record.path / _BEST} is missing, which the card would be of: restore it")
    else:
        logged, what = record.step, "the last row"
    if weights.step not in (None, logged):
        said = "none" if logged is None else f"of step {logged:,}"
        raise TrajWorldError(
            f"{weights.path} is of step {weights.step:,}, but {what} in {METRICS} is {said}: if the run goes on, try "
            "again in a while; else restore the one that is wrong"
        )


def _datasets(described: list[Any], losses: dict[str, Any]) -> tuple[TrainedOn, ...]:
    total = sum(_finite(one["weight"]) for one in described)
    keys = distinct([one["name"] for one in described])
    return tuple(
        TrainedOn(
            str(one["name"]),
            str(one["environment"] or one["name"]),
            source_of(str(one["environment"] or one["name"])),
            int(one["variates"]),
            int(one["transitions"]),
            int(one["training_episodes"]),
            int(one["holdout_episodes"]),
            one["weight"] / total,
            _finite(losses[key]) if key in losses else None,
        )
        for key, one in zip(keys, described, strict=True)
    )


def _finite(value: Any) -> float:
    if not math.isfinite(value):
        raise ValueError(f"{value} is not finite")
    return float(value)
