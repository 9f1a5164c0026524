"""The quickstart's stages: each calls what its own command calls, with the same arguments, and records that command."""

import contextlib
import os
import shlex
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from trajworld.collect.collector import default_workers
from trajworld.collect.datasets import collect_datasets, dataset_targets
from trajworld.data.dataset import Dataset
from trajworld.data.resolve import open_dataset
from trajworld.evaluation.brief import Errors, brief_errors
from trajworld.evaluation.prediction import copy_last_row_errors, prediction_errors
from trajworld.evaluation.predictors import OneStep, compile_one_step
from trajworld.evaluation.ranges import Ranges, support_for
from trajworld.models.files import load_model
from trajworld.models.ranges import pretraining_support
from trajworld.models.trajworld import TrajWorld
from trajworld.policies.behaviour import make_behaviour
from trajworld.quickstart.plan import Plan
from trajworld.quickstart.results import FINE_TUNED, FROM_SCRATCH, Command, DatasetRow, ModelFacts, TrialRow
from trajworld.training.config import Kind, resolve_config
from trajworld.training.loop import Report, train
from trajworld.training.run import Run, start_run

_BEHAVIOUR = "mixed"
_POOL_ID, _TEST_ID = "unseen/{environment}-v0", "unseen/{environment}-v1"


@dataclass(frozen=True)
class Stage:
    """Where the stages write, what they follow, and how they tell of their progress.

    Attributes:
        folder: The quickstart's folder.
        plan: What to do.
        say: Called with one line now and then.
        observe: Called with each training run when it starts; returns that run's observer.
    """

    folder: Path
    plan: Plan
    say: Callable[[str], None]
    observe: Callable[[Run], Callable[[Report], None]]


@dataclass(frozen=True)
class Collections:
    """What was collected: dataset ids of the target's pool and test."""

    pool: str
    test: str
    rows: tuple[DatasetRow, ...]
    commands: tuple[Command, ...]


@contextlib.contextmanager
def datasets_in(folder: Path) -> Iterator[None]:
    """Let Minari keep its datasets in ``folder`` for the time being, so that the quickstart leaves no others behind."""
    before = os.environ.get("MINARI_DATASETS_PATH")
    os.environ["MINARI_DATASETS_PATH"] = os.fspath(folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ["MINARI_DATASETS_PATH"]
        else:
            os.environ["MINARI_DATASETS_PATH"] = before


def collect_all(stage: Stage) -> Collections:
    """Collect the target twice, under other seeds: to train on and to test on."""
    plan = stage.plan
    rows: list[DatasetRow] = []
    commands: list[Command] = []

    def gather(purpose: str, template: str, transitions: int, seed: int) -> str:
        targets = dataset_targets([plan.target], _BEHAVIOUR, template)
        options = {"behaviour": _BEHAVIOUR, "transitions": transitions, "seed": seed, "id": template}
        commands.append(Command(f"Collect: {purpose}", command_line("data collect", plan.target, **options)))
        workers = default_workers(transitions)
        for collected in collect_datasets(
            targets,
            behaviour_name=_BEHAVIOUR,
            behaviour=make_behaviour(_BEHAVIOUR),
            transitions=transitions,
            seed=seed,
            workers=workers,
        ):
            dataset = open_dataset(collected.dataset_id)
            rows.append(
                DatasetRow(
                    purpose,
                    dataset.name,
                    dataset.environment,
                    dataset.num_variates,
                    dataset.num_episodes,
                    dataset.num_transitions,
                )
            )
            stage.say(
                f"{collected.environment}: {dataset.num_transitions:,} transitions, {dataset.num_episodes} episodes"
            )
        return targets[0].dataset_id

    pool = gather("fine-tuning", _POOL_ID, plan.pool_transitions, plan.seed + 1)
    test = gather("test", _TEST_ID, plan.test_transitions, plan.seed + 2)
    return Collections(pool, test, tuple(rows), tuple(commands))


def model_facts(model: TrajWorld, plan: Plan) -> ModelFacts:
    """What the pre-trained model says of itself."""
    identity = model.identity
    return ModelFacts(
        name=plan.model,
        parameters=model.count_params(),
        steps=identity.steps or 0,
        environments=tuple(sorted(identity.sources)),
    )


def run_trials(
    stage: Stage, pool: str, test: Dataset, tester: TrajWorld
) -> tuple[list[TrialRow], list[Command]]:
    """Fine-tune and train from scratch, at every size and rate, and test each model after its last step.

    ``tester`` is lent every trial's weights in turn, so that its prediction is compiled once.
    """
    plan = stage.plan
    trials: list[TrialRow] = []
    commands: list[Command] = []
    one_step = compile_one_step(tester)
    for size in plan.sizes:
        for side in (FINE_TUNED, FROM_SCRATCH):
            tried: list[TrialRow] = []
            for rate in plan.learning_rates:
                options: dict[str, Any] = {
                    "preset": plan.preset,
                    "steps": plan.steps,
                    "batch_size": plan.batch,
                    "learning_rate": rate,
                    "transitions": size,
                    "evaluate_every": plan.steps,
                    "log_every": max(1, plan.steps // 2),
                    "seed": plan.seed,
                }
                if side == FINE_TUNED:
                    options["init"] = plan.model
                folder = trial_folder(stage.folder, side, size, rate)
                run, command = _train(
                    stage, "train", (pool,), folder, options, f"{side}, {size:,} transitions, rate {rate:g}"
                )
                tester.set_weights(run.model.get_weights())
                errors = model_errors(tester, test, support_for(run.model, test), plan, one_step)
                if run.state.best_loss is None:
                    raise AssertionError("every trial holds episodes out")
                tried.append(TrialRow(side, size, rate, run.state.best_loss, errors))
                commands.append(command)
                stage.say(
                    f"{side} on {size:,} transitions, rate {rate:g}: error {errors.normalised_mae:.3f} std"
                )
            best = min(tried, key=lambda row: row.holdout_loss)
            trials += [replace(row, chosen=row is best) for row in tried]
    return trials, commands


def trial_folder(folder: Path, side: str, size: int, rate: float) -> Path:
    """The run directory of a trial."""
    return folder / "trials" / f"{side.replace(' ', '-')}-{size}-{rate:g}"


def zero_shot_errors(stage: Stage, model: TrajWorld, smallest: Path, test: Dataset) -> Errors:
    """The pre-trained model on the unseen environment as it is, scaled by the range that the smallest trial knew."""
    support = load_model(smallest).identity.support
    ranges = Ranges(pretraining_support(support.lower, support.upper), "the smallest fine-tuning dataset")
    return model_errors(model, test, ranges, stage.plan)


def copying_errors(test: Dataset, plan: Plan) -> Errors:
    """What predicting no change errs by on the test set."""
    return brief_errors(copy_last_row_errors(test, limit=plan.test_windows, seed=plan.seed))


def model_errors(
    model: TrajWorld, test: Dataset, support: Ranges, plan: Plan, one_step: OneStep | None = None
) -> Errors:
    """A model's one-step errors on the test windows."""
    windows = plan.test_windows
    return brief_errors(
        prediction_errors(model, test, support=support, limit=windows, seed=plan.seed, one_step=one_step)
    )


def command_line(command: str, *arguments: str, **options: Any) -> str:
    """A command as one types it."""
    words = ["trajworld", *command.split(), *(shlex.quote(argument) for argument in arguments)]
    for name, value in options.items():
        words += [f"--{name.replace('_', '-')}" if len(name) > 1 else f"-{name}", shlex.quote(str(value))]
    return " ".join(words)


def timed(seconds: dict[str, float], name: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function and note how long it took."""
    began = time.perf_counter()
    result = function(*arguments)
    seconds[name] = time.perf_counter() - began
    return result


def _train(
    stage: Stage, kind: Kind, datasets: tuple[str, ...], folder: Path, options: Mapping[str, Any], title: str
) -> tuple[Run, Command]:
    command = Command(title, command_line(kind, *datasets, **options, o=os.fspath(folder)))
    values = dict(options)
    preset = values.pop("preset")
    config = resolve_config(
        kind, preset=preset, options={**values, "datasets": [{"spec": spec} for spec in datasets]}
    )
    run = start_run(folder, config)
    outcome = train(run, stage.observe(run))
    if not outcome.finished:
        raise KeyboardInterrupt
    return run, command
