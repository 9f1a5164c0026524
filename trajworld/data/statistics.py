"""Range, mean and standard deviation of each variate of a dataset, read in blocks of the memory map.

Only real values count: the 0 reward of an episode's first row and the 0 action of its last row are no data.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from trajworld.data.dataset import Dataset
from trajworld.errors import TrajWorldError, UsageError
from trajworld.files import read_json, write_json

_FILE = "statistics.json"
_ROWS_AT_ONCE = 16384


@dataclass(frozen=True, eq=False)
class Statistics:
    """Of each variate, ``[M]``: minimum and maximum (float32), mean and (population) standard deviation
    (float64).
    """

    minimum: NDArray[np.float32]
    maximum: NDArray[np.float32]
    mean: NDArray[np.float64]
    std: NDArray[np.float64]


def statistics(dataset: Dataset, episodes: ArrayLike | None = None) -> Statistics:
    """The statistics of each variate over the real values of ``episodes`` (all where not given).

    Those of the whole dataset were computed when it was converted and are read from its folder.

    Raises:
        UsageError: ``episodes`` is empty or names an episode that is not there.
    """
    if episodes is not None:
        chosen = _chosen(dataset, episodes)
        return compute_statistics(dataset, chosen) if not chosen.all() else statistics(dataset)
    try:
        return _read(dataset)
    except TrajWorldError:
        return compute_statistics(dataset, _chosen(dataset, np.arange(dataset.num_episodes)))


def value_range(
    dataset: Dataset, episodes: ArrayLike | None = None
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The least and greatest real value of each variate, (``[M]``, ``[M]``), over ``episodes`` (all where not
    given).
    """
    found = statistics(dataset, episodes)
    return found.minimum, found.maximum


def write_statistics(dataset: Dataset) -> None:
    """Compute the whole dataset's statistics and keep them in its folder."""
    found = compute_statistics(dataset, np.ones(dataset.num_episodes, bool))
    write_json(dataset.path / _FILE, {name: array.tolist() for name, array in vars(found).items()})


def compute_statistics(dataset: Dataset, chosen: NDArray[np.bool_]) -> Statistics:
    """The statistics over the episodes where ``chosen [E]`` is true, from the rows themselves."""
    size = dataset.num_variates
    minimum, maximum = np.full(size, np.inf, np.float32), np.full(size, -np.inf, np.float32)
    count, mean, squares = np.zeros(size), np.zeros(size), np.zeros(size)
    for columns, values in _real_values(dataset, chosen):
        if not len(values):
            continue
        minimum[columns] = np.minimum(minimum[columns], values.min(axis=0))
        maximum[columns] = np.maximum(maximum[columns], values.max(axis=0))
        # Two blocks' moments are merged about their means: sums of squares alone would lose a small
        # deviation.
        block_mean = values.mean(axis=0, dtype=np.float64)
        deviation = values - block_mean
        total = count[columns] + len(values)
        shift = block_mean - mean[columns]
        squares[columns] += (deviation * deviation).sum(axis=0) + shift**2 * count[columns] * len(
            values
        ) / total
        mean[columns] += shift * len(values) / total
        count[columns] = total
    return Statistics(minimum, maximum, mean, np.sqrt(squares / count))


def _real_values(dataset: Dataset, chosen: NDArray[np.bool_]) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    """Blocks of real values, with the variates that they belong to."""
    offsets, observation_size = dataset.episode_offsets, dataset.observation_size
    for start in range(0, len(dataset.rows), _ROWS_AT_ONCE):
        stop = min(start + _ROWS_AT_ONCE, len(dataset.rows))
        index = np.arange(start, stop)
        episode = np.searchsorted(offsets, index, side="right") - 1
        wanted = chosen[episode]
        if not wanted.any():
            continue
        rows = np.asarray(dataset.rows[start:stop])
        yield slice(0, observation_size), rows[wanted, :observation_size]
        yield (
            slice(observation_size, observation_size + 1),
            rows[wanted & (index != offsets[episode]), observation_size : observation_size + 1],
        )
        yield (
            slice(observation_size + 1, None),
            rows[wanted & (index != offsets[episode + 1] - 1), observation_size + 1 :],
        )


def _chosen(dataset: Dataset, episodes: ArrayLike) -> NDArray[np.bool_]:
    indices = np.asarray(episodes, np.int64)
    if indices.ndim != 1 or not len(indices):
        raise UsageError(f"{dataset.name}: no episode was chosen")
    if indices.min() < 0 or indices.max() >= dataset.num_episodes:
        raise UsageError(
            f"{dataset.name} has episodes 0 to {dataset.num_episodes - 1}; {indices.max()} was asked for"
        )
    chosen = np.zeros(dataset.num_episodes, bool)
    chosen[indices] = True
    return chosen


def _read(dataset: Dataset) -> Statistics:
    values = read_json(dataset.path / _FILE)
    try:
        found = Statistics(
            minimum=np.array(values["minimum"], np.float32),
            maximum=np.array(values["maximum"], np.float32),
            mean=np.array(values["mean"], np.float64),
            std=np.array(values["std"], np.float64),
        )
    except (KeyError, TypeError, ValueError):
        raise TrajWorldError(f"{dataset.path / _FILE} is damaged") from None
    if any(array.shape != (dataset.num_variates,) for array in vars(found).values()):
        raise TrajWorldError(f"{dataset.path / _FILE} is of another dataset")
    return found
