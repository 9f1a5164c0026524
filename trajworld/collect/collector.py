"""Collecting a given number of transitions or episodes, in this process or in several."""

import contextlib
import multiprocessing
import os
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass

import numpy as np

from trajworld.collect.episodes import Plan, Rollout, run_episode, run_episodes
from trajworld.data.episode import Episode
from trajworld.environments.interface import Environment
from trajworld.environments.open import open_environment
from trajworld.errors import TrajWorldError, UsageError
from trajworld.policies.behaviour import Behaviour
from trajworld.processes import start_worker, starting_workers

# A task is worth about so many transitions: enough to hide its overhead, few enough to stop soon.
_TASK_TRANSITIONS = 2000
_MOST_EPISODES = 256

# After so many episodes in a row without one good transition, an environment is given up.
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


class Workers:
    """Worker processes that stay for several collections, and so start each environment once.

    A context manager; ``count`` 1 means this process. Leaving it early (an error, Ctrl-C) abandons the tasks
    that wait and ends once those that run are over (a second or so).
    """

    def __init__(self, count: int = 1) -> None:
        if count < 1:
            raise UsageError(f"the number of workers must be at least 1, not {count}")
        self.count = count
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> "Workers":
        if self.count > 1:
            # spawn: a fork would copy the threads of a framework that the caller may have imported.
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(self.count, mp_context=context, initializer=start_worker)
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None

    @property
    def parallel(self) -> bool:
        """Whether there are processes to give tasks to."""
        return self._pool is not None

    def submit(self, plan: Plan, first: int, count: int) -> "Future[list[Rollout]]":
        """Have a process run ``count`` episodes from number ``first``."""
        assert self._pool is not None
        try:
            with starting_workers():
                return self._pool.submit(run_episodes, plan, first, count)
        except BrokenProcessPool as error:
            raise _crashed(plan.environment) from error


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
        workers: Processes to use, or how many to start for this collection.
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
    amount = transitions if transitions is not None else episodes
    assert amount is not None
    if amount < 1:
        raise UsageError(
            f"at least 1 {'transition' if transitions is not None else 'episode'} must be asked for"
        )
    if seed < 0:
        raise UsageError(f"the seed must not be negative, and {seed} is")
    return _collect(environment, behaviour, transitions, episodes, seed, workers, tally or Tally())


def _collect(
    environment: str | Environment,
    behaviour: Behaviour,
    transitions: int | None,
    episodes: int | None,
    seed: int,
    workers: Workers | int,
    tally: Tally,
) -> Iterator[Episode]:
    with contextlib.ExitStack() as stack:
        if isinstance(workers, int):
            workers = stack.enter_context(Workers(workers))
        if not isinstance(environment, str):
            if workers.parallel:
                raise UsageError("an open environment cannot run in other processes: give its name")
            rollouts = _from_environment(environment, behaviour, seed)
        else:
            opened = open_environment(environment)
            name, limit = opened.description.name, opened.description.time_limit
            if workers.parallel:
                opened.close()
                rollouts = _from_workers(
                    workers, Plan(name, behaviour, seed), transitions, episodes, limit, tally
                )
            else:
                stack.callback(opened.close)
                rollouts = _from_environment(opened, behaviour, seed)
        where = environment if isinstance(environment, str) else environment.description.name
        # Closed on the way out, so that its tasks are cancelled even if the consumer stops early.
        rollouts = stack.enter_context(contextlib.closing(rollouts))
        yield from take_episodes(rollouts, where, tally, transitions=transitions, episodes=episodes)


def take_episodes(
    rollouts: Iterable[Rollout],
    where: str,
    tally: Tally,
    *,
    transitions: int | None = None,
    episodes: int | None = None,
) -> Iterator[Episode]:
    """The good episodes of ``rollouts`` until there are so many transitions (the last is cut) or episodes.

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
    workers: Workers, plan: Plan, transitions: int | None, episodes: int | None, limit: int, tally: Tally
) -> Generator[Rollout]:
    """Rollouts in order from tasks of consecutive episodes; how they are grouped changes no episode.

    Enough tasks wait to keep every worker busy, and no more than what is still wanted seems to need.
    """
    waiting: deque[tuple[int, Future[list[Rollout]]]] = deque()
    next_episode, pending = 0, 0
    seen_transitions, seen_episodes = 0, 0
    try:
        while True:
            # Short tasks until an episode has been seen: it may last one step or the whole time limit.
            mean_length = seen_transitions / seen_episodes if seen_episodes else float(limit)
            if transitions is not None:
                wanted = int(np.ceil((transitions - tally.transitions) / max(mean_length, 1.0)))
            else:
                assert episodes is not None
                wanted = episodes - tally.episodes
            size = (
                int(np.clip(_TASK_TRANSITIONS / max(mean_length, 1.0), 1, _MOST_EPISODES))
                if seen_episodes
                else 1
            )
            while len(waiting) < 2 * workers.count and (pending < wanted or not waiting):
                count = max(1, min(size, wanted - pending))
                waiting.append((count, workers.submit(plan, next_episode, count)))
                next_episode += count
                pending += count
            count, task = waiting.popleft()
            try:
                rollouts = task.result()
            except BrokenProcessPool as error:
                raise _crashed(plan.environment) from error
            for rollout in rollouts:
                pending -= 1
                seen_episodes += 1
                seen_transitions += 0 if rollout.episode is None else len(rollout.episode)
                yield rollout
    finally:
        for _, task in waiting:
            task.cancel()


def _crashed(environment: str) -> TrajWorldError:
    return TrajWorldError(
        f"a worker process died while it ran {environment} (memory, a crash, or a script without "
        "`if __name__ == '__main__':`); with one worker, everything runs in this process"
    )


def default_workers(transitions: int) -> int:
    """How many processes pay off for so many transitions: one a core, but only one for a few thousand."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(cores, transitions // 5000))
