"""What to look at in each variate of a dataset before training on it."""

from typing import Any

import numpy as np

from trajworld.data.dataset import Dataset
from trajworld.data.statistics import real_values
from trajworld.data.summary import variate_names

# A variate of at most _FEW values is discrete; one unchanged in more than _SLOW of the steps is slow; one at an end of
# its range in at least _SATURATED of the rows, and at least _MANY rows, saturates.
_FEW, _SLOW, _SATURATED, _MANY = 20, 0.5, 0.01, 10


def variate_checks(dataset: Dataset) -> dict[str, dict[str, Any]]:
    """How each recorded variate takes its values, as plain JSON values by its name.

    ``distinct`` is how many it has, ``unchanged`` the share of steps, inside episodes, in which it keeps its value,
    ``at_minimum`` and ``at_maximum`` the shares of rows at the ends of its range; ``look_at`` says what of that is
    unusual; empty if nothing is.
    """
    begins, found = dataset.episode_offsets[1:-1], {}
    for variate in map(int, np.flatnonzero(dataset.mask)):
        values = real_values(dataset, variate)
        # An episode has one reward and action fewer than observations.
        short = np.arange(1, dataset.num_episodes) * (variate >= dataset.observation_size)
        steps = np.delete(np.diff(values), begins - short - 1)
        still = float((steps == 0).mean()) if len(steps) else 0.0
        ends = {"minimum": values.min(), "maximum": values.max()}
        shares = {name: float((values == end).mean()) for name, end in ends.items()}
        distinct, words = len(np.unique(values)), []
        if distinct <= _FEW:
            words.append(f"{distinct} values")
        if still > _SLOW:
            words.append(f"unchanged in {still:.0%} of the steps")
        for name, share in shares.items():
            if distinct > _FEW and share >= _SATURATED and share * len(values) >= _MANY:
                words.append(f"{share:.0%} at its {name}")
        found[variate_names(dataset)[variate]] = {
            "distinct": distinct,
            "unchanged": still,
            **{f"at_{name}": share for name, share in shares.items()},
            "look_at": "constant" if distinct == 1 else ", ".join(words),
        }
    return found
