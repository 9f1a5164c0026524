"""Batches: of one source each, in the weights' proportions, pure functions of (seed, step); their augmentation."""

import itertools
import threading

import numpy as np
import pytest
from data_fixtures import DatasetMaker
from hypothesis import given, settings
from hypothesis import strategies as st
from waiting import wait_for

from trajworld.data.augmentation import augmented
from trajworld.data.batch import Batch, Variates
from trajworld.data.dataset import Dataset
from trajworld.data.mixture import Mixture, Source, padded_sizes, windows_in_order
from trajworld.data.statistics import value_range
from trajworld.data.windows import WindowIndex, gather_windows

pytestmark = pytest.mark.once


def source(dataset: Dataset, **options: object) -> Source:
    minimum, maximum = value_range(dataset)
    return Source(dataset, minimum - 1e-5, maximum + 1e-5, **options)


def all_windows(
    dataset: Dataset, episodes: list[int] | None = None, length: int = 5
) -> tuple[np.ndarray, np.ndarray]:
    index = WindowIndex.of(dataset, episodes)
    return gather_windows(dataset, *index.locate(np.arange(len(index))), length)


def same(left: Batch, right: Batch) -> bool:
    arrays = ([*batch[:2], *batch.variates, batch.dataset] for batch in (left, right))
    return all(np.array_equal(one, other) for one, other in zip(*arrays, strict=True))


@pytest.fixture
def three(memory_dataset: DatasetMaker) -> list[Source]:
    """Sources of 6, 4 and 11 variates, with weights 3, 2 and 1."""
    sizes = ((3, 2), (2, 1), (7, 3))
    datasets = [memory_dataset([30, 4, 9, 1], o, a, seed=i) for i, (o, a) in enumerate(sizes)]
    return [source(d, weight=w) for d, w in zip(datasets, (3.0, 2.0, 1.0), strict=True)]


def test_batches_are_pure_functions_of_seed_and_step(three: list[Source]) -> None:
    mixture, again, other = (Mixture(three, 5, seed=seed) for seed in (4, 4, 5))
    first = {step: mixture.batch(step) for step in (0, 1, 2, 17, 10**6, 10**12)}
    assert all(same(batch, again.batch(step)) for step, batch in reversed(first.items()))
    assert not any(same(batch, other.batch(step)) for step, batch in first.items())
    assert not any(same(a, b) for a, b in itertools.combinations(first.values(), 2))
    whole = list(mixture.iterate(0, 40))
    assert len(whole) == 40
    assert all(same(batch, mixture.batch(step)) for step, batch in enumerate(whole))
    # A resumed run starts in the middle and sees exactly the rest.
    resumed = list(again.iterate(23, 40))
    assert len(resumed) == 17
    assert all(same(a, b) for a, b in zip(resumed, whole[23:], strict=True))
    assert list(mixture.iterate(7, 7)) == []


def test_leaving_an_iteration_stops_its_threads(three: list[Source]) -> None:
    before = set(threading.enumerate())
    iterator = Mixture(three, 5).iterate(10**9, 10**9 + 10**6)
    next(iterator)
    started = set(threading.enumerate()) - before
    assert started
    iterator.close()
    wait_for(lambda: started.isdisjoint(threading.enumerate()))


def test_sources_come_in_the_weights_proportions(three: list[Source]) -> None:
    mixture = Mixture(three, 1)
    order = [mixture.batch(step).dataset for step in range(6000)]
    assert np.bincount(order).tolist() == [3000, 2000, 1000]
    # Evenly interleaved: no long run without a source.
    assert all(set(order[i : i + 12]) == {0, 1, 2} for i in range(0, 6000, 12))


def test_every_window_of_a_batch_is_one_of_its_dataset(three: list[Source]) -> None:
    mixture = Mixture(three, 8, window=6, seed=1)
    for step in range(30):
        batch = mixture.batch(step)
        dataset = three[batch.dataset].dataset
        values, mask = all_windows(dataset, length=6)
        known = {(v.tobytes(), m.tobytes()) for v, m in zip(values, mask, strict=True)}
        variates = dataset.num_variates
        assert batch.values.dtype == batch.time_mask.dtype == np.float32
        for window, window_mask in zip(batch.values, batch.time_mask, strict=True):
            assert (np.ascontiguousarray(window[:, :variates]).tobytes(), window_mask.tobytes()) in known
        assert not batch.values[:, :, variates:].any()


def test_padding_is_marked(three: list[Source]) -> None:
    mixture = Mixture(three, 4, most_sizes=2)
    assert mixture.sizes == [6, 11]
    seen = {batch.dataset: batch for batch in mixture.iterate(0, 12)}
    for number, size in enumerate((6, 6, 11)):
        given_source, found = three[number], seen[number].variates
        added = size - given_source.dataset.num_variates
        assert seen[number].values.shape == (4, 20, size)
        assert found.mask.tolist() == [1] * (size - added) + [0] * added
        assert found.is_action.tolist() == [*given_source.dataset.is_action, *[0] * added]
        assert found.lower.tolist() == [*given_source.lower, *[0] * added]
        assert found.upper.tolist() == [*given_source.upper, *[1] * added]
        assert (found.lower.dtype, found.upper.dtype, found.mask.dtype) == (np.float32,) * 3
        assert found.is_action.dtype == np.int32


@pytest.mark.parametrize(
    ("options", "shares"),
    [
        ({}, [100 / 110, 1 / 110, 9 / 110]),
        ({"sampling": "episode"}, [1 / 3] * 3),
        ({"episodes": np.array([2])}, [0, 0, 1]),
    ],
)
def test_windows_or_episodes_are_drawn_uniformly(
    memory_dataset: DatasetMaker, options: dict[str, object], shares: list[float]
) -> None:
    dataset = memory_dataset([100, 1, 9])
    numbers = np.random.default_rng(0).integers(0, 2**64, size=(2, 40_000), dtype=np.uint64)
    ends, first = source(dataset, **options).draw(numbers)
    episode = np.searchsorted(dataset.episode_offsets, ends, side="right") - 1
    np.testing.assert_array_equal(first, dataset.episode_offsets[episode])
    np.testing.assert_allclose(np.bincount(episode) / len(ends), shares, atol=0.01)
    within = np.bincount((ends - first)[episode == 2])
    np.testing.assert_allclose(within / within.sum(), [0, *[1 / 9] * 9], atol=0.02)


@settings(max_examples=80)
@given(sizes=st.lists(st.integers(1, 40), min_size=1, max_size=7), most=st.integers(1, 4), data=st.data())
def test_padded_sizes_cost_the_least(sizes: list[int], most: int, data: st.DataObject) -> None:
    weights = data.draw(st.lists(st.integers(1, 9), min_size=len(sizes), max_size=len(sizes)))

    def cost(chosen: tuple[int, ...]) -> int:
        return sum(
            w * (min(c for c in chosen if c >= size) - size) for size, w in zip(sizes, weights, strict=True)
        )

    distinct, largest = sorted(set(sizes)), max(sizes)
    every = (
        (*some, largest)
        for n in range(min(most, len(distinct)))
        for some in itertools.combinations(distinct, n)
    )
    found = padded_sizes(sizes, most, weights)
    assert found == sorted(set(found))
    assert len(found) <= most
    assert largest in found
    assert cost(tuple(found)) == min(cost(chosen) for chosen in every)


def test_windows_in_order_are_all_windows_or_a_fixed_choice(memory_dataset: DatasetMaker) -> None:
    dataset = memory_dataset([30, 4, 9])

    def windows(*arguments: int, episodes: list[int] | None = None) -> list[bytes]:
        batches = list(windows_in_order(dataset, episodes, 8, 5, *arguments))
        assert {len(values) for values, _ in batches[:-1]} == {8}
        return [v.tobytes() + m.tobytes() for batch in batches for v, m in zip(*batch, strict=True)]

    for episodes in (None, [2, 0]):
        every = [v.tobytes() + m.tobytes() for v, m in zip(*all_windows(dataset, episodes), strict=True)]
        assert windows(episodes=episodes) == windows(1000, 0, episodes=episodes) == every
    every = windows()
    chosen = [every.index(window) for window in windows(11, 0)]
    assert len(chosen) == len(set(chosen)) == 11
    assert chosen == sorted(chosen)
    assert windows(11, 0) == windows(11, 0) != windows(11, 1)


def test_draws_never_change(memory_dataset: DatasetMaker) -> None:
    """The draws of earlier versions: a run that was begun then continues with the same batches."""
    datasets = [memory_dataset([30, 5, 12], seed=seed) for seed in range(2)]
    for dataset in datasets:
        dataset.rows[:, 0] = np.arange(len(dataset.rows))
    sources = [source(datasets[0], weight=2.0), source(datasets[1], sampling="episode")]
    mixture = Mixture(sources, 4, seed=9)
    found = [[batch.dataset, *batch.values[:, -1, 0]] for batch in mixture.iterate(62, 65)]
    assert found == [[1, 42, 1, 44, 36], [0, 48, 12, 33, 11], [0, 28, 34, 26, 6]]


LOWER = np.array([-2, 0, 5, 0], np.float32)
UPPER = np.array([2, 1e-3, 9, 1], np.float32)
VARIATES = Variates(np.zeros(4, np.int32), LOWER, UPPER, np.array([1, 1, 1, 0], np.float32))
# From the lower to the upper ends, and rows beyond them on either side.
VALUES = LOWER + np.linspace(-0.5, 1.5, 9, dtype=np.float32)[:, None] * (UPPER - LOWER)


@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(0, 10**6))
def test_an_augmentation_is_affine_within_the_unit_range(seed: int, step: int) -> None:
    values, variates = augmented(VALUES, VARIATES, 1.0, seed, step)
    np.testing.assert_equal((values, variates), augmented(VALUES, VARIATES, 1.0, seed, step))
    assert values.dtype == variates.lower.dtype == variates.upper.dtype == np.float32
    scaled = (values - variates.lower) / (variates.upper - variates.lower)
    assert scaled.min() > -1e-3
    assert scaled.max() < 1 + 1e-3
    # What was outside the range is clipped to its ends before it is mirrored.
    np.testing.assert_array_equal(values[:2], values[[2, 2]])
    np.testing.assert_array_equal(values[-2:], values[[-3, -3]])
    # Straight lines whose slope says by how much the range was widened: by none to one of its widths.
    slope = np.diff(scaled[2:-2], axis=0) * 4
    np.testing.assert_allclose(slope, np.broadcast_to(slope[:1], slope.shape), atol=2e-3)
    assert np.all((np.abs(slope) <= 1.002) & (np.abs(slope) >= 0.499))
    # Padding stays.
    assert (slope[0, 3], variates.lower[3], variates.upper[3]) == (1, 0, 1)


def test_every_kind_of_augmentation_occurs() -> None:
    changes = [augmented(VALUES, VARIATES, 0.5, 3, step) for step in range(400)]
    drawn = [change for change in changes if change[1] is not VARIATES]
    assert 150 < len(drawn) < 250
    mirrored = np.array([values[-1, :3] < values[0, :3] for values, _ in drawn])
    widths = np.array([(found.upper - found.lower)[:3] for _, found in drawn]) / (UPPER - LOWER)[:3]
    assert abs(mirrored.mean() - 0.5) < 0.1
    assert (np.isclose(widths, 1, atol=1e-3)).any()
    assert widths.max() > 1.7
    assert augmented(VALUES, VARIATES, 0.0, 3, 0)[1] is VARIATES


def test_augmented_batches_are_the_same_windows_changed(three: list[Source]) -> None:
    plain, changed = (Mixture(three, 4, 5, seed=3, most_sizes=1, augment=share) for share in (0, 1))
    for step in range(20):
        one, other = plain.batch(step), changed.batch(step)
        values, variates = augmented(one.values, one.variates, 1, 3, step)
        np.testing.assert_equal(other, (values, one.time_mask, variates, one.dataset))
