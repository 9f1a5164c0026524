"""The settings of planning, as plain numbers."""

import math
from dataclasses import dataclass, replace
from numbers import Integral
from typing import Literal

from trajworld.errors import UsageError

SHOOTING: Literal["shooting"] = "shooting"
CEM: Literal["cem"] = "cem"
MPPI: Literal["mppi"] = "mppi"


@dataclass(frozen=True)
class PlannerSettings:
    """How actions are chosen by a model's predictions.

    Attributes:
        method: The best of random action sequences (shooting), or a search around the best by the cross-entropy method
            (cem) or by model predictive path integral control (mppi).
        horizon: Steps ahead.
        candidates: Action sequences that are imagined at once.
        noise: Standard deviation of the candidates, of cem in the first round, in half boxes of actions.
            [default: √2, around a proposal 0.1]
        rounds: Draws of candidates for each action.  [default: 1 of shooting, else 3]
        elites: Of cem: the number of best candidates that the next draw follows.
        temperature: Of mppi: the scale on which candidates' weights decay, in standard deviations of their returns.
        discount: γ.
    """

    method: Literal["shooting", "cem", "mppi"] = SHOOTING
    horizon: int = 25
    candidates: int = 128
    noise: float | None = None
    rounds: int | None = None
    elites: int = 16
    temperature: float = 0.5
    discount: float = 1.0

    def __post_init__(self) -> None:
        if self.method not in (SHOOTING, CEM, MPPI):
            raise UsageError(f"no method is called {self.method!r}: there are {SHOOTING}, {CEM} and {MPPI}")
        counts = self.horizon, self.candidates, self.elites, 1 if self.rounds is None else self.rounds
        whole = all(isinstance(one, Integral) for one in counts)
        if not whole or min(counts) < 1 or (self.method == CEM and self.elites > self.candidates):
            raise UsageError(
                "at least 1 step, candidate, round and elite, in whole numbers, are needed, and no more elites than "
                "candidates"
            )
        positive = self.temperature, 1.0 if self.noise is None else self.noise
        if not all(0 < one < math.inf for one in positive) or not 0 < self.discount <= 1:
            raise UsageError("noise and temperature above 0, and a discount in (0, 1], are needed")

    def resolved(self, proposal: bool) -> "PlannerSettings":
        """These settings with the defaults of ``noise`` and ``rounds``, with a proposal or without."""
        noise = self.noise or (0.1 if proposal else math.sqrt(2))
        return replace(self, noise=noise, rounds=self.rounds or (1 if self.method == SHOOTING else 3))
