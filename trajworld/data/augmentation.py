"""Augmentation for pre-training: a batch's variates mirrored and moved within [0, 1] at random.

Each dataset is scaled to [0, 1] by its own ranges, so a model can memorise where an environment's values lie instead
of reading it off the window, which fails in an unseen environment. Here the ranges are widened and signs flipped at
random: what is left to learn is how values follow from those before them. Beyond the published system.
"""

import numpy as np
from numpy.typing import NDArray

from trajworld.data.batch import Variates

# How often a variate's sign changes, how often an end of its range moves, and by how many of its ranges at most.
_MIRRORED, _WIDENED, _FARTHEST = 0.5, 0.7, 0.5
_STREAM = 2


def augmented(
    values: NDArray[np.float32], variates: Variates, share: float, seed: int, step: int
) -> tuple[NDArray[np.float32], Variates]:
    """The values ``[..., M]`` and variates of a step's batch, of which a ``share`` is changed and the rest as given.

    A pure function of its arguments. Variates whose mask is 0 never change.
    """
    if not share:
        return values, variates
    generator = np.random.default_rng([seed, step, _STREAM])
    if generator.random() >= share:
        return values, variates
    _, lower, upper, mask = variates
    real = np.asarray(mask) > 0
    mirrored, *widened = generator.random((3, len(real)))
    beyond = generator.uniform(0, _FARTHEST, (2, len(real))) * (np.stack(widened) < _WIDENED) * real
    below, above = lower - beyond[0] * (upper - lower), upper + beyond[1] * (upper - lower)
    flip = (mirrored < _MIRRORED) & real
    # What lies outside the dataset's own range is clipped to that, not to the wider one.
    changed = np.clip(values, lower, upper) * np.where(flip, -1, 1).astype(np.float32)
    ends = np.where(flip, -above, below), np.where(flip, -below, above)
    lower, upper = (end.astype(np.float32) for end in ends)
    return changed, variates._replace(lower=lower, upper=upper)
