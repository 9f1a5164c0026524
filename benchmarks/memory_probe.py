"""Run as a module: do one thing a few times and print how far this process's peak memory rose above what it held."""

import json
import sys
from collections.abc import Callable
from typing import Any

from trajworld.backend import active_backend
from trajworld.models.rollout import GivenActions, compile_rollout

from .cases import Case
from .draws import draw_rollout, make_model, training_call


def probe(call: Callable[[], Any]) -> int | None:
    """Bytes that three calls took beyond the libraries, the weights and the batch; None where nothing tells."""
    before = active_backend().peak_memory()
    for _ in range(3):
        call()
    after = active_backend().peak_memory()
    return None if before is None or after is None else max(after - before, 0)


def _rollout_call(case: Case) -> Callable[[], Any]:
    model = make_model(case)
    compiled = compile_rollout(model, case.observations)
    history, mask, actions, variates = draw_rollout(case, model.chunk, model.context)
    return lambda: compiled(history, mask, variates, GivenActions(actions))


if __name__ == "__main__":
    _, what, size, variates, dtype = sys.argv
    make = training_call if what == "training step" else _rollout_call
    print(json.dumps(probe(make(Case(size, int(variates), dtype)))))
