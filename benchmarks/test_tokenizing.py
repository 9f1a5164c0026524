"""How fast are values encoded and projected to the model's width, and targets binned?"""

from collections.abc import Callable
from typing import Any

from keras import ops

from trajworld.backend import active_backend
from trajworld.benchmarks.cases import Case, projection_flops
from trajworld.benchmarks.draws import draw_batch, make_model
from trajworld.benchmarks.measure import Peak, keep, rates, timed
from trajworld.models.bins import encode, target_bins

SUITE = "tokenizing"


def test_encode_and_project(benchmark: Any, case: Case, peak: Peak, quick: bool) -> None:
    model = make_model(case)

    def embed(values: Any, lower: Any, upper: Any) -> Any:
        encoded = ops.cast(encode(values, lower, upper, case.sizes.bins), model.compute_dtype)
        return model.input_projection(ops.reshape(encoded, (-1, case.sizes.bins)))

    measure(benchmark, "encode and project", case, peak, quick, model, embed, projection_flops(case))


def test_target_bins(benchmark: Any, case: Case, peak: Peak, quick: bool) -> None:
    bins = case.sizes.bins
    function = lambda values, lower, upper: target_bins(values, lower, upper, bins)  # noqa: E731
    measure(benchmark, "target bins", case, peak, quick, make_model(case), function, 0)


def measure(
    benchmark: Any,
    name: str,
    case: Case,
    peak: Peak,
    quick: bool,
    model: Any,
    function: Callable[..., Any],
    flops: int,
) -> None:
    """Time a function of values and the ends of their ranges."""
    backend, (values, _, variates) = active_backend(), draw_batch(case)
    compiled = backend.compile(function, model)
    first = timed(benchmark, lambda: backend.wait(compiled(values, variates.lower, variates.upper)), quick)
    found = rates(benchmark, peak, flops, values.size, "values")
    keep(benchmark, SUITE, name, case, first=first, **found)
