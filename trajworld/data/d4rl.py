"""Reading D4RL's HDF5 files: flat arrays of steps, cut into episodes by their flags (DESIGN §5)."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from trajworld.data.episode import Episode, check_episode
from trajworld.errors import TrajWorldError

if TYPE_CHECKING:
    import h5py

# The files' own environments (gym -v2) are gone; these have the same observations, actions and dynamics.
_ENVIRONMENTS = {
    "hopper": "gymnasium/Hopper-v4",
    "halfcheetah": "gymnasium/HalfCheetah-v4",
    "walker2d": "gymnasium/Walker2d-v4",
}
_STEPS_AT_ONCE = 65536


@dataclass(frozen=True)
class D4RLInfo:
    """What a D4RL file holds: its environment's name, sizes and number of steps."""

    path: Path
    environment: str
    observation_size: int
    action_size: int
    steps: int
    has_next_observations: bool
    has_timeouts: bool


def d4rl_environment(path: Path) -> str:
    """The environment's name as far as a D4RL file's name gives it away, else ``d4rl/NAME``."""
    for prefix, environment in _ENVIRONMENTS.items():
        if path.name.startswith((f"{prefix}_", f"{prefix}-")):
            return environment
    return f"d4rl/{path.stem}"


def read_d4rl(path: str | Path, max_episode_steps: int = 1000) -> tuple[D4RLInfo, Iterator[Episode]]:
    """Open a D4RL file and read its episodes one at a time.

    An episode ends at a terminal or a timeout; in files without ``timeouts``, after ``max_episode_steps``
    steps. Without ``next_observations`` the result of an episode's last action is not recorded: its last
    observation closes the episode, which then counts as truncated, and an episode of a single step is left
    out.

    Args:
        path: The ``.hdf5`` file.
        max_episode_steps: The environment's step limit, used only where the file has no ``timeouts``.

    Raises:
        TrajWorldError: The file is missing, truncated or not HDF5, lacks an array, or its arrays disagree or
            refer to other files; while reading, that an episode holds a NaN or infinite value.
    """
    path = Path(path)
    if max_episode_steps < 1:
        raise TrajWorldError(f"max_episode_steps must be at least 1, not {max_episode_steps}")
    with _open(path) as file:
        observations = _array(file, "observations", path, 2)
        actions = _array(file, "actions", path, 2)
        steps = len(observations)
        for name, dimensions in (("actions", 2), ("rewards", 1), ("terminals", 1)):
            _check_length(_array(file, name, path, dimensions), steps, name, path)
        for name, dimensions in (("timeouts", 1), ("next_observations", 2)):
            if name in file:
                _check_length(_array(file, name, path, dimensions), steps, name, path)
        if "next_observations" in file and file["next_observations"].shape != observations.shape:
            raise TrajWorldError(f"{path}: next_observations and observations have different shapes")
        if steps == 0:
            raise TrajWorldError(f"{path}: the file holds no step")
        info = D4RLInfo(
            path=path,
            environment=d4rl_environment(path),
            observation_size=observations.shape[1],
            action_size=actions.shape[1],
            steps=steps,
            has_next_observations="next_observations" in file,
            has_timeouts="timeouts" in file,
        )
    return info, _read_episodes(info, max_episode_steps)


def _read_episodes(info: D4RLInfo, max_episode_steps: int) -> Iterator[Episode]:
    number = 0
    with _open(info.path) as file:
        terminals = file["terminals"][:].reshape(-1) > 0
        timeouts = file["timeouts"][:].reshape(-1) > 0 if info.has_timeouts else None
        starts, stops = _bounds(terminals, timeouts, max_episode_steps)
        names = ["observations", "actions", "rewards"] + ["next_observations"] * info.has_next_observations
        for first, last in _groups(starts, stops):
            offset = starts[first]
            block = {name: file[name][offset : stops[last - 1]] for name in names}
            for episode in range(first, last):
                begin, end = starts[episode] - offset, stops[episode] - offset
                terminated = bool(terminals[stops[episode] - 1])
                made = _episode({name: array[begin:end] for name, array in block.items()}, terminated)
                if made is not None:
                    yield check_episode(made, f"{info.path}, episode {number}")
                    number += 1


def _episode(steps: dict[str, NDArray[Any]], terminated: bool) -> Episode | None:
    """The episode of these steps, or None where nothing of it is a whole transition."""
    observations, actions, rewards = steps["observations"], steps["actions"], steps["rewards"].reshape(-1)
    if "next_observations" in steps:
        observations = np.concatenate([observations, steps["next_observations"][-1:]])
        return Episode(observations, actions, rewards, terminated=terminated, truncated=not terminated)
    if len(rewards) < 2:
        return None
    return Episode(observations, actions[:-1], rewards[:-1], terminated=False, truncated=True)


def _bounds(
    terminals: NDArray[np.bool_], timeouts: NDArray[np.bool_] | None, max_episode_steps: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First step and one past the last step of each episode."""
    ends = terminals if timeouts is None else terminals | timeouts
    stops = np.flatnonzero(ends) + 1
    if not len(stops) or stops[-1] != len(ends):
        stops = np.append(stops, len(ends))
    starts = np.concatenate([[0], stops[:-1]])
    if timeouts is None:
        pieces = [np.arange(a, b, max_episode_steps) for a, b in zip(starts, stops, strict=True)]
        starts = np.concatenate(pieces)
        stops = np.append(starts[1:], len(ends))
    return starts, stops


def _groups(starts: NDArray[np.int64], stops: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Runs of whole episodes that are read from the file at once: [first, last) of each."""
    first = 0
    while first < len(starts):
        last = int(np.searchsorted(stops, starts[first] + _STEPS_AT_ONCE, side="right"))
        last = max(last, first + 1)
        yield first, last
        first = last


@contextlib.contextmanager
def _open(path: Path) -> Iterator["h5py.File"]:
    """Open the file; what h5py raises, then or while reading, becomes one line."""
    import h5py

    if not path.is_file():
        raise TrajWorldError(f"{path} does not exist or is not a file")
    try:
        with h5py.File(path, "r") as file:
            yield file
    except (OSError, RuntimeError, KeyError) as error:
        raise TrajWorldError(
            f"{path} is not a readable HDF5 file: {' '.join(str(error).split())[:150]}"
        ) from error


def _array(file: "h5py.File", name: str, path: Path, dimensions: int) -> "h5py.Dataset":
    """A numeric array of the file itself, never one that the file says lies in another file."""
    import h5py

    if name not in file:
        raise TrajWorldError(f"{path} has no array {name!r}: it is not a D4RL dataset")
    dataset = file[name] if isinstance(file.get(name, getlink=True), h5py.HardLink) else None
    if not isinstance(dataset, h5py.Dataset) or dataset.external or dataset.is_virtual:
        raise TrajWorldError(
            f"{path}: {name!r} must be an array of this file, not a group or a link to another file"
        )
    if dataset.dtype.kind not in "fiub":
        raise TrajWorldError(f"{path}: {name!r} holds {dataset.dtype} values, not numbers")
    # Some files hold one-dimensional columns as [N, 1].
    shape = dataset.shape[:1] if dimensions == 1 and dataset.shape[1:] == (1,) else dataset.shape
    if len(shape) != dimensions:
        raise TrajWorldError(
            f"{path}: {name!r} has shape {dataset.shape}; {dimensions} dimension(s) are wanted"
        )
    return dataset


def _check_length(dataset: "h5py.Dataset", steps: int, name: str, path: Path) -> None:
    if len(dataset) != steps:
        raise TrajWorldError(f"{path}: {name} holds {len(dataset)} steps, but observations hold {steps}")
