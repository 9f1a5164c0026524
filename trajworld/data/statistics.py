"""Range, mean and standard deviation of each variate of a dataset, read in blocks of the memory map.

Only real values count: the 0 reward of an episode's first row and the 0 action of its last row are no data.
"""

import contextlib
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
    offsets, reward = dataset.episode_offsets, dataset.observation_size
    minimum = np.full(dataset.num_variates, np.inf, np.float32)
    maximum = -minimum
    count, mean, squares = np.zeros((3, dataset.num_variates))
    for start in range(0, len(dataset.rows), _ROWS_AT_ONCE):
        rows = np.asarray(dataset.rows[start : start + _ROWS_AT_ONCE])
        index = start + np.arange(len(rows))
        episode = np.searchsorted(offsets, index, side="right") - 1
        real = np.repeat(chosen[episode, None], dataset.num_variates, axis=1)
        real[index == offsets[episode], reward] = False
        real[index == offsets[episode + 1] - 1, reward + 1 :] = False
        if not real.any():
            continue
        minimum = np.minimum(minimum, rows.min(axis=0, where=real, initial=np.inf))
        maximum = np.maximum(maximum, rows.max(axis=0, where=real, initial=-np.inf))
        # Two blocks' moments are merged about their means: sums of squares alone would lose a small deviation.
        more = real.sum(axis=0)
        share = more / np.maximum(count + more, 1)
        block_mean = rows.sum(axis=0, dtype=np.float64, where=real) / np.maximum(more, 1)
        deviation, shift = rows - block_mean, block_mean - mean
        squares += (deviation * deviation).sum(axis=0, where=real) + shift**2 * count * share
        mean += shift * share
        count += more
    return Statistics(minimum, maximum, mean, np.sqrt(squares / count))


def _read(dataset: Dataset) -> Statistics | None:
    """What was kept in the dataset's folder; None where it is lost or damaged."""
    with contextlib.suppress(TrajWorldError, KeyError, TypeError, ValueError):
        values = read_json(dataset.path / _FILE)
        if values.pop("digest", None) not in (None, json_digest(values)):  # Earlier versions wrote none.
            return None
        types = {"minimum": np.float32, "maximum": np.float32, "mean": np.float64, "std": np.float64}
        found = {name: np.array(values[name], dtype) for name, dtype in types.items()}
        if all(array.shape == (dataset.num_variates,) for array in found.values()):
            return Statistics(**found)
    return None
