"""Is it the same model on each backend? From the same weights and batches, without dropout."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from keras import ops
from numpy.typing import NDArray

from trajworld.backend import active_backend
from trajworld.benchmarks.cases import Case
from trajworld.benchmarks.draws import draw_motion, draw_uneven_batch, make_model
from trajworld.benchmarks.measure import keep
from trajworld.data.batch import Batch
from trajworld.training.config import resolve_config
from trajworld.training.loop import mean_loss
from trajworld.training.optimizer import learning_rate, make_optimizer

Arrays = dict[str, NDArray[Any]]


@pytest.fixture(scope="module")
def arrays(request: pytest.FixtureRequest) -> Iterator[Arrays]:
    """What is found, by name; written at the end where a file was named."""
    found: Arrays = {}
    yield found
    if path := request.config.getoption("--arrays"):
        np.savez_compressed(path, **found)  # type: ignore[arg-type]


def test_logits(benchmark: Any, quick: bool, arrays: Arrays) -> None:
    """Of padded windows with values beyond the support, at each size."""

    def compute() -> None:
        for size in ("tiny", "small") if quick else ("tiny", "small", "paper"):
            case = Case(size, batch=8)
            model = make_model(case)
            values, mask, variates, _ = draw_uneven_batch(case)
            logits = active_backend().compile(model, model)(values, mask, variates)
            # What is said at padded rows is unspecified.
            arrays[f"logits/{size}"] = ops.convert_to_numpy(logits)[mask > 0]

    benchmark.pedantic(compute, rounds=1)
    keep(benchmark, "logits")


def test_losses_and_holdout_error(benchmark: Any, arrays: Arrays) -> None:
    """The preset ``tiny`` for its 200 steps, on made-up motion; the one-step error in standard deviations."""
    config = resolve_config("train", preset="tiny", options={"datasets": ["made-up motion"]})
    training, holdout, variates = draw_motion(config.steps, config.batch_size, config.model.window, 256)
    model, backend = make_model(Case("tiny", 6, batch=config.batch_size)), active_backend()
    step = backend.training_step(model, make_optimizer(config), lambda batch: mean_loss(model, batch))
    losses: list[Any] = []

    def train() -> None:
        for number, values in enumerate(training):
            batch = Batch(values, np.ones(values.shape[:2], np.float32), variates)
            losses.append(step(learning_rate(config, number), batch))
        backend.wait(losses)

    benchmark.pedantic(train, rounds=1)
    step.write_back()
    arrays["losses"] = np.array([float(ops.convert_to_numpy(loss)) for loss in losses])
    predict = backend.compile(lambda batch: model.predict(batch).mean, model)
    mean = predict(Batch(holdout, np.ones(holdout.shape[:2], np.float32), variates))
    real = holdout[:, -1, :-1]
    error = np.abs(ops.convert_to_numpy(mean)[:, :-1] - real) / real.std(axis=0)
    arrays["holdout_error"] = np.array(float(error.mean()))
    first, last = arrays["losses"][[0, -1]].tolist()
    keep(benchmark, "losses", first_loss=first, last_loss=last, holdout_error=float(error.mean()))
    assert last < first - 0.5, "nothing was learnt: the losses compare nothing"
