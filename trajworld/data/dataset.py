"""A dataset as training sees it: the rows of one environment's episodes, memory-mapped."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from trajworld.data.account import Account
from trajworld.errors import UsageError


@dataclass(frozen=True, eq=False)
class Dataset:
    """Episodes of one environment, their rows memory-mapped.

    Attributes:
        path: The store's folder.
        name: The id or file it was converted from.
        source: Where it was converted from, as a dataset specification.
        environment: For example ``gymnasium/Hopper-v5``; empty where it is not known.
        observation_size: Observation variates.
        action_size: Action variates.
        rows: ``[N, M]`` float32, rows ``[observation, reward, action]`` as of ``episode.rows_of_episode``.
        episode_offsets: ``[E + 1]`` int64; episode e's rows are ``rows[offsets[e]:offsets[e + 1]]``.
        terminated: ``[E]`` bool: whether an episode's last observation is terminal.
        content: SHA-256 of the rows, the episodes' bounds and their ends: equal for equal data, wherever they lie.
        account: What became of the source's transitions, where the conversion counted them.
        reward: Whether rewards are recorded; if not, their column is zeros, which models mask.
        names: What the source calls its observation and action variates, in this order; empty where it has no names.
    """

    path: Path
    name: str
    source: str
    environment: str
    observation_size: int
    action_size: int
    rows: NDArray[np.float32]
    episode_offsets: NDArray[np.int64]
    terminated: NDArray[np.bool_]
    content: str = ""
    account: Account | None = None
    reward: bool = True
    names: tuple[str, ...] = ()

    @property
    def num_variates(self) -> int:
        """M, the variates of a row."""
        return self.observation_size + 1 + self.action_size

    @property
    def num_predicted(self) -> int:
        """P, the variates that are predicted: the observation, and the reward where it is recorded."""
        return self.observation_size + self.reward

    @property
    def num_episodes(self) -> int:
        """E."""
        return len(self.episode_offsets) - 1

    @property
    def num_transitions(self) -> int:
        """Transitions of all episodes: every row but each episode's first."""
        return int(self.episode_offsets[-1]) - self.num_episodes

    @cached_property
    def is_action(self) -> NDArray[np.int32]:
        """``[M]``: 1 for action variates, 0 for observation and reward variates."""
        return (np.arange(self.num_variates) > self.observation_size).astype(np.int32)

    @cached_property
    def mask(self) -> NDArray[np.float32]:
        """``[M]``: 1 for variates that are recorded: 0 for the reward of a source that has none."""
        unrecorded = (np.arange(self.num_variates) == self.observation_size) & (not self.reward)
        return (~unrecorded).astype(np.float32)

    @cached_property
    def transitions_per_episode(self) -> NDArray[np.int64]:
        """``[E]``."""
        return np.diff(self.episode_offsets) - 1

    def chosen(self, episodes: ArrayLike | None) -> NDArray[np.int64]:
        """The numbers of some episodes as an array; of all if None. ``UsageError`` if one does not exist."""
        numbers = np.arange(self.num_episodes) if episodes is None else np.asarray(episodes, np.int64)
        if numbers.ndim != 1 or not len(numbers):
            raise UsageError(f"{self.name}: no episode was chosen")
        if numbers.min() < 0 or numbers.max() >= self.num_episodes:
            raise UsageError(f"{self.name} has episodes 0 to {self.num_episodes - 1} only")
        return numbers


def named_variates(names: Sequence[str], observation_size: int, action_size: int) -> list[str]:
    """A name for each variate, in row order: the source's, or ``observation 0`` …, ``reward``, ``action 0`` …."""
    if len(names) != observation_size + action_size:
        names = (
            *(f"observation {i}" for i in range(observation_size)),
            *(f"action {i}" for i in range(action_size)),
        )
    return [*names[:observation_size], "reward", *names[observation_size:]]
