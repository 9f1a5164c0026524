"""What to look at in each variate of a dataset before training on it."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from trajworld.data.dataset import Dataset
from trajworld.data.summary import variate_names

_FEW = 20
_SATURATED = 0.01
_MANY = 10
_SELDOM = 0.5


@dataclass(frozen=True)
class VariateChecks:
    """How a variate takes its values.

    Attributes:
        distinct: How many different values it has.
        unchanged: The share of steps, inside episodes, in which it keeps its value.
        rows: How many rows have one.
        at_minimum: The share of rows at its least value.
        at_maximum: The same for the greatest.
    """

    distinct: int
    unchanged: float
    rows: int
    at_minimum: float
    at_maximum: float

    @property
    def words(self) -> str:
        """What is out of the ordinary, for people; empty where nothing is."""
        if self.distinct == 1:
            return "constant"
        found = [f"{self.distinct} values"] * (self.distinct <= _FEW)
        found += [f"unchanged in {self.unchanged:.0%} of the steps"] * (self.unchanged > _SELDOM)
        for end, share in (("minimum", self.at_minimum), ("maximum", self.at_maximum)):
            many = share >= _SATURATED and share * self.rows >= _MANY
            found += [f"{share:.0%} at its {end}"] * (many and self.distinct > _FEW)
        return ", ".join(found)

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**asdict(self), "words": self.words}


def variate_checks(dataset: Dataset) -> dict[str, VariateChecks]:
    """The checks of each recorded variate by its name, over its real values."""
    first, last = dataset.episode_offsets[:-1], dataset.episode_offsets[1:] - 1
    found = {}
    for variate, name in enumerate(variate_names(dataset)):
        if not dataset.mask[variate]:
            continue
        column = np.asarray(dataset.rows[:, variate])
        real = np.ones(len(column), bool)
        if variate >= dataset.observation_size:
            real[first if variate == dataset.observation_size else last] = False
        inside = real[1:] & real[:-1]
        inside[last[:-1]] = False
        values = column[real]
        ends = [float((values == end).mean()) for end in (values.min(), values.max())]
        still = float((np.diff(column) == 0)[inside].mean()) if inside.any() else 0.0
        found[name] = VariateChecks(len(np.unique(values)), still, len(values), *ends)
    return found
