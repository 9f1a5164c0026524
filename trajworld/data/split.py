"""Choosing episodes: test and holdout sets and smaller amounts of data, always of whole episodes."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from trajworld.data.dataset import Dataset
from trajworld.errors import UsageError

_SET_ASIDE = 20260


def split_episodes(
    num_episodes: int, holdout_fraction: float, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Split episodes at random into (training, holdout), each sorted; a pure function of its arguments.

    Both hold at least one episode, except for a fraction of 0, which holds out none.
    """
    if holdout_fraction == 0:
        return np.arange(num_episodes), np.arange(0)
    if num_episodes == 1:
        raise UsageError(
            "one episode cannot be split into training and holdout: use more, or a holdout fraction of 0"
        )
    held = min(max(round(num_episodes * holdout_fraction), 1), num_episodes - 1)
    order = np.random.default_rng(seed).permutation(num_episodes)
    return np.sort(order[held:]), np.sort(order[:held])


def set_aside(num_episodes: int, test_fraction: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Split episodes at random into (the others, test), each sorted: the same ones for every run of a dataset."""
    return split_episodes(num_episodes, test_fraction, _SET_ASIDE)


def limit_transitions(
    dataset: Dataset, episodes: ArrayLike | None, transitions: int | None, seed: int
) -> NDArray[np.int64]:
    """A random choice of ``episodes``, whole, with at most ``transitions`` transitions, in the order of choice.

    Episodes are taken in one random order, which depends only on the seed, until the next would be too many: what a
    smaller limit chooses is a prefix of what a larger one does. The first is taken even where it alone is longer than
    the limit. None is no limit.
    """
    chosen = dataset.chosen(episodes)
    order: NDArray[np.int64] = np.random.default_rng(seed).permutation(chosen)
    if transitions is None:
        return order
    total = np.cumsum(dataset.transitions_per_episode[order])
    return order[: max(int(np.searchsorted(total, transitions, side="right")), 1)]
