"""Checkpoints that a run resumes from: a folder each, that is there whole or not at all."""

import re
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import h5py

from trajworld.errors import TrajWorldError
from trajworld.files import atomic_folder, read_json, write_json
from trajworld.models.files import load_model, save_model

_FOLDER = "checkpoints"
_NAME = re.compile(r"step-(\d{9})")
_KEPT = 2


@dataclass(frozen=True)
class TrainingState:
    """Where a run stands, beside its weights.

    Attributes:
        step: Optimiser steps done; the next batch and dropout are functions of it and the seed.
        best_step: The evaluation that was best so far; 0 before the first.
        best_loss: Its holdout loss; None before the first.
        seconds: Time trained so far.
    """

    step: int = 0
    best_step: int = 0
    best_loss: float | None = None
    seconds: float = 0.0


def save_checkpoint(run: Path, model: Any, optimizer: Any, state: TrainingState) -> Path:
    """Write model, optimiser and state as ``run/checkpoints/step-N``, and remove all but the newest two.

    Raises:
        TrajWorldError: The disk is full or the folder cannot be written; older checkpoints stay.
    """
    path = run / _FOLDER / f"step-{state.step:09d}"
    with atomic_folder(path, replace=True) as temporary:
        save_model(model, temporary / "model.keras")
        with h5py.File(temporary / "optimizer.h5", "w") as file:
            optimizer.save_own_variables(file)
        write_json(temporary / "state.json", asdict(state))
    for old in _checkpoints(run)[:-_KEPT]:
        shutil.rmtree(old, ignore_errors=True)
    return path


def newest_checkpoint(run: Path) -> Path | None:
    """The checkpoint of the latest step, or None."""
    found = _checkpoints(run)
    return found[-1] if found else None


def load_checkpoint(path: Path) -> tuple[Any, TrainingState]:
    """A checkpoint's model and state; the optimiser's is read by :func:`load_optimizer` once one is made.

    Raises:
        TrajWorldError: The checkpoint is damaged.
    """
    values = read_json(path / "state.json")
    try:
        state = TrainingState(**values)
    except TypeError as error:
        raise TrajWorldError(f"{path / 'state.json'} is not a training state ({error})") from None
    return load_model(path / "model.keras"), state


def load_optimizer(path: Path, optimizer: Any) -> None:
    """Read a checkpoint's moments and step counter into a built optimiser.

    Raises:
        TrajWorldError: The file is damaged or belongs to another model.
    """
    try:
        with h5py.File(path / "optimizer.h5", "r") as file:
            if len(file) != len(optimizer.variables):
                raise TrajWorldError(
                    f"{path / 'optimizer.h5'} belongs to another model: remove {path} to go further back"
                )
            optimizer.load_own_variables(file)
    except (OSError, KeyError, ValueError) as error:
        raise TrajWorldError(
            f"{path / 'optimizer.h5'} is damaged ({error}): remove {path} to go further back"
        ) from None


def _checkpoints(run: Path) -> list[Path]:
    folder = run / _FOLDER
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.is_dir() and _NAME.fullmatch(path.name))
