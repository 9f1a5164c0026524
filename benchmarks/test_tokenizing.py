"""How fast are values encoded and projected to the model's width, and targets binned?"""

from collections.abc import Callable
from typing import Any

from keras import ops

from trajworld.backend import active_backend
from trajworld.benchmarks.cases import Case
from trajworld.benchmarks.draws import draw_batch, make_model
from trajworld.benchmarks.measure import Measured
from trajworld.models.bins import encode, target_bins


def test_encode_and_project(measured: Measured, case: Case) -> None:
    """Counted are the operations of the dense product of the encoded values, ``[B T M, 256]``, with ``[256, d]``."""
    model, (bins, width) = make_model(case), (case.sizes.bins, case.sizes.width)

    def embed(values: Any, lower: Any, upper: Any) -> Any:
        encoded = ops.cast(encode(values, lower, upper, bins), model.compute_dtype)
        return model.input_projection(ops.reshape(encoded, (-1, bins)))

    flops = 2 * bins * width * case.batch * case.sizes.window * case.variates
    measured("encode and project", call(case, model, embed), flops=flops, **counted(case))


def test_target_bins(measured: Measured, case: Case) -> None:
    def binned(values: Any, lower: Any, upper: Any) -> Any:
        return target_bins(values, lower, upper, case.sizes.bins)

    measured("target bins", call(case, make_model(case), binned), **counted(case))


def call(case: Case, model: Any, function: Callable[..., Any]) -> Callable[[], None]:
    """What computes a function of values and the ends of their ranges, and waits for it."""
    backend, (values, _, variates, _) = active_backend(), draw_batch(case)
    compiled = backend.compile(function, model)
    return lambda: backend.wait(compiled(values, variates.lower, variates.upper))


def counted(case: Case) -> dict[str, Any]:
    return {"count": case.batch * case.sizes.window * case.variates, "unit": "values"}
