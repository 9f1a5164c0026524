"""The schedule against the usual formula; the optimiser is held against AdamW in test_backend.py."""

import dataclasses

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from trajworld.training.config import TrainingConfig, resolve_config
from trajworld.training.optimizer import learning_rate

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
