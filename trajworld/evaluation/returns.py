"""Returns of a policy's rollouts, not all of which continue to the horizon, and their errors."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

ROWS_KEPT = 2000


@dataclass(frozen=True)
class Returns:
    """Returns of N rollouts of one policy from N initial states, which go in C chunks of steps.

    Not all of them enter each chunk: ``drawn`` says which, regardless of their results; those that ended before count
    as zeros. A missing part is the mean of those drawn: the means over rollouts of ``discounted``, ``lengths`` and
    ``ended`` are the sums of the chunks' means, and their deviations give the error.

    The return is a sum over chunks of changes in a forecast: what a rollout has earned, plus, if it has not ended, as
    much a step as so far for as long as rollouts of the policy last. Its errors cancel in the sum, so that the mean
    stays that of the returns; where it is right, rollouts that do not continue are hardly missed.

    Attributes:
        parts: ``[N, C, 3]``: each chunk's sum of γ^t r_t until the episode ends, or the horizon; its steps; and whether
            the termination rule ended it there.
        drawn: ``[N, C]``.
        weights: ``[C]``: each chunk's sum of γ^t.
        rows: ``[S, O + A]``: at most 2,000, drawn at random, of the imagined observations with the actions in them.
        places: ``[2, S]``: the rollout and the chunk of each of ``rows``.
        order: ``[S]``: the random numbers, ascending, of which the least were drawn.
        problem: What went wrong in rollouts that are left out; empty where nothing did.
    """

    parts: NDArray[np.float64]
    drawn: NDArray[np.bool_]
    weights: NDArray[np.float64]
    rows: NDArray[np.float32]
    places: NDArray[np.int64]
    order: NDArray[np.float64]
    problem: str = ""

    @functools.cached_property
    def _whole(self) -> NDArray[np.float64]:
        """``[N, 3]``."""
        drawn, count = self.drawn[..., None], len(self.drawn)
        parts = np.concatenate([self._news()[..., None], self.parts[..., 1:]], axis=-1)
        members = drawn.sum(axis=0)
        means = (parts * drawn).sum(axis=0) / np.maximum(members, 1)
        # Few deviations stand for many; as in a standard deviation, the mean takes up one of them.
        factor = np.sqrt(count * max(count - 1, 1) / np.maximum(members * (members - 1), 1))
        factor = np.where(members == count, 1.0, factor)
        return means.sum(axis=0) + ((parts - means) * drawn * factor).sum(axis=1)

    def _news(self) -> NDArray[np.float64]:
        """``[N, C]``: what each chunk adds to the forecast of the return."""
        rewards, steps, ended = np.moveaxis(self.parts, -1, 0)
        survive = 1 - ended.sum() / max((steps > 0).sum(), 1)
        ahead = np.zeros(len(self.weights))
        for chunk in range(len(ahead) - 1, 0, -1):
            ahead[chunk - 1] = survive * (self.weights[chunk] + ahead[chunk])
        earned, lives = rewards.cumsum(axis=1), ended.cumsum(axis=1) == 0
        forecast = earned + lives * earned / self.weights.cumsum() * ahead
        return np.diff(forecast, axis=1, prepend=0.0)

    @property
    def discounted(self) -> NDArray[np.float64]:
        """``[N]``: the sum of γ^t r_t."""
        return self._whole[:, 0]

    @property
    def lengths(self) -> NDArray[np.float64]:
        """``[N]``: steps."""
        return self._whole[:, 1]

    @property
    def ended(self) -> NDArray[np.float64]:
        """``[N]``: 1 where the termination rule ended the rollout."""
        return self._whole[:, 2]

    @classmethod
    def together(cls, parts: "Sequence[Returns]") -> "Returns":
        """Those of several groups of initial states."""
        before = np.cumsum([0, *(len(part.parts) for part in parts[:-1])])
        each = [part.places + np.array([[offset], [0]]) for part, offset in zip(parts, before, strict=True)]
        problem = "; ".join(part.problem for part in parts if part.problem)
        names = ("parts", "drawn", "rows", "order")
        whole, drawn, rows, order = (
            np.concatenate([getattr(part, name) for part in parts]) for name in names
        )
        kept, places = np.argsort(order)[:ROWS_KEPT], np.concatenate(each, axis=1)
        return cls(whole, drawn, parts[0].weights, rows[kept], places[:, kept], order[kept], problem)
