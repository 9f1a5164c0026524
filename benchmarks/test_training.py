"""How fast is a training step, forward and backward and the optimiser's update, with dropout?

Run it alone for each backend::

    KERAS_BACKEND=jax pytest -s benchmarks/test_training.py -k "small and float32"
"""

from trajworld.benchmarks.cases import Case
from trajworld.benchmarks.draws import training_call
from trajworld.benchmarks.measure import Measured


def test_training_step(measured: Measured, case: Case) -> None:
    """Three times the nominal operations of the forward pass."""
    flops = 3 * case.flops(case.rows_read)
    measured("training step", training_call(case), flops=flops, count=case.batch * case.rows_read)
