"""Reading TD-MPC2's ``.pt`` files: whole episodes of one or several tasks, padded to the widest of them."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trajworld.data.account import Account
from trajworld.data.episode import Episode, check_episode
from trajworld.errors import TrajWorldError, one_line
from trajworld.files import kind_of_file

_ARRAYS = {"obs": 3, "action": 3, "reward": 2}


@dataclass(frozen=True, eq=False)
class TDMPC2Task:
    """The episodes of one task of a file: their numbers, the unpadded sizes of an observation and an action, and their
    rows.
    """

    path: Path
    task: int
    episodes: NDArray[np.int64]
    sizes: tuple[int, ...]
    rows: int


class _Container:
    """What a tensordict is read as: its fields, and nothing that runs."""


def _remade(kind: type, state: dict[str, Any]) -> dict[str, Any]:
    return state


# What a file may name, and what stands for it here: those of tensordicts before and after 0.3, and of the newest ones.
_ALLOWED: list[Any] = [
    *((_Container, f"tensordict.{name}.TensorDict") for name in ("tensordict", "_td")),
    *((dict, f"tensordict.{name}._StringOnlyDict") for name in ("tensordict", "utils")),
    (_remade, "tensordict._reductions._make_td"),
]


def tdmpc2_tasks(path: Path) -> list[TDMPC2Task]:
    """The tasks of a file, by their numbers. Last columns that are 0 in every row of a task are its padding.

    Raises:
        ModuleNotFoundError: PyTorch is not installed.
        TrajWorldError: The file cannot be read without running anything it names, or lacks an array.
    """
    arrays = _load(path)
    count, rows = arrays["reward"].shape
    tasks = arrays["task"].reshape(count, -1)[:, 0] if "task" in arrays else np.zeros(count)
    found = []
    for task in np.unique(tasks):
        episodes = np.flatnonzero(tasks == task)
        # The first row's action is a filler.
        parts = (arrays["obs"], arrays["action"][:, 1:])
        sizes = tuple(max(_width(array[one]) for one in episodes) for array in parts)
        found.append(TDMPC2Task(path, int(task), episodes, sizes, rows))
    if not found or rows < 2 or not all(one.sizes[0] for one in found):
        raise TrajWorldError(f"{path}: a task has no episode of two rows, or no observation that is not 0")
    return found


def read_tdmpc2(task: TDMPC2Task, account: Account | None = None) -> Iterator[Episode]:
    """The episodes of a task, one at a time; ``TrajWorldError`` where one holds a NaN.

    A row's action and reward led to its observation; the first row's are fillers and are not read.
    """
    account, arrays = account or Account(), _load(task.path)
    for number in task.episodes:
        seen, acted, paid = (np.array(arrays[name][number]) for name in _ARRAYS)
        account.keep(paid[1:])
        made = Episode(seen[:, : task.sizes[0]], acted[1:, : task.sizes[1]], paid[1:])
        yield check_episode(made, f"{task.path}, episode {number}")


def _load(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays ``obs [E, T, O]``, ``action [E, T, A]``, ``reward [E, T]`` and perhaps ``task``, memory-mapped."""
    import torch

    try:
        with torch.serialization.safe_globals(_ALLOWED):
            found = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        found = vars(found) if isinstance(found, _Container) else found
        found = found.get("_tensordict", found)
        arrays = {name: found[name].detach().numpy() for name in (*_ARRAYS, "task") if name in found}
    except Exception as error:  # Damaged bytes and refused pickles make a dozen types.
        kind = kind_of_file(path)
        why = one_line(error) if "PyTorch" in kind or not kind else kind
        if "weights_only" in str(error):
            why = "it holds more than tensors, and nothing that a file names is run"
        raise TrajWorldError(f"{path} is not a readable TD-MPC2 file: {why}") from None
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
