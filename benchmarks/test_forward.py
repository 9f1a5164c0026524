"""How fast is a forward pass over a batch of windows, values to logits?"""

from trajworld.backend import active_backend
from trajworld.benchmarks.cases import Case
from trajworld.benchmarks.draws import draw_batch, make_model
from trajworld.benchmarks.measure import Measured


def test_forward(measured: Measured, case: Case) -> None:
    backend, model = active_backend(), make_model(case)
    values, mask, variates, _ = draw_batch(case)
    # The rows that a training step reads, so that the two compare.
    values, mask = values[:, :-1], mask[:, :-1]
    compiled = backend.compile(model, model)
    run = lambda: backend.wait(compiled(values, mask, variates))  # noqa: E731
    measured("forward pass", run, flops=case.flops(case.rows_read), count=case.batch * case.rows_read)
