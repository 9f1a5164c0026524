"""Testing predictors on contexts of different lengths: which windows, which ranges, and what of a window is shown."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from trajworld.data.dataset import Dataset
from trajworld.data.split import split_episodes
from trajworld.data.statistics import value_range
from trajworld.data.windows import WindowIndex, gather_windows
from trajworld.errors import TrajWorldError
from trajworld.evaluation.one_step import Prediction, Predictor, drawn
from trajworld.models.ranges import Support, pretraining_support

_TESTED_SHARE = 0.5


class Windows(NamedTuple):
    """N windows of a dataset: the rows at which they end, which are predicted, and their episodes' first rows."""

    ends: NDArray[np.int64]
    first: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Halves:
    """A dataset whose episodes are split: ranges from one half, tested windows from the other.

    ``support`` are the ranges, ``[M]``; ``other`` are windows of the episodes for ranges, at most as many as are
    ``tested``; ``outside`` is the share of the tested windows' values that lie outside the ranges.
    """

    dataset: Dataset
    support: Support
    tested: Windows
    other: Windows
    outside: float


def halves_of(dataset: Dataset, window: int, windows: int, seed: int) -> Halves:
    """Split a dataset's episodes in half, take ranges from one half and draw tested windows from the other.

    There are at most ``windows``, each with ``window`` - 1 rows of its episode before the predicted row, so that no
    context is short of rows; ``seed`` is that of the split and the draws.

    Raises:
        UsageError: There are too few episodes.
        TrajWorldError: No episode is long enough.
    """
    for_ranges, tested = split_episodes(dataset.num_episodes, _TESTED_SHARE, seed)
    support = pretraining_support(*value_range(dataset, for_ranges))
    chosen, other = (_draw(dataset, half, window, windows, seed) for half in (tested, for_ranges))
    # Each value counts once for every window that it is in.
    values, _ = gather_windows(dataset, *chosen, window)
    outside = (values < support.lower) | (values > support.upper)
    return Halves(dataset, support, chosen, other, float(outside.mean()))


def with_context(predict: Predictor, context: int, length: int) -> Predictor:
    """A predictor that is shown only the last ``context`` rows before the predicted one.

    Windows are first cut to ``length`` rows, the predicted one included: the fewer, the less there is to compute.
    """

    def limited(values: NDArray[np.float32], time_mask: NDArray[np.float32]) -> Prediction:
        hidden = length - 1 - context
        values, time_mask = values[:, -length:].copy(), time_mask[:, -length:].copy()
        values[:, :hidden] = 0
        time_mask[:, :hidden] = 0
        return predict(values, time_mask)

    return limited


def _draw(dataset: Dataset, episodes: NDArray[np.int64], window: int, most: int, seed: int) -> Windows:
    index = WindowIndex.of(dataset, episodes)
    ends, first = index.locate(np.arange(len(index)))
    long = np.flatnonzero(ends - first >= window - 1)
    if not len(long):
        raise TrajWorldError(
            f"{dataset.name}: none of {len(episodes)} episodes has the {window} rows of a whole window: collect longer "
            "episodes or more of them"
        )
    chosen = drawn(long, most, seed)
    return Windows(ends[chosen], first[chosen])
