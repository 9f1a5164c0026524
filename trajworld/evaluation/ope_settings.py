"""The settings of off-policy evaluation, as plain numbers."""

import math
from dataclasses import dataclass

from trajworld.errors import UsageError


@dataclass(frozen=True)
class OpeSettings:
    """How policies are evaluated inside a model.

    Attributes:
        discount: γ.
        horizon: The most steps of a rollout.
        states: The most initial states, first ones of the dataset's episodes.
        half_width: No further initial states once half the estimate's 95 % interval is at most this wide.
        sample: Sample the model's predictions, as an MLP ensemble's always are; else use their expectations.
        negligible: Rollouts stop where the remaining discount can change no return by more than this share of the
            interval's half width; 0 never stops them before the horizon.
        fading: Imagine later steps, which the discount makes small, for fewer of the rollouts: less time for an
            interval of the same width.
        batch_size: Initial states at once.
        compact: Whether trajectories that have ended leave the batch.
        seed: Of all draws.
    """

    discount: float = 0.995
    horizon: int = 1000
    states: int = 64
    half_width: float = 0.0
    sample: bool = False
    negligible: float = 0.1
    fading: bool = True
    batch_size: int = 64
    compact: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        _check_discount(self.discount)
        counts = self.horizon, self.batch_size, self.states - 1
        finite = 0 <= self.negligible < math.inf and 0 <= self.half_width < math.inf
        if min(counts) < 1 or not finite or self.seed < 0:
            raise UsageError(
                "at least a horizon of 1 step, 2 initial states, a batch of 1, and finite numbers, none negative, are "
                "needed"
            )


@dataclass(frozen=True)
class FittedQSettings:
    """How Q functions are fitted.

    Attributes:
        discount: γ.
        iterations: Backups: in each, Q is fitted to rewards and the last iteration's values of what followed. More are
            not better: values of actions unlike the data's then diverge.
        steps: Steps of Adam in an iteration.
        batch_size: Transitions of a step.
        width: Of the two hidden layers.
        learning_rate: At the start; it falls linearly to a tenth.
        seed: Of the weights, the transitions and the actions.
    """

    discount: float = 0.995
    iterations: int = 200
    steps: int = 20
    batch_size: int = 256
    width: int = 128
    learning_rate: float = 1e-3
    seed: int = 0

    def __post_init__(self) -> None:
        _check_discount(self.discount)
        if self.discount == 1 or min(self.iterations, self.steps, self.batch_size, self.width) < 1:
            raise UsageError("fitted Q evaluation needs a discount below 1 and counts of at least 1")


def _check_discount(discount: float) -> None:
    if not 0 < discount <= 1:
        raise UsageError(f"the discount must be above 0 and at most 1, not {discount}")
