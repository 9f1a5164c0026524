"""The quickstart from its first stage to its report."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from trajworld.backend import active_backend
from trajworld.data.dataset import Dataset
from trajworld.data.resolve import open_dataset
from trajworld.errors import UsageError
from trajworld.evaluation.open_loop import Foresight, fitting_horizon
from trajworld.evaluation.pictures import draw_trajectories, typical_episodes, view_episode
from trajworld.evaluation.predictors import compile_one_step
from trajworld.evaluation.ranges import support_for
from trajworld.models.files import load_model
from trajworld.models.names import load
from trajworld.models.trajworld import TrajWorld
from trajworld.quickstart.findings import findings
from trajworld.quickstart.plan import Plan
from trajworld.quickstart.report import write_report
from trajworld.quickstart.results import FINE_TUNED, FROM_SCRATCH, Command, Results, TrialRow
from trajworld.quickstart.stages import (
    Stage,
    collect_all,
    command_line,
    copying_errors,
    datasets_in,
    model_facts,
    run_trials,
    timed,
    trial_folder,
    zero_shot_errors,
)
from trajworld.training.loop import Report
from trajworld.training.run import Run
from trajworld.versions import versions


def run_quickstart(
    plan: Plan, folder: Path, say: Callable[[str], None], observe: Callable[[Run], Callable[[Report], None]]
) -> tuple[Results, Path]:
    """Collect, fine-tune the pre-trained model and train from scratch, test, and write the report.

    Everything is written into ``folder``; a stage that ended stays if a later one fails.

    Args:
        plan: What to do.
        folder: Must not exist, or be empty.
        say: Called with a line for each thing that is done.
        observe: Called with each training run; returns what is told of its steps.

    Returns:
        The results, and the path of the report's page.

    Raises:
        UsageError: The folder holds something.
        TrajWorldError: A stage failed, with a line that says what.
    """
    folder = folder.absolute()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{folder} is not empty: name another folder with -o, or remove it first")
    stage = Stage(folder, plan, say, observe)
    seconds: dict[str, float] = {}
    with datasets_in(folder / "datasets"):
        collections = timed(seconds, "collect", collect_all, stage)
        test = open_dataset(collections.test)
        trials, trial_commands = timed(
            seconds,
            "fine-tune and train from scratch",
            run_trials,
            stage,
            collections.pool,
            test,
            load(plan.model),
        )
        # Another one: the first was lent to the trials.
        pretrained = load(plan.model)
        smallest = _chosen(trials, FINE_TUNED)[0]
        zero_shot = timed(
            seconds,
            "test zero-shot",
            zero_shot_errors,
            stage,
            pretrained,
            _folder(stage, smallest) / "last.keras",
            test,
        )
        pictures = timed(seconds, "draw predictions", _draw_predictions, stage, trials, collections.test)
        evaluate = [_evaluate_command(stage, row, collections.test) for row in trials if row.chosen]
        results = Results(
            plan=plan,
            machine=_machine(),
            versions=versions(),
            datasets=list(collections.rows),
            model=model_facts(pretrained, plan),
            trials=trials,
            copy_last_row=copying_errors(test, plan),
            zero_shot=zero_shot,
            commands=[
                Command(
                    "First, in a shell: where the datasets are",
                    f"export MINARI_DATASETS_PATH={folder / 'datasets'}",
                ),
                *collections.commands,
                *trial_commands,
                *evaluate,
            ],
            seconds=seconds,
            pictures=pictures,
        )
        results = replace(results, findings=findings(results))
        return results, write_report(results, folder)


def _chosen(trials: list[TrialRow], side: str) -> list[TrialRow]:
    return sorted((row for row in trials if row.side == side and row.chosen), key=lambda row: row.transitions)


def _folder(stage: Stage, row: TrialRow) -> Path:
    return trial_folder(stage.folder, row.side, row.transitions, row.learning_rate)


def _evaluate_command(stage: Stage, row: TrialRow, test: str) -> Command:
    model = os.fspath(_folder(stage, row) / "last.keras")
    options = {"windows": stage.plan.test_windows, "seed": stage.plan.seed}
    return Command(
        f"Test: {row.side}, {row.transitions:,} transitions", command_line("evaluate", model, test, **options)
    )


def _draw_predictions(stage: Stage, trials: list[TrialRow], test: str) -> dict[str, str]:
    """Pictures of what the two sides' models of the smallest dataset predict."""
    pictures = {}
    for side in (FINE_TUNED, FROM_SCRATCH):
        row = _chosen(trials, side)[0]
        name = f"{side.replace(' ', '-')}.png"
        model = load_model(_folder(stage, row) / "last.keras")
        title = f"{side.capitalize()}, {row.transitions:,} transitions"
        draw_model_predictions(model, open_dataset(test), stage.folder / name, stage.plan, title)
        pictures[f"{side.capitalize()} on {row.transitions:,} transitions: predicted and real"] = name
    return pictures


def draw_model_predictions(model: TrajWorld, test: Dataset, path: Path, plan: Plan, name: str) -> None:
    """One-step and open-loop predictions of a typical episode of the test set, beside what happened."""
    support = support_for(model, test).support
    steps = fitting_horizon(test, plan.horizon)
    foresight = Foresight(model, test, support, steps, batch_size=1)
    episode = typical_episodes(test, 1)[0]
    view = view_episode(test, episode, support, compile_one_step(model), model.sizes.window, foresight)
    draw_trajectories(path, view, test, name)


def _machine() -> dict[str, Any]:
    device = active_backend().device()
    return {
        "backend": active_backend().name,
        "device": f"{device.count} x {device.name} ({device.kind})",
        "cores": os.cpu_count() or 1,
        "memory_gib": _memory_gib(),
    }


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (ValueError, OSError, AttributeError):
        return None
