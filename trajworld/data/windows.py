"""Cutting windows of consecutive rows out of a memory-mapped dataset, without a copy of the dataset."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from trajworld.data.dataset import Dataset


@dataclass(frozen=True, eq=False)
class WindowIndex:
    """The windows of some episodes, numbered, without a list of them.

    ``first_rows [K]`` has each episode's first row, ``first_ranks [K + 1]`` the windows before each, and in all.
    """

    first_rows: NDArray[np.int64]
    first_ranks: NDArray[np.int64]

    @classmethod
    def of(cls, dataset: Dataset, episodes: ArrayLike | None = None) -> "WindowIndex":
        """The windows of ``episodes`` (all where not given), in that order."""
        chosen = dataset.chosen(episodes)
        counts = dataset.transitions_per_episode[chosen]
        return cls(dataset.episode_offsets[chosen], np.concatenate([[0], np.cumsum(counts)]))

    def __len__(self) -> int:
        """The number of windows."""
        return int(self.first_ranks[-1])

    def locate(self, ranks: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Of each window of these numbers, the row at which it ends and its episode's first row."""
        ranks = np.asarray(ranks, np.int64)
        episode = np.searchsorted(self.first_ranks, ranks, side="right") - 1
        first = self.first_rows[episode]
        return first + 1 + ranks - self.first_ranks[episode], first


def gather_windows(
    dataset: Dataset, ends: NDArray[np.int64], first: NDArray[np.int64], length: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The windows of ``length`` T that end at the rows ``ends [B]``, in episodes whose first rows are ``first [B]``.

    Values ``[B, T, M]`` float32, padded with zeros on the left where an episode has no earlier row, and the time mask
    ``[B, T]`` float32, 1 for real rows.
    """
    rows, starts = np.asarray(dataset.rows), ends - (length - 1)
    if len(ends) and starts.min() < 0:
        # A place before the file's first row reads the window's last row instead, and is zeroed below.
        index = starts[:, None] + np.arange(length)
        values = np.take(rows, np.where(index < 0, ends[:, None], index), axis=0)
    else:
        # Each T rows as one opaque element, overlapping: a window is copied at a time, faster than row by row.
        element = np.dtype((np.void, length * rows.strides[0]))
        count = max(len(rows) - length + 1, 0)
        windows: NDArray[np.void] = np.ndarray((count,), element, buffer=rows, strides=(rows.strides[0],))
        values = windows[starts].view(np.float32).reshape(len(ends), length, dataset.num_variates)
    padded = np.arange(length) < (first - starts)[:, None]
    if padded.any():
        values[padded] = 0
    return values, (~padded).astype(np.float32)
