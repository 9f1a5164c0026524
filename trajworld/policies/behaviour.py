"""Behaviours: what acts in an episode; these draw actions that depend only on a seeded generator."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from trajworld.errors import UsageError

Float = TypeVar("Float", bound=np.floating)

# Steps of a block of noise. Changing it changes what a seed gives.
_BLOCK = 64

# From an observation [observation_size], and the reward received on arriving in it (0 in an episode's first), to an
# action [action_size] within the box.
Controller = Callable[[NDArray[np.float32], float], NDArray[np.float32]]
Blocks = Iterator[NDArray[np.float64]]


class Behaviour(Protocol):
    """A rule that acts in episodes."""

    def controller(
        self, low: NDArray[np.float32], high: NDArray[np.float32], generator: np.random.Generator
    ) -> Controller:
        """From each observation and reward of one episode, in order, to an action between ``low`` and ``high``."""


class Blind:
    """A behaviour that ignores observations, defined in the unit box [-1, 1], several steps at a time."""

    name: str

    def draw(self, generator: np.random.Generator) -> "Blind":
        """The behaviour of one episode."""
        return self

    def controller(
        self, low: NDArray[np.float32], high: NDArray[np.float32], generator: np.random.Generator
    ) -> Controller:
        stream = (action for block in self.blocks(len(low), generator) for action in in_box(block, low, high))
        return lambda observation, reward: next(stream)

    def blocks(self, size: int, generator: np.random.Generator) -> Blocks:
        """Actions ``[steps, size]`` in half boxes, before they are clipped."""
        raise NotImplementedError


@dataclass(frozen=True)
class Uniform(Blind):
    """Independent uniform actions over the middle ``scale`` of the box (1: all of it)."""

    name = "uniform"
    scale: float = 1.0

    def blocks(self, size: int, generator: np.random.Generator) -> Blocks:
        while True:
            yield generator.uniform(-self.scale, self.scale, (_BLOCK, size))


@dataclass(frozen=True)
class OrnsteinUhlenbeck(Blind):
    """Coloured noise ``dx = -theta x dt + sigma dW`` with one unit of time a step, in units of half the box.

    It begins in its stationary distribution (standard deviation ``sigma / sqrt(2 theta)``), is sampled
    exactly (the correlation of a step with the next is ``exp(-theta)``), and is clipped to the box.
    """

    name = "ou"
    theta: float = 0.1
    sigma: float = 0.25

    @staticmethod
    def of_scale(theta: float, scale: float) -> "OrnsteinUhlenbeck":
        """The process of a stationary standard deviation."""
        return OrnsteinUhlenbeck(theta, scale * math.sqrt(2 * theta))

    @property
    def scale(self) -> float:
        """The stationary standard deviation before clipping, in half boxes."""
        return self.sigma / math.sqrt(2 * self.theta)

    def blocks(self, size: int, generator: np.random.Generator) -> Blocks:
        rho, scale = math.exp(-self.theta), self.scale
        # A block at once: x_k = rho^(k+1) x_before + scale sqrt(1 - rho^2) sum_{j<=k} rho^(k-j) e_j.
        lag = np.subtract.outer(np.arange(_BLOCK), np.arange(_BLOCK))
        mixing = np.where(lag >= 0, rho ** np.maximum(lag, 0), 0.0) * (
            scale * math.sqrt(-math.expm1(-2 * self.theta))
        )
        decay = rho ** np.arange(1, _BLOCK + 1)[:, None]
        # One step back from the first: the stationary distribution stays stationary.
        last = scale * generator.standard_normal(size)
        while True:
            block = decay * last + mixing @ generator.standard_normal((_BLOCK, size))
            last = block[-1]
            yield block


@dataclass(frozen=True)
class Constant(Blind):
    """Pushes: a random action of the middle ``scale`` of the box, held for a geometric number of steps of mean
    ``mean_span``, then another.
    """

    name = "constant"
    mean_span: float = 20.0
    scale: float = 1.0

    def blocks(self, size: int, generator: np.random.Generator) -> Blocks:
        while True:
            push = generator.uniform(-self.scale, self.scale, (1, size))
            left = int(generator.geometric(1 / self.mean_span))
            while left > 0:
                yield np.repeat(push, min(left, _BLOCK), axis=0)
                left -= _BLOCK


@dataclass(frozen=True)
class Gait(Blind):
    """Sine waves, one an actuator, of one period and of random phases, strengths and middles.

    In half of the streams the phase grows evenly from actuator to actuator, as in a wave that travels along a body;
    in the others each is independent.
    """

    name = "gait"
    period: float = 25.0  # steps
    scale: float = 1.0  # the most that a wave swings, in half boxes
    noise: float = 0.05  # standard deviation of independent noise on top, in half boxes

    def blocks(self, size: int, generator: np.random.Generator) -> Blocks:
        phase = generator.uniform(0, 2 * math.pi, size)
        if generator.random() < 0.5:
            phase = phase[0] + generator.uniform(-math.pi, math.pi) * np.arange(size)
        swing = self.scale * generator.uniform(0.3, 1.0, size)
        middle = (1 - swing) * generator.uniform(-0.5, 0.5, size)
        step = 0
        while True:
            angle = 2 * math.pi / self.period * np.arange(step, step + _BLOCK)[:, None] + phase
            yield middle + swing * np.sin(angle) + self.noise * generator.standard_normal((_BLOCK, size))
            step += _BLOCK


class Drawn(Blind):
    """Each stream is one of the other behaviours, of a random scale and correlation.

    ``shares`` say how often each is drawn: uniform, coloured noise, pushes, gaits.
    Scales are log-uniform in [0.1, 1]; so are the noise's ``theta`` in [0.02, 1], the pushes' mean span from 2 steps
    to ``longest_push`` and the gaits' period in ``periods`` (steps).
    """

    def __init__(
        self,
        name: str,
        shares: tuple[int, ...],
        longest_push: float,
        periods: tuple[float, float] = (8.0, 80.0),
    ) -> None:
        self.name, self._shares, self._longest_push, self._periods = name, shares, longest_push, periods

    def draw(self, generator: np.random.Generator) -> Blind:
        number = generator.integers(sum(self._shares))
        kind = np.searchsorted(np.cumsum(self._shares), number, side="right")
        scale = log_uniform(generator, 0.1, 1.0)
        if kind == 0:
            return Uniform(scale)
        if kind == 1:
            return OrnsteinUhlenbeck.of_scale(log_uniform(generator, 0.02, 1.0), scale)
        if kind == 2:
            return Constant(log_uniform(generator, 2.0, self._longest_push), scale)
        return Gait(log_uniform(generator, *self._periods), scale, generator.uniform(0.0, 0.2))

    def blocks(self, size: int, generator: np.random.Generator) -> Blocks:
        return self.draw(generator).blocks(size, generator)


# Varied is what a corpus is collected with; running is the same faster, for robots that run.
_DRAWN = {
    one.name: one
    for one in (
        Drawn("mixed", (1, 1, 1), 50.0),
        Drawn("varied", (3, 7, 4, 6), 80.0),
        Drawn("running", (2, 4, 3, 11), 20.0, (4.0, 12.0)),
    )
}
BEHAVIOURS = ("uniform", "ou", "constant", "gait", *_DRAWN)


def make_behaviour(name: str, scale: float | None = None, correlation: float | None = None) -> Blind:
    """The behaviour of a name of ``BEHAVIOURS``.

    Args:
        name: Of the behaviour.
        scale: ``ou``: the noise's standard deviation (default 0.5); ``uniform``, ``constant`` and ``gait``: the
            part of the box that actions are drawn from (default 1). In units of half the action box.
        correlation: ``ou``: of a step's noise with the next's (default 0.9); ``constant``: the chance that a
            push is held for another step (default 0.95).
    """
    if name not in BEHAVIOURS:
        raise UsageError(f"there is no behaviour {name!r}: choose among {', '.join(BEHAVIOURS)}")
    if name in _DRAWN:
        if (scale, correlation) != (None, None):
            raise UsageError(f"{name} draws its own scale and correlation: leave them out or choose another")
        return _DRAWN[name]
    if name in ("uniform", "gait") and correlation is not None:
        raise UsageError(f"behaviour {name} has no correlation: choose ou or constant")
    is_ou = name == "ou"
    scale = (0.5 if is_ou else 1.0) if scale is None else scale
    correlation = (0.9 if is_ou else 0.95) if correlation is None else correlation
    if not (0 < scale < math.inf and (is_ou or scale <= 1)):
        allowed = "above 0" if is_ou else "in (0, 1]"
        raise UsageError(f"the noise scale of {name} must be {allowed}, not {scale:g}")
    if not 0 < correlation < 1:
        raise UsageError(f"the noise correlation must lie in (0, 1), not {correlation:g}")
    if is_ou:
        return OrnsteinUhlenbeck.of_scale(-math.log(correlation), scale)
    if name == "constant":
        return Constant(1 / (1 - correlation), scale)
    return Uniform(scale) if name == "uniform" else Gait(scale=scale)


def log_uniform(generator: np.random.Generator, low: float, high: float) -> float:
    """A number whose logarithm is uniform."""
    return math.exp(generator.uniform(math.log(low), math.log(high)))


def in_box(
    unit: NDArray[np.float64], low: NDArray[np.float32], high: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Map ``[..., action_size]`` from [-1, 1] to the box, clipping what lies outside."""
    middle, half = (low.astype(np.float64) + high) / 2, (high.astype(np.float64) - low) / 2
    return np.clip((middle + half * unit).astype(np.float32), low, high)


def in_unit(actions: NDArray[Float], low: NDArray[np.float32], high: NDArray[np.float32]) -> NDArray[Float]:
    """The inverse of :func:`in_box`; 0 where the box has no width."""
    middle, half = (low + high) / 2, (high - low) / 2
    return np.divide(actions - middle, half, out=np.zeros_like(actions), where=half > 0)
