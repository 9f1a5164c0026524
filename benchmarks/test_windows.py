"""Windows over one million transitions: opening a store, making batches, and what they cost in memory.

The yardstick is the usual Python loop: walk the transitions, keep a list of the last 20 rows, stack a
copy for each. The ratio to it is printed (``pytest -s``) and kept in each benchmark's facts.
"""

import gc
import itertools
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trajworld.backend import active_backend
from trajworld.benchmarks.measure import keep
from trajworld.benchmarks.results import Result
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
    windows: list[np.ndarray] = []
    masks: list[np.ndarray] = []
    for episode in range(dataset.num_episodes):
        rows = np.array(dataset.rows[dataset.episode_offsets[episode] : dataset.episode_offsets[episode + 1]])
        history: list[np.ndarray] = []
        for row in rows:
            history = [*history, row][-WINDOW:]
            if len(history) == 1:
                continue
            padding = [np.zeros_like(row)] * (WINDOW - len(history))
            windows.append(np.stack(padding + history))
            masks.append(np.array([0.0] * len(padding) + [1.0] * len(history), np.float32))
            if len(windows) == BATCH:
                yield np.stack(windows), np.stack(masks)
                windows, masks = [], []
                batches -= 1
                if not batches:
                    return


def loop_seconds_per_window(dataset: Dataset, batches: int = 300) -> float:
    """Of the loop at its best of three."""
    best = float("inf")
    for _ in range(3):
        started = time.perf_counter()
        for _batch in loop_batches(dataset, batches):
            pass
        best = min(best, time.perf_counter() - started)
    return best / (batches * BATCH)


def record(
    benchmark: Any,
    measure: str,
    windows: int | None = None,
    loop: float | None = None,
    facts: dict[str, Any] | None = None,
) -> None:
    """Keep and print the time, the rate, and how many times faster than the loop it is."""
    stats = benchmark.stats.stats
    if windows is not None and loop is not None:
        facts = {
            "loop_windows_per_second": round(1 / loop),
            "times_faster_than_the_loop": round(loop / (stats.median / windows), 1),
        }
    keep(
        benchmark,
        Result(
            active_backend().name,
            SUITE,
            measure,
            batch=BATCH if windows is not None else 0,
            seconds=stats.median,
            minimum=stats.min,
            rounds=stats.rounds,
            rows=windows,
            unit="windows",
            facts=facts or {},
        ),
    )


def test_opening(benchmark: Any, store: Path) -> None:
    """From a folder's name to the first batch's dataset: description, offsets, memory map, window index."""

    def opened() -> int:
        return len(WindowIndex.of(open_store(store)))

    assert benchmark(opened) in (TRANSITIONS, QUICK_TRANSITIONS)
    record(benchmark, "opening a store")


@pytest.mark.parametrize("batch_size", [64, 1024])
def test_batches_in_order(benchmark: Any, store: Path, batch_size: int) -> None:
    """A pass over the windows in their order, as the loop makes them."""
    dataset = open_store(store)
    batches, first = 16384 // batch_size, np.arange(20)

    def some() -> None:
        for _ in itertools.islice(windows_in_order(dataset, first, batch_size, WINDOW), batches):
            pass

    expected = next(loop_batches(dataset, 1))
    made = next(windows_in_order(dataset, None, BATCH, WINDOW))
    for found, wanted in zip(made, expected, strict=True):
        np.testing.assert_array_equal(found, wanted)
    benchmark(some)
    record(
        benchmark, f"batches of {batch_size} in order", batches * batch_size, loop_seconds_per_window(dataset)
    )


def test_random_batches(benchmark: Any, mixture: Mixture) -> None:
    """Training batches, drawn at random all over the file, in one thread."""
    steps = iter(range(10**9))
    benchmark.pedantic(lambda: mixture.batch(next(steps)), rounds=2000, warmup_rounds=50)
    record(benchmark, "random batch", BATCH, loop_seconds_per_window(mixture.sources[0].dataset))


def test_prefetched_batches(benchmark: Any, mixture: Mixture) -> None:
    """Training batches as a run reads them, through Grain's reading threads."""
    batches = mixture.iterate(0, 10**9)

    def some() -> None:
        # Many at once: a batch that was waiting in the buffer takes no time.
        for _ in range(200):
            next(batches)

    benchmark.pedantic(some, rounds=20, warmup_rounds=1)
    batches.close()  # type: ignore[attr-defined]
    record(
        benchmark, "200 prefetched batches", 200 * BATCH, loop_seconds_per_window(mixture.sources[0].dataset)
    )


def anonymous_bytes() -> int:
    """The process's anonymous resident memory, which the memory map is no part of."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no RssAnon in /proc/self/status")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/self/status")
def test_memory(benchmark: Any, store: Path) -> None:
    """How much anonymous resident memory grows while batches are read from all over the file."""
    dataset = open_store(store)
    minimum, maximum = value_range(dataset)
    mixture = Mixture([Source(dataset, minimum, maximum)], BATCH, WINDOW)
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
    facts = {
        "dataset_megabytes": round(dataset.rows.nbytes / 1e6, 1),
        "batch_megabytes": round(batch.values.nbytes / 1e6, 2),
        "anonymous_growth_megabytes": round((most - before) / 1e6, 2),
    }
    record(benchmark, "memory of 2000 batches", facts=facts)
