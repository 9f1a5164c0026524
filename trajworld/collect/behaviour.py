"""Behaviours: what actions an episode tries, as endless streams that a seeded generator alone decides."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from trajworld.errors import UsageError

# Noise is drawn in blocks of so many steps; part of what a seed means, so never to be changed lightly.
_BLOCK = 64


class Behaviour(Protocol):
    """A rule that draws actions without looking at observations."""

    def actions(
        self, low: NDArray[np.float32], high: NDArray[np.float32], generator: np.random.Generator
    ) -> Iterator[NDArray[np.float32]]:
        """An endless stream of actions ``[action_size]`` within ``low`` and ``high [action_size]``."""


@dataclass(frozen=True)
class Uniform:
    """Independent uniform actions over the middle ``scale`` of the box (1: all of it)."""

    scale: float = 1.0

    def actions(
        self, low: NDArray[np.float32], high: NDArray[np.float32], generator: np.random.Generator
    ) -> Iterator[NDArray[np.float32]]:
        """See ``Behaviour``."""
        while True:
            yield from _in_box(generator.uniform(-self.scale, self.scale, (_BLOCK, len(low))), low, high)


@dataclass(frozen=True)
class OrnsteinUhlenbeck:
    """Coloured noise ``dx = -theta x dt + sigma dW`` with one unit of time a step, in units of half the box.

    It begins in its stationary distribution (standard deviation ``sigma / sqrt(2 theta)``), is sampled
    exactly (the correlation of a step with the next is ``exp(-theta)``), and is clipped to the box.
    """

    theta: float = 0.1
    sigma: float = 0.25

    @property
    def correlation(self) -> float:
        """The correlation of a step's noise with the next step's."""
        return math.exp(-self.theta)

    @property
    def scale(self) -> float:
        """The stationary standard deviation before clipping, in half boxes."""
        return self.sigma / math.sqrt(2 * self.theta)

    def actions(
        self, low: NDArray[np.float32], high: NDArray[np.float32], generator: np.random.Generator
    ) -> Iterator[NDArray[np.float32]]:
        """See ``Behaviour``."""
        for noise in self.noise(len(low), generator):
            yield from _in_box(noise, low, high)

    def noise(self, size: int, generator: np.random.Generator) -> Iterator[NDArray[np.float64]]:
        """Blocks ``[64, size]`` of the process before it is clipped."""
        rho, scale = self.correlation, self.scale
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
class Constant:
    """Pushes: a random action of the middle ``scale`` of the box, held for a while, then another.

    Attributes:
        mean_span: The mean number of steps that a push is held; the number is geometric.
        scale: The part of the box that pushes are drawn from.
    """

    mean_span: float = 20.0
    scale: float = 1.0

    def actions(
        self, low: NDArray[np.float32], high: NDArray[np.float32], generator: np.random.Generator
    ) -> Iterator[NDArray[np.float32]]:
        """See ``Behaviour``."""
        while True:
            push = _in_box(generator.uniform(-self.scale, self.scale, (1, len(low))), low, high)[0]
            for _ in range(generator.geometric(1 / self.mean_span)):
                yield push


@dataclass(frozen=True)
class Mixed:
    """Each stream is one of the other behaviours, of a random scale and correlation.

    The scale is log-uniform in [0.1, 1]; so are the noise's ``theta`` in [0.02, 1] and the pushes' mean span
    in [2, 50]. A third of the streams are of each kind.
    """

    def draw(self, generator: np.random.Generator) -> Behaviour:
        """The behaviour of one stream."""
        kind = generator.integers(3)
        scale = math.exp(generator.uniform(math.log(0.1), 0.0))
        if kind == 0:
            return Uniform(scale)
        if kind == 1:
            theta = math.exp(generator.uniform(math.log(0.02), 0.0))
            return OrnsteinUhlenbeck(theta, scale * math.sqrt(2 * theta))
        return Constant(math.exp(generator.uniform(math.log(2.0), math.log(50.0))), scale)

    def actions(
        self, low: NDArray[np.float32], high: NDArray[np.float32], generator: np.random.Generator
    ) -> Iterator[NDArray[np.float32]]:
        """See ``Behaviour``."""
        yield from self.draw(generator).actions(low, high, generator)


BEHAVIOURS = ("uniform", "ou", "constant", "mixed")


def make_behaviour(name: str, scale: float | None = None, correlation: float | None = None) -> Behaviour:
    """The behaviour of a name.

    Args:
        name: One of ``BEHAVIOURS``.
        scale: ``ou``: the noise's standard deviation (default 0.5); ``uniform`` and ``constant``: the part of
            the box that actions are drawn from (default 1). In units of half the action box.
        correlation: ``ou``: of a step's noise with the next's (default 0.9); ``constant``: the chance that a
            push is held for another step (default 0.95).

    Raises:
        UsageError: The name is unknown, a number is out of range, or the behaviour has no such option.
    """
    if name not in BEHAVIOURS:
        raise UsageError(f"there is no behaviour {name!r}: choose among {', '.join(BEHAVIOURS)}")
    if name == "mixed" and (scale is not None or correlation is not None):
        raise UsageError(
            "behaviour mixed draws its own scale and correlation: leave them out or choose another"
        )
    if name == "uniform" and correlation is not None:
        raise UsageError("behaviour uniform has no correlation: choose ou or constant")
    if scale is not None and not (0 < scale < math.inf and (name == "ou" or scale <= 1)):
        raise UsageError(
            f"the noise scale of {name} must be {'above 0' if name == 'ou' else 'in (0, 1]'}, not {scale:g}"
        )
    if correlation is not None and not 0 < correlation < 1:
        raise UsageError(f"the noise correlation must lie in (0, 1), not {correlation:g}")
    if name == "mixed":
        return Mixed()
    if name == "uniform":
        return Uniform(1.0 if scale is None else scale)
    if name == "ou":
        theta = -math.log(0.9 if correlation is None else correlation)
        return OrnsteinUhlenbeck(theta, (0.5 if scale is None else scale) * math.sqrt(2 * theta))
    return Constant(1 / (1 - (0.95 if correlation is None else correlation)), 1.0 if scale is None else scale)


def _in_box(
    unit: NDArray[np.float64], low: NDArray[np.float32], high: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Map ``[..., action_size]`` from [-1, 1] to the box, clipping what lies outside."""
    middle, half = (low.astype(np.float64) + high) / 2, (high.astype(np.float64) - low) / 2
    return np.clip((middle + half * unit).astype(np.float32), low, high)
