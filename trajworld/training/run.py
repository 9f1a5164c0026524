"""A run directory: made or resumed, with all that it takes to understand and repeat the run."""

import contextlib
import random
import shutil
from dataclasses import dataclass, replace
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
    remove_leftovers,
)
from trajworld.training.config import TrainingConfig, resolve_config, write_config
from trajworld.training.data import Part, Progress, identity_of, make_mixture, open_parts
from trajworld.training.optimizer import make_optimizer
from trajworld.training.record import CONFIG, RECORD, is_run, read_record
from trajworld.versions import versions


@dataclass(eq=False)
class Run:
    """Everything a training loop needs.

    Attributes:
        path: The run directory.
        config: The resolved configuration.
        parts: The datasets, split.
        mixture: The batches.
        model: The model, at ``state.step``.
        optimizer: Built, at the same step.
        state: Where the run stands.
        layout: The devices it is trained on.
    """

    path: Path
    config: TrainingConfig
    parts: list[Part]
    mixture: Mixture
    model: Any
    optimizer: keras.optimizers.Optimizer
    state: TrainingState
    layout: Layout


def start_run(
    path: str | Path,
    config: TrainingConfig,
    *,
    devices: int | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Run:
    """Make a run directory and the model at step 0.

    Args:
        path: The directory; must not be there yet.
        config: Resolved.
        devices: How many to train on; None for all GPUs or TPUs that divide the batch size, and for one CPU. Keras
            makes and this library compiles whatever comes next in this process for them, too.
        overwrite: Whether a run that is there is removed first.
        progress: Called during the conversion of datasets.

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
    run = _assembled(path, config, parts, model, TrainingState(), layout)
    record = {
        "kind": config.kind,
        **_surroundings(run),
        "parameters": model.count_params(),
        "init": None if init is None else file_digest(init),
        "datasets": [part.describe() for part in parts],
    }

    def write() -> None:
        if not layout.leads:
            return
        with writing(path):
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

    Args:
        path: The run directory.
        steps: Where it is to end from now on, the end of the cosine with it where both were one; None for where it
            was to end.
        devices: How many to train on; None for as many as it began on, where there are that many.
        progress: Called during the conversion of datasets.

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
    config = written
    if steps is not None:
        config = resolve_config(record["kind"], file=path / CONFIG, options={"steps": steps})
    began_on = record.get("layout", {}).get("devices")
    layout = backend.distribute(devices, written.batch_size, began_on)

    def prepared() -> list[Part]:
        parts = open_parts(written, progress)
        _check_unchanged(path, record, parts)
        if layout.leads:
            remove_leftovers(path)
        return parts

    parts = backend.lead_first(prepared)
    checkpoint = newest_checkpoint(path)
    if checkpoint is None:
        init = _init_file(written)
        if init is not None and record.get("init") != file_digest(init):
            raise TrajWorldError(
                f"{written.init} is not the model that {path} began with, and the run has no checkpoint: start another"
            )
        model = _initial_model(config, parts, init)
        run = _assembled(path, config, parts, model, TrainingState(), layout)
        return run, _resumed(run, record, written)
    model, state = load_checkpoint(checkpoint)
    if model.sizes != written.model or state.step > written.steps:
        raise TrajWorldError(
            f"{checkpoint} is not of the run that {path / CONFIG} describes: restore one of them"
        )
    if state.step > config.steps:
        raise UsageError(f"{path} is at step {state.step:,} already: it cannot end at {config.steps:,}")
    run = _assembled(path, config, parts, model, state, layout)
    load_optimizer(checkpoint, run.optimizer)
    return run, _resumed(run, record, written)


def writing(path: Path) -> contextlib.AbstractContextManager[None]:
    """Hold a run directory for this process alone; see :func:`trajworld.files.one_writer`."""
    return one_writer(path, "the run")


def _check_place(path: Path, overwrite: bool) -> None:
    """Refuse a place that holds anything but what was left by a process that was killed before it made a run."""
    if not path.exists() or (overwrite and is_run(path)):
        return
    hint = "--resume continues it, --overwrite starts afresh" if is_run(path) else "name another place"
    if is_run(path) or not path.is_dir() or any(not _left(item.name) for item in path.iterdir()):
        raise UsageError(f"{path} exists already: {hint}")


def _left(name: str) -> bool:
    return name == RECORD or (name[0] == "." and ".tmp" in name)


def _init_file(config: TrainingConfig) -> Path | None:
    """The file of the model to start from, found once: what a name on the hub stands for may change meanwhile."""
    return find_model(config.init) if config.init else None


def _assembled(
    path: Path,
    config: TrainingConfig,
    parts: list[Part],
    model: Any,
    state: TrainingState,
    layout: Layout,
) -> Run:
    optimizer = make_optimizer(config)
    optimizer.build(model.trainable_variables)
    return Run(path, config, parts, make_mixture(config, parts), model, optimizer, state, layout)


def _initial_model(config: TrainingConfig, parts: list[Part], init: Path | None) -> Any:
    """Random weights from the seed, or those of ``init`` with this run's ranges and environment."""
    wanted = max(part.dataset.num_variates for part in parts)
    history: dict[str, Any] = {
        "kind": config.kind,
        "preset": config.preset,
        "seed": config.seed,
        "steps": config.steps,
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


def _surroundings(run: Run) -> dict[str, Any]:
    """What the numbers may depend on beside the configuration and the data."""
    device = active_backend().device()
    return {
        "versions": versions(),
        "backend": active_backend().name,
        "device": {"kind": device.kind, "name": device.name, "count": device.count},
        "layout": {"devices": run.layout.devices, "processes": run.layout.processes},
    }


def _resumed(run: Run, record: dict[str, Any], before: TrainingConfig) -> list[str]:
    """Note in the record from which step the run continues, and on what; return what is not as when it began."""
    entry = {"step": run.state.step, **_surroundings(run)}
    if run.config != before:
        entry |= {"steps_before": before.steps, "steps": run.config.steps}
    if run.layout.leads:
        write_json(run.path / RECORD, {**record, "resumed": [*record.get("resumed", []), entry]})
        if run.config != before:
            write_config(run.config, run.path / CONFIG)
    return _warnings(record, run.layout)


def _check_unchanged(path: Path, record: dict[str, Any], parts: list[Part]) -> None:
    now = [part.describe() for part in parts]
    if len(now) != len(record["datasets"]):
        raise TrajWorldError(
            f"{path} was trained on {len(record['datasets'])} datasets, but its configuration now names {len(now)}: "
            "restore them or start another run"
        )
    for old, new in zip(record["datasets"], now, strict=True):
        for key in ("variates", "transitions", "training_episodes", "holdout_episodes", "content"):
            was, found = (one.get(key) if isinstance(one, dict) else one for one in (old, new))
            if was != found:
                if key == "content":
                    was, found = (f"{str(digest)[:12]}…" for digest in (was, found))
                raise TrajWorldError(
                    f"{new['name']} is not what {path} was trained on ({key} was {was}, is {found}): restore it or "
                    "start another run"
                )


def _warnings(record: dict[str, Any], layout: Layout) -> list[str]:
    found = []
    began_on = record.get("layout", {}).get("devices", layout.devices)
    if began_on != layout.devices:
        found.append(
            f"the run began on {began_on} device{'s' * (began_on != 1)} and continues on {layout.devices}: the numbers "
            "will agree within rounding, not exactly"
        )
    if record.get("backend") != active_backend().name:
        found.append(
            f"the run began on {record.get('backend')} and continues on {active_backend().name}: the numbers will "
            "agree closely, not exactly"
        )
    old, new = record["versions"], versions()
    changed = [f"{name} {old[name]} -> {new.get(name, 'none')}" for name in old if old[name] != new.get(name)]
    if changed:
        found.append(f"versions have changed since the run began: {', '.join(changed)}")
    return found
