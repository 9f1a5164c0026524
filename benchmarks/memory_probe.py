"""Run as a module: do one thing a few times and print how far this process's peak memory rose above what it held."""

import json
import sys
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from trajworld.backend import active_backend
from trajworld.data.batch import Batch
from trajworld.models.rollout import GivenActions, compile_rollout
from trajworld.training.loop import mean_loss

from .cases import Case
from .draws import draw_batch, draw_rollout, make_model

_CALLS = 3


def probe(what: str, case: Case) -> int | None:
    """Bytes that doing it took beyond the libraries, the weights and the batch; None where nothing tells.

    Args:
        what: ``training step`` or ``rollout``.
        case: Of which size.
    """
    backend = active_backend()
    run = _training_step(case) if what == "training step" else _rollout(case)
    before = backend.peak_memory()
    for _ in range(_CALLS):
        run()
    after = backend.peak_memory()
    return None if before is None or after is None else max(after - before, 0)


def _training_step(case: Case) -> Callable[[], None]:
    backend, model = active_backend(), make_model(case)
    optimizer = keras.optimizers.AdamW(1e-4, weight_decay=1e-5, global_clipnorm=0.25)
    step = backend.training_step(
        model, optimizer, lambda *arrays: mean_loss(model, Batch(*arrays[:3]), arrays[3])
    )
    batch = draw_batch(case)
    return lambda: backend.wait(step(1e-4, *batch, np.array(1, np.int32)))


def _rollout(case: Case) -> Callable[[], Any]:
    model = make_model(case)
    compiled = compile_rollout(model, case.observations)
    history, mask, actions, variates = draw_rollout(case, model.chunk, model.context)
    return lambda: compiled(history, mask, variates, GivenActions(actions))


if __name__ == "__main__":
    print(json.dumps(probe(sys.argv[1], Case(sys.argv[2], int(sys.argv[3]), sys.argv[4]))))
