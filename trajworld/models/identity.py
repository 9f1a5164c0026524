"""What a model file holds beside the weights: all that is needed to use the model on data."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trajworld.data.dataset import Dataset
from trajworld.errors import TrajWorldError
from trajworld.models.ranges import UNIT_SUPPORT, Support


@dataclass(frozen=True)
class DatasetRange:
    """The range, arrays ``[M]``, by which pre-training scaled one dataset to [0, 1].

    ``environment`` is empty where it is not known; ``content``, the digest of the rows (``Dataset.content``), in files
    of earlier versions, which kept one range for each environment.
    """

    dataset: str
    environment: str
    content: str
    support: Support

    def __post_init__(self) -> None:
        if not all(isinstance(text, str) for text in (self.dataset, self.environment, self.content)):
            raise TrajWorldError("a pre-training dataset's name, environment or content is no text")
        if self.support.shared:
            raise TrajWorldError("a pre-training dataset's range is not one of its variates")

    @property
    def variates(self) -> int:
        """M."""
        return self.support.lower.size

    @property
    def origin(self) -> str:
        """Where the range is from, for people; of an earlier version's file it may be a union, which is said."""
        union = (
            "" if self.content else " (a union of its environment's ranges, as earlier versions stored them)"
        )
        return f"the model's own, of {self.dataset}{union}"


@dataclass(frozen=True)
class Identity:
    """What a model was trained on.

    Attributes:
        support: The range its variates are binned over: arrays ``[M]`` for a model of one dataset, the scalars
            [0, 1] for a pre-trained one, whose data are scaled by their own range first.
        environment: The one environment, such as ``gymnasium/Hopper-v5``; empty for several.
        observation_size: That environment's; None for several.
        action_size: That environment's; None for several.
        sources: The datasets of a pre-trained model, each with its own range.
        history: Versions, presets, steps and the like: plain values that are shown, never used.
        reward: Whether that environment's data have a reward.
    """

    support: Support = UNIT_SUPPORT
    environment: str = ""
    observation_size: int | None = None
    action_size: int | None = None
    sources: tuple[DatasetRange, ...] = ()
    history: Mapping[str, Any] = field(default_factory=dict)
    reward: bool = True

    def to_config(self) -> dict[str, Any]:
        """Plain values for the model's file."""
        sources = [{**vars(source), "support": source.support.to_config()} for source in self.sources]
        support = self.support.to_config()
        found = {**vars(self), "support": support, "sources": sources, "history": dict(self.history)}
        if self.reward:  # As in files of earlier versions.
            del found["reward"]
        return found

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "Identity":
        """The inverse of :meth:`to_config`."""
        sources = config["sources"]
        if isinstance(sources, dict):  # Earlier versions: a range for each environment.
            sources = [
                {"dataset": name, "environment": name, "content": "", "support": support}
                for name, support in sources.items()
            ]
        read = tuple(
            DatasetRange(**{**one, "support": Support.from_config(one["support"])}) for one in sources
        )
        return cls(**{**config, "support": Support.from_config(config["support"]), "sources": read})

    @property
    def steps(self) -> int | None:
        """The training step of the weights; if a file does not say, the planned number; else None."""
        found = (self.history.get(name) for name in ("step", "steps"))
        return next((count for count in found if isinstance(count, int)), None)

    def at_step(self, step: int) -> "Identity":
        """The same, of weights after ``step`` steps of training."""
        return replace(self, history={**self.history, "step": step})

    def source_for(self, data: Dataset, chosen: Dataset | str | None = None) -> DatasetRange | None:
        """The pre-training dataset whose range ``data`` are read over; None for an environment that was never seen.

        The same data first, then the one dataset of the same environment and M (of the same name, where the environment
        is not known). ``chosen`` decides between several, and for an environment that was never seen: the name of one
        of the model's own datasets; or data, which count where they are one of these. A ``TrajWorldError`` where
        several datasets fit, or none of an environment that the model saw, and ``chosen`` names none of these.
        """
        if same := self._with_content(data.content):
            return same[0]
        size, where = data.num_variates, data.environment
        seen = [
            one for one in self.sources if (one.environment == where if where else one.dataset == data.name)
        ]
        if len(fitting := [one for one in seen if one.variates == size]) == 1:
            return fitting[0]
        if isinstance(chosen, Dataset):
            return next((one for one in self._with_content(chosen.content) if one.variates == size), None)
        if chosen is not None:
            named = [one for one in self.sources if (one.dataset, one.variates) == (chosen, size)]
            if len(named) == 1:
                return named[0]
            raise TrajWorldError(
                f"{len(named) or 'none'} of the model's datasets are called {chosen} and have the {size} variates of "
                f"{data.name}: give --ranges the file of one"
            )
        if seen:
            names = " or ".join(dict.fromkeys(one.dataset for one in fitting)) or "DATASET"
            raise TrajWorldError(
                f"the model was pre-trained on {len(fitting)} datasets of {where or data.name} with {size} variates, "
                f"{data.name} not among them: name the one whose range is to be used, --ranges {names}"
            )
        return None

    def _with_content(self, content: str) -> list[DatasetRange]:
        return [one for one in self.sources if content and one.content == content]


def action_mask(observation_size: int, action_size: int) -> NDArray[np.int32]:
    """``[M]`` int32: 1 for action variates, 0 for observations and the reward."""
    mask = np.zeros(observation_size + 1 + action_size, np.int32)
    mask[observation_size + 1 :][:action_size] = 1
    return mask
