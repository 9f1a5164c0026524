"""Running episodes: episode i is a function of the seed, the environment's name and i alone."""

import hashlib
from dataclasses import dataclass

import numpy as np

from trajworld.data.episode import Episode
from trajworld.environments.interface import Environment, first_line
from trajworld.environments.open import open_environment
from trajworld.policies.behaviour import Behaviour

# A process keeps this many environments open between tasks: some take seconds to start.
_KEPT = 8
_open: dict[str, Environment] = {}


@dataclass(frozen=True)
class Rollout:
    """One episode in float32, None if its first transition was bad already, and why it was cut, if it was."""

    episode: Episode | None
    unstable: str = ""


def run_episodes(
    name: str, behaviour: Behaviour, seed: int, first: int, count: int, limit: int | None = None
) -> list[Rollout]:
    """Run ``count`` episodes from number ``first``; the process keeps the environment for the next call."""
    environment = _open.pop(name) if name in _open else open_environment(name)
    _open[name] = environment
    while len(_open) > _KEPT:
        _open.pop(next(iter(_open))).close()
    return [run_episode(environment, behaviour, seed, first + index, limit) for index in range(count)]


def episode_seeds(seed: int, environment: str, index: int) -> tuple[int, np.random.Generator]:
    """The environment's seed in [0, 2³²) and the behaviour's generator, of one episode."""
    # Not Python's hash(), which differs from process to process.
    name = int.from_bytes(hashlib.sha256(environment.encode()).digest()[:16], "little")
    sequence = np.random.SeedSequence([seed, name, index])
    return int(sequence.generate_state(1)[0]), np.random.default_rng(sequence.spawn(1)[0])


def run_episode(
    environment: Environment, behaviour: Behaviour, seed: int, index: int, limit: int | None = None
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
    terminated, unstable, length = False, "", 0
    try:
        observations[0] = environment.reset(environment_seed)
        if not np.all(np.isfinite(observations[0])):
            return Rollout(None, "the first observation holds NaN or infinite values")
        with np.errstate(over="ignore", invalid="ignore"):
            for length in range(limit):
                actions[length] = action = act(observations[length])
                step = environment.step(action)
                observations[length + 1], rewards[length] = step.observation, step.reward
                if not (np.isfinite(rewards[length]) and np.all(np.isfinite(observations[length + 1]))):
                    unstable = "an observation or reward is NaN or infinite"
                    break
                terminated = step.terminated
                if step.terminated or step.truncated:
                    length += 1
                    break
            else:
                length = limit
    except Exception as error:
        # A simulator may raise anything when its state breaks; the episode up to there is good.
        unstable = f"{type(error).__name__}: {first_line(error)}"
    if length == 0:
        return Rollout(None, unstable)
    parts = observations[: length + 1].copy(), actions[:length].copy(), rewards[:length].copy()
    return Rollout(Episode(*parts, terminated, not terminated), unstable)
