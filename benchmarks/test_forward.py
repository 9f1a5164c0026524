"""How fast is a forward pass over a batch of windows, values to logits?"""

from typing import Any

from trajworld.backend import active_backend
from trajworld.benchmarks.cases import Case, forward_flops
from trajworld.benchmarks.draws import draw_batch, make_model
from trajworld.benchmarks.measure import Peak, keep, model_result, timed

SUITE = "forward"


def test_forward(benchmark: Any, case: Case, peak: Peak, quick: bool) -> None:
    backend, model = active_backend(), make_model(case)
    values, mask, variates = draw_batch(case)
    # The rows that a training step reads, so that the two compare.
    values, mask = values[:, :-1], mask[:, :-1]
    compiled = backend.compile(model, model)
    timing = timed(benchmark, lambda: backend.wait(compiled(values, mask, variates)), quick)
    rows = case.batch * case.rows_read
    flops = forward_flops(case, case.rows_read)
    keep(benchmark, model_result(SUITE, "forward pass", case, timing, peak, flops, rows))
