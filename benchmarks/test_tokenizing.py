"""How fast are values encoded and projected to the model's width, and targets binned?"""

from typing import Any

import pytest
from keras import ops

from trajworld.backend import active_backend
from trajworld.benchmarks.cases import Case
from trajworld.benchmarks.draws import draw_batch, make_model
from trajworld.benchmarks.measure import Measured
from trajworld.models.bins import encode, target_bins


@pytest.mark.parametrize("measure", ["encode and project", "target bins"])
def test_tokenizing(measured: Measured, case: Case, measure: str) -> None:
    """Counted are the operations of the dense product of the encoded values, ``[B T M, 256]``, with ``[256, d]``."""
    backend, model, bins = active_backend(), make_model(case), case.sizes.bins
    values, _, variates, _ = draw_batch(case)

    def embed(values: Any, lower: Any, upper: Any) -> Any:
        encoded = ops.cast(encode(values, lower, upper, bins), model.compute_dtype)
        return model.input_projection(ops.reshape(encoded, (-1, bins)))

    def targets(values: Any, lower: Any, upper: Any) -> Any:
        return target_bins(values, lower, upper, bins)

    compiled = backend.compile(embed if measure == "encode and project" else targets, model)
    run = lambda: backend.wait(compiled(values, variates.lower, variates.upper))  # noqa: E731
    flops = 2 * bins * case.sizes.width * values.size if measure == "encode and project" else 0
    measured(measure, run, flops=flops, count=values.size, unit="values")
