"""Policies that see the observation and a clock, and a short random search for good ones."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from trajworld.collect.episodes import episode_seeds, run_episode
from trajworld.data.episode import Episode
from trajworld.environments.interface import Environment
from trajworld.policies.behaviour import Controller, OrnsteinUhlenbeck, in_box

# The search: how many directions a generation tries, how many of them count, and for how long each is run.
_DIRECTIONS = 8
_BEST = 4
_EPISODE_STEPS = 200
_STARTS = 16
_EXPLORATION = 0.1
_STEP = 0.1
# The least standard deviation that an observation is divided by.
_LEAST_SCALE = 1e-3


@dataclass(frozen=True, eq=False)
class ClockedPolicy:
    """``tanh(weights @ [1, sin, cos, standardised observation])``, and noise on top.

    The clock lets a gait go on where observations alone would let it stand still.

    Attributes:
        weights: ``[action_size, 3 + observation_size]``.
        mean: ``[observation_size]``, subtracted from observations.
        scale: ``[observation_size]``, what they are then divided by; the quotient is clipped to ±5.
        period: Steps of one turn of the clock.
        noise: Standard deviation of the coloured noise that is added, in half boxes.
    """

    weights: NDArray[np.float64]
    mean: NDArray[np.float64]
    scale: NDArray[np.float64]
    period: float
    noise: float = 0.0

    def controller(
        self, low: NDArray[np.float32], high: NDArray[np.float32], generator: np.random.Generator
    ) -> Controller:
        """See ``trajworld.policies.behaviour.Controlled``."""
        noise = _rows(len(low), generator) if self.noise > 0 else None
        features = np.ones(self.weights.shape[1])
        step = generator.uniform(0, self.period)

        def act(observation: NDArray[np.float32]) -> NDArray[np.float32]:
            nonlocal step
            angle = 2 * math.pi * step / self.period
            step += 1
            features[1:3] = math.sin(angle), math.cos(angle)
            np.clip((observation - self.mean) / self.scale, -5, 5, out=features[3:])
            unit = np.tanh(self.weights @ features)
            if noise is not None:
                unit = unit + self.noise * next(noise)
            return in_box(unit, low, high)

        return act


def _rows(size: int, generator: np.random.Generator) -> Iterator[NDArray[np.float64]]:
    """Coloured noise of standard deviation 1, one step after the other."""
    theta = 0.2
    for block in OrnsteinUhlenbeck(theta, math.sqrt(2 * theta)).noise(size, generator):
        yield from block


def search_policies(environment: Environment, transitions: int, seed: int) -> list[ClockedPolicy]:
    """Policies of growing skill, by a short random search for return.

    A few policies that only follow the clock are tried, and the best is improved by augmented random search (Mania
    et al., 2018): finite differences along random directions, scaled by the spread of the returns.

    Args:
        environment: What they act in.
        transitions: The search ends with the generation in which it has used so many.
        seed: The policies are a function of it, the environment's name and ``transitions``.

    Returns:
        The policy after the first quarter, the first half and the whole of the search; none for 0 transitions.
    """
    if transitions < 1:
        return []
    description = environment.description
    # Its own stream of seeds: those of the episodes that are kept count from 0 upwards.
    _, generator = episode_seeds(seed, f"{description.name} search", 0)
    trial = iter(range(2**40, 2**41))

    used = 0

    def run(policy: ClockedPolicy, index: int) -> tuple[float, Episode | None]:
        nonlocal used
        episode = run_episode(environment, policy, seed, index, _EPISODE_STEPS).episode
        used += 1 if episode is None else len(episode)
        return -math.inf if episode is None else float(episode.rewards.sum(dtype=np.float64)), episode

    observations, actions = description.observation_size, description.action_size
    mean, scale = np.zeros(observations), np.ones(observations)
    starts: list[tuple[float, int, ClockedPolicy]] = []
    seen: list[NDArray[np.floating]] = []
    for _ in range(_STARTS):
        weights = np.zeros((actions, 3 + observations))
        weights[:, :3] = generator.normal(0, 0.5, (actions, 3))
        period = math.exp(generator.uniform(math.log(10), math.log(60)))
        policy = ClockedPolicy(weights, mean, scale, period, noise=0.3)
        value, episode = run(policy, next(trial))
        if episode is not None:
            seen.append(episode.observations)
            starts.append((value, len(starts), policy))
    if not starts:
        return []
    rows = np.concatenate(seen).astype(np.float64)
    best = max(starts)[2]
    best = replace(best, mean=rows.mean(0), scale=np.maximum(rows.std(0), _LEAST_SCALE), noise=0.0)
    marks = [transitions / 4, transitions / 2, float(transitions)]
    stages: list[ClockedPolicy] = []
    while len(stages) < len(marks):
        directions = generator.standard_normal((_DIRECTIONS, *best.weights.shape))
        results: list[tuple[float, int, float, NDArray[np.float64], float, float]] = []
        for direction in directions:
            index = next(trial)
            change = _EXPLORATION * direction
            up, _ = run(replace(best, weights=best.weights + change), index)
            down, _ = run(replace(best, weights=best.weights - change), index)
            if math.isfinite(up) and math.isfinite(down):
                results.append((max(up, down), len(results), up - down, direction, up, down))
        results = sorted(results, key=lambda result: result[:2], reverse=True)[:_BEST]
        spread = float(np.std([value for result in results for value in result[4:]])) if results else 0.0
        if spread > 0:
            gradient = sum(result[2] * result[3] for result in results) / (len(results) * spread)
            best = replace(best, weights=best.weights + _STEP * gradient)
        stages.extend([best] * sum(mark <= used for mark in marks[len(stages) :]))
    return stages
