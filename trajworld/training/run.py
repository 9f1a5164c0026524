"""A run directory: made or resumed, with all that it takes to understand and repeat the run."""

import random
import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import keras

from trajworld.backend import Layout, active_backend
from trajworld.data.mixture import Mixture
from trajworld.errors import TrajWorldError, UsageError
from trajworld.files import file_digest, one_writer, user_path, write_json
from trajworld.models.files import load_model
from trajworld.models.identity import Identity
from trajworld.models.interface import new_model
from trajworld.models.names import find_model, said_briefly
from trajworld.models.seen import with_init
from trajworld.training.checkpoint import (
    TrainingState,
    load_checkpoint,
    load_optimizer,
    newest_checkpoint,
    remove_half_written,
)
from trajworld.training.config import TrainingConfig, resolve_config, write_config
from trajworld.training.data import Part, Progress, identity_of, make_mixture, open_parts
from trajworld.training.optimizer import make_optimizer
from trajworld.training.record import CONFIG, RECORD, is_run, read_record
from trajworld.versions import versions


@dataclass(eq=False)
class Run:
    """Everything a training loop needs.

    ``config`` is resolved, ``parts`` are the datasets, split, of which ``mixture`` makes the batches; ``model`` and the
    built ``optimizer`` are at ``state.step``; ``layout`` says on which devices it is trained.
    """

    path: Path
    config: TrainingConfig
    parts: list[Part]
    model: Any
    state: TrainingState
    layout: Layout
    mixture: Mixture = field(init=False)
    optimizer: keras.optimizers.Optimizer = field(init=False)

    def __post_init__(self) -> None:
        self.mixture = make_mixture(self.config, self.parts)
        self.optimizer = make_optimizer(self.config)
        self.optimizer.build(self.model.trainable_variables)


def start_run(
    path: str | Path,
    config: TrainingConfig,
    *,
    devices: int | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Run:
    """Make a run directory, which must not be there yet unless ``overwrite``, and the model at step 0.

    It is to be trained on ``devices``, None for all GPUs or TPUs that divide the batch size, and for one CPU: whatever
    Keras makes and this library compiles next in this process is for them, too. ``progress`` is called during the
    conversion of datasets.

    Raises:
        UsageError: The directory is there already, or there are fewer devices.
        TrajWorldError: A dataset or the initial model is missing or damaged, or does not fit.
    """
    path, backend = user_path(path), active_backend()
    # Before datasets are converted, which may take long: a name that is wrong is told at once.
    init = _init_file(config)
    layout = backend.distribute(devices, config.batch_size)

    def prepared() -> list[Part]:
        if layout.leads:
            _check_place(path, overwrite)
        return open_parts(config, progress)

    # The first converts; the others find what it converted, where they see the same disk.
    parts = backend.lead_first(prepared)
    model = _initial_model(config, parts, init)
    # A model that was given brings its own sizes.
    config = replace(config, model=model.sizes)
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
            # Last: the configuration is what makes the directory a run.
            write_config(config, path / CONFIG)

    # Whoever starts from a model in the run that is overwritten has read it by now.
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

    It is to end after ``steps``, and its cosine with it where both were one, None for where it was to end; on
    ``devices``, None for as many as it began on, where there are that many.

    Returns:
        The run, and warnings: what is not as it was and may change the numbers.

    Raises:
        UsageError: ``path`` is no run, or is past ``steps`` already.
        TrajWorldError: A dataset has changed or a file is damaged.
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
        if layout.leads:
            remove_half_written(path)
        return parts

    parts = backend.lead_first(prepared)
    checkpoint = newest_checkpoint(path)
    if checkpoint is None:
        init = _init_file(written)
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
        run = Run(path, config, parts, model, state, layout)
        load_optimizer(checkpoint, run.optimizer)
    _note_resumption(run, record, written)
    return run, _warnings(record, layout)


def _check_place(path: Path, overwrite: bool) -> None:
    """Refuse a place that holds anything but what was left by a process that was killed before it made a run."""
    if not path.exists() or (overwrite and is_run(path)):
        return
    if is_run(path):
        raise UsageError(f"{path} exists already: --resume continues it, --overwrite starts afresh")
    names = [item.name for item in path.iterdir()] if path.is_dir() else ["a file"]
    if any(name != RECORD and not (name[0] == "." and ".tmp" in name) for name in names):
        raise UsageError(f"{path} exists already: name another place")


def _init_file(config: TrainingConfig) -> Path | None:
    """The file of the model to start from, found once: what a name on the hub stands for may change meanwhile."""
    return find_model(config.init) if config.init else None


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
    identity: Identity = identity_of(config, parts, history)
    # Keras draws its initialisers' seeds from Python's generator. Its own set_random_seed would import TensorFlow
    # wherever that is installed, whatever the backend.
    held = random.getstate()
    random.seed(config.seed)
    try:
        model = new_model(sizes, identity, config.dtype)
    finally:
        random.setstate(held)
    if init is not None:
        model.set_weights(source.get_weights())
    return model


def _surroundings(layout: Layout) -> dict[str, Any]:
    """What the numbers may depend on beside the configuration and the data."""
    device = active_backend().device()
    return {
        "versions": versions(),
        "backend": active_backend().name,
        "device": {"kind": device.kind, "name": device.name, "count": device.count},
        "layout": {"devices": layout.devices, "processes": layout.processes},
    }


def _note_resumption(run: Run, record: dict[str, Any], before: TrainingConfig) -> None:
    """Note in the record from which step the run continues, and on what."""
    entry = {"step": run.state.step, **_surroundings(run.layout)}
    if not run.layout.leads:
        return
    if run.config != before:
        entry |= {"steps_before": before.steps, "steps": run.config.steps}
    write_json(run.path / RECORD, {**record, "resumed": [*record.get("resumed", []), entry]})
    if run.config != before:
        write_config(run.config, run.path / CONFIG)


def _check_unchanged(path: Path, record: dict[str, Any], parts: list[Part]) -> None:
    before, now = record["datasets"], [part.describe() for part in parts]
    if len(now) != len(before):
        raise TrajWorldError(
            f"{path} was trained on {len(before)} datasets, but its configuration now names {len(now)}: restore them "
            "or start another run"
        )
    for old, new in zip(before, now, strict=True):
        for key in ("variates", "transitions", "training_episodes", "holdout_episodes", "content"):
            if old.get(key) != new[key]:
                # Of a digest, its beginning.
                was, found = (
                    f"{str(value)[:12]}{'…' * (key == 'content')}" for value in (old.get(key), new[key])
                )
                raise TrajWorldError(
                    f"{new['name']} is not what {path} was trained on ({key} was {was}, is {found}): restore it or "
                    "start another run"
                )


def _warnings(record: dict[str, Any], layout: Layout) -> list[str]:
    """What is not as it was when the run began, and may change the numbers."""
    backend, devices = active_backend().name, layout.devices
    began_on, old, new = record.get("layout", {}).get("devices", devices), record["versions"], versions()
    changed = [f"{name} {old[name]} -> {new.get(name, 'none')}" for name in old if old[name] != new.get(name)]
    found = []
    if began_on != devices:
        words = f"the run began on {began_on} device{'s' * (began_on != 1)} and continues on {devices}"
        found.append(f"{words}: the numbers will agree within rounding, not exactly")
    if record.get("backend") != backend:
        words = f"the run began on {record.get('backend')} and continues on {backend}"
        found.append(f"{words}: the numbers will agree closely, not exactly")
    if changed:
        found.append(f"versions have changed since the run began: {', '.join(changed)}")
    return found
