"""What the quickstart found, as plain records that become its table, its JSON file and its report."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from trajworld.evaluation.brief import Errors
from trajworld.quickstart.plan import Plan

KIND = "quickstart"
"""What ``results.json`` says that it holds."""


@dataclass(frozen=True)
class DatasetRow:
    """A dataset that was collected: what for (``fine-tuning``, ``test``) and how much."""

    purpose: str
    dataset: str
    environment: str
    variates: int
    episodes: int
    transitions: int


@dataclass(frozen=True)
class ModelFacts:
    """What the pre-trained model says of itself: its name, size, steps and the environments it was trained on."""

    name: str
    parameters: int
    steps: int
    environments: tuple[str, ...]


@dataclass(frozen=True)
class TrialRow:
    """One fine-tuning run.

    Attributes:
        side: ``fine-tuned`` (from the pre-trained model) or ``from scratch``.
        transitions: Transitions of the data it was given, holdout included.
        learning_rate: Its peak.
        holdout_loss: Its last holdout loss, nats.
        errors: On the test set, after the last step.
        chosen: Whether its learning rate was the side's best on its holdout episodes.
    """

    side: str
    transitions: int
    learning_rate: float
    holdout_loss: float
    errors: Errors
    chosen: bool = False


@dataclass(frozen=True)
class Command:
    """A command that repeats one step alone."""

    title: str
    line: str


@dataclass(frozen=True)
class Results:
    """Everything the report shows.

    Attributes:
        plan: What was done.
        machine: ``backend``, ``device``, ``cores``, ``memory_gib``, as text or numbers.
        versions: Of the libraries.
        datasets: What was collected.
        model: The pre-trained model.
        trials: Every fine-tuning run.
        copy_last_row: The baseline that predicts no change.
        zero_shot: The pre-trained model without an update, scaled by the smallest fine-tuning dataset's range.
        commands: How to repeat each step.
        seconds: How long each stage took.
        pictures: Title to file name, within the folder of the report.
        findings: What was found, in sentences, good or bad.
    """

    plan: Plan
    machine: dict[str, Any]
    versions: dict[str, str]
    datasets: list[DatasetRow]
    model: ModelFacts
    trials: list[TrialRow]
    copy_last_row: Errors
    zero_shot: Errors
    commands: list[Command]
    seconds: dict[str, float]
    pictures: dict[str, str] = field(default_factory=dict)
    findings: list[str] = field(default_factory=list)

    def chosen(self, side: str) -> list[TrialRow]:
        """The chosen run of a side at each size, smallest size first."""
        return sorted(
            (row for row in self.trials if row.side == side and row.chosen), key=lambda row: row.transitions
        )

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {"kind": KIND, **dataclasses.asdict(self)}


FINE_TUNED, FROM_SCRATCH = "fine-tuned", "from scratch"
