"""How things are timed: warm-up, rounds bounded by time, and this machine's matrix-product peak to compare with."""

import functools
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from trajworld.backend import active_backend
from trajworld.errors import TrajWorldError

from .cases import Case

_PEAK_SIZE, _PEAK_SECONDS = 2048, 0.3
_WARM_SECONDS, _MOST_ROUNDS = 0.3, 100

Measured = Callable[..., None]
"""The fixture ``measured``: it takes a name, a call that waits for its own result, and what :func:`keep` takes."""


def seconds_of(function: Callable[[], Any]) -> float:
    """Wall-clock seconds of one call."""
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def peaks() -> dict[str, Any]:
    """Operations per second of a 2048³ matrix product by the active framework, by dtype: the best within 0.3 s."""
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

    The first call compiles. Calls that are not counted warm the caches; then come as many rounds of one call as fit
    into a second and a half (five in a full run), at least two (five): their median stands for a usual call, their
    minimum for an undisturbed one.
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
    """Keep what was measured, of ``case`` if of a model, in the benchmark's JSON, and print it (``pytest -s``).

    ``compile_seconds`` is how much longer the first call took than a usual one; ``flops`` and ``count`` (of ``unit``)
    are those of a round, ``share_of_peak`` is of ``peak_float32``, which is among the ``facts``.
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


def run_fresh(*arguments: str) -> str:
    """What a fresh ``python`` prints with these arguments."""
    # -P: the working folder, which may be a checkout, must not be imported from.
    command, environment = [sys.executable, "-P", *arguments], os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        last = done.stderr.strip().rpartition("\n")[2]
        raise TrajWorldError(f"a fresh process ended with the code {done.returncode}: {last}")
    return done.stdout
