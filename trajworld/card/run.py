"""What a run's files record of a training run, gathered for its card; no framework is imported."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trajworld.card.stretches import Stretch, stretches_of
from trajworld.corpus.sources import source_of
from trajworld.errors import TrajWorldError, UsageError
from trajworld.training.config import TrainingConfig, resolve_config
from trajworld.training.record import CONFIG, distinct, is_run, read_metrics, read_record


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
class RunRecord:
    """A run.

    Attributes:
        config: As it was resolved.
        parameters: Of the model.
        stretches: What it was computed on, from its start and from each resumption on something else.
        datasets: What it was trained on.
        evaluations: In order of steps.
        step: Steps done so far.
        seconds: Trained so far.
    """

    config: TrainingConfig
    parameters: int
    stretches: tuple[Stretch, ...]
    datasets: tuple[TrainedOn, ...]
    evaluations: tuple[Evaluation, ...]
    step: int
    seconds: float

    @property
    def best(self) -> Evaluation | None:
        """The first evaluation of the least holdout loss, whose weights ``best.keras`` holds; None without any."""
        return min(self.evaluations, key=lambda one: one.holdout_loss, default=None)

    @property
    def finished(self) -> bool:
        """Whether it came to its last step."""
        return self.step >= self.config.steps


def read_run(path: Path) -> RunRecord:
    """Gather what ``config.toml``, ``run.json`` and ``metrics.jsonl`` of a run directory say.

    Raises:
        UsageError: ``path`` is no run.
        TrajWorldError: One of the files is damaged.
    """
    if not is_run(path):
        raise UsageError(f"{path} is not a run directory: it has no {CONFIG}")
    record, rows = read_record(path), read_metrics(path)
    config = resolve_config(record["kind"], file=path / CONFIG)
    try:
        evaluated = [row for row in rows if "holdout_loss" in row]
        evaluations = tuple(
            Evaluation(row["step"], _finite(row["loss"]), _finite(row["holdout_loss"])) for row in evaluated
        )
        best = min(evaluated, key=lambda row: row["holdout_loss"], default={})
        return RunRecord(
            config,
            int(record["parameters"]),
            stretches_of(record),
            _datasets(record["datasets"], best.get("holdout", {})),
            evaluations,
            rows[-1]["step"] if rows else 0,
            _finite(rows[-1]["seconds"]) if rows else 0.0,
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise TrajWorldError(f"{path}: run.json or metrics.jsonl is damaged ({error!r})") from None


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
