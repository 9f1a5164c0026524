"""Collecting episodes in order, the same ones in any number of processes."""

import contextlib
import functools
import itertools
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any

import numpy as np

from trajworld.collect.episodes import Rollout, run_episode, run_episodes
from trajworld.data.episode import Episode
from trajworld.environments.open import open_environment
from trajworld.errors import TrajWorldError, UsageError
from trajworld.policies.behaviour import Behaviour
from trajworld.processes import Workers, available_cores, worker_died

# Transitions per task: enough to hide its overhead, few enough to stop soon.
_TASK_TRANSITIONS = 2000
_MOST_EPISODES = 256

# An environment is given up after this many episodes in a row that broke in their first step.
_HOPELESS = 100


@dataclass
class Tally:
    """What a collection has produced so far: episodes, their transitions and rewards, and how many terminated.

    ``unstable`` episodes were cut before a bad step, the first of them for a ``reason``; those without a good
    transition were ``dropped``.
    """

    episodes: int = 0
    transitions: int = 0
    total_return: float = 0.0
    terminated: int = 0
    unstable: int = 0
    dropped: int = 0
    reason: str = ""

    def row(self) -> dict[str, Any]:
        """The row that commands print."""
        return {
            "episodes": self.episodes,
            "transitions": self.transitions,
            "mean_length": self.transitions / self.episodes,
            "mean_return": self.total_return / self.episodes,
            "terminated": self.terminated,
            "unstable": self.unstable,
            "dropped": self.dropped,
            "unstable_reason": self.reason,
        }


def collect(
    environment: str,
    *,
    behaviour: Behaviour,
    transitions: int | None = None,
    episodes: int | None = None,
    seed: int = 0,
    workers: Workers | None = None,
    tally: Tally | None = None,
) -> Iterator[Episode]:
    """Run an environment (``Pendulum-v1?g=5``) and yield its episodes in order, the same for any number of workers.

    Episode i, in float32, depends only on the seed, the environment's name and i. The last one is cut where the number
    of ``transitions`` is reached. One that breaks (an exception, NaN) ends before its first bad step, and is left out
    if that was its first; ``tally``, updated as episodes are taken, counts both.
    """
    if (transitions is None) == (episodes is None):
        raise UsageError("give either a number of transitions or a number of episodes")
    amount = episodes if transitions is None else transitions
    if not amount or amount < 1 or seed < 0:
        raise UsageError(
            f"{amount} and seed {seed}: at least 1 transition or episode, and a seed of at least 0"
        )
    tally = tally or Tally()
    with contextlib.closing(open_environment(environment)) as opened:
        name = opened.description.name
        if workers is None:
            rollouts = (run_episode(opened, behaviour, seed, index) for index in itertools.count())
        else:
            rollouts = _from_workers(workers, functools.partial(run_episodes, name, behaviour, seed))
        # Closed on the way out, so that its tasks are cancelled even if the consumer stops early.
        with contextlib.closing(rollouts):
            try:
                yield from take_episodes(rollouts, name, tally, transitions, episodes)
            except BrokenProcessPool as error:
                raise worker_died(name) from error


def take_episodes(
    rollouts: Iterable[Rollout],
    where: str,
    tally: Tally,
    transitions: int | None = None,
    episodes: int | None = None,
) -> Iterator[Episode]:
    """The good episodes of ``rollouts`` until there are enough transitions (the last is cut) or episodes.

    A ``TrajWorldError`` that begins with ``where`` is raised when a hundred in a row broke in their first step.
    """
    hopeless = 0
    for rollout in rollouts:
        tally.unstable += bool(rollout.unstable)
        tally.reason = tally.reason or rollout.unstable
        if rollout.episode is None:
            tally.dropped += 1
            hopeless += 1
            if hopeless >= _HOPELESS:
                raise TrajWorldError(
                    f"{where}: {hopeless} episodes in a row broke in their first step ({tally.reason})"
                )
            continue
        hopeless = 0
        episode = rollout.episode
        if transitions is not None:
            episode = cut_episode(episode, transitions - tally.transitions)
        tally.episodes += 1
        tally.transitions += len(episode)
        tally.total_return += float(np.sum(episode.rewards, dtype=np.float64))
        tally.terminated += episode.terminated
        yield episode
        if tally.episodes == episodes or tally.transitions == transitions:
            return


def cut_episode(episode: Episode, length: int) -> Episode:
    """At most the first ``length`` transitions of an episode, as if a time limit had ended it there."""
    if len(episode) <= length:
        return episode
    return Episode(
        episode.observations[: length + 1], episode.actions[:length], episode.rewards[:length], False, True
    )


def _from_workers(workers: Workers, run: Callable[[int, int], list[Rollout]]) -> Generator[Rollout]:
    """Rollouts in order from tasks of consecutive episodes; how they are grouped changes no episode."""
    waiting: deque[Future[list[Rollout]]] = deque()
    # Tasks of one episode until its length is known: it may last one step or the whole time limit.
    first, size = 0, 1
    try:
        while True:
            while len(waiting) < 2 * workers.count:
                waiting.append(workers.submit(run, first, size))
                first += size
            rollouts = waiting.popleft().result()
            yield from rollouts
            steps = sum(len(rollout.episode) for rollout in rollouts if rollout.episode is not None)
            size = min(max(_TASK_TRANSITIONS * len(rollouts) // max(steps, 1), 1), _MOST_EPISODES)
    finally:
        for task in waiting:
            task.cancel()


def default_workers(transitions: int) -> int:
    """How many processes a collection of this size should use: one per core; one for a few thousand transitions."""
    return max(1, min(len(available_cores()), transitions // 5000))
