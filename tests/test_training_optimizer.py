"""The schedule against the usual formula, the optimiser against AdamW written out in NumPy."""

import dataclasses
import math

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keras import ops

from trajworld.training.config import TrainingConfig, resolve_config
from trajworld.training.optimizer import learning_rate, make_optimizer

BASE = resolve_config("train", preset="tiny", options={"datasets": ["data"]})


def scheduled(peak: float, warmup: int, decay: int, **others: float) -> TrainingConfig:
    return dataclasses.replace(BASE, learning_rate=peak, warmup_steps=warmup, decay_steps=decay, **others)


def warmup_cosine(peak: float, warmup: int, decay: int, steps: np.ndarray) -> np.ndarray:
    """Two schedules joined at ``warmup``: a line from 0 to the peak, and a cosine over the rest, then 0."""
    line = np.interp(steps, [0, max(warmup, 1)], [0.0, peak])
    counted = np.clip(steps - warmup, 0, decay - warmup)
    cosine = peak * (1 + np.cos(np.pi * counted / max(decay - warmup, 1))) / 2
    return np.where(steps < warmup, line, cosine)


@given(st.floats(1e-8, 10), st.integers(0, 500), st.integers(1, 2000))
def test_the_schedule_is_warm_up_then_cosine(peak: float, warmup: int, more: int) -> None:
    decay = warmup + more
    steps = np.unique(np.linspace(0, decay + 5, 60).astype(int))
    rates = [learning_rate(scheduled(peak, warmup, decay), int(step)) for step in steps]
    np.testing.assert_allclose(rates, warmup_cosine(peak, warmup, decay, steps), rtol=1e-9, atol=1e-12 * peak)
    assert max(rates) <= peak


def test_the_first_rate_is_zero_the_peak_follows_warm_up_and_the_last_is_zero() -> None:
    config = scheduled(2.0, 10, 110)
    assert learning_rate(config, 0) == 0.0
    assert learning_rate(config, 5) == 1.0
    assert learning_rate(config, 10) == 2.0
    assert learning_rate(config, 60) == pytest.approx(1.0)
    assert learning_rate(config, 110) == learning_rate(config, 10_000) == 0.0


def test_without_warm_up_the_first_rate_is_the_peak() -> None:
    assert learning_rate(scheduled(2.0, 0, 100), 0) == 2.0
    assert learning_rate(scheduled(2.0, 100, 100), 100) == 2.0


def test_the_published_schedule() -> None:
    config = resolve_config("pretrain", preset="paper", options={"datasets": ["data"]})
    rates = [learning_rate(config, step) for step in (0, 1, 5_000, 10_000, 5_005_000, 10_000_000)]
    assert rates == pytest.approx([0, 1e-8, 5e-5, 1e-4, 5e-5, 0], abs=1e-12)


def test_a_step_is_adamw_with_decoupled_decay_and_a_clipped_global_norm() -> None:
    config = scheduled(0.01, 0, 10, weight_decay=0.1, clip_norm=0.25)
    rng = np.random.default_rng(0)
    weights = [rng.normal(size=(3, 2)).astype(np.float32), rng.normal(size=4).astype(np.float32)]
    variables = [keras.Variable(weight) for weight in weights]
    optimizer = make_optimizer(config)
    optimizer.build(variables)
    expected = [weight.astype(np.float64) for weight in weights]
    first, second = ([np.zeros_like(weight) for weight in expected] for _ in range(2))
    for step, size in enumerate((5.0, 0.01, 1.0), start=1):
        gradients = [size * rng.normal(size=weight.shape).astype(np.float32) for weight in weights]
        optimizer.apply([ops.convert_to_tensor(gradient) for gradient in gradients], variables)
        norm = math.sqrt(sum(float(np.sum(np.square(gradient, dtype=np.float64))) for gradient in gradients))
        for index, gradient in enumerate(gradients):
            clipped = gradient * min(1.0, 0.25 / norm)
            first[index] = 0.9 * first[index] + 0.1 * clipped
            second[index] = 0.999 * second[index] + 0.001 * clipped**2
            direction = (first[index] / (1 - 0.9**step)) / (np.sqrt(second[index] / (1 - 0.999**step)) + 1e-8)
            expected[index] -= 0.01 * (direction + 0.1 * expected[index])
    for variable, wanted in zip(variables, expected, strict=True):
        np.testing.assert_allclose(ops.convert_to_numpy(variable.value), wanted, rtol=2e-4, atol=2e-5)
