"""Range, mean and standard deviation of each variate of a dataset.

Only real values count: the 0 reward of an episode's first row and the 0 action of its last row are no data.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from trajworld.data.dataset import Dataset


@dataclass(frozen=True, eq=False)
class Statistics:
    """Of each variate, ``[M]``: minimum and maximum (float32), mean and population standard deviation (float64)."""

    minimum: NDArray[np.float32]
    maximum: NDArray[np.float32]
    mean: NDArray[np.float64]
    std: NDArray[np.float64]


def real_values(dataset: Dataset, variate: int, episodes: ArrayLike | None = None) -> NDArray[np.float64]:
    """The real values of a variate in ``episodes`` (all where not given), in the order of the rows."""
    offsets, reward = dataset.episode_offsets, dataset.observation_size
    chosen = np.isin(np.arange(dataset.num_episodes), dataset.chosen(episodes))
    real = np.repeat(chosen, np.diff(offsets))
    if variate == reward:
        real[offsets[:-1]] = False
    elif variate > reward:
        real[offsets[1:] - 1] = False
    return np.asarray(dataset.rows[:, variate])[real].astype(np.float64)


def statistics(dataset: Dataset, episodes: ArrayLike | None = None) -> Statistics:
    """The statistics of each variate over the real values of ``episodes`` (all where not given)."""
    each = (real_values(dataset, variate, episodes) for variate in range(dataset.num_variates))
    minimum, maximum, mean, std = np.array([(v.min(), v.max(), v.mean(), v.std()) for v in each]).T
    return Statistics(minimum.astype(np.float32), maximum.astype(np.float32), mean, std)


def value_range(
    dataset: Dataset, episodes: ArrayLike | None = None
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The least and greatest real value of each variate, (``[M]``, ``[M]``), as :func:`statistics` finds them."""
    found = statistics(dataset, episodes)
    return found.minimum, found.maximum
