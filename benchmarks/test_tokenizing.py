"""How fast are values encoded and projected to the model's width, and targets binned?"""

from typing import Any

from keras import ops

from trajworld.backend import active_backend
from trajworld.benchmarks.cases import Case, projection_flops
from trajworld.benchmarks.draws import draw_batch, make_model
from trajworld.benchmarks.measure import Peak, keep, model_result, timed
from trajworld.models.bins import encode, target_bins

SUITE = "tokenizing"


def test_encode_and_project(benchmark: Any, case: Case, peak: Peak, quick: bool) -> None:
    backend, model = active_backend(), make_model(case)
    values, _, variates = draw_batch(case)

    def embed(values: Any, lower: Any, upper: Any) -> Any:
        encoded = encode(values, lower, upper, case.sizes.bins)
        return model.input_projection(
            ops.reshape(ops.cast(encoded, model.compute_dtype), (-1, case.sizes.bins))
        )

    compiled = backend.compile(embed, model)
    timing = timed(benchmark, lambda: backend.wait(compiled(values, variates.lower, variates.upper)), quick)
    measure, flops = "encode and project", projection_flops(case)
    keep(benchmark, model_result(SUITE, measure, case, timing, peak, flops, values.size, "values"))


def test_target_bins(benchmark: Any, case: Case, peak: Peak, quick: bool) -> None:
    backend, model = active_backend(), make_model(case)
    values, _, variates = draw_batch(case)
    bins = case.sizes.bins
    compiled = backend.compile(lambda values, lower, upper: target_bins(values, lower, upper, bins), model)
    timing = timed(benchmark, lambda: backend.wait(compiled(values, variates.lower, variates.upper)), quick)
    keep(benchmark, model_result(SUITE, "target bins", case, timing, peak, 0, values.size, "values"))
