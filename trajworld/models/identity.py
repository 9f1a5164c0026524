"""What a model file says of the model beside its weights: all that is needed to use it on data."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trajworld.errors import TrajWorldError
from trajworld.models.ranges import UNIT_SUPPORT, Support


@dataclass(frozen=True)
class Identity:
    """Support, environment and history of a model.

    Attributes:
        support: The range its variates are binned over: arrays ``[M]`` for a model of one dataset, the scalars
            [0, 1] for a pre-trained one, whose data are scaled by their own range first.
        environment: The one environment it was trained on, such as ``gymnasium/Hopper-v5``; empty for several.
        observation_size: That environment's; None for several.
        action_size: That environment's; None for several.
        sources: For a pre-trained model, the range that scaled each environment it saw, by name.
        history: Versions, presets, steps and the like: plain values that are shown, never used.
    """

    support: Support = UNIT_SUPPORT
    environment: str = ""
    observation_size: int | None = None
    action_size: int | None = None
    sources: Mapping[str, Support] = field(default_factory=dict)
    history: Mapping[str, Any] = field(default_factory=dict)

    def to_config(self) -> dict[str, Any]:
        """Plain values for the model's file."""
        return {
            "support": self.support.to_config(),
            "environment": self.environment,
            "observation_size": self.observation_size,
            "action_size": self.action_size,
            "sources": {name: support.to_config() for name, support in self.sources.items()},
            "history": dict(self.history),
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "Identity":
        """The inverse of :meth:`to_config`."""
        values = dict(config)
        values["support"] = Support.from_config(values["support"])
        values["sources"] = {name: Support.from_config(item) for name, item in values["sources"].items()}
        return cls(**values)

    @property
    def steps(self) -> int | None:
        """The step of training that the weights are of; what was planned where a file does not say; else None."""
        for name in ("step", "steps"):
            if isinstance(count := self.history.get(name), int):
                return count
        return None

    def at_step(self, step: int) -> "Identity":
        """The same, of weights after ``step`` steps of training."""
        return replace(self, history={**self.history, "step": step})

    def support_for(self, environment: str, variates: int) -> Support | None:
        """The model's own range for data of an environment, or None for one that pre-training never saw.

        Args:
            environment: The data's environment.
            variates: M of the data.

        Raises:
            TrajWorldError: The model belongs to data of another size.
        """
        support = self.sources.get(environment) if self.support.shared else self.support
        if support is not None and support.lower.shape != (variates,):
            whose = f" of {self.environment}" if self.environment else ""
            raise TrajWorldError(
                f"the model{whose} predicts {support.lower.size} variates, but the data of "
                f"{environment or 'this dataset'} have {variates}: use a model of that environment, or a "
                "pre-trained one"
            )
        return support


def action_mask(observation_size: int, action_size: int, padded: int | None = None) -> NDArray[np.int32]:
    """``[M]`` int32: 1 for action variates, 0 for observations, the reward and padding."""
    count = observation_size + 1 + action_size
    mask = np.zeros(padded or count, np.int32)
    mask[observation_size + 1 : count] = 1
    return mask
