"""How fast is a training step, forward and backward and the optimiser's update, with dropout?

Run it alone for each backend::

    KERAS_BACKEND=jax pytest -s benchmarks/test_training_step.py -k "small and float32"
"""

from typing import Any

import keras
import numpy as np

from trajworld.backend import active_backend
from trajworld.benchmarks.cases import Case, training_flops
from trajworld.benchmarks.draws import draw_batch, make_model
from trajworld.benchmarks.measure import Peak, keep, rates, timed
from trajworld.training.loss import window_loss

SUITE = "training"


def test_training_step(benchmark: Any, case: Case, peak: Peak, quick: bool) -> None:
    backend, model = active_backend(), make_model(case)
    optimizer = keras.optimizers.AdamW(1e-4, weight_decay=1e-5, global_clipnorm=0.25)
    step = backend.training_step(model, optimizer, lambda *arrays: window_loss(model, *arrays))
    batch, seed = draw_batch(case), np.array(1, np.int32)
    first = timed(benchmark, lambda: backend.wait(step(1e-4, *batch, seed)), quick)
    found = rates(benchmark, peak, training_flops(case), case.batch * case.rows_read)
    keep(benchmark, SUITE, "training step", case, first=first, **found)
