"""One trial: a training run whose test error is measured at several of its steps."""

import functools
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from trajworld.backend import active_backend
from trajworld.data.dataset import Dataset
from trajworld.evaluation.brief import Errors, brief_errors
from trajworld.evaluation.prediction import prediction_errors
from trajworld.evaluation.predictors import OneStep, compile_one_step
from trajworld.evaluation.ranges import support_for
from trajworld.models.identity import Identity
from trajworld.models.sizes import ModelSizes
from trajworld.models.trajworld import TrajWorld
from trajworld.training.config import TrainingConfig, resolve_config
from trajworld.training.loop import DivergedError, Report, train
from trajworld.training.run import Run, start_run
from trajworld.transfer.plan import FINE_TUNED, Trial, TrialSettings
from trajworld.transfer.workers import available_cores
from trajworld.versions import versions

# The cosine's end, so far away that the rate stays constant within any run's float32.
_NEVER = 10**9


@dataclass(frozen=True)
class Point:
    """A model on its way.

    Attributes:
        step: Steps done.
        errors: On the test set.
        holdout_loss: On the run's own held-out episodes, nats; None before the first step.
    """

    step: int
    errors: Errors
    holdout_loss: float | None


@dataclass(frozen=True)
class Origin:
    """What ran a trial. The same trial elsewhere gives the same numbers but for rounding, which training makes grow.

    Attributes:
        backend: Of Keras; empty where it is not known.
        versions: Of this package, Keras and the backend.
        cores: That the trial's process might use; None where that is not known.
    """

    backend: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    cores: int | None = None


@dataclass(frozen=True)
class TrialResult:
    """What a trial gave.

    Attributes:
        points: One for each of the settings' steps; where it diverged, for those before.
        training_transitions: Trained on.
        holdout_transitions: Held out.
        seconds: It took.
        diverged: The step at which its loss was found not to be finite; None where it trained to the end.
        origin: What ran it.
    """

    points: tuple[Point, ...]
    training_transitions: int
    holdout_transitions: int
    seconds: float
    diverged: int | None = None
    origin: Origin = field(default_factory=Origin)

    @property
    def holdout_loss(self) -> float | None:
        """After the last step, nats; None where it diverged."""
        return None if self.diverged is not None else self.points[-1].holdout_loss


def trial_config(
    trial: Trial, settings: TrialSettings, pool: str = "", init: Path | None = None
) -> TrainingConfig:
    """The configuration of a trial's run; ``pool`` is the dataset that its episodes are drawn from."""
    steps = settings.steps[-1]
    options: dict[str, Any] = {
        "datasets": [{"spec": pool or trial.environment}],
        "transitions": trial.transitions,
        "steps": steps,
        "batch_size": settings.batch_size,
        "targets": settings.targets,
        "learning_rate": trial.learning_rate,
        "warmup_steps": settings.warmup_steps,
        "decay_steps": _NEVER,
        "holdout_windows": settings.holdout_windows,
        "evaluate_every": steps,
        "log_every": steps,
        "seed": trial.seed,
    }
    # A model that is given brings its sizes.
    start = {"model": asdict(settings.model)} if init is None else {"init": os.fspath(init)}
    return resolve_config("train", preset="small", options={**options, **start})


def run_trial(
    trial: Trial,
    settings: TrialSettings,
    pool: str,
    test: Dataset,
    init: Path | None,
    folder: Path,
    observe: Callable[[Run], Callable[[Report], None]] = lambda run: lambda report: None,
) -> TrialResult:
    """Train and measure. A loss that is no longer finite ends the trial, and is a result too.

    Args:
        trial: What to run.
        settings: Of all trials.
        pool: The dataset that the trial's episodes are drawn from, as ``open_dataset`` takes it.
        test: Where the error is measured.
        init: The pre-trained model's file of a fine-tuned trial; None for one from scratch.
        folder: The run directory to make; nothing in it is needed afterwards.
        observe: Called with the run when it starts; returns what is told of its steps.

    Raises:
        TrajWorldError: The model does not fit, or a file cannot be written.
        KeyboardInterrupt: Ctrl-C came.
    """
    assert (trial.side == FINE_TUNED) == (init is not None)
    began = time.perf_counter()
    run = start_run(folder, trial_config(trial, settings, pool, init))
    support = support_for(run.model, test)
    tester, one_step = _tester(run.model.sizes)
    tell = observe(run)
    points: list[Point] = []

    def measure(step: int, holdout_loss: float | None) -> None:
        tester.set_weights(run.model.get_weights())
        errors = prediction_errors(
            tester, test, support=support, limit=settings.test_windows, one_step=one_step
        )
        points.append(Point(step, brief_errors(errors), holdout_loss))

    def look(report: Report) -> None:
        tell(report)
        if report.step in settings.steps:
            measure(report.step, report.holdout_loss)

    if settings.steps[0] == 0:
        measure(0, None)
    diverged = None
    try:
        if not train(run, look, at=settings.steps).finished:
            raise KeyboardInterrupt
    except DivergedError as error:
        diverged = error.step
    part = run.parts[0]
    held = int(part.dataset.transitions_per_episode[part.holdout].sum())
    seconds = time.perf_counter() - began
    return TrialResult(tuple(points), part.transitions, held, seconds, diverged, _origin())


def _origin() -> Origin:
    backend = active_backend().name
    packages = ("trajworld", "keras", backend, f"{backend}-cpu")
    found = {name: text for name, text in versions().items() if name in packages}
    return Origin(backend, found, len(available_cores()))


@functools.cache
def _tester(sizes: ModelSizes) -> tuple[TrajWorld, OneStep]:
    """A model that is lent every trial's weights in turn, so that a process compiles its prediction once."""
    model = TrajWorld(sizes, Identity())
    return model, compile_one_step(model)
