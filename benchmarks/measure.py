"""How things are timed: warm-up, rounds bounded by time, and this machine's matrix-product peak to compare with."""

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from trajworld.backend import active_backend
from trajworld.errors import TrajWorldError

from .cases import Case

_PEAK_SIZE = 2048
_PEAK_SECONDS = 0.3
_WARM_SECONDS = 0.3
_MOST_ROUNDS = 100


@dataclass(frozen=True)
class Peak:
    """Operations per second of a 2048³ matrix product by the active framework in this process, by dtype."""

    float32: float
    bfloat16: float


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


def timed(benchmark: Any, run: Callable[[], Any], quick: bool) -> float:
    """Time ``run``, which waits for its own result, by pytest-benchmark's clock; the seconds of its first call.

    The first call compiles and is kept apart. Calls that are not counted follow until the caches are warm; then as many
    rounds as fit into a second and a half (five in a full run), at least two (five), each of one call: their median
    stands for a usual call, their minimum for an undisturbed one.
    """
    first = seconds_of(run)
    warm = [seconds_of(run)]
    while sum(warm) < _WARM_SECONDS and len(warm) < _MOST_ROUNDS:
        warm.append(seconds_of(run))
    limit, least = (1.5, 2) if quick else (5.0, 5)
    rounds = min(max(int(limit / statistics.median(warm)), least), _MOST_ROUNDS)
    benchmark.pedantic(run, rounds=rounds, iterations=1)
    return first


def rates(benchmark: Any, peak: Peak, flops: int, count: int, unit: str = "rows") -> dict[str, Any]:
    """What follows from the median of what was timed.

    Args:
        benchmark: pytest-benchmark's fixture, after :func:`timed`.
        peak: Measured just before.
        flops: Nominal operations of a round; 0 where none are counted.
        count: Of ``unit`` in a round.
        unit: What is predicted, made or encoded.

    Returns:
        ``per_second`` of the unit; ``flops_per_second``, and ``share_of_peak``: of the float32 peak.
    """
    seconds = benchmark.stats.stats.median
    found = {"per_second": count / seconds, "unit": unit}
    if flops:
        rate = flops / seconds
        found |= {"flops_per_second": rate, "share_of_peak": rate / peak.float32}
    return {**found, "peak_float32": peak.float32, "peak_bfloat16": peak.bfloat16}


def keep(
    benchmark: Any,
    suite: str,
    measure: str,
    case: Case | None = None,
    *,
    first: float | None = None,
    **facts: Any,
) -> None:
    """Keep what was measured in the benchmark's JSON, and print it (seen with ``pytest -s``).

    Args:
        benchmark: pytest-benchmark's fixture, after it timed something.
        suite: A name of :data:`trajworld.benchmarks.cases.SUITES`.
        measure: What was measured.
        case: Of which model, if any.
        first: Seconds of the first call; kept is ``compile_seconds``, how much longer it was than a usual one.
        facts: Whatever else was found, by name.
    """
    stats = benchmark.stats.stats
    if first is not None:
        facts["compile_seconds"] = max(first - stats.median, 0.0)
    of: dict[str, Any] = {"suite": suite, "backend": active_backend().name, "measure": measure}
    if case is not None:
        of |= {"size": case.size, "variates": case.variates, "dtype": case.dtype, "batch": case.batch}
    of["case"] = measure if case is None else f"{measure}, {case.title}"
    benchmark.extra_info |= {**of, **facts}
    shown = {name: f"{value:,.4g}" if isinstance(value, float) else value for name, value in facts.items()}
    print(
        f"\n{of['backend']} {of['case']}: median {stats.median * 1e3:,.4g} ms, best {stats.min * 1e3:,.4g} ms",
        *(f"{name.replace('_', ' ')} {value}" for name, value in shown.items()),
        sep="; ",
    )


def run_fresh(arguments: Sequence[str]) -> str:
    """Run ``python -P`` with these arguments to its end, for what can only be measured in a fresh process.

    Args:
        arguments: After ``python -P``: the working folder, which may be a checkout, must not be imported from.

    Returns:
        What it printed.

    Raises:
        TrajWorldError: It failed.
    """
    done = subprocess.run(
        [sys.executable, "-P", *arguments],
        env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise TrajWorldError(f"a fresh process failed: {last}")
    return done.stdout
