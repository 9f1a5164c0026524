"""How fast is a cached open-loop rollout, and how often is it compiled for rollouts of several lengths?"""

from typing import Any

from trajworld.benchmarks.cases import Case, horizons, rollout_flops
from trajworld.benchmarks.draws import draw_rollout, make_model
from trajworld.benchmarks.measure import Peak, keep, rates, seconds_of, timed
from trajworld.models.rollout import GivenActions, compile_rollout

SUITE = "rollout"


def test_rollout(benchmark: Any, case: Case, peak: Peak, quick: bool) -> None:
    """The shortest rollout compiles; the others tell whether a new length compiles again; the longest is timed."""
    model = make_model(case)
    context, chunk = model.context, model.chunk
    compiled = compile_rollout(model, case.observations)
    python_calls = _count_calls(model)
    compile_seconds, compilations = list[float](), 0
    for horizon in horizons(case, quick):
        history, mask, actions, variates = draw_rollout(case, horizon, context)
        controller = GivenActions(actions)

        def run(
            history: Any = history, mask: Any = mask, variates: Any = variates, controller: Any = controller
        ) -> None:
            compiled(history, mask, variates, controller)  # Returns NumPy arrays, so has waited.

        before = len(python_calls)
        new = seconds_of(run)
        traced = len(python_calls) - before
        again = seconds_of(run)
        # Compiled code calls no Python; where a repeated call does, nothing was compiled at all.
        eager = len(python_calls) - before - traced > 0
        compilations += bool(traced) and not eager
        compile_seconds.append(max(new - again, 0.0))
    timed(benchmark, run, quick)
    keep(
        benchmark,
        SUITE,
        f"rollout of {horizon} steps",
        case,
        # What a user's first rollout takes: the longest one's own first call may find what the others compiled.
        first=again + compile_seconds[0],
        lengths=len(compile_seconds),
        compilations=compilations,
        **rates(benchmark, peak, rollout_flops(case, horizon, context, chunk), case.batch * horizon),
    )


def _count_calls(model: Any) -> list[None]:
    """A list that grows whenever Python runs the model's encoding of a chunk's first rows."""
    calls: list[None] = []
    start = model.start

    def counted(*arguments: Any, **named: Any) -> Any:
        calls.append(None)
        return start(*arguments, **named)

    object.__setattr__(model, "start", counted)
    return calls
