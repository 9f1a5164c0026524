"""Cutting windows of consecutive rows out of a memory-mapped dataset, without a copy of the dataset (DESIGN
§2).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from trajworld.data.dataset import Dataset
from trajworld.errors import UsageError


@dataclass(frozen=True, eq=False)
class WindowIndex:
    """The windows of some episodes, numbered, without a list of them.

    Attributes:
        first_rows: ``[K]`` int64: the first row of each episode, in the given order.
        first_ranks: ``[K + 1]`` int64: the number of windows before each episode, and of all.
    """

    first_rows: NDArray[np.int64]
    first_ranks: NDArray[np.int64]

    @classmethod
    def of(cls, dataset: Dataset, episodes: ArrayLike | None = None) -> "WindowIndex":
        """The windows of ``episodes`` (all where not given), in that order.

        Raises:
            UsageError: ``episodes`` is empty or names an episode that is not there.
        """
        chosen = np.arange(dataset.num_episodes) if episodes is None else np.asarray(episodes, np.int64)
        if chosen.ndim != 1 or not len(chosen):
            raise UsageError(f"{dataset.name}: no episode was chosen")
        if chosen.min() < 0 or chosen.max() >= dataset.num_episodes:
            raise UsageError(f"{dataset.name} has episodes 0 to {dataset.num_episodes - 1} only")
        counts = dataset.transitions_per_episode[chosen]
        return cls(dataset.episode_offsets[chosen], np.concatenate([[0], np.cumsum(counts)]))

    def __len__(self) -> int:
        """The number of windows."""
        return int(self.first_ranks[-1])

    @property
    def num_episodes(self) -> int:
        """K."""
        return len(self.first_rows)

    def ends(self, ranks: ArrayLike) -> NDArray[np.int64]:
        """The row at which each window of these numbers ends; ``ranks`` are within ``[0, len)``."""
        ranks = np.asarray(ranks, np.int64)
        episode = np.searchsorted(self.first_ranks, ranks, side="right") - 1
        return self.first_rows[episode] + 1 + ranks - self.first_ranks[episode]


def window_ends(dataset: Dataset, episodes: ArrayLike | None = None) -> NDArray[np.int64]:
    """The row at which each window of ``episodes`` ends: every row but an episode's first."""
    index = WindowIndex.of(dataset, episodes)
    return index.ends(np.arange(len(index)))


def cut_windows(
    dataset: Dataset, ends: ArrayLike, length: int = 20
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The windows that end at the rows ``ends [B]``, none of which crosses its episode's start.

    Args:
        dataset: Where the rows are.
        ends: Row indices, ``[B]``.
        length: T, rows in a window.

    Returns:
        Values ``[B, T, M]`` float32, padded with zeros on the left, and the time mask ``[B, T]`` float32, 1
        for real rows.

    Raises:
        UsageError: ``length`` is less than 1 or an end is no row of the dataset.
    """
    ends = np.asarray(ends, np.int64)
    if length < 1:
        raise UsageError(f"a window needs at least 1 row, not {length}")
    if ends.ndim != 1 or (len(ends) and (ends.min() < 0 or ends.max() >= len(dataset.rows))):
        raise UsageError(f"{dataset.name} has rows 0 to {len(dataset.rows) - 1}; a window ends elsewhere")
    episode = np.searchsorted(dataset.episode_offsets, ends, side="right") - 1
    index = ends[:, None] + np.arange(1 - length, 1)
    padded = index < dataset.episode_offsets[episode][:, None]
    # A padded place reads the window's last row, which is being read anyway, and is zeroed.
    values = np.take(np.asarray(dataset.rows), np.where(padded, ends[:, None], index), axis=0)
    values[padded] = 0
    return values, (~padded).astype(np.float32)
