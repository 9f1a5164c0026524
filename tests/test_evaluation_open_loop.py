"""Error growth of open-loop rollouts: the rows they start from, what they follow, and the averages."""

from collections.abc import Callable

import keras
import numpy as np
import pytest
from data_fixtures import own_support
from hypothesis import given, settings
from hypothesis import strategies as st

from trajworld.data.batch import Variates
from trajworld.data.dataset import Dataset
from trajworld.data.statistics import statistics
from trajworld.errors import TrajWorldError
from trajworld.evaluation.open_loop import Foresight, fitting_horizon, open_loop_errors
from trajworld.models.rollout import GivenActions, compile_rollout
from trajworld.models.sizes import TrajWorldSizes
from trajworld.models.trajworld import TrajWorld


@pytest.fixture(scope="module")
def model() -> TrajWorld:
    keras.utils.set_random_seed(0)
    return TrajWorld(TrajWorldSizes(blocks=1, width=16, heads=2, variates=10))


@settings(max_examples=60)
@given(lengths=st.lists(st.integers(1, 40), min_size=1, max_size=6), horizon=st.integers(1, 60))
def test_the_horizon_is_the_longest_that_a_tenth_of_the_transitions_can_start(
    memory_dataset: Callable[..., Dataset], lengths: list[int], horizon: int
) -> None:
    def starts(steps: int) -> int:
        return sum(1 for length in lengths for row in range(length) if row + steps <= length)

    fitting = [steps for steps in range(1, horizon + 1) if starts(steps) >= sum(lengths) / 10]
    assert fitting_horizon(memory_dataset(lengths), horizon) == max(fitting)


@pytest.mark.once
def test_rollouts_follow_the_real_actions_and_histories(
    model: TrajWorld, memory_dataset: Callable[..., Dataset]
) -> None:
    dataset = memory_dataset([20, 6, 15])
    support = own_support(dataset)
    starts = np.array([0, 12, 24, 33])
    found = Foresight(model, dataset, support, horizon=5, batch_size=3)(starts)
    variates = Variates(dataset.is_action, support.lower, support.upper)
    run = compile_rollout(model, 3)
    for number, (start, first, stop) in enumerate([(0, 0, 21), (12, 0, 21), (24, 21, 28), (33, 28, 44)]):
        history = dataset.rows[max(first, start - 9) : start + 1][None]
        count = min(5, stop - 1 - start)
        actions = dataset.rows[start : start + count, 4:][None]
        expected = run(history, np.ones(history.shape[:2], np.float32), variates, GivenActions(actions))
        observations, rewards, std = (array[0] for array in expected[:3])
        np.testing.assert_allclose(found.mean[number, :count, :3], observations, atol=1e-3)
        np.testing.assert_allclose(found.mean[number, :count, 3], rewards, atol=1e-3)
        np.testing.assert_allclose(found.std[number, :count, :3], std, atol=1e-3)
        np.testing.assert_array_equal(
            found.real[number, :count], dataset.rows[start + 1 : start + 1 + count, :4]
        )
        assert found.present[number].tolist() == [True] * count + [False] * (5 - count)


def test_errors_are_means_over_whole_rollouts(
    model: TrajWorld, memory_dataset: Callable[..., Dataset]
) -> None:
    dataset = memory_dataset([20, 6, 15])
    foresight = Foresight(model, dataset, own_support(dataset), horizon=8, batch_size=32)
    # Rows with eight rows after them in their episode: 0 to 12, and 28 to 35.
    starts = np.concatenate([np.arange(13), np.arange(28, 36)])
    found = open_loop_errors(foresight, starts=1000)
    assert (found.starts, found.horizon, found.ranges) == (21, 8, "given")
    foreseen, std = foresight(starts), statistics(dataset).std[:4]
    real = np.stack([dataset.rows[start + 1 : start + 9, :4] for start in starts])
    error = (np.abs(foreseen.mean - real) / std).mean(axis=2)
    held = (np.abs(dataset.rows[starts, None, :4] - real) / std).mean(axis=2)
    np.testing.assert_allclose(found.mae, error.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(found.held_row, held.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(found.upper_quartile, np.quantile(error, 0.75, axis=0), rtol=1e-5)
    fewer = open_loop_errors(foresight, starts=5, seed=3)
    assert fewer.starts == 5
    assert fewer == open_loop_errors(foresight, starts=5, seed=3)


def test_what_does_not_fit_is_refused(model: TrajWorld, memory_dataset: Callable[..., Dataset]) -> None:
    dataset = memory_dataset([20])
    support = own_support(dataset)
    with pytest.raises(TrajWorldError, match="does not fit"):
        Foresight(model, memory_dataset([20], observations=4), support)
    broken = TrajWorld(model.sizes)
    broken.head.bias.assign(np.full(256, np.nan, np.float32))
    with pytest.raises(TrajWorldError, match="NaN or infinite"):
        open_loop_errors(Foresight(broken, dataset, support, horizon=3))
