"""``trajworld evaluate-transfer``: what a pre-trained model saves on embodiments that it never saw."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from trajworld.errors import TrajWorldError, UsageError

if TYPE_CHECKING:
    from trajworld.transfer.records import PretrainedModel
    from trajworld.transfer.results import Results
    from trajworld.transfer.study import Progress

_SIDES = {"both": (), "scratch": ("from scratch",), "fine-tuned": ("fine-tuned",)}


class _Numbers(click.ParamType):
    """Numbers with commas between them."""

    name = "numbers"

    def __init__(self, kind: type) -> None:
        self._kind = kind

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[Any, ...]:
        """The numbers."""
        if isinstance(value, tuple):
            return value
        try:
            return tuple(self._kind(part) for part in str(value).split(","))
        except ValueError:
            whole = "whole numbers" if self._kind is int else "numbers"
            self.fail(f"{value!r} is not {whole} with commas between them", param, ctx)


@click.command("evaluate-transfer", short_help="Measure what a pre-trained model saves on unseen robots.")
@click.argument("model_name", metavar="[MODEL]", required=False)
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help="Folder for the trials' records, and in a folder for each model, the results and the pictures.",
)
@click.option(
    "--environment",
    "environments",
    multiple=True,
    metavar="NAME",
    help="Test on this one; may be repeated.  [default: Hopper-v5, HalfCheetah-v5, Walker2d-v5]",
)
@click.option(
    "--sizes",
    type=_Numbers(int),
    default="1000,4000,16000,64000",
    show_default=True,
    help="Transitions of data.",
)
@click.option(
    "--steps",
    type=_Numbers(int),
    default="0,25,50,100,200,500,1000",
    show_default=True,
    help="Where the error is measured; the last is where training ends.",
)
@click.option(
    "--learning-rates",
    type=_Numbers(float),
    default="1e-3,3e-3,6e-3",
    show_default=True,
    help="Tried by both sides, with the first seed.",
)
@click.option("--seeds", type=click.IntRange(min=1), default=3, show_default=True, help="How many.")
@click.option(
    "--batch-size", type=click.IntRange(min=1), default=16, show_default=True, help="Windows in a batch."
)
@click.option(
    "--targets",
    type=click.Choice(["onehot", "gauss"]),
    default="onehot",
    show_default=True,
    help="Of the loss.",
)
@click.option(
    "--windows",
    type=click.IntRange(min=1),
    default=1024,
    show_default=True,
    help="Of the test set that are predicted.",
)
@click.option(
    "--pool",
    type=click.IntRange(min=1),
    metavar="TRANSITIONS",
    help="Collect so many of each environment to draw from, and a tenth more as the test set.  "
    "[default: 80000, or 1.25 times the largest size]",
)
@click.option("--preset", type=click.Choice(["tiny", "small", "paper"]), help="Of the model from scratch.")
@click.option(
    "--side",
    type=click.Choice(list(_SIDES)),
    default="both",
    show_default=True,
    help="Run only one side's trials; the results show what is finished of the other.",
)
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    help="Processes, each with cores of its own.  [default: one a core; one on a GPU]",
)
@click.option("--resume", is_flag=True, help="Go on with the trials that are in the folder.")
@click.option(
    "--overwrite", is_flag=True, help="Remove the trials that are in the folder first, of whatever model."
)
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON, and nothing else.")
def evaluate_transfer(
    model_name: str | None,
    output: Path,
    environments: tuple[str, ...],
    sizes: tuple[int, ...],
    steps: tuple[int, ...],
    learning_rates: tuple[float, ...],
    seeds: int,
    batch_size: int,
    targets: str,
    windows: int,
    pool: int | None,
    preset: str | None,
    side: str,
    workers: int | None,
    resume: bool,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Measure how much less data, and how many steps fewer, MODEL needs than a model from scratch.

    On each environment the pre-trained MODEL is fine-tuned, and a model of its sizes trained from scratch, on several
    amounts of data, with the same data, steps, seeds and learning rates; the one-step error on other episodes is
    measured as they train. MODEL is the name of a model that ships, such as trajworld-small, a file, or
    hf://USER/REPO. The data are collected first and kept with Minari's datasets, as transfer/….

    Every finished trial is kept in OUTPUT/trials. Trials from scratch do not depend on MODEL: those that are there
    serve another one, too. The results go to a folder of the model's own, OUTPUT/NAME-DIGEST (without MODEL to
    OUTPUT/from-scratch), so that those of several models lie side by side; only results of the same model by other
    options are replaced.

    \b
    Examples:
      trajworld evaluate-transfer trajworld-small -o transfer
      trajworld evaluate-transfer trajworld-small -o transfer --resume            # after Ctrl-C
      trajworld evaluate-transfer runs/pre/best.keras -o transfer --resume        # another model, the same scratch
      trajworld evaluate-transfer --side scratch -o transfer                      # before there is a model
      trajworld evaluate-transfer MODEL -o try --environment Hopper-v5 --sizes 1000 --steps 0,100 --seeds 1
    """
    if resume and overwrite:
        raise UsageError("--resume goes on with what --overwrite removes: choose one")
    if model_name is None and side != "scratch":
        raise UsageError("name the MODEL to fine-tune, or choose --side scratch")
    if model_name is not None and preset is not None:
        raise UsageError("the model from scratch has MODEL's sizes: leave out --preset")
    from trajworld.models.sizes import PRESETS
    from trajworld.transfer.plan import SIDES, TransferPlan, TrialSettings, default_pool, environment_names

    def plan_for(sizes_of_model: Any) -> TransferPlan:
        settings = TrialSettings(sizes_of_model, steps, batch_size, targets, test_windows=windows)
        names = environment_names(environments)
        return TransferPlan(names, sizes, learning_rates, seeds, settings, pool or default_pool(sizes))

    # Mistakes show before a framework is imported.
    plan = plan_for(PRESETS[preset or "small"])
    from trajworld.transfer.study import RECORDS, Study

    if not (resume or overwrite) and any((output / RECORDS).glob("**/*.json")):
        raise UsageError(f"{output} holds trials: --resume goes on with them, --overwrite removes them")
    console = Console(stderr=True)
    model = None if model_name is None else _model(model_name)
    if model is not None:
        plan = plan_for(model.sizes)
    from trajworld.transfer.data import study_data
    from trajworld.transfer.draws import check_draws
    from trajworld.transfer.records import remove_trials
    from trajworld.transfer.report import is_of_another_plan, results_folder, write_results
    from trajworld.transfer.results import results_of
    from trajworld.transfer.workers import available_cores, default_workers

    def say(line: str) -> None:
        console.print(line, highlight=False, markup=False, soft_wrap=True)

    workers = workers or default_workers()
    data = study_data(plan, min(workers, len(available_cores())), say)
    check_draws(plan, data)
    if overwrite:
        # Not before: a mistake in MODEL, the plan or the data must not cost hours of trials.
        remove_trials(output / RECORDS)
    study = Study(plan, data, output, model, _SIDES[side] or SIDES)
    done, total = study.counts()
    say(f"{total} trials, {done} of them finished; {workers} process{'es' * (workers > 1)}")
    failure = None
    try:
        study.run(workers, lambda progress: say(_line(progress)), say)
    except KeyboardInterrupt:
        say(f"{study.counts()[0]} of {total} trials are finished and kept: --resume goes on")
        raise
    except TrajWorldError as error:
        # The results of what is finished come first.
        failure = error
    results, place = results_of(study), results_folder(output, model)
    if is_of_another_plan(place, results):
        say(f"{place} held results of another plan, which these replace; its trials are kept")
    results = write_results(results, place)
    if as_json:
        click.echo(json.dumps(results.to_json(), indent=2, allow_nan=False))
    else:
        _show(results, place)
    if failure is not None:
        raise failure


def _show(results: "Results", folder: Path) -> None:
    from trajworld.transfer.report import print_tables

    out = Console()
    print_tables(results, out)
    for finding in results.findings:
        out.print(f"- {finding}", highlight=False, markup=False)
    out.print(f"Results, tables and pictures: {folder}", highlight=False, markup=False, soft_wrap=True)


def _model(name: str) -> "PretrainedModel":
    from trajworld.models.names import find_model
    from trajworld.transfer.records import pretrained_model

    return pretrained_model(find_model(name), name)


def _line(progress: "Progress") -> str:
    from trajworld.text import duration, number
    from trajworld.transfer.workers import describe

    result, left = progress.result, progress.total - progress.done
    if result.diverged is not None:
        news = f"diverged within {result.diverged:,} steps"
    else:
        last = result.points[-1]
        news = f"error {number(last.errors.normalised_mae)} after {last.step:,} steps"
    text = f"{progress.done} of {progress.total}: {describe(progress.trial)}: {news} ({duration(result.seconds)})"
    return f"{text}; about {duration(progress.seconds_left)} left" if left else text
