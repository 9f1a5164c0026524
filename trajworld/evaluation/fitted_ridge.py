"""Ridge regressions that are fitted on a dataset: the linear baselines of a model that is trained on it.

The change of each predicted variate from one row to the next is a linear function of the last row, or of all rows of
the model's window; rows before an episode's first one are that row again. The penalty of each variate is the one of
least error on a fifth of the episodes, which the fit does not see.
"""

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trajworld.data.dataset import Dataset
from trajworld.data.mixture import windows_in_order
from trajworld.data.split import split_episodes
from trajworld.data.statistics import statistics
from trajworld.errors import TrajWorldError
from trajworld.evaluation.one_step import Prediction, PredictionErrors, Predictor, errors_of

Array = NDArray[np.float64]

_PENALTIES = tuple(10.0**power for power in range(-9, 2))
_WINDOWS = 50_000
_AT_ONCE = 4096


def ridge_errors(
    dataset: Dataset, fitted: Dataset, window: int, **choice: Any
) -> tuple[PredictionErrors, ...]:
    """One-step errors on ``dataset`` of ridge regressions on the last row, and on ``window`` - 1 rows, of ``fitted``.

    Raises:
        TrajWorldError: The two datasets have other sizes, or only one has rewards.
    """
    facts = [(one.observation_size, one.action_size, one.reward) for one in (dataset, fitted)]
    if facts[0] != facts[1]:
        raise TrajWorldError(
            f"{fitted.name} and {dataset.name} differ in their observations, actions or rewards"
        )
    choice["batch_size"] = _AT_ONCE
    return tuple(
        errors_of(
            fitted_ridge(fitted, window, rows),
            dataset,
            predictor="ridge on the last row" if rows == 1 else f"ridge of {rows} rows",
            window=window,
            **choice,
        )
        for rows in sorted({1, window - 1})
    )


@functools.lru_cache(maxsize=2)
def fitted_ridge(dataset: Dataset, window: int, rows: int) -> Predictor:
    """A predictor of windows of ``window`` rows from their ``rows`` rows before the last, fitted on a dataset.

    The last two are kept: several datasets are measured by the same.
    """
    found, predicted = statistics(dataset), dataset.num_predicted
    scale = np.where(found.std > 0, found.std, 1.0)

    def features(values: NDArray[np.float32], time_mask: NDArray[np.float32]) -> Array:
        first = np.argmax(time_mask > 0, axis=1)[:, None]
        places = np.maximum(np.arange(window - 1 - rows, window - 1), np.minimum(first, window - 2))
        known = np.take_along_axis(values, places[..., None], axis=1)
        scaled = ((known - found.mean) / scale).reshape(len(values), -1)
        return np.concatenate([scaled, np.ones((len(values), 1))], axis=1)

    def change(values: NDArray[np.float32]) -> Array:
        return (values[:, -1, :predicted].astype(np.float64) - values[:, -2, :predicted]) / scale[:predicted]

    episodes = dataset.num_episodes
    fit, held = split_episodes(episodes, 0.2, 0) if episodes > 1 else (None, None)
    size = rows * dataset.num_variates + 1
    gram, moments, count = np.zeros((size, size)), np.zeros((size, predicted)), 0
    for values, mask in windows_in_order(dataset, fit, _AT_ONCE, window, _WINDOWS):
        inputs = features(values, mask)
        gram, moments = gram + inputs.T @ inputs, moments + inputs.T @ change(values)
        count += len(values)
    eye = np.eye(size)
    eye[-1, -1] = 0  # The constant is not shrunk.
    every = np.stack([np.linalg.lstsq(gram + p * count * eye, moments)[0] for p in _PENALTIES])
    errors = np.zeros((len(_PENALTIES), predicted))
    for values, mask in windows_in_order(dataset, held, _AT_ONCE, window, _WINDOWS):
        errors += np.abs(features(values, mask) @ every - change(values)).sum(axis=1)
    chosen = every[errors.argmin(axis=0), :, np.arange(predicted)].T

    def predict(values: NDArray[np.float32], time_mask: NDArray[np.float32]) -> Prediction:
        changes = features(values, time_mask) @ chosen * scale[:predicted]
        return Prediction(values[:, -2, :predicted] + changes)

    return predict
