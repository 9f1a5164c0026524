"""Augmentation for pre-training: a batch's variates mirrored and moved within [0, 1] at random.

Each dataset is scaled to [0, 1] by its own ranges, so a model can memorise where an environment's values lie instead
of reading it off the window, which fails in an unseen environment. Here the ranges are widened and signs flipped at
random: what is left to learn is how values follow from those before them. Beyond the published system.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

# How often a variate's sign changes, how often an end of its range moves, and by how many of its ranges at most.
_MIRRORED, _WIDENED, _FARTHEST = 0.5, 0.7, 0.5
_STREAM = 2


class Change(NamedTuple):
    """What happens to the variates of a batch: ``sign * values`` is binned over ``[lower, upper]``; each ``[M]``."""

    sign: NDArray[np.float32]
    lower: NDArray[np.float32]
    upper: NDArray[np.float32]


def draw_change(
    lower: NDArray[np.float32],
    upper: NDArray[np.float32],
    variate_mask: ArrayLike,
    share: float,
    seed: int,
    step: int,
) -> Change | None:
    """The change of a step's batch, a pure function of its arguments; None where the batch stays as it is.

    ``lower [M]`` and ``upper [M]`` are the ends of the variates' ranges, ``variate_mask [M]`` is 1 for real variates:
    the others never change. ``share`` is the probability that a batch is changed at all.
    """
    if not share:
        return None
    generator = np.random.default_rng([seed, step, _STREAM])
    if generator.random() >= share:
        return None
    real = np.asarray(variate_mask) > 0
    mirrored, *widened = generator.random((3, len(real)))
    beyond = generator.uniform(0, _FARTHEST, (2, len(real))) * (np.stack(widened) < _WIDENED) * real
    below, above = lower - beyond[0] * (upper - lower), upper + beyond[1] * (upper - lower)
    flip = (mirrored < _MIRRORED) & real
    changed = np.where(flip, -1, 1), np.where(flip, -above, below), np.where(flip, -below, above)
    return Change(*(array.astype(np.float32) for array in changed))
