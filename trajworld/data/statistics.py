"""Range, mean and standard deviation of each variate of a dataset, read in blocks of the memory map.

Only real values count: the 0 reward of an episode's first row and the 0 action of its last row are no data.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from trajworld.data.dataset import Dataset
from trajworld.errors import TrajWorldError
from trajworld.files import json_digest, read_json, write_json

_FILE = "statistics.json"
_ROWS_AT_ONCE = 16384


@dataclass(frozen=True, eq=False)
class Statistics:
    """Of each variate, ``[M]``: minimum and maximum (float32), mean and population standard deviation (float64)."""

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
    chosen = np.zeros(dataset.num_episodes, bool)
    chosen[dataset.chosen(episodes)] = True
    kept = _read(dataset) if chosen.all() else None
    return kept or compute_statistics(dataset, chosen)


def value_range(
    dataset: Dataset, episodes: ArrayLike | None = None
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The least and greatest real value of each variate, (``[M]``, ``[M]``), as :func:`statistics` finds them."""
    found = statistics(dataset, episodes)
    return found.minimum, found.maximum


def write_statistics(dataset: Dataset) -> None:
    """Compute the whole dataset's statistics and keep them in its folder."""
    found = compute_statistics(dataset, np.ones(dataset.num_episodes, bool))
    values = {name: array.tolist() for name, array in vars(found).items()}
    write_json(dataset.path / _FILE, {**values, "digest": json_digest(values)})


def compute_statistics(dataset: Dataset, chosen: NDArray[np.bool_]) -> Statistics:
    """The statistics over the episodes where ``chosen [E]`` is true, from the rows themselves."""
    size = dataset.num_variates
    minimum, maximum = np.full(size, np.inf, np.float32), np.full(size, -np.inf, np.float32)
    count, mean, squares = np.zeros((3, size))
    for columns, values in _real_values(dataset, chosen):
        if not len(values):
            continue
        minimum[columns] = np.minimum(minimum[columns], values.min(axis=0))
        maximum[columns] = np.maximum(maximum[columns], values.max(axis=0))
        # Two blocks' moments are merged about their means: sums of squares alone would lose a small deviation.
        block_mean = values.mean(axis=0, dtype=np.float64)
        deviation = values - block_mean
        total = count[columns] + len(values)
        shift = block_mean - mean[columns]
        between = shift**2 * count[columns] * len(values) / total
        squares[columns] += (deviation * deviation).sum(axis=0) + between
        mean[columns] += shift * len(values) / total
        count[columns] = total
    return Statistics(minimum, maximum, mean, np.sqrt(squares / count))


def _real_values(dataset: Dataset, chosen: NDArray[np.bool_]) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    """Blocks of real values, with the variates that they belong to."""
    offsets, reward = dataset.episode_offsets, dataset.observation_size
    for start in range(0, len(dataset.rows), _ROWS_AT_ONCE):
        index = np.arange(start, min(start + _ROWS_AT_ONCE, len(dataset.rows)))
        episode = np.searchsorted(offsets, index, side="right") - 1
        wanted = chosen[episode]
        if not wanted.any():
            continue
        rows = np.asarray(dataset.rows[start : start + _ROWS_AT_ONCE])
        arrived, departs = index != offsets[episode], index != offsets[episode + 1] - 1
        yield slice(0, reward), rows[wanted, :reward]
        yield slice(reward, reward + 1), rows[wanted & arrived, reward : reward + 1]
        yield slice(reward + 1, None), rows[wanted & departs, reward + 1 :]


def _read(dataset: Dataset) -> Statistics | None:
    """What was kept in the dataset's folder; None where it is lost or damaged."""
    with contextlib.suppress(TrajWorldError, KeyError, TypeError, ValueError):
        values = read_json(dataset.path / _FILE)
        if values.pop("digest", None) not in (None, json_digest(values)):  # Earlier versions wrote none.
            return None
        minimum, maximum = (np.array(values[name], np.float32) for name in ("minimum", "maximum"))
        mean, std = (np.array(values[name], np.float64) for name in ("mean", "std"))
        found = Statistics(minimum, maximum, mean, std)
        if all(array.shape == (dataset.num_variates,) for array in vars(found).values()):
            return found
    return None
