"""Means over windows with their uncertainty: a bootstrap over episodes, paired between predictors."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

REPLICATES = 1000
FEWEST = 10
"""Episodes below which no verdict is given: an interval from a few is too narrow, and from one it has no width."""

_LEVEL = 0.95


@dataclass(frozen=True)
class Ratio:
    """One error over another, with its interval; infinite or NaN where the other is 0.

    Attributes:
        value: The ratio.
        low: The lower end of the interval.
        high: The upper end.
        enough: Whether the interval comes from so many episodes that it can be trusted.
    """

    value: float
    low: float
    high: float
    enough: bool = True

    @property
    def sign(self) -> int:
        """-1 if the first error is the smaller one beyond doubt (the whole interval below 1), 1 if larger, else 0.

        From too few episodes nothing is beyond doubt.
        """
        return 0 if not self.enough else -1 if self.high < 1 else 1 if self.low > 1 else 0


@dataclass(frozen=True, eq=False)
class Errors:
    """Mean errors of several predictors at several lengths of context.

    All are of the same windows, and all of a replicate of the same episodes, so that differences between
    predictors, or between contexts, are less uncertain than each is alone.

    Attributes:
        predictors: K names.
        contexts: C lengths.
        mean: ``[K, C]``.
        replicates: ``[R, K, C]``: the same means over episodes drawn anew with replacement.
        episodes: How many episodes the windows are of; of several environments, of the one that has the fewest.
    """

    predictors: tuple[str, ...]
    contexts: tuple[int, ...]
    mean: NDArray[np.float64]
    replicates: NDArray[np.float64]
    episodes: int

    @property
    def enough(self) -> bool:
        """Whether there are episodes enough for intervals that can be trusted."""
        return self.episodes >= FEWEST

    def of(self, predictor: str, context: int) -> float:
        """The mean error of a predictor at a length of context."""
        return float(self.mean[self._place(predictor, context)])

    def curve(self, predictor: str) -> NDArray[np.float64]:
        """``[3, C]``: mean, lower and upper end of the interval at each length of context."""
        place = self.predictors.index(predictor)
        return np.stack([self.mean[place], *_interval(self.replicates[:, place])])

    def ratio(self, one: tuple[str, int], other: tuple[str, int]) -> Ratio:
        """The error of one (predictor, context) over that of another."""
        first, second = self._place(*one), self._place(*other)
        with np.errstate(divide="ignore", invalid="ignore"):
            value = self.mean[first] / self.mean[second]
            low, high = _interval(self.replicates[:, *first] / self.replicates[:, *second])
        return Ratio(float(value), float(low), float(high), self.enough)

    def _place(self, predictor: str, context: int) -> tuple[int, int]:
        return self.predictors.index(predictor), self.contexts.index(context)


def bootstrap(
    errors: NDArray[np.float64],
    episodes: ArrayLike,
    predictors: Sequence[str],
    contexts: Sequence[int],
    seed: Sequence[int],
    replicates: int = REPLICATES,
) -> Errors:
    """Mean errors over windows and their replicates: episodes are drawn with replacement, with all of their windows.

    Args:
        errors: ``[K, C, N]``: of each window.
        episodes: ``[N]``: which episode each window is of.
        predictors: K names.
        contexts: C lengths.
        seed: Of the draws.
        replicates: R.
    """
    _, episode = np.unique(np.asarray(episodes), return_inverse=True)
    count = int(episode.max()) + 1
    windows = np.bincount(episode, minlength=count).astype(np.float64)
    flat = errors.reshape(-1, errors.shape[-1])
    sums = np.stack([np.bincount(episode, weights=one, minlength=count) for one in flat])
    drawn = np.random.default_rng(list(seed)).multinomial(count, np.full(count, 1 / count), size=replicates)
    means = (drawn @ sums.T) / (drawn @ windows)[:, None]
    return Errors(
        tuple(predictors),
        tuple(contexts),
        errors.mean(axis=-1),
        means.reshape(replicates, *errors.shape[:2]),
        count,
    )


def average(errors: Sequence[Errors]) -> Errors:
    """The mean over environments, replicate by replicate: their draws are independent, the environments are fixed.

    The interval therefore says how sure the mean over these very environments is, not over others of their kind.
    """
    first = errors[0]
    return Errors(
        first.predictors,
        first.contexts,
        np.mean([each.mean for each in errors], axis=0),
        np.mean([each.replicates for each in errors], axis=0),
        min(each.episodes for each in errors),
    )


def _interval(replicates: NDArray[np.float64]) -> NDArray[np.float64]:
    """Lower and upper ends over the first axis."""
    return np.quantile(replicates, [(1 - _LEVEL) / 2, (1 + _LEVEL) / 2], axis=0)
