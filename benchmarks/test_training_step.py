"""How fast one training step is on the active backend, and what share of this machine's matrix-product peak it is.

Run for each backend, and compare::

    KERAS_BACKEND=jax pytest benchmarks/test_training_step.py --benchmark-json jax.json
    pytest-benchmark compare jax.json torch.json

Nominal work: 48 d² floating-point operations per block and row-variate forward, three times that for a step.
"""

import time
from typing import Any

import keras
import numpy as np
import pytest

from trajworld.backend import active_backend
from trajworld.models.identity import action_mask
from trajworld.models.presets import PRESETS
from trajworld.models.transformer import TrajWorld, Variates
from trajworld.training.loss import window_loss

OBSERVATION, ACTION, BATCH = 11, 3, 32


@pytest.fixture(scope="module")
def peak() -> float:
    """Operations per second of a 2048³ float32 matrix product by this framework in this process."""
    backend = active_backend()
    square = np.random.default_rng(0).standard_normal((2048, 2048)).astype(np.float32)
    model = keras.Sequential([keras.Input((2048,)), keras.layers.Dense(2048, use_bias=False)])
    product = backend.compile(lambda array: model(array), model)
    times = []
    for _ in range(8):
        times.append(_seconds(lambda: backend.wait(product(square))))
    return 2 * 2048**3 / min(times)


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
@pytest.mark.parametrize("preset", ["tiny", "small", "paper"])
def test_training_step(benchmark: Any, preset: str, dtype: str, peak: float) -> None:
    sizes, backend = PRESETS[preset], active_backend()
    model = TrajWorld(sizes, dtype=dtype)
    optimizer = keras.optimizers.AdamW(1e-4, weight_decay=1e-5, global_clipnorm=0.25)
    step = backend.training_step(model, optimizer, lambda *batch: window_loss(model, *batch))
    count = OBSERVATION + 1 + ACTION
    generator = np.random.default_rng(0)
    values = generator.uniform(size=(BATCH, sizes.window, count)).astype(np.float32)
    variates = Variates(
        action_mask(OBSERVATION, ACTION), np.zeros(count, np.float32), np.ones(count, np.float32)
    )
    mask = np.ones((BATCH, sizes.window), np.float32)

    def run() -> None:
        backend.wait(step(1e-4, values, mask, variates, np.array(1, np.int32)))

    compile_seconds = _seconds(run)
    benchmark.pedantic(run, rounds=3 if preset == "paper" else 15, warmup_rounds=1)
    operations = 3 * 48 * sizes.width**2 * sizes.blocks * BATCH * (sizes.window - 1) * count
    benchmark.extra_info |= {
        "backend": backend.name,
        "first_step_seconds": compile_seconds,
        "steps_per_second": 1 / benchmark.stats.stats.median,
        "share_of_peak": operations / benchmark.stats.stats.median / peak,
    }
    print({name: benchmark.extra_info[name] for name in ("backend", "steps_per_second", "share_of_peak")})


def _seconds(function: Any) -> float:
    began = time.perf_counter()
    function()
    return time.perf_counter() - began
