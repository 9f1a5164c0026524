"""``trajworld pretrain`` and ``trajworld train``, in one process or several, on one host or several."""

import contextlib
import os
import re
import shlex
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import click

from trajworld.backend import active_backend, require_framework
from trajworld.errors import UsageError
from trajworld.models.interface import DEFAULT, MODELS
from trajworld.training.config import TrainingConfig

from .commands import Json, With, command, parameters_of
from .ending import exit_code_of
from .output import console, print_json
from .progress import job_progress, training_progress

_KERAS = "KERAS_DISTRIBUTION"


class _EndedAlone(click.exceptions.Exit):
    """The end of a command that the other processes did not agree on."""


@contextlib.contextmanager
def _joined(
    *,
    coordinator: Annotated[str, With(metavar="HOST:PORT", envvar=f"{_KERAS}_JOB_ADDRESSES")] | None = None,
    processes: Annotated[int, With(envvar=f"{_KERAS}_NUM_PROCESSES")] | None = None,
    process: Annotated[int, With(envvar=f"{_KERAS}_PROCESS_ID")] | None = None,
) -> Iterator[None]:
    """Run the block in one of several processes, where any are named, and end together with the others.

    Options:
        coordinator: Train in several processes (JAX): where process 0 listens, or auto to ask Slurm, a TPU pod or Open
            MPI.
        processes: How many processes there are.
        process: Which of them this is, from 0; process 0 writes the run.
    """
    if coordinator is None:
        if processes is not None or process is not None:
            raise UsageError("--processes and --process need --coordinator HOST:PORT")
        yield
        return
    # Keras takes the addresses of all, and looks at the first.
    coordinator = coordinator.split(",")[0]
    if coordinator != "auto":
        if not re.fullmatch(r".+:\d{1,5}", coordinator):
            raise UsageError(f"--coordinator is HOST:PORT or auto, not {coordinator!r}")
        if processes is None or process is None:
            raise UsageError("--coordinator HOST:PORT needs --processes and --process")
        if not 0 <= process < processes:
            raise UsageError(
                f"--process counts from 0 to --processes less 1: {process} of {processes} cannot be"
            )
    backend = active_backend()
    backend.join(coordinator, processes, process)
    try:
        yield
        backend.leave()
    except BaseException as error:
        if isinstance(error, click.exceptions.Exit) and not isinstance(error, _EndedAlone):
            backend.leave()
            raise
        code = exit_code_of(error)
        if code is None:
            traceback.print_exc()
        interrupted = isinstance(error, _EndedAlone | KeyboardInterrupt)
        problem = "it was interrupted" if interrupted else str(error) or type(error).__name__
        with contextlib.suppress(KeyboardInterrupt):
            backend.leave(" ".join(problem.split()))
        sys.stdout.flush()
        sys.stderr.flush()
        # An orderly end would wait for the others, who wait for this process in their computations.
        os._exit(1 if code is None else code)


def _run(
    kind: Any,
    datasets: list[dict[str, Any]],
    *,
    output: Path | None = None,
    resume: Annotated[Path, With(metavar="RUN")] | None = None,
    overwrite: bool = False,
    config: Path | None = None,
    model: Annotated[str, With(metavar="KIND", help=f"{', '.join(MODELS)}.  [default: {DEFAULT}]")]
    | None = None,
    preset: Annotated[
        str,
        With(help=f"{', '.join(MODELS[DEFAULT].sizes.presets)}, or wide (an ensemble's).  [default: small]"),
    ]
    | None = None,
    devices: Annotated[int, With(metavar="N")] | None = None,
    as_json: Json = False,
    **options: Any,
) -> None:
    """Start or resume a run, and train.

    Options:
        output: The run directory to make.
        resume: Continue a run from its last checkpoint.
        overwrite: Remove an existing run first.
        config: TOML with any settings; options override it.
        devices: Share each batch among N GPUs or TPUs of this process (JAX).  [default: all that divide the batch size;
            on CPUs 1; a resumed run: as before]
    """
    require_framework()
    if (output is None) == (resume is None):
        raise UsageError("name the run directory with -o, or continue one with --resume (one of them)")
    processes = {option.name: options.pop(option.name) for option in _PROCESSES}
    others = (config, model, preset, *(value for name, value in options.items() if name != "steps"))
    if resume is not None and (datasets or overwrite or any(value is not None for value in others)):
        raise UsageError(
            "--resume takes a run as it is: no datasets and no other settings but --steps and where it computes"
        )
    with _joined(**processes):
        # Imported here: `trajworld train --help` should not wait for a framework.
        from trajworld.training.config import resolve_config
        from trajworld.training.run import resume_run, start_run

        with job_progress("converting") as progress:
            if resume is not None:
                run, warnings = resume_run(resume, steps=options["steps"], devices=devices, progress=progress)
                for warning in warnings if run.layout.leads else ():
                    click.echo(f"Warning: {warning}", err=True)
            else:
                assert output is not None
                sizes = {"kind": model} | {name: options.pop(name) for name in _SIZES}
                sizes = {name: value for name, value in sizes.items() if value is not None}
                given = {**options, "datasets": datasets or None, "model": sizes or None}
                resolved = resolve_config(kind, preset=preset, file=config, options=given)
                run = start_run(output, resolved, devices=devices, overwrite=overwrite, progress=progress)
        _train(run, as_json)


_FIELDS = parameters_of(TrainingConfig, leave_out={"kind", "datasets", "model", "preset"}, unset=True)
_PRETRAINING = [option for option in _FIELDS if option.name in ("augment", "padded_sizes")]


def _size_options() -> dict[str, click.Option]:
    """An option for each size that any kind of model has; the preset says how large it is."""
    found: dict[str, click.Option] = {}
    for kind in MODELS.values():
        for option in parameters_of(kind.sizes, unset=True):
            assert isinstance(option, click.Option)
            words = (option.help or "").partition("  [default")[0]
            same = found.setdefault(str(option.name), option)
            if same is option:
                option.help = words
            elif words not in (same.help or ""):
                same.help = f"{same.help} Of {kind.name}: {words[0].lower()}{words[1:]}"
    return found


_SIZES = _size_options()
_PROCESSES = parameters_of(_joined)
_PARAMS = [
    *parameters_of(_run, leave_out={"kind", "datasets"}),
    *(option for option in _FIELDS if option not in _PRETRAINING),
    *_SIZES.values(),
    *_PROCESSES,
]


@command(params=[*_PARAMS, *_PRETRAINING])
def pretrain(
    datasets: Annotated[tuple[str, ...], With(metavar="DATASET[=WEIGHT]...")] = (), **options: Any
) -> None:
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
    _run("pretrain", [_choice(text) for text in datasets], **options)


@command(params=_PARAMS)
def train(dataset: str | None = None, **options: Any) -> None:
    """Train on one DATASET over its own range; --init fine-tunes a pre-trained model.

    \b
    Examples:
      trajworld train trajworld/gymnasium-hopper-v5/ou-v0 -o runs/hopper
      trajworld train trajworld/gymnasium-hopper-v5/ou-v0 --init trajworld-small -o runs/tuned
      trajworld train trajworld/gymnasium-hopper-v5/ou-v0 --init runs/pre/best.keras --transitions 4000 -o runs/little
      trajworld train --resume runs/hopper
    """
    _run("train", [] if dataset is None else [{"spec": dataset}], **options)


def _train(run: Any, as_json: bool) -> None:
    from trajworld.training.loop import train as train_loop
    from trajworld.training.picture import NAME, draw_losses
    from trajworld.training.record import read_metrics

    again = f"trajworld {run.config.kind} --resume {shlex.quote(str(run.path))}"
    try:
        with training_progress(run, console(stderr=True)) as observe:
            outcome = train_loop(run, observe)
    except KeyboardInterrupt:
        # Before the first step, or a second Ctrl-C: nothing was saved, and the last checkpoint stands.
        click.echo(f"Interrupted; continue from the last checkpoint with: {again}", err=True)
        raise _EndedAlone(130) from None
    state, path = outcome.state, run.path
    if run.layout.leads:
        draw_losses(read_metrics(path), path / NAME, run.config.model)
        if as_json:
            best = {"best_step": state.best_step, "best_holdout_loss": state.best_loss}
            print_json({"run": str(path), "step": state.step, "finished": outcome.finished, **best})
        if not outcome.finished:
            click.echo(f"Stopped at step {state.step}; continue with: {again}", err=True)
        elif not as_json:
            text = f"{state.step} steps in {state.seconds:.0f} s: {path / 'last.keras'}"
            if state.best_loss is not None:
                text += f"; best holdout loss {state.best_loss:.4f} at step {state.best_step}: "
                text += str(path / "best.keras")
            click.echo(text, err=True)
    raise click.exceptions.Exit(0 if outcome.finished else 130)


def _choice(text: str) -> dict[str, Any]:
    spec, separator, weight = text.rpartition("=")
    # An = may belong to a path or an id: only a number after the last one is a weight.
    try:
        return {"spec": spec, "weight": float(weight)} if separator else {"spec": text}
    except ValueError:
        return {"spec": text}
