"""Linear least squares on many contexts at once, against a loop over windows with NumPy's own solvers."""

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trajworld.data.dataset import Dataset
from trajworld.data.windows import gather_windows
from trajworld.zero_shot.linear import (
    PENALTIES,
    choose_penalties,
    minimum_norm,
    minimum_norm_predictor,
    ridge,
    ridge_predictor,
)
from trajworld.zero_shot.protocol import Trial, set_up


def made_rows(windows: int, context: int, variates: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(size=(windows, context, variates))


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
    rows = made_rows(11, context, 5)
    np.testing.assert_allclose(minimum_norm(rows, 3), loop_minimum_norm(rows, 3), rtol=1e-7, atol=1e-9)
    found = ridge(rows, 3, (1e-3, 0.5))
    for penalty, changes in zip((1e-3, 0.5), found, strict=True):
        np.testing.assert_allclose(changes, loop_ridge(rows, 3, penalty), rtol=1e-6, atol=1e-9)


def test_a_repeated_row_needs_no_care() -> None:
    """Rows that say the same twice leave the fit undetermined: the least norm must still be found."""
    rows = made_rows(4, 8, 3)
    rows[:, 3] = rows[:, 1]
    rows[:, 4] = rows[:, 2]
    rows[..., 2] = 0.5
    np.testing.assert_allclose(minimum_norm(rows, 2), loop_minimum_norm(rows, 2), rtol=1e-6, atol=1e-9)


@settings(max_examples=30, deadline=None)
@given(context=st.integers(6, 19), seed=st.integers(0, 1000))
def test_linear_dynamics_are_learnt_from_enough_rows(context: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    matrix = rng.normal(scale=0.4, size=(4, 3))
    rows = np.zeros((2, context + 1, 4))
    rows[:, 0, :3] = rng.uniform(size=(2, 3))
    rows[..., 3] = rng.uniform(-1, 1, size=(2, context + 1))
    for step in range(context):
        rows[:, step + 1, :3] = rows[:, step] @ matrix + 0.1
    change = rows[:, -1, :3] - rows[:, -2, :3]
    np.testing.assert_allclose(minimum_norm(rows[:, :-1], 3), change, atol=1e-6)
    np.testing.assert_allclose(ridge(rows[:, :-1], 3, (1e-12,))[0], change, atol=1e-4)


@settings(max_examples=30, deadline=None)
@given(context=st.integers(2, 19), seed=st.integers(0, 1000))
def test_a_great_penalty_is_copying(context: int, seed: int) -> None:
    changes = ridge(made_rows(3, context, 6, seed), 4, (1e-3, 1e9))
    assert np.abs(changes[1]).max() < 1e-7 < np.abs(changes[0]).max()


@pytest.fixture
def trial(memory_dataset: Callable[..., Dataset]) -> Trial:
    return set_up(memory_dataset([30, 25, 28, 40]), window=20, windows=12, seed=0)


def test_with_one_row_of_context_there_is_nothing_to_fit(trial: Trial) -> None:
    values, mask = gather_windows(trial.dataset, trial.test.ends, trial.test.first, 20)
    penalties = choose_penalties(values, trial.support, 1, 4)
    for predict in (minimum_norm_predictor(trial, 1), ridge_predictor(trial, 1, penalties)):
        np.testing.assert_array_equal(predict(values, mask).mean, values[:, -2, :4])


@pytest.mark.parametrize("context", [2, 9, 19])
def test_predictors_work_in_the_clipped_ranges_and_see_no_more_than_the_context(
    trial: Trial, context: int
) -> None:
    values, mask = gather_windows(trial.dataset, trial.test.ends, trial.test.first, 20)
    low, high = trial.support.lower.astype(float), trial.support.upper.astype(float)
    scaled = np.clip((values[:, 19 - context : 19] - low) / (high - low), 0, 1)
    penalties = np.array([0, 3, 7, 10])
    changes = [loop_ridge(scaled, 4, PENALTIES[penalty])[:, place] for place, penalty in enumerate(penalties)]
    expected = low[:4] + np.clip(scaled[:, -1, :4] + np.array(changes).T, 0, 1) * (high - low)[:4]
    predict = ridge_predictor(trial, context, penalties)
    np.testing.assert_allclose(predict(values, mask).mean, expected, rtol=1e-5, atol=1e-6)

    expected = low[:4] + np.clip(scaled[:, -1, :4] + loop_minimum_norm(scaled, 4), 0, 1) * (high - low)[:4]
    found = minimum_norm_predictor(trial, context)(values, mask).mean
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)

    changed = values.copy()
    changed[:, : 19 - context] = 7
    changed[:, -1] = -7
    np.testing.assert_array_equal(predict(changed, mask).mean, predict(values, mask).mean)
    np.testing.assert_array_equal(minimum_norm_predictor(trial, context)(changed, mask).mean, found)


def test_each_variate_takes_the_penalty_that_errs_least_on_the_given_windows(trial: Trial) -> None:
    values, _ = gather_windows(trial.dataset, trial.other.ends, trial.other.first, 20)
    low, high = trial.support.lower.astype(float), trial.support.upper.astype(float)
    scaled = np.clip((values[:, 9:] - low) / (high - low), 0, 1)
    errors = [
        np.abs(np.clip(scaled[:, -2, :4] + loop_ridge(scaled[:, :-1], 4, penalty), 0, 1) - scaled[:, -1, :4])
        for penalty in PENALTIES
    ]
    expected = np.mean(errors, axis=1).argmin(axis=0)
    np.testing.assert_array_equal(choose_penalties(values, trial.support, 10, 4), expected)
