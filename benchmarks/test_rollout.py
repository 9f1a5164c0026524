"""How fast is a cached open-loop rollout?"""

import functools

from trajworld.benchmarks.cases import Case
from trajworld.benchmarks.draws import draw_rollout, make_model
from trajworld.benchmarks.measure import Measured
from trajworld.models.rollout import compile_rollout


def test_rollout(measured: Measured, case: Case, quick: bool) -> None:
    """Of 100 steps, in a quick run of 30; of one chunk for ``paper`` in a quick run."""
    model, horizon = make_model(case), 100 if not quick else 10 if case.size == "paper" else 30
    compiled = compile_rollout(model, case.observations)
    # Returns NumPy arrays, so has waited.
    run = functools.partial(compiled, *draw_rollout(case, horizon, model.context))
    flops = case.rollout_flops(horizon, model.context, model.chunk)
    measured(f"rollout of {horizon} steps", run, flops=flops, count=case.batch * horizon)
