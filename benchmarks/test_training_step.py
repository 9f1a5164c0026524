"""How fast is a training step, forward and backward and the optimiser's update, with dropout?

Run it alone for each backend::

    KERAS_BACKEND=jax pytest -s benchmarks/test_training_step.py -k "small and float32"
"""

from typing import Any

from trajworld.benchmarks.cases import Case, training_flops
from trajworld.benchmarks.draws import training_call
from trajworld.benchmarks.measure import Peak, keep, rates, timed

SUITE = "training"


def test_training_step(benchmark: Any, case: Case, peak: Peak, quick: bool) -> None:
    first = timed(benchmark, training_call(case), quick)
    found = rates(benchmark, peak, training_flops(case), case.batch * case.rows_read)
    keep(benchmark, SUITE, "training step", case, first=first, **found)
