"""Policies that see the observation and a clock, and a short random search for good ones."""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from trajworld.data.episode import Episode
from trajworld.policies.behaviour import Controller, OrnsteinUhlenbeck, in_box, log_uniform

# How many directions a generation of a search tries.
_DIRECTIONS = 8
# The noise on top of a policy, of standard deviation 1 before it is scaled.
_THETA = 0.2
# The least standard deviation that an observation is divided by.
_LEAST_SCALE = 1e-3


@dataclass(frozen=True)
class Search:
    """How policies are searched."""

    starts: int = 16  # policies that only follow the clock, tried first
    periods: tuple[float, float] = (10.0, 60.0)  # of their clocks, log-uniform (steps)
    swing: float = 0.5  # standard deviation of their weights
    best: int = 4  # how many of the eight directions of a generation count
    exploration: tuple[float, float] = (
        0.1,
        0.1,
    )  # how far a direction goes: weights of clock and of observation
    tempo: float = 0.0  # and the logarithm of the clock's period, which then stays within ``periods``
    step: float = 0.1  # how far a generation moves the clock's weights
    marks: tuple[float, ...] = (0.25, 0.5, 1.0)  # the parts of the search after which a policy is kept
    trial: int = 200  # steps of an episode
    dearest: int = 3  # transitions that it may use for one that is collected afterwards


SHORT = Search()
"""A search of some seconds."""

STAGED = Search(
    starts=48,
    periods=(3.5, 9.0),
    swing=0.7,
    best=_DIRECTIONS,
    exploration=(0.15, 0.05),
    tempo=0.05,
    step=0.15,
    marks=(0.05, 0.12, 0.25, 0.5, 1.0),
    trial=100,
    dearest=15,
)
"""A long search for fast gaits: policies from clumsy to as fast as it finds."""


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

        def act(observation: NDArray[np.float32], reward: float) -> NDArray[np.float32]:
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
    search: Search = SHORT,
) -> list[ClockedPolicy]:
    """Policies of growing skill, by a random search for return.

    A few policies that only follow the clock are tried, and the best is improved by augmented random search (Mania
    et al., 2018): finite differences along random directions, scaled by the spread of the returns. It is an evolution
    strategy where all directions count.

    ``run`` runs a policy in the episode of a number and returns it; None where it broke at once. The search ends with
    the generation in which it has used ``transitions``. Returns the policies after its parts ``search.marks``; none for
    0 transitions. They depend only on ``run``, ``transitions``, the generator and ``search``.
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
    for _ in range(search.starts):
        weights = start.weights.copy()
        weights[:, :3] = generator.normal(0, search.swing, (actions, 3))
        policy = replace(start, weights=weights, period=log_uniform(generator, *search.periods), noise=0.3)
        found, episode = value(policy, next(trial))
        if episode is not None:
            seen.append(episode.observations)
            starts.append((found, policy))
    if not starts:
        return []
    rows = np.concatenate(seen).astype(np.float64)
    # Ties go to the last, here and in a generation.
    best = sorted(starts, key=lambda start: start[0])[-1][1]
    best = replace(best, mean=rows.mean(0), scale=np.maximum(rows.std(0), _LEAST_SCALE), noise=0.0)
    spans = np.repeat(search.exploration, (3, observations))
    pace = search.tempo / spans[0]

    def moved(change: NDArray[np.float64], tempo: float) -> ClockedPolicy:
        period = best.period
        if tempo:
            period = float(np.clip(period * math.exp(tempo), *search.periods))
        return replace(best, weights=best.weights + change, period=period)

    marks = [mark * transitions for mark in search.marks]
    stages: list[ClockedPolicy] = []
    while len(stages) < len(marks):
        results: list[tuple[float, float, NDArray[np.float64], float]] = []
        directions = generator.standard_normal((_DIRECTIONS, *best.weights.shape))
        tempos = generator.standard_normal(_DIRECTIONS) if search.tempo else np.zeros(_DIRECTIONS)
        for direction, tempo in zip(directions, tempos, strict=True):
            index, change, faster = next(trial), spans * direction, search.tempo * tempo
            up, _ = value(moved(change, faster), index)
            down, _ = value(moved(-change, -faster), index)
            if math.isfinite(up) and math.isfinite(down):
                results.append((up, down, direction, tempo))
        results = sorted(results, key=lambda result: max(result[:2]))[: -search.best - 1 : -1]
        spread = float(np.std([result[:2] for result in results])) if results else 0.0
        if spread > 0:
            gradient = sum((up - down) * direction for up, down, direction, _ in results)
            tempo = sum((up - down) * tempo for up, down, _, tempo in results)
            length = len(results) * spread
            best = moved(
                search.step * (spans / spans[0]) * (gradient / length), search.step * pace * tempo / length
            )
        stages.extend([best] * sum(mark <= used for mark in marks[len(stages) :]))
    return stages
