"""Windows over one million transitions: opening a store, making batches, and what they cost in memory.

The yardstick is the usual Python loop: walk the transitions, keep a list of the last 20 rows, stack a
copy for each. The ratio to it is printed (``pytest -s``) and kept.
"""

import collections
import gc
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trajworld.benchmarks.measure import keep, seconds_of
from trajworld.data.batch import Batch
from trajworld.data.dataset import Dataset
from trajworld.data.episode import Episode
from trajworld.data.mixture import Mixture, Source, windows_in_order
from trajworld.data.statistics import value_range
from trajworld.data.store import open_store, write_store
from trajworld.data.windows import WindowIndex

SUITE = "windows"
TRANSITIONS, QUICK_TRANSITIONS, EPISODE, OBSERVATIONS, ACTIONS = 1_000_000, 200_000, 1000, 11, 3
BATCH, WINDOW = 64, 20


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, quick: bool) -> Path:
    """A store of a million transitions (fewer in a quick run) of random numbers, in the sizes of a hopper."""
    rng = np.random.default_rng(0)

    def episodes() -> Iterator[Episode]:
        for _ in range((QUICK_TRANSITIONS if quick else TRANSITIONS) // EPISODE):
            yield Episode(
                rng.standard_normal((EPISODE + 1, OBSERVATIONS), np.float32),
                rng.standard_normal((EPISODE, ACTIONS), np.float32),
                rng.standard_normal(EPISODE, np.float32),
            )

    path = tmp_path_factory.mktemp("windows") / "million"
    made = write_store(path, episodes(), name="million", source="", environment="")
    return made.path


@pytest.fixture(scope="module")
def mixture(store: Path) -> Mixture:
    dataset = open_store(store)
    minimum, maximum = value_range(dataset)
    return Mixture([Source(dataset, minimum, maximum)], BATCH, WINDOW)


def loop_batches(dataset: Dataset, batches: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The usual way: walk the transitions, keep a list of the last rows, stack a copy for each."""

    def windows() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for start, end in itertools.pairwise(dataset.episode_offsets):
            history: list[np.ndarray] = []
            for row in np.array(dataset.rows[start:end]):
                history = [*history, row][-WINDOW:]
                if len(history) > 1:
                    missing = WINDOW - len(history)
                    mask = np.array([0.0] * missing + [1.0] * len(history), np.float32)
                    yield np.stack([np.zeros_like(row)] * missing + history), mask

    made = windows()
    for _ in range(batches):
        values, masks = zip(*itertools.islice(made, BATCH), strict=True)
        yield np.stack(values), np.stack(masks)


def loop_seconds_per_window(dataset: Dataset, batches: int = 300) -> float:
    """Of the loop at its best of three."""
    once = lambda: collections.deque(loop_batches(dataset, batches), maxlen=0)  # noqa: E731
    return min(seconds_of(once) for _ in range(3)) / (batches * BATCH)


def record(benchmark: Any, measure: str, windows: int, dataset: Dataset) -> None:
    """Keep the rate, and how many times faster than the loop it is."""
    seconds, loop = benchmark.stats.stats.median, loop_seconds_per_window(dataset)
    rate = windows / seconds
    keep(benchmark, SUITE, measure, per_second=rate, unit="windows", times_the_loop=loop * rate)


def test_opening(benchmark: Any, store: Path) -> None:
    """From a folder's name to the first batch's dataset: description, offsets, memory map, window index."""

    def opened() -> int:
        return len(WindowIndex.of(open_store(store)))

    assert benchmark(opened) in (TRANSITIONS, QUICK_TRANSITIONS)
    keep(benchmark, SUITE, "opening a store")


@pytest.mark.parametrize(("batch_size", "views"), [(64, True), (64, False), (1024, False)])
def test_batches_in_order(benchmark: Any, store: Path, batch_size: int, views: bool) -> None:
    """A pass over the windows in their order, as the loop makes them: as views, and as copies."""
    dataset = open_store(store)
    batches, first = 16384 // batch_size, np.arange(20)

    def some() -> None:
        for _ in itertools.islice(windows_in_order(dataset, first, batch_size, WINDOW, views=views), batches):
            pass

    expected = next(loop_batches(dataset, 1))
    made = next(windows_in_order(dataset, None, BATCH, WINDOW, views=views))
    for found, wanted in zip(made, expected, strict=True):
        np.testing.assert_array_equal(found, wanted)
    benchmark(some)
    measure = f"batches of {batch_size} in order, {'views' if views else 'copies'}"
    record(benchmark, measure, batches * batch_size, dataset)


def test_random_batches(benchmark: Any, mixture: Mixture) -> None:
    """Training batches, drawn at random all over the file, in one thread."""
    steps = iter(range(10**9))
    benchmark.pedantic(lambda: mixture.batch(next(steps)), rounds=2000, warmup_rounds=50)
    record(benchmark, "random batch", BATCH, mixture.sources[0].dataset)


def test_prefetched_batches(benchmark: Any, mixture: Mixture) -> None:
    """Training batches as a run reads them, through Grain's reading threads."""
    batches = mixture.iterate(0, 10**9)

    def some() -> None:
        # Many at once: a batch that was waiting in the buffer takes no time.
        for _ in range(200):
            next(batches)

    benchmark.pedantic(some, rounds=20, warmup_rounds=1)
    batches.close()  # type: ignore[attr-defined]
    record(benchmark, "200 prefetched batches", 200 * BATCH, mixture.sources[0].dataset)


def anonymous_bytes() -> int:
    """The process's anonymous resident memory, which the memory map is no part of."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/self/status")
def test_memory(benchmark: Any, mixture: Mixture) -> None:
    """How much anonymous resident memory grows while batches are read from all over the file."""
    batches = mixture.iterate(0, 10**9)
    batch = next(batches)
    assert isinstance(batch, Batch)
    gc.collect()
    before, most = anonymous_bytes(), 0

    def read() -> None:
        nonlocal most
        for _ in range(2000):
            next(batches)
        most = max(most, anonymous_bytes())

    benchmark.pedantic(read, rounds=3)
    batches.close()  # type: ignore[attr-defined]
    rows = mixture.sources[0].dataset.rows
    keep(benchmark, SUITE, "memory of 2000 batches", memory=most - before, dataset_bytes=rows.nbytes)
