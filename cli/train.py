"""``trajworld pretrain`` and ``trajworld train``."""

import dataclasses
import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from trajworld.errors import UsageError
from trajworld.models.interface import DEFAULT, MODELS

from . import cluster
from .training_progress import training_progress

# Of every kind of model; which of them a model has, its kind says.
_SIZES = {field.name: field.type for kind in MODELS.values() for field in dataclasses.fields(kind.sizes)}
_OPTIONS: list[Callable[[Any], Any]] = [
    click.option("-o", "--output", type=click.Path(path_type=Path), help="The run directory to make."),
    click.option(
        "--resume",
        type=click.Path(path_type=Path),
        metavar="RUN",
        help="Continue a run from its last checkpoint.",
    ),
    click.option("--overwrite", is_flag=True, help="Remove a run that is at the output first."),
    click.option("--model", "model_kind", metavar="KIND", help=f"{', '.join(MODELS)}.  [default: {DEFAULT}]"),
    click.option(
        "--preset", metavar="NAME", help=f"{', '.join(MODELS[DEFAULT].sizes.presets)}.  [default: small]"
    ),
    click.option(
        "--config",
        "file",
        type=click.Path(path_type=Path),
        help="TOML with any settings; options override it.",
    ),
    click.option(
        "--init",
        type=str,
        metavar="MODEL",
        help="Start from this model's weights: trajworld-small, hf://USER/REPO or a file.",
    ),
    click.option(
        "--steps", type=int, help="Optimiser steps; with --resume, where the run is to end instead."
    ),
    click.option("--batch-size", type=int, help="Windows in a batch."),
    click.option("--learning-rate", type=float, help="Peak of the schedule."),
    click.option("--warmup-steps", type=int, help="Linear warm-up."),
    click.option("--decay-steps", type=int, help="Where the cosine ends.  [default: steps]"),
    click.option("--weight-decay", type=float, help="Decoupled.  [default: 1e-5]"),
    click.option("--clip-norm", type=float, help="Global norm of gradients.  [default: 0.25]"),
    click.option("--targets", type=click.Choice(["onehot", "gauss"]), help="[default: onehot]"),
    click.option("--dtype", type=click.Choice(["float32", "mixed_bfloat16"]), help="[default: float32]"),
    click.option(
        "--transitions", type=int, help="The most transitions of each dataset to use, holdout included."
    ),
    click.option("--holdout-fraction", type=float, help="Share of the episodes held out.  [default: 0.1]"),
    click.option(
        "--holdout-windows", type=int, help="Windows evaluated of each holdout set.  [default: 1024]"
    ),
    click.option("--evaluate-every", type=int, help="Steps between holdout evaluations.  [default: a tenth]"),
    click.option(
        "--checkpoint-every", type=int, help="Steps between checkpoints.  [default: as evaluations]"
    ),
    click.option("--log-every", type=int, help="Steps between rows of the log.  [default: at most 50]"),
    click.option("--seed", type=int, help="Of weights, split, batches and dropout.  [default: 0]"),
    *(
        click.option(f"--{name}", type=type_, help="Model size, instead of the preset's.")
        for name, type_ in _SIZES.items()
    ),
    *cluster.OPTIONS,
    click.option("--json", "as_json", is_flag=True, help="Print the outcome as JSON."),
]


def _with_options(command: Any) -> Any:
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@click.command(short_help="Pre-train one model on many datasets.")
@click.argument("datasets", metavar="DATASET[=WEIGHT]...", nargs=-1)
@click.option("--padded-sizes", type=int, help="The most sizes that M is padded to.  [default: 3]")
@click.option(
    "--augment",
    type=float,
    metavar="SHARE",
    help="Share of the batches whose variates are mirrored and moved within [0, 1] at random.  [default: 0]",
)
@_with_options
def pretrain(datasets: tuple[str, ...], **options: Any) -> None:
    """Pre-train one model on several DATASETs, each scaled to [0, 1] by its own range.

    A DATASET is a Minari id, a store's folder, a D4RL .hdf5 file, corpus:NAME (the pre-training datasets that
    `trajworld data collect-corpus` made, with their weights), or a UniTraj folder (a root stands for all of its
    environments, with the published weights); =WEIGHT sets its share of the batches.

    \b
    Examples:
      trajworld pretrain trajworld/gymnasium-swimmer-v5/ou-v0 trajworld/gymnasium-reacher-v5/ou-v0=2 -o runs/pre
      trajworld pretrain corpus:corpus --augment 0.8 --targets gauss -o runs/corpus
      trajworld pretrain UniTraj/ --preset paper -o runs/unitraj
      trajworld pretrain --resume runs/pre
      trajworld pretrain --resume runs/pre --steps 50000       # with another end
    """
    _run("pretrain", [_choice(text) for text in datasets], options)


@click.command(short_help="Train on one dataset, from scratch or from a model (--init).")
@click.argument("dataset", required=False)
@_with_options
def train(dataset: str | None, **options: Any) -> None:
    """Train on one DATASET over its own range; --init fine-tunes a pre-trained model.

    \b
    Examples:
      trajworld train trajworld/gymnasium-hopper-v5/ou-v0 -o runs/hopper
      trajworld train trajworld/gymnasium-hopper-v5/ou-v0 --init trajworld-small -o runs/tuned
      trajworld train trajworld/gymnasium-hopper-v5/ou-v0 --init runs/pre/best.keras --transitions 4000 -o runs/little
      trajworld train --resume runs/hopper
    """
    _run("train", [] if dataset is None else [{"spec": dataset}], options)


def _run(kind: Any, datasets: list[dict[str, Any]], options: dict[str, Any]) -> None:
    output, resume = options.pop("output"), options.pop("resume")
    overwrite, as_json = options.pop("overwrite"), options.pop("as_json")
    devices = options.pop("devices")
    processes = [options.pop(name) for name in ("coordinator", "processes", "process")]
    if (output is None) == (resume is None):
        raise UsageError("name the run directory with -o, or continue one with --resume (one of them)")
    others = any(value is not None for name, value in options.items() if name != "steps")
    if resume is not None and (datasets or overwrite or others):
        raise UsageError(
            "--resume takes a run as it is: no datasets and no other settings but --steps and where it computes"
        )
    sizes = {name: value for name in _SIZES if (value := options.pop(name)) is not None}
    if (model_kind := options.pop("model_kind")) is not None:
        sizes["kind"] = model_kind
    given = {**options, "datasets": datasets or None, "model": sizes or None}
    with cluster.joined(*processes):
        _train(kind, given, resume or output, resume is not None, overwrite, devices, as_json)


def _train(
    kind: Any,
    given: dict[str, Any],
    path: Path,
    resuming: bool,
    overwrite: bool,
    devices: int | None,
    as_json: bool,
) -> None:
    # Imported here: `trajworld train --help` should not wait for a framework.
    from trajworld.training.config import resolve_config
    from trajworld.training.loop import train as train_loop
    from trajworld.training.run import resume_run, start_run

    from .progress import job_progress

    console = Console(stderr=True)
    with job_progress("converting") as progress:
        if resuming:
            run, warnings = resume_run(path, steps=given["steps"], devices=devices, progress=progress)
            for warning in warnings if run.layout.leads else ():
                console.print(f"Warning: {warning}", highlight=False, markup=False, soft_wrap=True)
        else:
            preset, file = given.pop("preset"), given.pop("file")
            config = resolve_config(kind, preset=preset, file=file, options=given)
            run = start_run(path, config, devices=devices, overwrite=overwrite, progress=progress)
    again = f"trajworld {run.config.kind} --resume {shlex.quote(str(run.path))}"
    try:
        with training_progress(run, console) as observe:
            outcome = train_loop(run, observe)
    except KeyboardInterrupt:
        # Before the first step, or a second Ctrl-C: nothing was saved, and the last checkpoint stands.
        click.echo(f"Interrupted; continue from the last checkpoint with: {again}", err=True)
        raise cluster.EndedAlone(130) from None
    state = outcome.state
    if not run.layout.leads:
        raise click.exceptions.Exit(0 if outcome.finished else 130)
    from trajworld.training.picture import NAME, draw_losses
    from trajworld.training.record import read_metrics

    draw_losses(read_metrics(run.path), run.path / NAME)
    if as_json:
        best = {"best_step": state.best_step, "best_holdout_loss": state.best_loss}
        click.echo(
            json.dumps({"run": str(run.path), "step": state.step, "finished": outcome.finished, **best})
        )
    if not outcome.finished:
        click.echo(f"Stopped at step {state.step}; continue with: {again}", err=True)
        raise click.exceptions.Exit(130)
    if not as_json:
        console.print(_summary(run.path, state), highlight=False, markup=False, soft_wrap=True)


def _summary(path: Path, state: Any) -> str:
    text = f"{state.step} steps in {state.seconds:.0f} s: {path / 'last.keras'}"
    if state.best_loss is not None:
        text += f"; best holdout loss {state.best_loss:.4f} at step {state.best_step}: {path / 'best.keras'}"
    return text


def _choice(text: str) -> dict[str, Any]:
    spec, separator, weight = text.rpartition("=")
    # An = may belong to a path or an id: only a number after the last one is a weight.
    try:
        return {"spec": spec, "weight": float(weight)} if separator else {"spec": text}
    except ValueError:
        return {"spec": text}
