"""Linear least squares on the context alone, for many windows at once: the baseline that learns in context.

For each window separately, the change of each observation and reward variate from one row to the next is fitted as a
linear function of [the row: observation, reward, action; 1] on the c - 1 transitions inside the context, and the fit
predicts the change after the last row. Zero coefficients are therefore copying. All is done in the coordinates that the
model reads: each variate scaled to [0, 1] by its range and clipped; the predicted row is clipped to [0, 1] too. With
c = 1 there is nothing to fit, and the prediction is the last row itself.

A fair comparison needs two such fits:

- **Minimum norm** (:func:`minimum_norm`): the least-squares solution of least norm, as ``numpy.linalg.lstsq`` gives it.
  It has no setting. But a context of 18 transitions has about as many equations as there are unknowns (M + 1 is 6 to 27
  here), where it fits every detail, rounding included: its error peaks where c - 1 is near M + 1, and is often worse
  than copying.
- **Ridge** (:func:`ridge`): rows are taken relative to the last one, so that the constant is the expected change in the
  last row's state; a penalty shrinks the coefficients. It is chosen for each environment, length of context and variate
  by the error on windows of other episodes (never the tested ones). That is knowledge of the environment beyond the
  context, in this baseline's favour: it is the strong one.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from trajworld.data.dataset import Dataset
from trajworld.evaluation.one_step import Prediction, Predictor, copying_predictor
from trajworld.models.ranges import Support

Array = NDArray[np.float64]

PENALTIES = tuple(10.0**power for power in range(-7, 4))


def minimum_norm(rows: Array, predicted: int) -> Array:
    """The change after the last row by the least-squares fit of least norm.

    Args:
        rows: ``[N, c, M]``, c at least 2.
        predicted: P: the first P variates are predicted.

    Returns:
        ``[N, P]``.
    """
    inputs, changes = _with_one(rows[:, :-1]), np.diff(rows[..., :predicted], axis=1)
    # The cut-off of numpy.linalg.lstsq: singular values below it are taken for zero.
    cutoff = np.finfo(np.float64).eps * max(inputs.shape[1:])
    coefficients = np.linalg.pinv(inputs, rtol=cutoff) @ changes
    return (_with_one(rows[:, -1:]) @ coefficients)[:, 0]


def ridge(rows: Array, predicted: int, penalties: Sequence[float] = PENALTIES) -> Array:
    """The change after the last row by ridge regressions around it.

    For each penalty λ the coefficients minimise |changes - [rows - last row, 1] coefficients|² + λ |coefficients|².

    Args:
        rows: ``[N, c, M]``, c at least 2.
        predicted: P: the first P variates are predicted.
        penalties: λ of each fit, above 0.

    Returns:
        ``[penalties, N, P]``.
    """
    inputs, changes = _with_one(rows[:, :-1] - rows[:, -1:]), np.diff(rows[..., :predicted], axis=1)
    left, singular, right = np.linalg.svd(inputs, full_matrices=False)
    # The last row relative to itself is [0, …, 0, 1].
    query = right[..., -1]
    strength = np.asarray(penalties)[:, None, None]
    shrunk = query * singular / (singular**2 + strength)
    return np.moveaxis(np.moveaxis(shrunk, 0, 1) @ (left.mT @ changes), 1, 0)


def minimum_norm_predictor(dataset: Dataset, support: Support, context: int) -> Predictor:
    """Minimum-norm least squares on the last ``context`` rows as a predictor of a dataset's windows."""
    if context == 1:
        return copying_predictor(dataset)
    predicted = dataset.observation_size + 1

    def predict(values: NDArray[np.float32], time_mask: NDArray[np.float32]) -> Prediction:
        rows = _scaled(values[:, -1 - context : -1], support)
        return Prediction(_unscaled(rows[:, -1, :predicted] + minimum_norm(rows, predicted), support))

    return predict


def ridge_predictor(
    dataset: Dataset, support: Support, context: int, penalties: NDArray[np.int64]
) -> Predictor:
    """Ridge regressions on the last ``context`` rows as a predictor of a dataset's windows.

    Args:
        dataset: Whose windows.
        support: The range of each variate.
        context: c.
        penalties: ``[P]``: which of ``PENALTIES`` each predicted variate takes; see :func:`choose_penalties`.
    """
    if context == 1:
        return copying_predictor(dataset)
    predicted = dataset.observation_size + 1

    def predict(values: NDArray[np.float32], time_mask: NDArray[np.float32]) -> Prediction:
        rows = _scaled(values[:, -1 - context : -1], support)
        changes = ridge(rows, predicted)[penalties, :, np.arange(predicted)].T
        return Prediction(_unscaled(rows[:, -1, :predicted] + changes, support))

    return predict


def choose_penalties(
    values: NDArray[np.float32], support: Support, context: int, predicted: int
) -> NDArray[np.int64]:
    """For each predicted variate, which of ``PENALTIES`` gives the least error.

    Args:
        values: ``[N, T, M]``: windows of episodes that are not tested; each one's last row is what is to be predicted.
        support: The range of each variate.
        context: c.
        predicted: P.

    Returns:
        ``[P]``.
    """
    if context == 1:
        return np.zeros(predicted, np.int64)
    scaled = _scaled(values[:, -1 - context :], support)
    rows, target = scaled[:, :-1], scaled[:, -1, :predicted]
    found = np.clip(rows[:, -1, :predicted] + ridge(rows, predicted), 0.0, 1.0)
    return np.abs(found - target).mean(axis=1).argmin(axis=0)


def _with_one(rows: Array) -> Array:
    return np.concatenate([rows, np.ones((*rows.shape[:-1], 1))], axis=-1)


def _scaled(values: NDArray[np.float32], support: Support) -> Array:
    """``[..., M]`` values to [0, 1] by their ranges, clipped."""
    lower, upper = support.lower.astype(np.float64), support.upper.astype(np.float64)
    return np.clip((values - lower) / (upper - lower), 0.0, 1.0)


def _unscaled(values: Array, support: Support) -> Array:
    """``[..., P]`` from [0, 1], clipped, to the data's own units."""
    predicted = values.shape[-1]
    lower, upper = (end[:predicted].astype(np.float64) for end in (support.lower, support.upper))
    return lower + np.clip(values, 0.0, 1.0) * (upper - lower)
