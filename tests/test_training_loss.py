"""The loss against a loop over windows, rows and variates in NumPy."""

import math
import random

import numpy as np
import pytest
from keras import ops

from trajworld.backend import active_backend
from trajworld.data.batch import Batch, Variates
from trajworld.models.sizes import TrajWorldSizes
from trajworld.models.trajworld import TrajWorld
from trajworld.training.loop import mean_loss

BINS = 16


def batch() -> Batch:
    """Three windows of five rows: 2 observations, reward, action, two variates of padding; one window is padded."""
    rng = np.random.default_rng(1)
    values = rng.normal(size=(3, 5, 6)).astype(np.float32)
    mask = np.array([[1, 1, 1, 1, 1], [0, 0, 0, 1, 1], [0, 0, 1, 1, 1]], np.float32)
    values[mask == 0] = 0
    values[:, :, 4:] = 0
    variates = Variates(
        np.array([0, 0, 0, 1, 0, 0], np.int32),
        np.array([-1, -2, -0.5, -1, 0, 0], np.float32),
        np.array([1, 2, 0.5, 1, 1, 1], np.float32),
        np.array([1, 1, 1, 1, 0, 0], np.float32),
    )
    return Batch(values, mask, variates)


def target(value: float, lower: float, upper: float, kind: str) -> np.ndarray:
    """The target distribution over the bins: by the error function of the standard library."""
    scaled = (value - lower) / (upper - lower) * BINS
    if kind == "onehot":
        return np.eye(BINS)[int(min(max(math.floor(scaled), 0), BINS - 1))]
    scaled = min(max(scaled, 0.0), float(BINS))
    cdf = np.array(
        [0.5 * (1 + math.erf((edge - scaled) / (0.75 * math.sqrt(2)))) for edge in range(BINS + 1)]
    )
    return np.diff(cdf) / (cdf[-1] - cdf[0] + 5e-7)


@pytest.mark.parametrize("kind", ["onehot", "gauss"])
def test_the_loss_is_that_of_a_plain_loop(kind: str) -> None:
    random.seed(0)
    model = TrajWorld(TrajWorldSizes(blocks=1, width=8, heads=2, window=5, bins=BINS))
    values, mask, variates, _ = batch()
    call = active_backend().compile(lambda *arrays: model(*arrays), model)
    logits = np.asarray(ops.convert_to_numpy(call(values[:, :-1], mask[:, :-1], variates)), np.float64)
    scores = logits[..., :3, :]  # Of two observations and the reward.
    log_probabilities = scores - np.log(np.exp(scores).sum(axis=-1, keepdims=True))

    def cross_entropy(window: int, row: int, variate: int) -> float:
        ends = (float(end[variate]) for end in (variates.lower, variates.upper))
        wanted = target(float(values[window, row + 1, variate]), *ends, kind)
        return -float(np.sum(wanted * log_probabilities[window, row, variate]))

    real = [(window, row) for window in range(3) for row in range(4) if mask[window, row]]
    rows = [np.mean([cross_entropy(*place, variate) for variate in range(3)]) for place in real]
    assert len(rows) == 4 + 1 + 2
    run = active_backend().compile(
        lambda batch: (mean_loss(model, batch, targets=kind), *model.loss_sums(batch, targets=kind)), model
    )
    loss, total, count = (float(value) for value in run(batch()))
    assert loss == pytest.approx(np.mean(rows), rel=1e-4)
    assert (total, count) == (pytest.approx(np.sum(rows), rel=1e-4), 7)
    # Padding has no part in it, nor what is done in the last row.
    values[:, :, 4:] = 77.0
    values[mask == 0] = -55.0
    values[:, -1, 3] = 9.0
    assert float(run(Batch(values, mask, variates))[0]) == pytest.approx(loss, rel=1e-5)
