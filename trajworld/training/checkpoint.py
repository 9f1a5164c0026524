"""Checkpoints that a run resumes from: one folder each, written whole or not at all."""

import contextlib
import io
import math
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from trajworld.errors import TrajWorldError
from trajworld.files import atomic_folder, ensure_room, read_json, write_json
from trajworld.models.files import load_model, save_model

_FOLDER = "checkpoints"
_KEPT = 2
# For a model file and the weights it is packed from, or the optimiser's moments.
_BYTES_A_WEIGHT = 12


@dataclass(frozen=True)
class TrainingState:
    """Where a run stands, beside its weights: optimiser steps done, seconds trained, and the best evaluation so far.

    ``least`` are the holdout errors, of each member of a model that has several, when they last fell by 1 %, and
    ``stale`` how many evaluations ago that was of any.

    ``unlogged`` are the losses of the last steps, which no row of the log holds yet: a run that is stopped between two
    rows still writes the row that it would have written.
    """

    step: int = 0
    best_step: int = 0
    best_loss: float | None = None
    seconds: float = 0.0
    unlogged: tuple[float, ...] = ()
    least: tuple[float, ...] = ()
    stale: int = 0


def save_checkpoint(run: Path, model: Any, optimizer: Any, state: TrainingState) -> None:
    """Write model, optimiser and state as ``run/checkpoints/step-N``, and remove all but the newest two."""
    path = run / _FOLDER / f"step-{state.step:09d}"
    with atomic_folder(path, replace=True) as temporary:
        save_whole_model(model, temporary / "model.keras")
        # Made in memory: on a full disk HDF5 fails again when its file is closed, in ways that cannot be caught.
        image = io.BytesIO()
        with h5py.File(image, "w") as file:
            optimizer.save_own_variables(file)
        (temporary / "optimizer.h5").write_bytes(image.getbuffer())
        write_json(temporary / "state.json", asdict(state))
    for old in _checkpoints(run)[:-_KEPT]:
        shutil.rmtree(old, ignore_errors=True)


def save_whole_model(model: Any, path: Path) -> None:
    """Write a model file if there is room for it; otherwise an existing file stays."""
    ensure_room(path.parent, _BYTES_A_WEIGHT * model.count_params() + (1 << 20), path.name)
    save_model(model, path)


def newest_checkpoint(run: Path) -> Path | None:
    """The checkpoint of the latest step, or None."""
    return next(reversed(_checkpoints(run)), None)


def load_checkpoint(path: Path) -> tuple[Any, TrainingState]:
    """A checkpoint's model and state; the optimiser's is read by :func:`load_optimizer` once one is made."""
    with _damage(path, "state.json"):
        state = _state(read_json(path / "state.json"))
        if path.name != f"step-{state.step:09d}":
            raise ValueError(f"it is of step {state.step}")
        return load_model(path / "model.keras"), state


def load_optimizer(path: Path, optimizer: Any) -> None:
    """Read a checkpoint's moments and step counter into a built optimiser."""
    with _damage(path, "optimizer.h5"), h5py.File(path / "optimizer.h5", "r") as file:
        if len(file) != len(optimizer.variables):
            raise ValueError("it belongs to another model")
        optimizer.load_own_variables(file)
        if not all(np.isfinite(array[()]).all() for array in file.values()):
            raise ValueError("it holds values that are NaN or infinite")


def _state(values: Any) -> TrainingState:
    values = {**values}
    lists = {name: tuple(values.get(name, ())) for name in ("unlogged", "least")}
    state = TrainingState(**{**values, **lists})
    whole = all(type(step) is int and step >= 0 for step in (state.step, state.best_step, state.stale))
    if not whole or not all(
        map(math.isfinite, (*state.unlogged, *state.least, state.seconds, state.best_loss or 0.0))
    ):
        raise ValueError("its numbers are no steps, losses and seconds")
    return state


@contextlib.contextmanager
def _damage(path: Path, file: str) -> Iterator[None]:
    """Turn what reading a damaged checkpoint raises into one line that says how to continue."""
    try:
        yield
        return
    except TrajWorldError as error:
        problem = str(error)
    except (OSError, KeyError, TypeError, ValueError, OverflowError, RuntimeError) as error:
        problem = f"{path / file} is damaged ({' '.join(str(error).split())[:160]})"
    raise TrajWorldError(f"{problem}: remove {path} to go further back") from None


def _checkpoints(run: Path) -> list[Path]:
    return sorted(path for path in (run / _FOLDER).glob("step-" + "[0-9]" * 9) if path.is_dir())
