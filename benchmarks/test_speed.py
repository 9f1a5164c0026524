"""How fast are a training step, a rollout, a forward pass, encoding and binning values?

One suite alone, for one backend::

    KERAS_BACKEND=jax pytest -s benchmarks/test_speed.py::test_training -k "small and float32"
"""

import functools
from typing import Any

import pytest
from keras import ops

from trajworld.backend import active_backend
from trajworld.benchmarks.cases import Case
from trajworld.benchmarks.draws import draw_batch, draw_rollout, make_model, training_call
from trajworld.benchmarks.measure import Measured
from trajworld.models.bins import encode, target_bins
from trajworld.models.rollout import compile_rollout


def test_training(measured: Measured, case: Case) -> None:
    """Forward and backward, with dropout, and the optimiser's update: three times the forward pass's operations."""
    flops = 3 * case.flops(case.rows_read)
    measured("training step", training_call(case), flops=flops, count=case.batch * case.rows_read)


def test_rollout(measured: Measured, case: Case, quick: bool) -> None:
    """Cached, open-loop: 100 steps, in a quick run 30; one chunk for ``paper`` in a quick run."""
    model, horizon = make_model(case), 100 if not quick else 10 if case.size == "paper" else 30
    compiled = compile_rollout(model, case.observations)
    # Returns NumPy arrays, so has waited.
    run = functools.partial(compiled, *draw_rollout(case, horizon, model.context))
    flops = case.rollout_flops(horizon, model.context, model.chunk)
    measured(f"rollout of {horizon} steps", run, flops=flops, count=case.batch * horizon)


def test_forward(measured: Measured, case: Case) -> None:
    """Values to logits, of the rows that a training step reads, so that the two compare."""
    backend, model = active_backend(), make_model(case)
    values, mask, variates, _ = draw_batch(case)
    values, mask = values[:, :-1], mask[:, :-1]
    compiled = backend.compile(model, model)
    run = lambda: backend.wait(compiled(values, mask, variates))  # noqa: E731
    measured("forward pass", run, flops=case.flops(case.rows_read), count=case.batch * case.rows_read)


@pytest.mark.parametrize("measure", ["encode and project", "target bins"])
def test_tokenizing(measured: Measured, case: Case, measure: str) -> None:
    """Counted are the operations of the dense product of the encoded values, ``[B T M, 256]``, with ``[256, d]``."""
    backend, model, bins = active_backend(), make_model(case), case.sizes.bins
    values, _, variates, _ = draw_batch(case)

    def embed(values: Any, lower: Any, upper: Any) -> Any:
        encoded = ops.cast(encode(values, lower, upper, bins), model.compute_dtype)
        return model.input_projection(ops.reshape(encoded, (-1, bins)))

    projects = measure == "encode and project"
    compiled = backend.compile(embed if projects else functools.partial(target_bins, bins=bins), model)
    run = lambda: backend.wait(compiled(values, variates.lower, variates.upper))  # noqa: E731
    flops = 2 * bins * case.sizes.width * values.size if projects else 0
    measured(measure, run, flops=flops, count=values.size, unit="values")
