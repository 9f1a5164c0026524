"""Batches: of one source each, in the weights' proportions, and pure functions of (seed, step)."""

import itertools
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trajworld.data.batch import Batch
from trajworld.data.dataset import Dataset
from trajworld.data.mixture import Mixture, Source, windows_in_order
from trajworld.data.padding import padded_sizes
from trajworld.data.statistics import value_range
from trajworld.data.store import open_store
from trajworld.data.windows import WindowIndex, gather_windows
from trajworld.errors import UsageError

StoreMaker = Callable[..., Dataset]


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
def three(memory_dataset: StoreMaker) -> list[Source]:
    """Sources of 6, 4 and 11 variates, with weights 3, 2 and 1."""
    sizes = ((3, 2), (2, 1), (7, 3))
    datasets = [memory_dataset([30, 4, 9, 1], o, a, seed=i) for i, (o, a) in enumerate(sizes)]
    return [source(d, weight=w) for d, w in zip(datasets, (3.0, 2.0, 1.0), strict=True)]


def test_batches_are_pure_functions_of_seed_and_step(three: list[Source]) -> None:
    mixture, again = (Mixture(three, 5, seed=4) for _ in range(2))
    steps = [0, 1, 2, 17, 10**6, 10**12]
    first = [mixture.batch(step) for step in steps]
    assert all(
        same(batch, again.batch(step)) for batch, step in reversed(list(zip(first, steps, strict=True)))
    )
    other = Mixture(three, 5, seed=5)
    assert not any(same(batch, other.batch(step)) for batch, step in zip(first, steps, strict=True))
    assert not any(same(a, b) for a, b in itertools.combinations(first, 2))


def test_iterating_gives_the_batches_of_the_steps(three: list[Source]) -> None:
    mixture = Mixture(three, 5, seed=4)
    whole = list(mixture.iterate(0, 40))
    assert len(whole) == 40
    assert all(same(batch, mixture.batch(step)) for step, batch in enumerate(whole))
    # A resumed run starts in the middle and sees exactly the rest.
    resumed = list(Mixture(three, 5, seed=4).iterate(23, 40))
    assert len(resumed) == 17
    assert all(same(a, b) for a, b in zip(resumed, whole[23:], strict=True))
    assert list(mixture.iterate(7, 7)) == []


def test_leaving_an_iteration_stops_its_threads(three: list[Source]) -> None:
    before = threading.active_count()
    iterator = Mixture(three, 5).iterate(10**9, 10**9 + 10**6)
    next(iterator)
    iterator.close()
    deadline = time.monotonic() + 30
    while threading.active_count() > before:
        assert time.monotonic() < deadline, threading.enumerate()
        time.sleep(0.01)


def test_sources_come_in_the_weights_proportions(three: list[Source]) -> None:
    mixture = Mixture(three, 1)
    order = [mixture.source_of(step) for step in range(6000)]
    assert np.bincount(order).tolist() == [3000, 2000, 1000]
    # Evenly interleaved: no long run without a source.
    assert all(set(order[i : i + 12]) == {0, 1, 2} for i in range(0, 6000, 12))
    assert [mixture.batch(step).dataset for step in range(30)] == order[:30]


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
    mixture = Mixture(three, 4, sizes=[11, 6])
    assert mixture.sizes == (6, 11)
    seen = {}
    for step in range(12):
        batch = mixture.batch(step)
        seen[batch.dataset] = batch
    for number, (batch, size) in enumerate(zip((seen[0], seen[1], seen[2]), (6, 6, 11), strict=True)):
        dataset, variates = three[number].dataset, three[number].dataset.num_variates
        assert batch.values.shape == (4, 20, size)
        assert batch.variates.mask.tolist() == [1] * variates + [0] * (size - variates)
        assert batch.variates.is_action.tolist() == [*dataset.is_action, *[0] * (size - variates)]
        assert batch.variates.lower.tolist() == [*three[number].lower, *[0] * (size - variates)]
        assert batch.variates.upper.tolist() == [*three[number].upper, *[1] * (size - variates)]
        assert (batch.variates.lower.dtype, batch.variates.upper.dtype) == (np.float32, np.float32)
        assert (batch.variates.mask.dtype, batch.variates.is_action.dtype) == (np.float32, np.int32)


def drawn_ends(given: Source, count: int) -> np.ndarray:
    numbers = np.random.default_rng(0).integers(0, 2**64, size=(2, count), dtype=np.uint64)
    ends, first = given.draw(numbers)
    offsets = given.dataset.episode_offsets
    np.testing.assert_array_equal(first, offsets[np.searchsorted(offsets, ends, side="right") - 1])
    return ends


def test_windows_or_episodes_are_drawn_uniformly(memory_dataset: StoreMaker) -> None:
    dataset = memory_dataset([100, 1, 9])
    episode_of = (
        np.searchsorted(dataset.episode_offsets, drawn_ends(source(dataset), 40_000), side="right") - 1
    )
    np.testing.assert_allclose(np.bincount(episode_of) / 40_000, np.array([100, 1, 9]) / 110, atol=0.01)
    ends = drawn_ends(source(dataset, sampling="episode"), 40_000)
    episode_of = np.searchsorted(dataset.episode_offsets, ends, side="right") - 1
    np.testing.assert_allclose(np.bincount(episode_of) / 40_000, np.full(3, 1 / 3), atol=0.01)
    within = np.bincount((ends - dataset.episode_offsets[2])[episode_of == 2])
    assert len(within) == 10
    assert within[0] == 0
    np.testing.assert_allclose(within[1:] / within.sum(), np.full(9, 1 / 9), atol=0.015)
    chosen = drawn_ends(source(dataset, episodes=np.array([2])), 1000)
    assert set(chosen) == set(range(dataset.episode_offsets[2] + 1, dataset.episode_offsets[3]))


@settings(max_examples=80, deadline=None)
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


def test_impossible_mixtures_are_refused(three: list[Source]) -> None:
    one = three[0]
    low, high = one.lower, one.upper

    def changed(**fields: object) -> list[Source]:
        return [Source(**{**{k: v for k, v in vars(one).items() if k != "index"}, **fields})]

    for sources, options, message in (
        ([], {}, "at least one dataset"),
        ([one], {"batch_size": 0}, "at least 1"),
        ([one], {"window": 0}, "at least 1"),
        ([one], {"seed": -1}, "not negative"),
        ([one], {"sizes": [5]}, "6 variates"),
        ([one], {"sizes": []}, "6 variates"),
        (changed(weight=0.0), {}, "weight"),
        (changed(weight=float("nan")), {}, "weight"),
        (changed(sampling="rows"), {}, "sampling"),
        (changed(lower=low[:3]), {}, "supports of shape"),
        (changed(lower=high, upper=low), {}, "support is empty"),
        (changed(lower=low * np.nan), {}, "support is empty"),
        (changed(episodes=np.array([9])), {}, "episodes 0 to 3"),
        (changed(episodes=np.zeros(0, np.int64)), {}, "no episode"),
    ):
        with pytest.raises(UsageError, match=message):
            Mixture(sources, **{"batch_size": 4, **options})
    for start, stop in ((3, 2), (-1, 2)):
        with pytest.raises(UsageError, match="no range"):
            list(Mixture([one], 2).iterate(start, stop))


@pytest.mark.parametrize("episodes", [None, [2, 0]])
@pytest.mark.parametrize("views", [False, True])
def test_windows_in_order_are_all_windows(
    memory_dataset: StoreMaker, episodes: list[int] | None, views: bool
) -> None:
    dataset = memory_dataset([30, 4, 9])
    batches = list(windows_in_order(dataset, episodes, 8, 5, views=views))
    assert any(np.shares_memory(v, dataset.rows) for v, _ in batches) == views
    assert all(v.flags.writeable != np.shares_memory(v, dataset.rows) for v, _ in batches)
    assert {len(values) for values, _ in batches[:-1]} == {8}
    values, mask = all_windows(dataset, episodes)
    np.testing.assert_array_equal(np.concatenate([v for v, _ in batches]), values)
    np.testing.assert_array_equal(np.concatenate([m for _, m in batches]), mask)


def test_a_limit_chooses_a_fixed_part_of_the_windows(memory_dataset: StoreMaker) -> None:
    dataset = memory_dataset([30, 4, 9])
    every = [v.tobytes() for v in all_windows(dataset)[0]]

    def chosen(limit: int, seed: int) -> list[int]:
        batches = windows_in_order(dataset, None, 8, 5, limit=limit, seed=seed)
        return [every.index(v.tobytes()) for values, _ in batches for v in values]

    first = chosen(11, 0)
    assert len(first) == len(set(first)) == 11
    assert first == sorted(first) == chosen(11, 0) != chosen(11, 1)
    assert chosen(1000, 0) == list(range(43))
    with pytest.raises(UsageError):
        list(windows_in_order(dataset, None, 0))


def test_a_batch_is_the_same_in_another_process(make_store: StoreMaker) -> None:
    dataset = make_store([30, 5])
    here = Mixture([source(open_store(dataset.path))], 3, seed=9).batch(5)
    program = f"""
import zlib
from trajworld.data.mixture import Mixture, Source
from trajworld.data.statistics import value_range
from trajworld.data.store import open_store
dataset = open_store({str(dataset.path)!r})
low, high = value_range(dataset)
batch = Mixture([Source(dataset, low - 1e-5, high + 1e-5)], 3, seed=9).batch(5)
print(zlib.crc32(batch.values.tobytes()))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert int(done.stdout) == zlib.crc32(here.values.tobytes())
