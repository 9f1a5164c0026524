"""Reading TD-MPC2's ``.pt`` files: whole episodes of one or several tasks, padded to the widest of them."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trajworld.data.account import Account
from trajworld.data.episode import Episode, check_episode
from trajworld.data.source import Source
from trajworld.errors import TrajWorldError
from trajworld.files import nested
from trajworld.interop.restricted_pickle import Record
from trajworld.interop.torch_file import read_torch

_ARRAYS = {"obs": 3, "action": 3, "reward": 2}


def read_tdmpc2(path: Path) -> dict[int, Source]:
    """The tasks of a file by their numbers. Of several, last columns that are 0 in every row of one are its padding.

    A row's action and reward led to its observation; the first row's are fillers and are not read.
    """
    arrays = _load(path)
    count, rows = arrays["reward"].shape
    given = arrays["task"][:, :1].ravel() if "task" in arrays else np.zeros(count)
    with np.errstate(invalid="ignore"):
        tasks = given.astype(np.int64)
    if len(tasks) != count or (tasks != given).any():
        raise TrajWorldError(f"{path}: 'task' must be a whole number for each episode")
    found, numbers = {}, np.unique(tasks)
    for task in numbers:
        episodes = np.flatnonzero(tasks == task)
        # The first row's action is a filler.
        parts = (arrays["obs"], arrays["action"][:, 1:])
        sizes = tuple(array.shape[2] for array in parts)
        if len(numbers) > 1:
            sizes = tuple(max(_width(array[one]) for one in episodes) for array in parts)
        if rows < 2 or not sizes[0]:
            raise TrajWorldError(f"{path}: task {task} has no two rows, or no observation that is not 0")
        read = partial(_read_episodes, path, episodes, sizes)
        name = f"tdmpc2/{path.stem}/task-{task}"
        found[int(task)] = Source(path.stem, name, path, [path], read, len(episodes) * (rows - 1))
    return found


def _read_episodes(
    path: Path, episodes: NDArray[np.int64], sizes: tuple[int, ...], account: Account
) -> Iterator[Episode]:
    arrays = _load(path)
    given = (arrays["obs"].shape[2], arrays["action"].shape[2])
    account.note(
        "a last column that is 0 in every row of the task is left out as padding", sum(given) - sum(sizes)
    )
    for number in episodes:
        seen, acted, paid = (np.array(arrays[name][number]) for name in _ARRAYS)
        account.keep(paid[1:])
        made = Episode(seen[:, : sizes[0]], acted[1:, : sizes[1]], paid[1:])
        yield check_episode(made, f"{path}, episode {number}")


def _load(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays ``obs [E, T, O]``, ``action [E, T, A]``, ``reward [E, T]`` and perhaps ``task``, memory-mapped."""
    found = read_torch(path)
    found = found.state if isinstance(found, Record) else found  # A tensordict of before 0.5.
    found = nested(found, "_tensordict") or nested(found)
    arrays = {name: found[name] for name in (*_ARRAYS, "task") if isinstance(found.get(name), np.ndarray)}
    for name, dimensions in _ARRAYS.items():
        if name not in arrays or arrays[name].ndim != dimensions or arrays[name].dtype.kind not in "fiu":
            shape = ["episode", "row", "value"][:dimensions]
            raise TrajWorldError(f"{path}: {name!r} must be an array of numbers, {shape}")
    if len({array.shape[:2] for array in arrays.values()}) != 1:
        shapes = ", ".join(f"{name} {array.shape}" for name, array in arrays.items())
        raise TrajWorldError(f"{path}: its arrays disagree on the episodes or rows: {shapes}")
    return arrays


def _width(rows: NDArray[Any]) -> int:
    """One more than the last column of rows ``[T, K]`` that is not 0 in each of them."""
    return int(np.flatnonzero(np.append(True, (rows != 0).any(axis=0)))[-1])
