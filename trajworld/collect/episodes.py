"""One episode of an environment: episode i is a function of the seed, the environment's name and i."""

import functools
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from trajworld.data.episode import Episode
from trajworld.environments.interface import Environment
from trajworld.environments.open import open_environment
from trajworld.errors import TrajWorldError, first_line
from trajworld.policies.behaviour import Behaviour

_T = TypeVar("_T")

# A process keeps environments open between tasks: some take seconds to start.
_kept = functools.lru_cache(maxsize=8)(open_environment)


@dataclass(frozen=True)
class Rollout:
    """One episode in float32, None if its first transition was bad, and why it was cut, if it was."""

    episode: Episode | None
    unstable: str = ""


def run_episodes(
    name: str,
    behaviour: Behaviour,
    seed: int,
    first: int,
    count: int,
    limit: int | None = None,
    starts: NDArray[np.floating] | None = None,
) -> list[Rollout]:
    """Run ``count`` episodes from number ``first``; the process keeps the environment for the next call.

    With ``starts``, episode i begins in the observation ``starts[i % len(starts)]``.
    """
    numbers = range(first, first + count)
    begins = [None if starts is None else starts[number % len(starts)] for number in numbers]
    return [
        run_episode(_kept(name), behaviour, seed, number, limit, start)
        for number, start in zip(numbers, begins, strict=True)
    ]


def episode_seeds(seed: int, environment: str, index: int) -> tuple[int, np.random.Generator]:
    """The environment's seed in [0, 2³²) and the behaviour's generator, of one episode."""
    # Not Python's hash(), which differs from process to process.
    name = int.from_bytes(hashlib.sha256(environment.encode()).digest()[:16], "little")
    sequence = np.random.SeedSequence([seed, name, index])
    return int(sequence.generate_state(1)[0]), np.random.default_rng(sequence.spawn(1)[0])


def run_episode(
    environment: Environment,
    behaviour: Behaviour,
    seed: int,
    index: int,
    limit: int | None = None,
    start: NDArray[np.floating] | None = None,
) -> Rollout:
    """Run episode ``index`` to its end, or to ``limit`` steps; one that breaks ends before its first bad step."""
    description = environment.description
    environment_seed, generator = episode_seeds(seed, description.name, index)
    box = description.action_space
    act = behaviour.controller(box.low, box.high, generator)
    limit = min(limit or description.time_limit, description.time_limit)
    observations = np.empty((limit + 1, description.observation_size), np.float32)
    actions = np.empty((limit, description.action_size), np.float32)
    rewards = np.empty(limit, np.float32)
    terminated, length, reward = False, 0, 0.0
    first, unstable = _attempt(_begin, environment, environment_seed, start)
    if first is None:
        return Rollout(None, unstable)
    observations[0] = first
    if not np.all(np.isfinite(observations[0])):
        return Rollout(None, "the first observation holds NaN or infinite values")
    with np.errstate(over="ignore", invalid="ignore"):
        while length < limit and not terminated:
            actions[length] = action = act(observations[length], reward)
            step, unstable = _attempt(environment.step, action)
            if step is None:
                break
            observations[length + 1], rewards[length] = step.observation, step.reward
            if not (np.isfinite(rewards[length]) and np.all(np.isfinite(observations[length + 1]))):
                unstable = "an observation or reward is NaN or infinite"
                break
            length, reward, terminated = length + 1, step.reward, step.terminated
            if step.truncated:
                break
    if length == 0:
        return Rollout(None, unstable)
    parts = observations[: length + 1].copy(), actions[:length].copy(), rewards[:length].copy()
    return Rollout(Episode(*parts, terminated, not terminated), unstable)


def _begin(environment: Environment, seed: int, start: NDArray[np.floating] | None) -> NDArray[np.floating]:
    first = environment.reset(seed)
    if start is None:
        return first
    environment.place(start)
    return start


def _attempt(simulate: Callable[..., _T], *arguments: Any) -> tuple[_T | None, str]:
    """What a simulator gives, or why it broke: it may raise anything when its state breaks."""
    try:
        return simulate(*arguments), ""
    except TrajWorldError:
        raise
    except Exception as error:
        return None, f"{type(error).__name__}: {first_line(error)}"
