"""Windows over one million transitions: opening a store, making batches, and what they cost in memory.

They are compared with the usual Python loop; the ratio to it is printed (``pytest -s``) and kept.
"""

import collections
import gc
import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trajworld.benchmarks.measure import keep, seconds_of
from trajworld.data.dataset import Dataset
from trajworld.data.episode import Episode
from trajworld.data.mixture import Mixture, Source, windows_in_order
from trajworld.data.statistics import value_range
from trajworld.data.store import open_store, write_store
from trajworld.data.windows import WindowIndex

EPISODE, BATCH, WINDOW = 1000, 64, 20


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory, quick: bool) -> Dataset:
    """A store of a million transitions (fewer in a quick run) of random numbers, in the sizes of a hopper."""
    draw, kind = np.random.default_rng(0).standard_normal, np.float32
    episodes = (
        Episode(draw((EPISODE + 1, 11), kind), draw((EPISODE, 3), kind), draw(EPISODE, kind))
        for _ in range(200 if quick else 1000)
    )
    path = tmp_path_factory.mktemp("windows") / "million"
    return write_store(path, episodes, name="million", source="", environment="")


@pytest.fixture(scope="module")
def mixture(dataset: Dataset) -> Mixture:
    return Mixture([Source(dataset, *value_range(dataset))], BATCH, WINDOW)


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


def record(benchmark: Any, measure: str, windows: int, dataset: Dataset) -> None:
    """Keep the rate, and how many times faster than the loop, at its best of three, it is."""
    once = lambda: collections.deque(loop_batches(dataset, 300), maxlen=0)  # noqa: E731
    loop = min(seconds_of(once) for _ in range(3)) / (300 * BATCH)
    times = loop * windows / benchmark.stats.stats.median
    keep(benchmark, measure, count=windows, unit="windows", times_the_loop=times)


def test_opening(benchmark: Any, dataset: Dataset) -> None:
    """From a folder's name to the first batch's dataset: description, offsets, memory map, window index."""
    found = benchmark(lambda: len(WindowIndex.of(open_store(dataset.path))))
    assert found == len(dataset.rows) // (EPISODE + 1) * EPISODE
    keep(benchmark, "opening a store")


@pytest.mark.parametrize("batch_size", [64, 1024])
def test_batches_in_order(benchmark: Any, dataset: Dataset, batch_size: int) -> None:
    """A pass over the windows in their order, as the loop makes them."""
    batches, first = 16384 // batch_size, np.arange(20)

    def some() -> None:
        for _ in itertools.islice(windows_in_order(dataset, first, batch_size, WINDOW), batches):
            pass

    benchmark(some)
    record(benchmark, f"batches of {batch_size} in order", batches * batch_size, dataset)


def test_random_batches(benchmark: Any, mixture: Mixture, dataset: Dataset) -> None:
    """Training batches, drawn at random all over the file, in one thread."""
    steps = itertools.count()
    benchmark.pedantic(lambda: mixture.batch(next(steps)), rounds=2000, warmup_rounds=50)
    record(benchmark, "random batch", BATCH, dataset)


@pytest.fixture
def read(mixture: Mixture) -> Iterator[Callable[[int], None]]:
    """What reads a number of training batches as a run does, through Grain's reading threads."""
    batches = mixture.iterate(0, 10**9)
    yield lambda count: collections.deque(itertools.islice(batches, count), maxlen=0).clear()
    batches.close()  # type: ignore[attr-defined]


def test_prefetched_batches(benchmark: Any, read: Callable[[int], None], dataset: Dataset) -> None:
    """Many at once: a batch that was waiting in the buffer takes no time."""
    benchmark.pedantic(read, (200,), rounds=20, warmup_rounds=1)
    record(benchmark, "200 prefetched batches", 200 * BATCH, dataset)


def anonymous_bytes() -> int:
    """The process's anonymous resident memory, without the memory map."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/self/status")
def test_memory(benchmark: Any, read: Callable[[int], None], dataset: Dataset) -> None:
    """How much anonymous resident memory grows while batches are read from all over the file."""
    read(1)
    gc.collect()
    found = [anonymous_bytes()]

    def more() -> None:
        read(2000)
        found.append(anonymous_bytes())

    benchmark.pedantic(more, rounds=3)
    memory = max(found) - found[0]
    keep(benchmark, "memory of 2000 batches", memory=memory, dataset_bytes=dataset.rows.nbytes)
