"""Padding the variates of datasets to a few sizes, so that compiled functions stay few."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trajworld.data.dataset import Dataset
from trajworld.errors import UsageError


@dataclass(frozen=True, eq=False)
class Frame:
    """What all batches of a dataset share.

    Attributes:
        variate_mask: ``[M_pad]`` float32: 1 for real variates.
        is_action: ``[M_pad]`` int32: 1 for action variates; 0 where padded.
        lower: ``[M_pad]`` float32: lower end of each variate's support; 0 where padded.
        upper: ``[M_pad]`` float32: upper end of each variate's support; 1 where padded.
    """

    variate_mask: NDArray[np.float32]
    is_action: NDArray[np.int32]
    lower: NDArray[np.float32]
    upper: NDArray[np.float32]


def padded_sizes(sizes: Sequence[int], most: int = 3, weights: Sequence[float] | None = None) -> list[int]:
    """The values of M_pad, at most ``most`` of them, that cost the least padding; ascending.

    The cost is the sum over ``sizes`` of weight times the variates added to reach the next chosen size. The
    largest size is always chosen.

    Args:
        sizes: M of each dataset.
        most: How many sizes may be chosen.
        weights: The share of each dataset; equal where not given.

    Raises:
        UsageError: There is no size, or ``most`` is less than 1.
    """
    if not sizes or most < 1:
        raise UsageError("padded_sizes needs at least one size, and at least one may be chosen")
    shares: dict[int, float] = {}
    for size, weight in zip(sizes, weights or [1.0] * len(sizes), strict=True):
        shares[size] = shares.get(size, 0.0) + weight
    distinct = sorted(shares)

    def cost(first: int, last: int) -> float:
        return sum(shares[size] * (distinct[last] - size) for size in distinct[first : last + 1])

    # best[last]: the least cost of all sizes up to distinct[last], which is chosen, and the choice.
    best = [(cost(0, last), [distinct[last]]) for last in range(len(distinct))]
    for _ in range(min(most, len(distinct)) - 1):
        best = [
            min(
                [best[last]]
                + [
                    (best[cut][0] + cost(cut + 1, last), [*best[cut][1], distinct[last]])
                    for cut in range(last)
                ]
            )
            for last in range(len(distinct))
        ]
    return best[-1][1]


def padded_frame(
    dataset: Dataset, lower: NDArray[np.float32], upper: NDArray[np.float32], size: int
) -> Frame:
    """What is the same of every batch of a dataset that is padded to ``size`` variates.

    Args:
        dataset: Whose variates.
        lower: ``[M]``: lower end of each one's support.
        upper: ``[M]``: upper end.
        size: M_pad, at least M.
    """
    variates = dataset.num_variates
    frame = Frame(
        np.zeros(size, np.float32),
        np.zeros(size, np.int32),
        np.zeros(size, np.float32),
        np.ones(size, np.float32),
    )
    frame.variate_mask[:variates] = 1
    frame.is_action[:variates] = dataset.is_action
    frame.lower[:variates] = lower
    frame.upper[:variates] = upper
    for array in vars(frame).values():
        # Every batch holds these very arrays.
        array.setflags(write=False)
    return frame
