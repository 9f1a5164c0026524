"""The protocol of the zero-shot comparison: which windows, which context, which ranges (DESIGN §6).

A pre-trained model predicts the next observation and reward of an environment that pre-training never saw, without an
update. What it knows of the environment is its context, and the range of each variate.

- **Episodes.** Half of an environment's episodes, drawn by seed, are for ranges, the other half for the test. Ranges
  (the scaling of each variate to [0, 1]) are the least and greatest value in the first half alone; what lies outside
  them in the tested half is clipped, as in pre-training.
- **Windows.** Those of the tested half with at least T - 1 = 19 real rows before the predicted row, so that no context
  is short of rows and none begins before the episode; at most N of them, drawn by seed without replacement. All
  predictors and all lengths of context are tested on the same windows.
- **Context** c = 1 … 19: the last c rows before the predicted one. Earlier rows are masked (zeros, time mask 0), as in
  windows that begin at an episode's start; positions stay right-aligned. (On request the rows are given without padding
  instead, at positions 0 … c - 1. In training, padding precedes only the first rows of an episode; rows from its middle
  come with short contexts at the beginning of whole windows, each row of which is trained to predict the next. So with
  padding a model takes a short context for a start, and its error tells of that too.) Of each row the predictors see
  observation, reward and action; the last row's action is the one that leads to the predicted row.
- **Errors.** Absolute, divided by each variate's standard deviation in the whole dataset, averaged over the predicted
  variates (observation and reward) that vary: the metric of ``trajworld.evaluation.prediction``. Of an environment:
  the mean over windows. Of a family: the mean over its environments.
- **Predictors.** The model's expectation. Copying the last row. Linear least squares, fitted anew on the c - 1
  transitions inside each context, by minimum norm and by a ridge: see ``trajworld.zero_shot.linear``.
- **Intervals.** 95 %, by a bootstrap over the tested episodes, which are the independent unit: see
  ``trajworld.zero_shot.bootstrap``. From fewer than ten episodes no verdict is given.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trajworld.data.dataset import Dataset
from trajworld.data.split import split_episodes
from trajworld.data.statistics import value_range
from trajworld.data.windows import WindowIndex, gather_windows
from trajworld.errors import TrajWorldError, UsageError
from trajworld.evaluation.predictors import Prediction, Predictor
from trajworld.models.ranges import Support, pretraining_support

_TESTED_SHARE = 0.5


@dataclass(frozen=True, eq=False)
class Windows:
    """Chosen windows of a dataset.

    Attributes:
        ends: ``[N]``: the rows at which they end: the predicted ones.
        first: ``[N]``: the first row of each one's episode.
    """

    ends: NDArray[np.int64]
    first: NDArray[np.int64]

    def __len__(self) -> int:
        """N."""
        return len(self.ends)


@dataclass(frozen=True, eq=False)
class Trial:
    """One environment, ready to be tested on.

    Attributes:
        dataset: Its dataset.
        support: The range of each variate, ``[M]``, from the episodes for ranges.
        test: The windows that are predicted.
        other: As many windows of the episodes for ranges.
        range_episodes: How many episodes the ranges come from.
        test_episodes: How many episodes the test windows are of: fewer than were set aside where some are too short
            for a whole window, or none of their windows was drawn.
        outside: The share of the test windows' real values that lie outside the ranges.
    """

    dataset: Dataset
    support: Support
    test: Windows
    other: Windows
    range_episodes: int
    test_episodes: int
    outside: float


def set_up(dataset: Dataset, window: int, windows: int, seed: int) -> Trial:
    """Split a dataset's episodes, take ranges from one part and draw test windows from the other.

    Args:
        dataset: Of one environment.
        window: T.
        windows: N.
        seed: Of the split and the draws.

    Raises:
        UsageError: There are too few episodes, or a number is out of range.
        TrajWorldError: No episode is long enough.
    """
    if windows < 1:
        raise UsageError(f"at least 1 window must be predicted, not {windows}")
    for_ranges, tested = split_episodes(dataset.num_episodes, _TESTED_SHARE, seed)
    support = pretraining_support(*value_range(dataset, for_ranges))
    test = _draw(dataset, tested, window, windows, seed)
    other = _draw(dataset, for_ranges, window, windows, seed)
    # Each real value counts once for every window that it is in.
    values, _ = gather_windows(dataset, test.ends, test.first, window)
    outside = (values < support.lower) | (values > support.upper)
    return Trial(
        dataset, support, test, other, len(for_ranges), len(np.unique(test.first)), float(outside.mean())
    )


def check_contexts(contexts: Sequence[int], window: int) -> tuple[int, ...]:
    """The lengths of context in ascending order, each once.

    Raises:
        UsageError: There is none, or one is not in 1 … T - 1.
    """
    wanted = tuple(sorted(set(contexts)))
    if not wanted or wanted[0] < 1 or wanted[-1] > window - 1:
        shown = ", ".join(map(str, wanted)) or "none"
        raise UsageError(f"a context has 1 to {window - 1} rows with this model; {shown} was asked for")
    return wanted


def with_context(predict: Predictor, context: int, length: int) -> Predictor:
    """A predictor that is shown only the last ``context`` rows before the predicted one.

    Args:
        predict: The predictor.
        context: c.
        length: To how many rows windows are cut before the others are masked, the predicted row included: the fewer,
            the less there is to compute.
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
    count = min(most, len(long))
    chosen = np.sort(np.random.default_rng(seed).choice(long, count, replace=False))
    return Windows(ends[chosen], first[chosen])
