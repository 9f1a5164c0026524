"""Cutting windows of consecutive rows out of a memory-mapped dataset, without a copy of the dataset."""

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

    @property
    def window_counts(self) -> NDArray[np.int64]:
        """``[K]``: the windows of each episode."""
        return np.diff(self.first_ranks)

    def locate(self, ranks: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Of each window of these numbers, the row at which it ends and its episode's first row."""
        ranks = np.asarray(ranks, np.int64)
        episode = np.searchsorted(self.first_ranks, ranks, side="right") - 1
        first = self.first_rows[episode]
        return first + 1 + ranks - self.first_ranks[episode], first


def gather_windows(
    dataset: Dataset, ends: NDArray[np.int64], first: NDArray[np.int64], length: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The windows that end at given rows, none of which crosses its episode's start.

    Args:
        dataset: Where the rows are.
        ends: ``[B]`` rows.
        first: ``[B]``: the first row of each one's episode.
        length: T, rows in a window.

    Returns:
        Values ``[B, T, M]`` float32, padded with zeros on the left, and the time mask ``[B, T]`` float32, 1 for real
        rows.
    """
    starts = ends - (length - 1)
    missing = first - starts
    if len(ends) and starts.min() < 0:
        # A place before the file's first row reads the window's last row instead, and is zeroed below.
        index = starts[:, None] + np.arange(length)
        values = np.take(np.asarray(dataset.rows), np.where(index < 0, ends[:, None], index), axis=0)
    else:
        values = window_elements(dataset, length)[starts].view(np.float32)
        values = values.reshape(len(ends), length, dataset.num_variates)
    if not len(ends) or missing.max() <= 0:
        return values, np.ones((len(ends), length), np.float32)
    padded = np.arange(length) < missing[:, None]
    values[padded] = 0
    return values, (~padded).astype(np.float32)


def window_elements(dataset: Dataset, length: int) -> NDArray[np.void]:
    """``[N - T + 1]``: the T rows from each row on as one opaque element, overlapping, without a copy.

    Indexing it copies a window at a time, which is faster than row by row. It knows no episodes.
    """
    rows = np.asarray(dataset.rows)
    element = np.dtype((np.void, length * rows.strides[0]))
    count = max(len(rows) - length + 1, 0)
    return np.ndarray((count,), element, buffer=rows, strides=(rows.strides[0],))


def window_views(dataset: Dataset, length: int) -> NDArray[np.float32]:
    """``[N - T + 1, T, M]``: the T rows from each row on, overlapping, read-only, without a copy.

    A slice of it is a batch of windows where ``whole_batches`` says so. It knows no episodes.
    """
    rows = np.asarray(dataset.rows)
    shape = (max(len(rows) - length + 1, 0), length, dataset.num_variates)
    return np.lib.stride_tricks.as_strided(rows, shape, (rows.strides[0], *rows.strides), writeable=False)


def whole_batches(
    index: WindowIndex, starts: NDArray[np.int64], stops: NDArray[np.int64], length: int
) -> NDArray[np.int64]:
    """Where batches of the windows of numbers ``starts`` to ``stops - 1`` begin in ``window_views``.

    -1 for a batch whose windows are not all of one episode, or the first of which is padded.
    """
    end, first = index.locate(starts)
    begin = end - (length - 1)
    return np.where((index.locate(stops - 1)[1] == first) & (begin >= first), begin, -1)
