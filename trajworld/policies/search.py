"""Policies that see the observation and a clock, and a short random search for good ones."""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from trajworld.data.episode import Episode
from trajworld.policies.behaviour import Controller, OrnsteinUhlenbeck, in_box, log_uniform

# The search: how many directions a generation tries, and how many of them count.
_DIRECTIONS = 8
_BEST = 4
_STARTS = 16
_EXPLORATION = 0.1
_STEP = 0.1
# The noise on top of a policy, of standard deviation 1 before it is scaled.
_THETA = 0.2
# The least standard deviation that an observation is divided by.
_LEAST_SCALE = 1e-3


@dataclass(frozen=True, eq=False)
class ClockedPolicy:
    """``tanh(weights @ [1, sin, cos, standardised observation])``, and noise on top.

    The clock keeps a gait moving where observations alone would let it stand still.
    """

    weights: NDArray[np.float64]  # [action_size, 3 + observation_size]
    mean: NDArray[np.float64]  # [observation_size], subtracted from observations
    scale: NDArray[np.float64]  # [observation_size], divides them; the quotient is clipped to ±5
    period: float  # steps of one turn of the clock
    noise: float = 0.0  # standard deviation of the coloured noise that is added, in half boxes

    def controller(
        self, low: NDArray[np.float32], high: NDArray[np.float32], generator: np.random.Generator
    ) -> Controller:
        """See ``Behaviour``."""
        blocks = OrnsteinUhlenbeck.of_scale(_THETA, 1.0).blocks(len(low), generator)
        noise = itertools.chain.from_iterable(blocks) if self.noise > 0 else None
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


def search_policies(
    run: Callable[[ClockedPolicy, int], Episode | None],
    observations: int,
    actions: int,
    transitions: int,
    generator: np.random.Generator,
) -> list[ClockedPolicy]:
    """Policies of growing skill, by a short random search for return.

    A few policies that only follow the clock are tried, and the best is improved by augmented random search (Mania
    et al., 2018): finite differences along random directions, scaled by the spread of the returns.

    ``run`` runs a policy in the episode of a number and returns it; None where it broke at once. The search ends with
    the generation in which it has used ``transitions``. Given are the policies after its first quarter, its first half
    and the whole of it; none for 0 transitions. They are a function of ``run``, ``transitions`` and the generator.
    """
    if transitions < 1:
        return []
    trial = itertools.count()
    used = 0

    def value(policy: ClockedPolicy, index: int) -> tuple[float, Episode | None]:
        nonlocal used
        episode = run(policy, index)
        used += 1 if episode is None else len(episode)
        return -math.inf if episode is None else float(episode.rewards.sum(dtype=np.float64)), episode

    start = ClockedPolicy(
        np.zeros((actions, 3 + observations)), np.zeros(observations), np.ones(observations), 1
    )
    starts: list[tuple[float, ClockedPolicy]] = []
    seen: list[NDArray[np.floating]] = []
    for _ in range(_STARTS):
        weights = start.weights.copy()
        weights[:, :3] = generator.normal(0, 0.5, (actions, 3))
        policy = replace(start, weights=weights, period=log_uniform(generator, 10, 60), noise=0.3)
        found, episode = value(policy, next(trial))
        if episode is not None:
            seen.append(episode.observations)
            starts.append((found, policy))
    if not starts:
        return []
    rows = np.concatenate(seen).astype(np.float64)
    # Of equal returns the last comes first, here and in a generation.
    best = sorted(starts, key=lambda start: start[0])[-1][1]
    best = replace(best, mean=rows.mean(0), scale=np.maximum(rows.std(0), _LEAST_SCALE), noise=0.0)
    marks = [transitions / 4, transitions / 2, float(transitions)]
    stages: list[ClockedPolicy] = []
    while len(stages) < len(marks):
        results: list[tuple[float, float, NDArray[np.float64]]] = []
        for direction in generator.standard_normal((_DIRECTIONS, *best.weights.shape)):
            index, change = next(trial), _EXPLORATION * direction
            up, _ = value(replace(best, weights=best.weights + change), index)
            down, _ = value(replace(best, weights=best.weights - change), index)
            if math.isfinite(up) and math.isfinite(down):
                results.append((up, down, direction))
        results = sorted(results, key=lambda result: max(result[:2]))[: -_BEST - 1 : -1]
        spread = float(np.std([result[:2] for result in results])) if results else 0.0
        if spread > 0:
            gradient = sum((up - down) * direction for up, down, direction in results)
            best = replace(best, weights=best.weights + _STEP * (gradient / (len(results) * spread)))
        stages.extend([best] * sum(mark <= used for mark in marks[len(stages) :]))
    return stages
