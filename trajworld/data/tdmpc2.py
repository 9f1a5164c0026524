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
from trajworld.errors import TrajWorldError, one_line
from trajworld.files import kind_of_file

_ARRAYS = {"obs": 3, "action": 3, "reward": 2}


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


def read_tdmpc2(path: Path) -> dict[int, Source]:
    """The tasks of a file by their numbers. Last columns that are 0 in every row of a task are its padding.

    A row's action and reward led to its observation; the first row's are fillers and are not read.

    Raises:
        ModuleNotFoundError: PyTorch is not installed.
        TrajWorldError: The file cannot be read without running anything it names, or lacks an array.
    """
    arrays = _load(path)
    count, rows = arrays["reward"].shape
    tasks = arrays["task"].reshape(count, -1)[:, 0] if "task" in arrays else np.zeros(count)
    found = {}
    for task in np.unique(tasks):
        episodes = np.flatnonzero(tasks == task)
        # The first row's action is a filler.
        parts = (arrays["obs"], arrays["action"][:, 1:])
        sizes = tuple(max(_width(array[one]) for one in episodes) for array in parts)
        if rows < 2 or not sizes[0]:
            raise TrajWorldError(f"{path}: task {task} has no two rows, or no observation that is not 0")
        read = partial(_read_episodes, path, episodes, sizes)
        name = f"tdmpc2/{path.stem}/task-{task:g}"
        found[int(task)] = Source(name, [path], read, len(episodes) * (rows - 1))
    return found


def _read_episodes(
    path: Path, episodes: NDArray[np.int64], sizes: tuple[int, ...], account: Account
) -> Iterator[Episode]:
    arrays = _load(path)
    for number in episodes:
        seen, acted, paid = (np.array(arrays[name][number]) for name in _ARRAYS)
        account.keep(paid[1:])
        made = Episode(seen[:, : sizes[0]], acted[1:, : sizes[1]], paid[1:])
        yield check_episode(made, f"{path}, episode {number}")


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
