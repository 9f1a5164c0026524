"""Linear least squares on the context alone, for many windows at once: the baseline that learns in context.

For each window separately, the change of each observation and reward variate from one row to the next is fitted as a
linear function of [the row: observation, reward, action; 1] on the c - 1 transitions inside the context, and the fit
predicts the change after the last row. Zero coefficients are copying, as is c = 1, where there is nothing to fit. All
is done in the model's coordinates: each variate scaled to [0, 1] by its range and clipped, the predicted row too.

A fair comparison needs two such fits:

- **Minimum norm** (:func:`minimum_norm`): the least-squares solution of least norm, as ``numpy.linalg.lstsq`` gives it.
  It has no setting. But where there are about as many equations as unknowns (c - 1 near M + 1) it fits every detail,
  rounding included, and is often worse than copying.
- **Ridge** (:func:`ridge`): rows are taken relative to the last one, so that the constant is the expected change in the
  last row's state; a penalty shrinks the coefficients. It is chosen for each environment, length of context and variate
  by the error on windows of other episodes (never the tested ones), which favours this baseline: it is the strong one.
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
    """The change of the first ``predicted`` variates after the last row by the least-squares fit of least norm.

    From ``rows [N, c, M]``, c at least 2, to ``[N, P]``.
    """
    inputs, changes = _with_one(rows[:, :-1]), np.diff(rows[..., :predicted], axis=1)
    # The cut-off of numpy.linalg.lstsq: singular values below it are taken for zero.
    cutoff = np.finfo(np.float64).eps * max(inputs.shape[1:])
    coefficients = np.linalg.pinv(inputs, rtol=cutoff) @ changes
    return (_with_one(rows[:, -1:]) @ coefficients)[:, 0]


def ridge(rows: Array, predicted: int, penalties: Sequence[float] = PENALTIES) -> Array:
    """The change after the last row by ridge regressions around it.

    For each penalty λ, above 0, the coefficients minimise |changes - [rows - last row, 1] coefficients|² +
    λ |coefficients|². From ``rows [N, c, M]``, c at least 2, to ``[penalties, N, P]``.
    """
    inputs, changes = _with_one(rows[:, :-1] - rows[:, -1:]), np.diff(rows[..., :predicted], axis=1)
    left, singular, right = np.linalg.svd(inputs, full_matrices=False)
    # The last row relative to itself is [0, …, 0, 1].
    query = right[..., -1]
    strength = np.asarray(penalties)[:, None, None]
    shrunk = query * singular / (singular**2 + strength)
    return np.moveaxis(np.moveaxis(shrunk, 0, 1) @ (left.mT @ changes), 1, 0)


def linear_predictor(
    dataset: Dataset, support: Support, context: int, penalties: NDArray[np.int64] | None = None
) -> Predictor:
    """The fit on the last ``context`` rows as a predictor of a dataset's windows.

    By minimum norm; or by ridge regressions, where ``penalties [P]`` says which of ``PENALTIES`` each predicted variate
    takes: see :func:`choose_penalties`.
    """
    if context == 1:
        return copying_predictor(dataset)
    predicted = dataset.observation_size + 1
    lower, upper = (end[:predicted].astype(np.float64) for end in (support.lower, support.upper))

    def predict(values: NDArray[np.float32], time_mask: NDArray[np.float32]) -> Prediction:
        rows = _scaled(values[:, -1 - context : -1], support)
        if penalties is None:
            change = minimum_norm(rows, predicted)
        else:
            change = ridge(rows, predicted)[penalties, :, np.arange(predicted)].T
        scaled = np.clip(rows[:, -1, :predicted] + change, 0.0, 1.0)
        return Prediction(lower + scaled * (upper - lower))

    return predict


def choose_penalties(
    values: NDArray[np.float32], support: Support, context: int, predicted: int
) -> NDArray[np.int64]:
    """For each of P predicted variates, which of ``PENALTIES`` gives the least error: ``[P]``.

    ``values [N, T, M]`` are windows of episodes that are not tested; each one's last row is what is to be predicted.
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
