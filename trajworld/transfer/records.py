"""Trials that are finished: a small JSON file each, found again by all that its numbers are a function of."""

import contextlib
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from trajworld.environments.names import parse_name
from trajworld.errors import TrajWorldError
from trajworld.evaluation.brief import Errors
from trajworld.files import file_digest, read_json, write_json
from trajworld.models.files import load_model
from trajworld.models.sizes import ModelSizes
from trajworld.transfer.plan import FINE_TUNED, Trial, TrialSettings
from trajworld.transfer.trials import Origin, Point, TrialResult, trial_config

# Raised whenever the same trial gives other numbers, so that no study mixes both.
_VERSION = 1

# What a trial's numbers depend on in its run's configuration. Named one by one: a setting that is added to the
# configuration must not make finished trials unknown, as long as its default is what they were run with.
_DECIDING = (
    *("kind", "steps", "batch_size", "learning_rate", "warmup_steps", "decay_steps", "dtype", "transitions"),
    *("holdout_fraction", "holdout_windows", "weight_decay", "clip_norm", "targets", "padded_sizes", "seed"),
)


@dataclass(frozen=True)
class PretrainedModel:
    """The model that is fine-tuned.

    Attributes:
        path: Its file.
        name: What it was called.
        digest: Of its sizes and weights: equal for equal weights, whatever the file is called.
        sizes: Its sizes.
        environments: Those that its training had.
        history: What it says of its training.
        file: The SHA-256 of the file's bytes, in hexadecimal.
        step: Steps that it was trained for; None where the file does not say.
    """

    path: Path
    name: str
    digest: str
    sizes: ModelSizes
    environments: tuple[str, ...] = ()
    history: Mapping[str, Any] = field(default_factory=dict)
    file: str = ""
    step: int | None = None

    def as_json(self) -> dict[str, Any]:
        """What results say of it: ``name``, ``digest``, ``file``, ``step`` and ``history``."""
        return {
            "name": self.name,
            "digest": self.digest,
            "file": self.file,
            "step": self.step,
            "history": dict(self.history),
        }


def pretrained_model(path: Path, name: str) -> PretrainedModel:
    """Read what a study needs to know of a model.

    Raises:
        TrajWorldError: The file is missing or damaged.
    """
    model = load_model(path)
    digest = hashlib.sha256(json.dumps(asdict(model.sizes), sort_keys=True).encode())
    for weights in model.get_weights():
        digest.update(weights.astype("<f4").tobytes())
    identity = model.identity
    environments = tuple(identity.sources) or ((identity.environment,) if identity.environment else ())
    return PretrainedModel(
        path,
        name,
        digest.hexdigest()[:16],
        model.sizes,
        environments,
        dict(identity.history),
        file_digest(path),
        identity.steps,
    )


def trial_key(trial: Trial, settings: TrialSettings, data: str, model: str) -> dict[str, Any]:
    """All that a trial's numbers are a function of, but for rounding that differs by backend.

    Args:
        trial: Which trial.
        settings: Of all trials.
        data: The digest of the environment's pool and test set.
        model: The digest of the pre-trained model; of no consequence from scratch.
    """
    training = asdict(trial_config(trial, settings))
    return {
        "version": _VERSION,
        "side": trial.side,
        "model": model if trial.side == FINE_TUNED else None,
        "environment": trial.environment,
        "data": data,
        "sizes": asdict(settings.model),
        "training": {name: training[name] for name in _DECIDING},
        "steps": list(settings.steps),
        "test_windows": settings.test_windows,
    }


def trial_path(folder: Path, key: Mapping[str, Any]) -> Path:
    """Where a trial's record is kept: names for people, and a digest of the whole key."""
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:12]
    training = key["training"]
    name = (
        f"{key['side'].replace(' ', '-')}-{training['transitions']}-{training['learning_rate']:g}"
        f"-seed{training['seed']}-{digest}.json"
    )
    return folder / parse_name(key["environment"]).slug / name


def remove_trials(folder: Path) -> None:
    """Remove the records of trials in a folder, of whatever study, and the folders that this leaves empty.

    A file that is no record (JSON with a ``key`` and a ``result``) stays.

    Raises:
        TrajWorldError: A file cannot be removed.
    """
    for path in sorted(folder.glob("*/*.json")):
        if not _is_record(path):
            continue
        try:
            path.unlink()
        except OSError as error:
            raise TrajWorldError(f"cannot remove {path}: {error.strerror or error}") from None
    for place in (*folder.glob("*/"), folder):
        # Whatever else is in it, or whoever owns it: an empty folder is no record.
        with contextlib.suppress(OSError):
            place.rmdir()


def _is_record(path: Path) -> bool:
    try:
        record = read_json(path)
    except TrajWorldError:
        return False
    return isinstance(record, dict) and {"key", "result"} <= set(record)


def write_trial(path: Path, key: Mapping[str, Any], result: TrialResult) -> None:
    """Write a finished trial's record, atomically.

    Raises:
        TrajWorldError: An error is not finite, or the file cannot be written.
    """
    for point in result.points:
        if not math.isfinite(point.errors.normalised_mae):
            raise TrajWorldError(f"{key['environment']}: no variate of the test set varies")
    values = asdict(result)
    # Beside the result, where it has been since the first records.
    origin = values.pop("origin")
    write_json(path, {"key": dict(key), "result": values, **origin})


def read_trial(path: Path, key: Mapping[str, Any]) -> TrialResult | None:
    """The finished trial of a key, with what ran it; None where there is none yet.

    Raises:
        TrajWorldError: The file is damaged, or of another trial.
    """
    if not path.is_file():
        return None
    record = read_json(path)
    if not isinstance(record, dict) or record.get("key") != json.loads(json.dumps(key)):
        raise TrajWorldError(f"{path} is not the record of the trial that it is named after: remove it")
    try:
        values = record["result"]
        points = tuple(
            Point(int(point["step"]), Errors(**point["errors"]), point["holdout_loss"])
            for point in values["points"]
        )
        result = TrialResult(
            points,
            int(values["training_transitions"]),
            int(values["holdout_transitions"]),
            float(values["seconds"]),
            # Records of earlier versions are all of trials that did not diverge.
            None if values.get("diverged") is None else int(values["diverged"]),
            Origin(str(record.get("backend", "")), dict(record.get("versions") or {}), record.get("cores")),
        )
        wanted = [step for step in key["steps"] if result.diverged is None or step < result.diverged]
        numbers = [point.errors.normalised_mae for point in points]
        if [point.step for point in points] != wanted or not all(map(math.isfinite, numbers)):
            raise ValueError("its steps or errors are wrong")
        return result
    except (KeyError, TypeError, ValueError) as error:
        raise TrajWorldError(f"{path} is damaged ({error!r}): remove it") from None
