"""Reading D4RL's HDF5 files: flat arrays of steps, cut into episodes by their flags and successors."""

import contextlib
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from trajworld.data.account import BROKEN, UNRECORDED, Account
from trajworld.data.episode import Episode, as_floats, check_episode
from trajworld.data.source import Source
from trajworld.errors import TrajWorldError, one_line
from trajworld.files import kind_of_file

if TYPE_CHECKING:
    import h5py

# The files' own environments (gym -v2) are gone; these have the same observations, actions and dynamics.
# By the first word of a file's name, with the sizes of an observation and an action.
_ENVIRONMENTS = {
    "hopper": ("gymnasium/Hopper-v4", 11, 3),
    "halfcheetah": ("gymnasium/HalfCheetah-v4", 17, 6),
    "walker2d": ("gymnasium/Walker2d-v4", 17, 6),
}
_STEPS_AT_ONCE = 65536
_LONG = "an episode was cut at the step limit, since no flag marks an end"
# The dimensions of each array.
_ARRAYS = {"observations": 2, "actions": 2, "rewards": 1, "terminals": 1}
_OPTIONAL = {"timeouts": 1, "next_observations": 2}


def read_d4rl(path: str | Path, max_episode_steps: int = 1000) -> Source:
    """Open a D4RL file; its environment is ``d4rl/NAME`` if not known. Each transition is one of the file's.

    An episode ends at a terminal or a timeout. With ``next_observations`` it also ends where a step's successor is
    not the next row, regardless of the flags (late or missing flags, shuffled buffers, joined files). No step is lost.
    Without them the result of an episode's last action is not recorded: that step is left out, the episode counts as
    truncated, and one that no flag ends is cut after ``max_episode_steps`` steps.
    """
    path = Path(path)
    with open_hdf5(path) as file:
        wanted = _ARRAYS | {name: dimensions for name, dimensions in _OPTIONAL.items() if name in file}
        arrays = {name: hdf5_array(file, name, path, dimensions) for name, dimensions in wanted.items()}
        shape = arrays["observations"].shape
        for name, array in arrays.items():
            if len(array) != shape[0] or (name == "next_observations" and array.shape != shape):
                raise TrajWorldError(
                    f"{path}: {name!r} has shape {array.shape}, but 'observations' has shape {shape}"
                )
        if shape[0] == 0:
            raise TrajWorldError(f"{path}: the file holds no step")
        sizes = [shape[1], arrays["actions"].shape[1]]
    known, *known_sizes = _ENVIRONMENTS.get(re.split("[_-]", path.name)[0], ("", 0, 0))
    environment = known if known_sizes == sizes else f"d4rl/{path.stem}"
    read = partial(_read_episodes, path, max_episode_steps)
    return Source(path.stem, environment, path, [path], read, shape[0])


def _read_episodes(path: Path, limit: int, account: Account) -> Iterator[Episode]:
    number, last = 0, 0
    with open_hdf5(path) as file:
        linked, none = "next_observations" in file, np.zeros(len(file["observations"]), bool)
        terminals, timeouts = (
            file[name][:].reshape(-1) > 0 if name in file else none for name in ("terminals", "timeouts")
        )
        ends = terminals | timeouts
        if linked:
            broken = broken_links(file["observations"], file["next_observations"]) & ~ends[:-1]
            ends[:-1] |= broken
            account.note(BROKEN, int(broken.sum()))
        ends[-1] = True
        stops = np.flatnonzero(ends) + 1
        starts = np.concatenate([[0], stops[:-1]])
        if not linked and not timeouts.any():
            starts = np.concatenate([np.arange(a, b, limit) for a, b in zip(starts, stops, strict=True)])
            account.note(_LONG, len(starts) - len(stops))
            stops = np.append(starts[1:], len(ends))
        names = ["observations", "actions", "rewards"] + ["next_observations"] * linked
        while last < len(starts):
            # The whole episodes that are read from the file at once.
            first, offset = last, starts[last]
            last = max(int(np.searchsorted(stops, offset + _STEPS_AT_ONCE, side="right")), first + 1)
            block = {name: as_floats(file[name][offset : stops[last - 1]]) for name in names}
            for begin, end in zip(starts[first:last] - offset, stops[first:last] - offset, strict=True):
                steps = {name: array[begin:end] for name, array in block.items()}
                made = _episode(steps, bool(terminals[offset + end - 1]), account)
                if made is not None:
                    yield check_episode(made, f"{path}, episode {number}")
                    number += 1


def broken_links(
    observations: "h5py.Dataset | NDArray[np.floating]", successors: "h5py.Dataset | NDArray[np.floating]"
) -> NDArray[np.bool_]:
    """``[N - 1]``: where a step's successor is not the next row, as 32-bit floats."""
    found = np.zeros(len(observations) - 1, bool)
    for begin in range(0, len(found), _STEPS_AT_ONCE):
        following = observations[begin + 1 : begin + 1 + _STEPS_AT_ONCE]
        block = slice(begin, begin + len(following))
        with np.errstate(over="ignore"):
            found[block] = (following.astype("f4") != successors[block].astype("f4")).any(axis=1)
    return found


def _episode(steps: dict[str, NDArray[np.floating]], terminated: bool, account: Account) -> Episode | None:
    """The episode of these steps, or None if it has no whole transition."""
    observations, actions, rewards = steps["observations"], steps["actions"], steps["rewards"].reshape(-1)
    if "next_observations" in steps:
        observations = np.concatenate([observations, steps["next_observations"][-1:]])
    else:
        account.leave_out(UNRECORDED, rewards[-1:])
        actions, rewards, terminated = actions[:-1], rewards[:-1], False
    if not len(rewards):
        return None
    account.keep(rewards)
    return Episode(observations, actions, rewards, terminated=terminated, truncated=not terminated)


@contextlib.contextmanager
def open_hdf5(path: Path) -> Iterator["h5py.File"]:
    """Open the file; h5py's errors, then or while reading, become one line."""
    import h5py

    if not path.is_file():
        raise TrajWorldError(f"{path} does not exist or is not a file")
    try:
        with h5py.File(path, "r") as file:
            yield file
    except (OSError, RuntimeError, KeyError) as error:
        kind = kind_of_file(path)
        why = one_line(error) if "HDF5" in kind or not kind else kind
        raise TrajWorldError(f"{path} is not a readable HDF5 file: {why}") from error


def hdf5_array(
    file: "h5py.Group", name: str, path: Path, dimensions: int | None = None, kinds: str = "fiub"
) -> "h5py.Dataset":
    """A numeric array of the file itself, never one that the file says lies in another file."""
    import h5py

    name = f"{file.name}/{name}".lstrip("/")
    if name not in file.file:
        raise TrajWorldError(f"{path} has no array {name!r}")
    # A group may be a link to another file too.
    own = file.file.filename == str(path) and isinstance(file.file.get(name, getlink=True), h5py.HardLink)
    dataset = file.file[name] if own else None
    if not isinstance(dataset, h5py.Dataset) or dataset.external or dataset.is_virtual:
        raise TrajWorldError(
            f"{path}: {name!r} must be an array of this file, not a group or a link to another file"
        )
    # Some files hold one-dimensional columns as [N, 1].
    shape = dataset.shape[:1] if dimensions == 1 and dataset.shape[1:] == (1,) else dataset.shape
    if dataset.dtype.kind not in kinds or len(shape) != (dimensions or len(shape)):
        raise TrajWorldError(
            f"{path}: {name!r} has shape {dataset.shape} and holds {dataset.dtype} values; numbers in "
            f"{dimensions or 'some'} dimension(s) are wanted"
        )
    return dataset
