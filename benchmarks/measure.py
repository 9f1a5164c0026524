"""How things are timed: warm-up, rounds bounded by time, and this machine's matrix-product peak to compare with."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from trajworld.backend import active_backend

from .cases import Case
from .results import Result

_PEAK_SIZE = 2048
_PEAK_SECONDS = 0.3
_WARM_SECONDS = 0.3
_MOST_ROUNDS = 100


@dataclass(frozen=True)
class Peak:
    """Operations per second of a 2048³ matrix product by the active framework in this process, by dtype."""

    float32: float
    bfloat16: float


@dataclass(frozen=True)
class Timing:
    """What :func:`timed` found, in seconds: the first call, the median and the shortest of the rounds."""

    first: float
    median: float
    minimum: float
    rounds: int


def seconds_of(function: Callable[[], Any]) -> float:
    """Wall-clock seconds of one call."""
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


class PeakMeter:
    """Measures the peak again and again; the products are compiled once."""

    def __init__(self) -> None:
        self._products = [_product(dtype) for dtype in ("float32", "bfloat16")]

    def __call__(self) -> Peak:
        """The best of the products made within a third of a second for each dtype, at least two."""
        rates = []
        for run in self._products:
            times = [seconds_of(run), seconds_of(run)]
            while sum(times) < _PEAK_SECONDS:
                times.append(seconds_of(run))
            rates.append(2 * _PEAK_SIZE**3 / min(times))
        return Peak(*rates)


def _product(dtype: str) -> Callable[[], None]:
    """A compiled product that waits for its result, called once already."""
    backend = active_backend()
    square = np.random.default_rng(0).standard_normal((_PEAK_SIZE, _PEAK_SIZE)).astype(np.float32)
    dense = keras.layers.Dense(_PEAK_SIZE, use_bias=False, dtype=dtype)
    model = keras.Sequential([keras.Input((_PEAK_SIZE,), dtype=dtype), dense])
    product = backend.compile(lambda array: model(array), model)
    tensor = keras.ops.convert_to_tensor(square, dtype=dtype)

    def run() -> None:
        backend.wait(product(tensor))

    run()
    return run


def timed(benchmark: Any, run: Callable[[], Any], quick: bool, first: float | None = None) -> Timing:
    """Time ``run``, which waits for its own result, by pytest-benchmark's clock.

    The first call compiles and is kept apart. Calls that are not counted follow until the caches are warm; then as many
    rounds as fit into a second and a half (five in a full run), at least two (five), each of one call: their median
    stands for a usual call, their minimum for an undisturbed one.

    Args:
        benchmark: pytest-benchmark's fixture.
        run: What to time.
        quick: Whether this is a quick run.
        first: Seconds of the first call, where it was made already.
    """
    first = seconds_of(run) if first is None else first
    warm = [seconds_of(run)]
    while sum(warm) < _WARM_SECONDS and len(warm) < _MOST_ROUNDS:
        warm.append(seconds_of(run))
    limit, least = (1.5, 2) if quick else (5.0, 5)
    rounds = min(max(int(limit / statistics.median(warm)), least), _MOST_ROUNDS)
    benchmark.pedantic(run, rounds=rounds, iterations=1)
    stats = benchmark.stats.stats
    return Timing(first, stats.median, stats.min, rounds)


def keep(benchmark: Any, result: Result) -> None:
    """Keep a result in the benchmark's JSON, and print it (seen with ``pytest -s``)."""
    benchmark.extra_info |= result.to_extra()
    words = [f"{result.backend} {result.measure}", *_case_words(result)]
    if result.seconds is not None:
        words.append(f"{result.seconds * 1e3:.4g} ms (best {(result.minimum or 0) * 1e3:.4g})")
    if result.share_of_peak:
        rate = (result.flops_per_second or 0) / 1e9
        words.append(f"{rate:.4g} GFLOP/s, {result.share_of_peak:.1%} of the float32 peak")
    if result.rows_per_second:
        words.append(f"{result.rows_per_second:,.0f} {result.unit}/s")
    if result.compile_seconds is not None:
        words.append(f"compiled in {result.compile_seconds:.2f} s")
    if result.memory is not None:
        words.append(f"{result.memory / 1e6:,.0f} MB")
    print("\n" + "; ".join([*words, *(f"{name}: {value}" for name, value in result.facts.items())]))


def model_result(
    suite: str,
    measure: str,
    case: Case,
    timing: Timing,
    peak: Peak,
    flops: int,
    rows: int,
    unit: str = "rows",
    facts: dict[str, Any] | None = None,
) -> Result:
    """The result of timing something of a model."""
    return Result(
        active_backend().name,
        suite,
        measure,
        case.size,
        case.variates,
        case.dtype,
        case.batch,
        timing.median,
        timing.minimum,
        timing.rounds,
        timing.first,
        flops,
        rows,
        unit,
        peak.float32,
        peak.bfloat16,
        facts=facts or {},
    )


def _case_words(result: Result) -> list[str]:
    words = [result.size, f"M = {result.variates}" if result.variates else "", result.dtype]
    return [" ".join(word for word in words if word)] if result.size else []
