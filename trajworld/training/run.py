"""A run directory: made or resumed, with all that it takes to understand and repeat the run (DESIGN §7)."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras

from trajworld.backend import active_backend
from trajworld.data.mixture import Mixture
from trajworld.errors import TrajWorldError, UsageError
from trajworld.files import read_json, write_json
from trajworld.models.files import load_model
from trajworld.models.identity import Identity
from trajworld.models.transformer import TrajWorld
from trajworld.training.checkpoint import TrainingState, load_checkpoint, load_optimizer, newest_checkpoint
from trajworld.training.config import Kind, TrainingConfig, resolve_config, write_config
from trajworld.training.optimizer import make_optimizer
from trajworld.training.sources import Part, Progress, identity_of, make_mixture, open_parts
from trajworld.versions import versions

_CONFIG, _RECORD = "config.toml", "run.json"


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
    """

    path: Path
    config: TrainingConfig
    parts: list[Part]
    mixture: Mixture
    model: TrajWorld
    optimizer: keras.optimizers.Optimizer
    state: TrainingState


def start_run(
    path: str | Path, config: TrainingConfig, *, overwrite: bool = False, progress: Progress | None = None
) -> Run:
    """Make a run directory and the model at step 0.

    Args:
        path: The directory; must not be there yet.
        config: Resolved.
        overwrite: Whether a run that is there is removed first.
        progress: Told of the conversion of datasets.

    Raises:
        UsageError: The directory is there already.
        TrajWorldError: A dataset or the initial model is missing or damaged, or does not fit.
    """
    path = Path(path)
    if path.exists() and not (overwrite and is_run(path)) and (not path.is_dir() or any(path.iterdir())):
        hint = "--resume continues it, --overwrite starts afresh" if is_run(path) else "name another place"
        raise UsageError(f"{path} exists already: {hint}")
    parts = open_parts(config, progress)
    model = _initial_model(config, parts)
    if overwrite and is_run(path):
        shutil.rmtree(path)
    write_json(path / _RECORD, _record(parts, model))
    # Last: the configuration is what makes the directory a run.
    write_config(config, path / _CONFIG)
    return _assembled(path, config, parts, model, TrainingState())


def resume_run(path: str | Path, *, progress: Progress | None = None) -> tuple[Run, list[str]]:
    """Continue from the newest checkpoint of a run, or from its start where it has none yet.

    Returns:
        The run, and warnings: what is not as it was and may change the numbers.

    Raises:
        UsageError: ``path`` is no run.
        TrajWorldError: A dataset has changed or a file is damaged.
    """
    path = Path(path)
    if not is_run(path):
        raise UsageError(f"{path} is not a run directory: it has no {_CONFIG}")
    written = resolve_config(_kind(path), file=path / _CONFIG)
    parts = open_parts(written, progress)
    record = read_json(path / _RECORD)
    _check_unchanged(path, record, parts)
    checkpoint = newest_checkpoint(path)
    if checkpoint is None:
        return _assembled(path, written, parts, _initial_model(written, parts), TrainingState()), _warnings(
            record
        )
    model, state = load_checkpoint(checkpoint)
    run = _assembled(path, written, parts, model, state)
    load_optimizer(checkpoint, run.optimizer)
    return run, _warnings(record)


def is_run(path: Path) -> bool:
    """Whether a directory is a run."""
    return (path / _CONFIG).is_file()


def _kind(path: Path) -> Kind:
    kind = read_json(path / _RECORD).get("kind")
    if kind not in ("pretrain", "train"):
        raise TrajWorldError(f"{path / _RECORD} does not say whether the run is pretrain or train")
    return kind


def _assembled(
    path: Path, config: TrainingConfig, parts: list[Part], model: TrajWorld, state: TrainingState
) -> Run:
    optimizer = make_optimizer(config)
    optimizer.build(model.trainable_variables)
    return Run(path, config, parts, make_mixture(config, parts), model, optimizer, state)


def _initial_model(config: TrainingConfig, parts: list[Part]) -> TrajWorld:
    """Random weights from the seed, or those of ``config.init`` with this run's ranges and environment."""
    wanted = max(part.dataset.num_variates for part in parts)
    history: dict[str, Any] = {
        "kind": config.kind,
        "preset": config.preset,
        "seed": config.seed,
        "steps": config.steps,
        "datasets": [part.dataset.name for part in parts],
        "versions": versions(),
    }
    sizes = config.model
    if config.init:
        source = load_model(config.init)
        sizes = source.sizes
        history["init"] = {"file": Path(config.init).name, "history": dict(source.identity.history)}
    if wanted > sizes.variates:
        raise TrajWorldError(
            f"{wanted} variates are more than the model's table of {sizes.variates}: leave that dataset out, or train "
            f"from scratch with --variates {wanted}"
        )
    identity: Identity = identity_of(config, parts, history)
    keras.utils.set_random_seed(config.seed)
    model = TrajWorld(sizes, identity, dtype=config.dtype)
    if config.init:
        model.set_weights(source.get_weights())
    return model


def _record(parts: list[Part], model: TrajWorld) -> dict[str, Any]:
    device = active_backend().device()
    return {
        "kind": model.identity.history["kind"],
        "versions": versions(),
        "backend": active_backend().name,
        "device": {"kind": device.kind, "name": device.name, "count": device.count},
        "parameters": model.count_params(),
        "datasets": [part.describe() for part in parts],
    }


def _check_unchanged(path: Path, record: dict[str, Any], parts: list[Part]) -> None:
    now = [part.describe() for part in parts]
    for old, new in zip(record.get("datasets", []), now, strict=False):
        for key in ("fingerprint", "variates", "transitions", "training_episodes"):
            if old.get(key) != new[key]:
                raise TrajWorldError(
                    f"{new['name']} is not what {path} was trained on ({key} was {old.get(key)}, is {new[key]}): "
                    "restore it or start another run"
                )


def _warnings(record: dict[str, Any]) -> list[str]:
    found = []
    if record.get("backend") != active_backend().name:
        found.append(
            f"the run began on {record.get('backend')} and goes on on {active_backend().name}: the numbers will "
            "agree closely, not exactly"
        )
    old, new = record.get("versions", {}), versions()
    changed = [f"{name} {old[name]} -> {new.get(name, 'none')}" for name in old if old[name] != new.get(name)]
    if changed:
        found.append(f"versions have changed since the run began: {', '.join(changed)}")
    return found
