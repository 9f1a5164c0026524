"""One-step prediction errors against direct loops over windows, and properties of the metric."""

import dataclasses
from collections.abc import Callable

import keras
import numpy as np
import pytest
from data_fixtures import own_support
from hypothesis import given, settings
from hypothesis import strategies as st

from trajworld.data.batch import Variates
from trajworld.data.dataset import Dataset
from trajworld.data.statistics import value_range
from trajworld.errors import TrajWorldError, UsageError
from trajworld.evaluation.one_step import Prediction, copy_last_row_errors, errors_of, prediction_errors
from trajworld.evaluation.ranges import support_for
from trajworld.models.identity import Identity
from trajworld.models.ranges import Support
from trajworld.models.sizes import TrajWorldSizes
from trajworld.models.trajworld import TrajWorld

SIZES = TrajWorldSizes(blocks=1, width=16, heads=2, variates=10)


@pytest.fixture(scope="module")
def model() -> TrajWorld:
    keras.utils.set_random_seed(0)
    return TrajWorld(SIZES)


@pytest.fixture
def dataset(memory_dataset: Callable[..., Dataset]) -> Dataset:
    return memory_dataset([1, 30, 4, 22])


def every_window(dataset: Dataset, length: int = 20) -> list[tuple[np.ndarray, np.ndarray]]:
    """The rows before each window's last and that last row, by walking the episodes."""
    found = []
    for start, stop in zip(dataset.episode_offsets[:-1], dataset.episode_offsets[1:], strict=True):
        for last in range(start + 1, stop):
            found.append((dataset.rows[max(start, last - length + 1) : last], dataset.rows[last]))
    return found


def real_std(dataset: Dataset) -> np.ndarray:
    """Population deviation of the predicted variates, an episode's first reward left out."""
    first = dataset.episode_offsets[:-1]
    size = dataset.observation_size
    rewards = np.delete(dataset.rows[:, size], first)
    return np.array([*dataset.rows[:, :size].std(axis=0, dtype=float), rewards.std(dtype=float)])


def test_model_errors_equal_a_loop_over_windows(model: TrajWorld, dataset: Dataset) -> None:
    support = own_support(dataset)
    variates = Variates(dataset.is_action, support.lower, support.upper)
    errors, entropies = [], []
    for history, target in every_window(dataset):
        padded = np.zeros((1, 19, 6), np.float32)
        padded[0, 19 - len(history) :] = history
        mask = (np.arange(19) >= 19 - len(history)).astype(np.float32)[None]
        logits = keras.ops.convert_to_numpy(model(padded, mask, variates)).astype(float)[0, -1, :4]
        probabilities = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
        low, high = support.lower[:4].astype(float), support.upper[:4].astype(float)
        centres = low[:, None] + (np.arange(256) + 0.5) / 256 * (high - low)[:, None]
        errors.append((probabilities * centres).sum(axis=-1) - target[:4])
        where = np.clip(np.floor((target[:4] - low) / (high - low) * 256), 0, 255).astype(int)
        entropies.append(-np.log(probabilities[np.arange(4), where]))
    error, entropy = np.array(errors), np.array(entropies)

    found = prediction_errors(model, dataset, support=support, batch_size=10)

    std = real_std(dataset)
    assert found.windows == len(error) == 57
    names = ["observation 0", "observation 1", "observation 2", "reward"]
    assert list(found.table) == [*names, "observations", "all"]
    for metric, direct in (
        ("mae", np.abs(error)),
        ("mse", error**2),
        ("normalised_mae", np.abs(error) / std),
        ("normalised_mse", (error / std) ** 2),
        ("nll", entropy),
    ):
        expected = [*direct.mean(axis=0), direct[:, :3].mean(), direct.mean()]
        assert [row[metric] for row in found.table.values()] == pytest.approx(expected, rel=1e-4)
    assert [found.table[name]["std"] for name in names] == pytest.approx(std)


@pytest.mark.once
@settings(max_examples=25)
@given(
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=4),
    batch_size=st.integers(1, 40),
    offset=st.floats(-3, 3, width=32),
)
def test_a_prediction_off_by_a_constant_errs_by_that_constant(
    memory_dataset: Callable[..., Dataset], lengths: list[int], batch_size: int, offset: float
) -> None:
    dataset = memory_dataset([*lengths, 2])

    def predict(values: np.ndarray, mask: np.ndarray) -> Prediction:
        return Prediction(values[:, -1, :4].astype(float) + offset)

    found = errors_of(predict, dataset, predictor="all-knowing", batch_size=batch_size)
    assert found.windows == sum(lengths) + 2
    scaled = (abs(offset) / real_std(dataset)).mean()
    assert found.table["all"]["mae"] == pytest.approx(abs(offset), abs=1e-12)
    assert found.table["observations"]["mse"] == pytest.approx(offset**2, abs=1e-12)
    assert found.table["all"]["normalised_mae"] == pytest.approx(scaled, abs=1e-9)


@pytest.mark.once
@settings(max_examples=15)
@given(batch_size=st.integers(1, 70), limit=st.integers(1, 80), seed=st.integers(0, 5))
def test_batch_size_changes_nothing_and_a_draw_depends_on_its_seed_alone(
    memory_dataset: Callable[..., Dataset], batch_size: int, limit: int, seed: int
) -> None:
    dataset = memory_dataset([12, 40, 3])
    found = copy_last_row_errors(dataset, limit=limit, seed=seed, batch_size=batch_size)
    again = copy_last_row_errors(dataset, limit=limit, seed=seed)
    assert found.windows == again.windows == min(limit, 55)
    assert found.table["all"]["mse"] == pytest.approx(again.table["all"]["mse"])


@pytest.mark.once
def test_copying_the_last_row_equals_a_loop_and_still_variates_are_left_out(dataset: Dataset) -> None:
    dataset.rows[:, 1] = 7.25
    found = copy_last_row_errors(dataset, batch_size=7)
    error = np.array([abs(past[-1, :4].astype(float) - last[:4]) for past, last in every_window(dataset)])
    assert (found.windows, found.still) == (57, ("observation 1",))
    assert found.table["all"]["nll"] is found.table["reward"]["nll"] is found.as_json()["nll"] is None
    assert found.table["all"]["mae"] == pytest.approx(error.mean())
    assert found.table["observations"]["mse"] == pytest.approx((error[:, :3] ** 2).mean())
    scaled = np.delete(error, 1, 1) / np.delete(real_std(dataset), 1)
    assert found.table["observation 1"]["normalised_mae"] is None
    assert found.table["all"]["normalised_mae"] == pytest.approx(scaled.mean())
    assert found.table["observations"]["normalised_mae"] == pytest.approx(scaled[:, :2].mean())
    dataset.rows[:, :3] = -1e4
    found = copy_last_row_errors(dataset)
    assert found.table["observations"]["normalised_mae"] is None
    assert found.table["all"]["normalised_mae"] == found.table["reward"]["normalised_mae"] is not None


def test_broken_weights_and_bad_numbers_end_in_one_line(dataset: Dataset) -> None:
    broken, support = TrajWorld(SIZES), own_support(dataset)
    broken.head.bias.assign(np.full(256, np.nan, np.float32))
    with pytest.raises(TrajWorldError, match="NaN or infinite"):
        prediction_errors(broken, dataset, support=support)
    with pytest.raises(UsageError, match="at least 1 window"):
        copy_last_row_errors(dataset, limit=0)
    with pytest.raises(TrajWorldError, match="does not fit the 6 variates"):
        prediction_errors(broken, dataset, support=Support(np.zeros(3, np.float32), np.ones(3, np.float32)))


@pytest.mark.once
def test_a_model_of_one_environment_uses_its_own_ranges(memory_dataset: Callable[..., Dataset]) -> None:
    train, test = memory_dataset([40]), memory_dataset([25], seed=1)
    identity = Identity(own_support(train), "gymnasium/Made-Up", 3, 2)
    found = support_for(TrajWorld(SIZES, identity), test, ranges_from=test)
    assert found.origin == "the model's own"
    np.testing.assert_array_equal(found.support.lower, own_support(train).lower)
    with pytest.raises(TrajWorldError, match="3 observation and 2 action"):
        support_for(TrajWorld(SIZES, identity), memory_dataset([9], observations=4, actions=1))
    with pytest.raises(TrajWorldError, match="more than the 10"):
        support_for(TrajWorld(SIZES), memory_dataset([9], observations=12))


@pytest.mark.once
def test_a_pretrained_model_reads_unseen_data_over_their_range_or_that_of_given_data(
    memory_dataset: Callable[..., Dataset],
) -> None:
    test, other = memory_dataset([25]), dataclasses.replace(memory_dataset([9], seed=1), name="other")
    for chosen, origin, known in ((None, "of memory", test), (other, "of other", other)):
        found = support_for(TrajWorld(SIZES), test, ranges_from=chosen)
        assert found.origin == origin
        for end, expected in zip((found.support.lower, found.support.upper), value_range(known), strict=True):
            np.testing.assert_array_equal(end, expected)
    with pytest.raises(TrajWorldError, match="do not fit memory"):
        support_for(TrajWorld(SIZES), test, ranges_from=memory_dataset([9], observations=4))
