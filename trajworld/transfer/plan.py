"""What a study of transfer does: which trials, on how much data, for how many steps."""

import math
from dataclasses import dataclass

from trajworld.environments.names import parse_name
from trajworld.errors import UsageError
from trajworld.models.sizes import ModelSizes

FINE_TUNED, FROM_SCRATCH = "fine-tuned", "from scratch"
SIDES = (FROM_SCRATCH, FINE_TUNED)

ENVIRONMENTS = ("gymnasium/Hopper-v5", "gymnasium/HalfCheetah-v5", "gymnasium/Walker2d-v5")
"""The test embodiments (DESIGN §6): no corpus of this project has a hopper, a walker or a cheetah of any suite."""

LEAST_POOL = 80_000
"""Transitions that are collected of an environment to draw training data from, where no more are needed."""


@dataclass(frozen=True)
class TrialSettings:
    """What all trials of a study have in common, whatever their side.

    Attributes:
        model: Sizes of the model.
        steps: Steps after which the error is measured, ascending; a run ends with the last. 0 is the model that the
            run begins with.
        batch_size: Windows in a batch.
        targets: Of the loss, ``onehot`` or ``gauss``.
        warmup_steps: Of the learning rate, from 0; then it stays constant, so that the errors of one run at its steps
            are those that shorter runs would have had at their ends.
        holdout_windows: At most so many windows of the held-out episodes are evaluated.
        test_windows: At most so many windows of the test set are predicted, the same in every trial.
    """

    model: ModelSizes
    steps: tuple[int, ...]
    batch_size: int
    targets: str = "onehot"
    warmup_steps: int = 20
    holdout_windows: int = 512
    test_windows: int = 1024

    def __post_init__(self) -> None:
        if not self.steps or list(self.steps) != sorted(set(self.steps)) or self.steps[0] < 0:
            raise UsageError(f"steps must ascend from 0 or more, not {', '.join(map(str, self.steps))}")
        if self.steps[-1] < 1:
            raise UsageError("the last of the steps must be at least 1")
        for name in ("batch_size", "holdout_windows", "test_windows"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.warmup_steps < 0:
            raise UsageError(f"warmup_steps cannot be negative, not {self.warmup_steps}")


@dataclass(frozen=True)
class Trial:
    """One training run.

    Attributes:
        side: ``fine-tuned`` or ``from scratch``.
        environment: Canonical name.
        transitions: Of the data that it is given, holdout included.
        learning_rate: Its rate.
        seed: Of which episodes it is given, the initial weights, batches and dropout.
    """

    side: str
    environment: str
    transitions: int
    learning_rate: float
    seed: int


@dataclass(frozen=True)
class TransferPlan:
    """A study.

    Attributes:
        environments: Canonical names.
        sizes: Amounts of data, ascending.
        learning_rates: Tried by both sides at each size with the first seed; the best on the run's own held-out
            episodes is used for the other seeds. One with which a seed diverges gives way to the next best.
        seeds: How many.
        settings: Of every trial.
        pool: Transitions that are collected of each environment to train on.
    """

    environments: tuple[str, ...]
    sizes: tuple[int, ...]
    learning_rates: tuple[float, ...]
    seeds: int
    settings: TrialSettings
    pool: int

    def __post_init__(self) -> None:
        if not self.environments:
            raise UsageError("name at least one environment")
        if len(set(self.environments)) < len(self.environments):
            raise UsageError(f"an environment is named twice: {', '.join(self.environments)}")
        if not self.sizes or list(self.sizes) != sorted(set(self.sizes)) or self.sizes[0] < 1:
            raise UsageError(f"sizes must ascend from 1 or more, not {', '.join(map(str, self.sizes))}")
        if self.pool < self.sizes[-1]:
            raise UsageError(f"{self.pool} transitions collected cannot give {self.sizes[-1]} to train on")
        if not self.learning_rates or len(set(self.learning_rates)) < len(self.learning_rates):
            raise UsageError("name at least one learning rate, and each once")
        for rate in self.learning_rates:
            if not (rate > 0 and math.isfinite(rate)):
                raise UsageError(f"a learning rate must be above 0, not {rate:g}")
        if self.seeds < 1:
            raise UsageError(f"at least 1 seed is needed, not {self.seeds}")

    @property
    def test(self) -> int:
        """Transitions that are collected of each environment to test on: a tenth of the pool."""
        return max(1, self.pool // 10)

    @property
    def trials(self) -> int:
        """How many runs a side makes at one size of one environment: each rate with the first seed, then one rate."""
        return len(self.learning_rates) + self.seeds - 1


def default_pool(sizes: tuple[int, ...]) -> int:
    """Enough that seeds draw different episodes at the largest size."""
    return max(LEAST_POOL, math.ceil(1.25 * max(sizes, default=0)))


def environment_names(given: tuple[str, ...]) -> tuple[str, ...]:
    """Canonical names of what a person wrote; the test embodiments where nothing was.

    Raises:
        UsageError: A name is malformed.
    """
    return tuple(str(parse_name(name)) for name in given) or ENVIRONMENTS
