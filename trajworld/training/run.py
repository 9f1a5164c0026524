"""A run directory: made or resumed, with all that it takes to understand and repeat the run."""

import contextlib
import os
import random
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import keras

from trajworld.backend import Layout, active_backend
from trajworld.data.mixture import Mixture
from trajworld.data.statistics import statistics
from trajworld.errors import TrajWorldError, UsageError
from trajworld.files import file_digest, one_writer, remove_leftovers, user_path, write_json
from trajworld.models.files import load_model
from trajworld.models.interface import new_model
from trajworld.models.names import find_model, said_briefly
from trajworld.models.seen import with_init
from trajworld.processes import Progress
from trajworld.training.checkpoint import TrainingState, load_checkpoint, load_optimizer, newest_checkpoint
from trajworld.training.config import TrainingConfig, resolve_config, write_config
from trajworld.training.optimizer import make_optimizer
from trajworld.training.parts import Part, identity_of, open_parts
from trajworld.training.record import CONFIG, RECORD, is_run, read_record
from trajworld.versions import versions


@dataclass(eq=False)
class Run:
    """All that the training loop needs: ``model`` and the built ``optimizer`` are at ``state.step``."""

    path: Path
    config: TrainingConfig
    parts: list[Part]
    model: Any
    state: TrainingState
    layout: Layout
    mixture: Mixture = field(init=False)
    optimizer: keras.optimizers.Optimizer = field(init=False)

    def __post_init__(self) -> None:
        config, padded = self.config, (self.config.padded_sizes, self.config.augment)
        self.mixture = Mixture(self.parts, config.batch_size, config.model.window, config.seed, *padded)
        self.optimizer = make_optimizer(self.config)
        self.optimizer.build(self.model.trainable_variables)


def start_run(
    path: str | os.PathLike[str],
    config: TrainingConfig,
    *,
    devices: int | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Run:
    """Make a run directory, which must not exist unless ``overwrite``, and the model at step 0.

    It trains on ``devices``, None for all GPUs or TPUs that divide the batch size, or for one CPU; all that Keras makes
    and this library compiles next in this process is for them, too. ``progress`` is called during the conversion of
    datasets.
    """
    path, backend = user_path(path), active_backend()
    # Before datasets are converted, which may take long. Once: what a name on the hub stands for may change meanwhile.
    init = find_model(config.init) if config.init else None
    layout = backend.distribute(devices, config.batch_size)

    def prepared() -> list[Part]:
        if layout.leads:
            _check_place(path, overwrite)
        return open_parts(config, progress)

    # The first converts; the others find what it converted, where they see the same disk.
    parts = backend.lead_first(prepared)
    model = _initial_model(config, parts, init)
    config = replace(config, model=model.sizes)  # A model that was given brings its own.
    run = Run(path, config, parts, model, TrainingState(), layout)
    record = {
        "kind": config.kind,
        **_surroundings(layout),
        "parameters": model.count_params(),
        "init": None if init is None else file_digest(init),
        "datasets": [part.describe() for part in parts],
    }

    def write() -> None:
        if not layout.leads:
            return
        with one_writer(path, "the run"):
            # Again: another process may have made it while datasets were converted.
            _check_place(path, overwrite)
            if is_run(path):
                shutil.rmtree(path)
            write_json(path / RECORD, record)
            write_config(config, path / CONFIG)  # Last: it is what makes the directory a run.

    # A process that starts from a model in the overwritten run has read it by now.
    backend.lead_first(lambda: None)
    backend.lead_first(write)
    return run


def resume_run(
    path: str | Path,
    *,
    steps: int | None = None,
    devices: int | None = None,
    progress: Progress | None = None,
) -> tuple[Run, list[str]]:
    """Continue from the newest checkpoint of a run, or from its start where it has none yet.

    It ends after ``steps``, None for where it was to end, and its cosine with it if both ends were one; on ``devices``,
    None for as many as it began on, if there are that many. Returned with the run are warnings: what has changed and
    may affect the numbers.
    """
    path, backend = user_path(path), active_backend()
    if not is_run(path):
        raise UsageError(f"{path} is not a run directory: it has no {CONFIG}")
    record = read_record(path)
    written = resolve_config(record["kind"], file=path / CONFIG)
    config = resolve_config(record["kind"], file=path / CONFIG, options={"steps": steps})
    layout = backend.distribute(devices, written.batch_size, record.get("layout", {}).get("devices"))

    def prepared() -> list[Part]:
        parts = open_parts(written, progress)
        _check_unchanged(path, record, parts)
        return parts

    parts = backend.lead_first(prepared)
    with one_writer(path, "the run") if layout.leads else contextlib.nullcontext():
        run = _continued(path, record, written, config, parts, layout)
    return run, _warnings(record, layout)


def _continued(
    path: Path,
    record: dict[str, Any],
    written: TrainingConfig,
    config: TrainingConfig,
    parts: list[Part],
    layout: Layout,
) -> Run:
    """The run at its newest checkpoint; its record, and perhaps its configuration, are updated."""
    if layout.leads:
        remove_leftovers(path / "checkpoints")
    checkpoint = newest_checkpoint(path)
    if checkpoint is None:
        init = find_model(written.init) if written.init else None
        if init is not None and record.get("init") != file_digest(init):
            raise TrajWorldError(
                f"{written.init} is not the model that {path} began with, and the run has no checkpoint: start another"
            )
        run = Run(path, config, parts, _initial_model(config, parts, init), TrainingState(), layout)
    else:
        model, state = load_checkpoint(checkpoint)
        if model.sizes != written.model or state.step > written.steps:
            raise TrajWorldError(
                f"{checkpoint} is not of the run that {path / CONFIG} describes: restore one of them"
            )
        if state.step > config.steps:
            raise UsageError(f"{path} is at step {state.step:,} already: it cannot end at {config.steps:,}")
        if config.steps > written.steps and 0 < config.patience <= state.stale:
            # It had ended because its holdout loss did not fall, and is to continue.
            state = replace(state, stale=0)
        run = Run(path, config, parts, model, state, layout)
        load_optimizer(checkpoint, run.optimizer)
    if layout.leads:
        ends = {"steps_before": written.steps, "steps": config.steps} if config != written else {}
        entry = {"step": run.state.step, **_surroundings(layout), **ends}
        write_json(path / RECORD, {**record, "resumed": [*record.get("resumed", []), entry]})
        if ends:
            write_config(config, path / CONFIG)
    return run


def _check_place(path: Path, overwrite: bool) -> None:
    """Refuse a place that holds anything but leftovers of a process that was killed before it made a run."""
    if not path.exists() or (overwrite and is_run(path)):
        return
    if is_run(path):
        raise UsageError(f"{path} exists already: --resume continues it, --overwrite starts afresh")
    names = [item.name for item in path.iterdir()] if path.is_dir() else ["a file"]
    if any(name != RECORD and not (name[0] == "." and ".tmp" in name) for name in names):
        raise UsageError(f"{path} exists already: name another place")


def _initial_model(config: TrainingConfig, parts: list[Part], init: Path | None) -> Any:
    """Random weights from the seed, or those of ``init`` with this run's ranges and environment."""
    wanted = max(part.dataset.num_variates for part in parts)
    history: dict[str, Any] = {
        **{name: getattr(config, name) for name in ("kind", "preset", "seed", "steps")},
        "datasets": [part.dataset.name for part in parts],
        "environments": sorted({part.dataset.environment or part.dataset.name for part in parts}),
        "versions": versions(),
    }
    sizes = config.model
    if init is not None:
        source = load_model(init)
        sizes = source.sizes
        name = said_briefly(config.init)
        history["environments"] = with_init(history["environments"], source.identity, name)
        history["init"] = {"file": name, "history": dict(source.identity.history)}
    if wanted > sizes.variates:
        raise TrajWorldError(
            f"{wanted} variates are more than the model's table of {sizes.variates}: leave that dataset out, or train "
            f"from scratch with --variates {wanted}"
        )
    # Keras draws its initialisers' seeds from Python's generator. Its own set_random_seed would import TensorFlow, if
    # installed, under any backend.
    held = random.getstate()
    random.seed(config.seed)
    try:
        model = new_model(sizes, identity_of(config, parts, history), config.dtype)
    finally:
        random.setstate(held)
    if init is not None:
        getattr(model, "start_from", model.set_weights)(source.get_weights())
    if hasattr(model, "adapt"):
        # One that standardises its inputs: by the statistics of what it is trained on, scaled by its range.
        found = [(statistics(part.dataset, part.episodes), part) for part in parts]
        spans = [part.upper - part.lower for part in parts]
        model.adapt(
            [(one.mean - part.lower) / span for (one, part), span in zip(found, spans, strict=True)],
            [one.std / span for (one, _), span in zip(found, spans, strict=True)],
            [(part.dataset.observation_size, part.dataset.action_size) for part in parts],
            fresh=init is None,
        )
    return model


def _surroundings(layout: Layout) -> dict[str, Any]:
    """What the numbers may depend on besides the configuration and the data."""
    device = active_backend().device()
    return {
        "versions": versions(),
        "backend": active_backend().name,
        "device": {"kind": device.kind, "name": device.name, "count": device.count},
        "layout": {"devices": layout.devices, "processes": layout.processes},
    }


def _check_unchanged(path: Path, record: dict[str, Any], parts: list[Part]) -> None:
    before, problem = record["datasets"], ""
    if len(parts) != len(before):
        problem = f"{path} was trained on {len(before)} datasets, but its configuration names {len(parts)}"
    for old, new in zip(before, (part.describe() for part in parts), strict=False):
        for key in ("variates", "transitions", "training_episodes", "holdout_episodes", "content"):
            if old.get(key) != new[key] and not problem:
                # Of a digest, its beginning.
                was, now = (f"{value!s:.12}{'…' * (key == 'content')}" for value in (old.get(key), new[key]))
                problem = f"{new['name']} is not what {path} was trained on ({key} was {was}, is {now})"
    if problem:
        raise TrajWorldError(f"{problem}: restore it or start another run")


def _warnings(record: dict[str, Any], layout: Layout) -> list[str]:
    """What has changed since the run began, and may affect the numbers."""
    devices, backend, old, new = layout.devices, active_backend().name, record["versions"], versions()
    before = record.get("layout", {}).get("devices", devices)
    moved = (
        (f"{before} device{'s' * (before != 1)}", devices, "within rounding", before != devices),
        (record.get("backend"), backend, "closely", record.get("backend") != backend),
    )
    words = "the run began on {} and continues on {}: the numbers will agree {}, not exactly"
    found = [words.format(*one) for *one, changed in moved if changed]
    changed = [f"{name} {old[name]} -> {new.get(name, 'none')}" for name in old if old[name] != new.get(name)]
    if changed:
        found.append(f"versions have changed since the run began: {', '.join(changed)}")
    return found
