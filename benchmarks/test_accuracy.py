"""Is it the same model on each backend? Keeps what the study compares: logits, losses of 200 steps, holdout error.

From the same weights and batches, in float32, without dropout. With ``--arrays FILE`` the arrays are kept there.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from keras import ops
from numpy.typing import NDArray

from trajworld.backend import active_backend
from trajworld.benchmarks.cases import Case
from trajworld.benchmarks.draws import Motion, draw_motion, draw_uneven_batch, make_model
from trajworld.benchmarks.measure import keep
from trajworld.data.batch import Batch
from trajworld.models.bins import moments
from trajworld.training.config import resolve_config
from trajworld.training.loop import mean_loss
from trajworld.training.optimizer import learning_rate, make_optimizer

SUITE = "accuracy"
HOLDOUT = 256


@pytest.fixture(scope="module")
def arrays(request: pytest.FixtureRequest) -> Any:
    """What is found, by name; written at the end where a file was named."""
    found: dict[str, NDArray[Any]] = {}
    yield found
    path: Path | None = request.config.getoption("--arrays")
    if path is not None:
        np.savez_compressed(path, **found)  # type: ignore[arg-type]


def test_logits(benchmark: Any, quick: bool, arrays: dict[str, NDArray[Any]]) -> None:
    """Of padded windows with values beyond the support, at each size."""
    backend = active_backend()

    def compute() -> None:
        for size in ("tiny", "small") if quick else ("tiny", "small", "paper"):
            case = Case(size, 15, "float32", batch=8)
            model = make_model(case)
            values, mask, variates = draw_uneven_batch(case)
            logits = _numpy(backend.compile(model, model)(values, mask, variates))
            # What is said at padded rows is unspecified.
            arrays[f"logits/{size}"] = logits[mask > 0]

    benchmark.pedantic(compute, rounds=1)
    keep(benchmark, SUITE, "logits")


def test_losses_and_holdout_error(benchmark: Any, arrays: dict[str, NDArray[Any]]) -> None:
    """The preset ``tiny`` for its 200 steps at its own schedule, on made-up motion."""
    config = resolve_config("train", preset="tiny", options={"datasets": ["made-up motion"]})
    motion = draw_motion(config.steps, config.batch_size, config.model.window, HOLDOUT)
    count = motion.holdout.shape[2]
    model, backend = make_model(Case("tiny", count, "float32", config.batch_size)), active_backend()
    step = backend.training_step(model, make_optimizer(config), lambda batch: mean_loss(model, batch))
    mask = np.ones(motion.training.shape[1:3], np.float32)
    losses: list[Any] = []

    def train() -> None:
        for number, values in enumerate(motion.training):
            losses.append(step(learning_rate(config, number), Batch(values, mask, motion.variates)))
        backend.wait(losses)

    benchmark.pedantic(train, rounds=1)
    step.write_back()
    arrays["losses"] = np.array([float(_numpy(loss)) for loss in losses])
    arrays["holdout_error"] = np.array(_holdout_error(model, motion))
    first, last = float(arrays["losses"][0]), float(arrays["losses"][-1])
    keep(
        benchmark,
        SUITE,
        "losses",
        first_loss=first,
        last_loss=last,
        holdout_error=float(arrays["holdout_error"]),
    )
    assert last < first - 0.5, "nothing was learnt: the losses compare nothing"


def _holdout_error(model: Any, motion: Motion) -> float:
    """Mean absolute one-step error of the predicted variates, in standard deviations."""
    values, predicted = motion.holdout, motion.observations + 1
    mask = np.ones((len(values), values.shape[1] - 1), np.float32)
    compiled = active_backend().compile(
        lambda values, mask, variates: moments(
            model(values, mask, variates, rows=1), variates.lower, variates.upper
        )[0],
        model,
    )
    mean = _numpy(compiled(values[:, :-1], mask, motion.variates))[:, 0, :predicted]
    real = values[:, -1, :predicted]
    return float(np.mean(np.abs(mean - real) / real.std(axis=0)))


def _numpy(tensor: Any) -> NDArray[Any]:
    return np.asarray(ops.convert_to_numpy(tensor))
