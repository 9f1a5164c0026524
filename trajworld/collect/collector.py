"""Collecting a given number of transitions or episodes, in this process or in several."""

import contextlib
import functools
import math
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass

import numpy as np

from trajworld.collect.episodes import Rollout, run_episode, run_episodes
from trajworld.data.episode import Episode
from trajworld.environments.interface import Environment
from trajworld.environments.open import open_environment
from trajworld.errors import TrajWorldError, UsageError
from trajworld.policies.behaviour import Behaviour
from trajworld.processes import Workers, available_cores, started_workers, worker_died

# The transitions that a task is worth: enough to hide its overhead, few enough to stop soon.
_TASK_TRANSITIONS = 2000
_MOST_EPISODES = 256

# An environment is given up after this many episodes in a row that broke in their first step.
_HOPELESS = 100


@dataclass
class Tally:
    """What a collection has given so far; it is brought up to date as episodes are taken.

    Attributes:
        episodes: Episodes given.
        transitions: Transitions in them.
        total_return: The sum of their rewards.
        terminated: Episodes that ended in a terminal state.
        unstable: Episodes that were cut before a bad step or lost to one.
        dropped: Those of them that had no good transition.
        reason: Why the first of them broke.
    """

    episodes: int = 0
    transitions: int = 0
    total_return: float = 0.0
    terminated: int = 0
    unstable: int = 0
    dropped: int = 0
    reason: str = ""

    def add(self, episode: Episode) -> None:
        """Count an episode that was given."""
        self.episodes += 1
        self.transitions += len(episode)
        self.total_return += float(np.sum(episode.rewards, dtype=np.float64))
        self.terminated += episode.terminated


def collect(
    environment: str | Environment,
    *,
    behaviour: Behaviour,
    transitions: int | None = None,
    episodes: int | None = None,
    seed: int = 0,
    workers: Workers | int = 1,
    tally: Tally | None = None,
) -> Iterator[Episode]:
    """Run an environment and give its episodes in order, the same for any number of workers.

    Args:
        environment: A name (``Hopper-v5``, ``dm_control/cheetah-run``, ``Pendulum-v1?g=5``), or an open
            environment, which can only run in this process.
        behaviour: What draws the actions.
        transitions: How many transitions to give in all; the last episode is cut there.
        episodes: How many episodes to give instead.
        seed: Episode i depends on it, the environment's name and i alone.
        workers: Workers to use, or how many to start for this collection; 1 is this process.
        tally: Brought up to date as episodes are taken.

    Yields:
        Episodes in float32. One that breaks (an exception, NaN) ends before its first bad step, and is left
        out if that was its first; ``tally`` counts both.

    Raises:
        UsageError: The name, the seed or the amount is wrong.
        TrajWorldError: The environment cannot start, a worker died, or no episode has a good transition.
    """
    if (transitions is None) == (episodes is None):
        raise UsageError("give either a number of transitions or a number of episodes")
    if (transitions or episodes or 0) < 1:
        unit = "transition" if transitions is not None else "episode"
        raise UsageError(f"at least 1 {unit} must be asked for")
    if seed < 0:
        raise UsageError(f"the seed must not be negative, and {seed} is")
    tally = tally or Tally()
    with contextlib.ExitStack() as stack:
        pool = stack.enter_context(started_workers(workers))
        if isinstance(environment, str):
            environment = open_environment(environment)
            stack.callback(environment.close)
        elif pool is not None:
            raise UsageError("an open environment cannot run in other processes: give its name")
        name = environment.description.name
        if pool is None:
            rollouts = _from_environment(environment, behaviour, seed)
        else:
            run = functools.partial(run_episodes, name, behaviour, seed)
            limit = environment.description.time_limit
            rollouts = _from_workers(pool, run, limit, transitions, episodes, tally)
        # Closed on the way out, so that its tasks are cancelled even if the consumer stops early.
        stack.enter_context(contextlib.closing(rollouts))
        try:
            yield from take_episodes(rollouts, name, tally, transitions=transitions, episodes=episodes)
        except BrokenProcessPool as error:
            raise worker_died(name) from error


def take_episodes(
    rollouts: Iterable[Rollout],
    where: str,
    tally: Tally,
    *,
    transitions: int | None = None,
    episodes: int | None = None,
) -> Iterator[Episode]:
    """The good episodes of ``rollouts`` until there are enough transitions (the last is cut) or episodes.

    Raises:
        TrajWorldError: A hundred in a row broke in their first step; ``where`` begins the message.
    """
    hopeless = 0
    for rollout in rollouts:
        if rollout.unstable:
            tally.unstable += 1
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
        tally.add(episode)
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


def _from_environment(environment: Environment, behaviour: Behaviour, seed: int) -> Generator[Rollout]:
    index = 0
    while True:
        yield run_episode(environment, behaviour, seed, index)
        index += 1


def _from_workers(
    workers: Workers,
    run: Callable[[int, int], list[Rollout]],
    limit: int,
    transitions: int | None,
    episodes: int | None,
    tally: Tally,
) -> Generator[Rollout]:
    """Rollouts in order from tasks of consecutive episodes; how they are grouped changes no episode.

    Enough tasks wait to keep every worker busy, and no more than what is still wanted seems to need.
    """
    waiting: deque[Future[list[Rollout]]] = deque()
    submitted = seen_episodes = seen_transitions = 0
    try:
        while True:
            # Until an episode has been seen, tasks of one: it may last a step or the whole time limit.
            mean_length = max(seen_transitions / seen_episodes, 1.0) if seen_episodes else float(limit)
            size = min(max(int(_TASK_TRANSITIONS / mean_length), 1), _MOST_EPISODES) if seen_episodes else 1
            if transitions is not None:
                wanted = math.ceil((transitions - tally.transitions) / mean_length)
            else:
                wanted = (episodes or 0) - tally.episodes
            pending = submitted - seen_episodes
            while len(waiting) < 2 * workers.count and (pending < wanted or not waiting):
                count = max(1, min(size, wanted - pending))
                waiting.append(workers.submit(run, submitted, count))
                submitted += count
                pending += count
            for rollout in waiting.popleft().result():
                seen_episodes += 1
                seen_transitions += 0 if rollout.episode is None else len(rollout.episode)
                yield rollout
    finally:
        for task in waiting:
            task.cancel()


def default_workers(transitions: int) -> int:
    """How many processes a collection of this size should use: one a core, but only one for a few thousand."""
    return max(1, min(len(available_cores()), transitions // 5000))
