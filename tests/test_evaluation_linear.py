"""Linear least squares on many contexts at once, against a loop over windows with NumPy's own solvers."""

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest

from trajworld.data.dataset import Dataset
from trajworld.data.windows import gather_windows
from trajworld.evaluation import linear
from trajworld.evaluation.contexts import Halves, halves_of

pytestmark = pytest.mark.once


def loop_minimum_norm(rows: np.ndarray, predicted: int) -> np.ndarray:
    found = []
    for window in rows:
        inputs = np.array([[*row, 1.0] for row in window[:-1]])
        changes = np.array([after[:predicted] - before[:predicted] for before, after in pairwise(window)])
        coefficients, *_ = np.linalg.lstsq(inputs, changes, rcond=None)
        found.append(np.array([*window[-1], 1.0]) @ coefficients)
    return np.array(found)


def loop_ridge(rows: np.ndarray, predicted: int, penalty: float) -> np.ndarray:
    found = []
    for window in rows:
        inputs = np.array([[*(row - window[-1]), 1.0] for row in window[:-1]])
        changes = window[1:, :predicted] - window[:-1, :predicted]
        gram = inputs.T @ inputs + penalty * np.eye(inputs.shape[1])
        found.append(np.linalg.solve(gram, inputs.T @ changes)[-1])
    return np.array(found)


@pytest.mark.parametrize("context", [2, 3, 6, 7, 12, 19])
def test_both_fits_equal_a_loop_over_windows(context: int) -> None:
    rows = np.random.default_rng(0).uniform(size=(11, context, 5))
    rows[5, -1] = rows[5, 0]  # Rows that say the same twice leave a fit undetermined.
    np.testing.assert_allclose(linear.minimum_norm(rows, 3), loop_minimum_norm(rows, 3), rtol=1e-7, atol=1e-9)
    found = linear.ridge(rows, 3, (1e-3, 0.5))
    for penalty, changes in zip((1e-3, 0.5), found, strict=True):
        np.testing.assert_allclose(changes, loop_ridge(rows, 3, penalty), rtol=1e-6, atol=1e-9)


@pytest.fixture
def halves(memory_dataset: Callable[..., Dataset]) -> Halves:
    return halves_of(memory_dataset([30, 25, 28, 40]), window=20, windows=12, seed=0)


@pytest.mark.parametrize("context", [2, 9, 19])
def test_predictors_work_in_the_clipped_ranges_and_see_no_more_than_the_context(
    halves: Halves, context: int
) -> None:
    values, mask = gather_windows(halves.dataset, halves.tested.ends, halves.tested.first, 20)
    low, high = halves.support.lower.astype(float), halves.support.upper.astype(float)
    scaled = np.clip((values[:, 19 - context : 19] - low) / (high - low), 0, 1)
    penalties = np.array([0, 3, 7, 10])
    by_ridge = [
        loop_ridge(scaled, 4, linear.PENALTIES[penalty])[:, place] for place, penalty in enumerate(penalties)
    ]
    given = (halves.dataset, halves.support, context)
    for predict, changes in (
        (linear.linear_predictor(*given, penalties), np.array(by_ridge).T),
        (linear.linear_predictor(*given), loop_minimum_norm(scaled, 4)),
    ):
        expected = low[:4] + np.clip(scaled[:, -1, :4] + changes, 0, 1) * (high - low)[:4]
        found = predict(values, mask).mean
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
        changed = values.copy()
        changed[:, : 19 - context] = 7
        changed[:, -1] = -7
        np.testing.assert_array_equal(predict(changed, mask).mean, found)


def test_each_variate_takes_the_penalty_that_is_best_on_the_given_windows(halves: Halves) -> None:
    values, _ = gather_windows(halves.dataset, halves.other.ends, halves.other.first, 20)
    low, high = halves.support.lower.astype(float), halves.support.upper.astype(float)
    scaled = np.clip((values[:, 9:] - low) / (high - low), 0, 1)
    errors = [
        np.abs(np.clip(scaled[:, -2, :4] + loop_ridge(scaled[:, :-1], 4, penalty), 0, 1) - scaled[:, -1, :4])
        for penalty in linear.PENALTIES
    ]
    expected = np.mean(errors, axis=1).argmin(axis=0)
    np.testing.assert_array_equal(linear.choose_penalties(values, halves.support, 10, 4), expected)
