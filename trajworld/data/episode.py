"""An episode as every reader gives it, and its rows as the models read them."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from trajworld.errors import TrajWorldError


@dataclass(frozen=True)
class Episode:
    """One episode of L transitions; ``L >= 1``.

    Attributes:
        observations: ``[L + 1, observation_size]``, the last one included.
        actions: ``[L, action_size]``; ``actions[t]`` leads from ``observations[t]`` to the next one.
        rewards: ``[L]``; ``rewards[t]`` is received on arriving in ``observations[t + 1]``. All NaN where the source
            records none.
        terminated: Whether the last observation is terminal.
        truncated: Whether a time limit ended the episode.
    """

    observations: NDArray[np.floating]
    actions: NDArray[np.floating]
    rewards: NDArray[np.floating]
    terminated: bool = False
    truncated: bool = True

    def __len__(self) -> int:
        """The number of transitions."""
        return len(self.rewards)

    @property
    def sizes(self) -> tuple[int, int]:
        """Values in an observation and in an action."""
        return self.observations.shape[1], self.actions.shape[1]

    @property
    def rewarded(self) -> bool:
        """Whether its rewards are recorded."""
        return not np.isnan(self.rewards).all()


def check_episode(episode: Episode, where: str) -> Episode:
    """The episode; a ``TrajWorldError`` where its shapes disagree, or it is empty, or a value is NaN or infinite."""
    arrays = {name: getattr(episode, name) for name in ("observations", "actions", "rewards")}
    shapes, length = [array.shape for array in arrays.values()], episode.rewards.size
    sizes = [shape[1:] for shape in shapes[:2]]
    wanted = [(length + 1, *sizes[0]), (length, *sizes[1]), (length,)]
    if shapes != wanted or list(map(len, sizes)) != [1, 1] or not length:
        raise TrajWorldError(
            f"{where}: observations {shapes[0]}, actions {shapes[1]} and rewards {shapes[2]} do not make an "
            "episode ([L + 1, O], [L, A] and [L] are wanted, L >= 1)"
        )
    if not episode.rewarded:
        del arrays["rewards"]
    for name, array in arrays.items():
        if not np.all(np.isfinite(array)):
            step = int(np.argwhere(~np.isfinite(array))[0][0])
            raise TrajWorldError(f"{where}: {name} hold a NaN or infinite value at step {step}")
    return episode


def check_episodes(
    episodes: Iterable[Episode], name: str, sizes: tuple[int, int] | None = None
) -> Iterator[Episode]:
    """The episodes, each checked as it is read: all of ``sizes``, or of the first one's, and at least one.

    All of them record rewards, or none does.
    """
    number, rewarded = -1, True
    for number, episode in enumerate(episodes):
        where = f"{name}, episode {number}"
        given = check_episode(episode, where).sizes
        sizes = sizes or given
        if given != sizes:
            raise TrajWorldError(
                f"{where}: {given[0]} observation and {given[1]} action values, where the dataset has "
                f"{sizes[0]} and {sizes[1]}"
            )
        rewarded = rewarded if number else episode.rewarded
        if episode.rewarded != rewarded:
            raise TrajWorldError(
                f"{where}: rewards hold a NaN in every step of some episodes only: leave those out, or all rewards"
            )
        yield episode
    if number < 0:
        raise TrajWorldError(f"{name}: there is no episode to store")


def as_floats(array: ArrayLike) -> NDArray[np.floating]:
    """Numbers of any type as native float32, or float64 where float32 does not hold each of the type's values."""
    array = np.asarray(array)
    small = array.dtype.kind in "biuf" and np.can_cast(array.dtype, np.float32, "safe")
    return np.ascontiguousarray(array, np.float32 if small else np.float64)


def no_rewards(length: int) -> NDArray[np.float32]:
    """Placeholder rewards for an episode of a source that records none, ``[length]``."""
    return np.full(length, np.nan, np.float32)


def rows_of_episode(episode: Episode) -> NDArray[np.float32]:
    """The episode's rows ``[observation, reward, action]``, ``[L + 1, M]``.

    Row t is ``(s_t, r_{t-1}, a_t)``: the first row's reward and the last row's action are 0, and so is every reward of
    an episode that records none: ``Dataset.reward`` says so, and models mask that variate.
    """
    observation_size, action_size = episode.sizes
    rows = np.zeros((len(episode) + 1, observation_size + 1 + action_size), np.float32)
    with np.errstate(over="ignore"):  # What is infinite in 32 bits, the store refuses.
        rows[:, :observation_size] = episode.observations
        if episode.rewarded:
            rows[1:, observation_size] = episode.rewards
        rows[:-1, observation_size + 1 :] = episode.actions
    return rows


def spans(episode: Episode) -> NDArray[np.float64]:
    """The least and the greatest value of each variate, and the largest error of its 32-bit form, ``[3, M]``."""
    parts = (episode.observations, episode.rewards[:, None], episode.actions)
    found = [
        [part.min(axis=0), part.max(axis=0), abs(part - part.astype("f4")).max(axis=0)] for part in parts
    ]
    return np.concatenate(found, axis=1)
