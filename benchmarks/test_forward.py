"""How fast is a forward pass over a batch of windows, values to logits?"""

from typing import Any

from trajworld.backend import active_backend
from trajworld.benchmarks.cases import Case, forward_flops
from trajworld.benchmarks.draws import draw_batch, make_model
from trajworld.benchmarks.measure import Peak, keep, rates, timed

SUITE = "forward"


def test_forward(benchmark: Any, case: Case, peak: Peak, quick: bool) -> None:
    backend, model = active_backend(), make_model(case)
    values, mask, variates = draw_batch(case)
    # The rows that a training step reads, so that the two compare.
    values, mask = values[:, :-1], mask[:, :-1]
    compiled = backend.compile(model, model)
    first = timed(benchmark, lambda: backend.wait(compiled(values, mask, variates)), quick)
    found = rates(benchmark, peak, forward_flops(case, case.rows_read), case.batch * case.rows_read)
    keep(benchmark, SUITE, "forward pass", case, first=first, **found)
