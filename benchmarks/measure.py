"""How things are timed: warm-up, rounds bounded by time, and this machine's matrix-product peak to compare with."""

import functools
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from trajworld.backend import active_backend
from trajworld.errors import TrajWorldError

from .cases import Case

_PEAK_SIZE, _PEAK_SECONDS = 2048, 0.3
_WARM_SECONDS, _MOST_ROUNDS = 0.3, 100

Measured = Callable[..., None]
"""The fixture ``measured``: of a name, a call that waits for its own result, and what :func:`keep` takes."""


def seconds_of(function: Callable[[], Any]) -> float:
    """Wall-clock seconds of one call."""
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def peaks() -> dict[str, Any]:
    """Operations per second of a 2048³ matrix product by the active framework in this process, by dtype.

    The best of the products made within a third of a second, at least two.
    """
    found = {}
    for dtype in ("float32", "bfloat16"):
        product = _product(dtype)
        times = [seconds_of(product), seconds_of(product)]
        while sum(times) < _PEAK_SECONDS:
            times.append(seconds_of(product))
        found[f"peak_{dtype}"] = 2 * _PEAK_SIZE**3 / min(times)
    return found


@functools.cache
def _product(dtype: str) -> Callable[[], None]:
    """A compiled product that waits for its result, called once already."""
    backend = active_backend()
    square = np.random.default_rng(0).standard_normal((_PEAK_SIZE, _PEAK_SIZE)).astype(np.float32)
    dense = keras.layers.Dense(_PEAK_SIZE, use_bias=False, dtype=dtype)
    dense.build(square.shape)
    product = backend.compile(dense, dense)
    tensor = keras.ops.convert_to_tensor(square, dtype=dtype)
    backend.wait(product(tensor))
    return lambda: backend.wait(product(tensor))


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


def keep(
    benchmark: Any,
    measure: str,
    case: Case | None = None,
    *,
    first: float | None = None,
    flops: int = 0,
    count: int = 0,
    unit: str = "rows",
    **facts: Any,
) -> None:
    """Keep what was measured in the benchmark's JSON, and print it (seen with ``pytest -s``).

    Args:
        benchmark: pytest-benchmark's fixture, after it timed something.
        measure: What was measured, of ``case`` if of a model.
        case: Of which model.
        first: Seconds of the first call; kept is ``compile_seconds``, how much longer it was than a usual one.
        flops: Nominal operations of a round; kept are ``flops_per_second`` and ``share_of_peak``, of ``peak_float32``.
        count: How many of ``unit`` are predicted, made or encoded in a round; kept is ``per_second``.
        unit: See ``count``.
        facts: Whatever else was found, by name.
    """
    stats = benchmark.stats.stats
    if first is not None:
        facts["compile_seconds"] = max(first - stats.median, 0.0)
    if count:
        facts |= {"per_second": count / stats.median, "unit": unit}
    if flops:
        rate = flops / stats.median
        facts |= {"flops_per_second": rate, "share_of_peak": rate / facts["peak_float32"]}
    name = measure if case is None else f"{measure}, {case}"
    of = {} if case is None else {"size": case.size, "variates": case.variates, "dtype": case.dtype}
    benchmark.extra_info |= {"measure": measure, "case": name, **of, **facts}
    shown = {"median_ms": stats.median * 1e3, "best_ms": stats.min * 1e3, **facts}
    texts = (f"{value:,.4g}" if isinstance(value, float) else str(value) for value in shown.values())
    print(f"\n{name}:", "; ".join(map(" ".join, zip(shown, texts, strict=True))).replace("_", " "))


def memory_of(call: Callable[[], Any]) -> int | None:
    """Bytes that three calls took beyond what this process held; None where nothing tells."""
    before = active_backend().peak_memory()
    for _ in range(3):
        call()
    after = active_backend().peak_memory()
    return None if before is None or after is None else max(after - before, 0)


def run_fresh(arguments: Sequence[str]) -> str:
    """What ``python`` prints with these arguments, for what can only be measured in a fresh process.

    Raises:
        TrajWorldError: It failed.
    """
    # -P: the working folder, which may be a checkout, must not be imported from.
    command, environment = [sys.executable, "-P", *arguments], os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        last = done.stderr.strip().rpartition("\n")[2]
        raise TrajWorldError(f"a fresh process ended with the code {done.returncode}: {last}")
    return done.stdout
