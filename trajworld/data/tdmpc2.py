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
_CONTAINERS = ("tensordict.tensordict.TensorDict", "tensordict._td.TensorDict")
_TABLES = ("tensordict.tensordict._StringOnlyDict", "tensordict.utils._StringOnlyDict")


@dataclass(frozen=True, eq=False)
class TDMPC2Task:
    """The episodes of one task of a file: their numbers, and the sizes of an observation and an action, unpadded."""

    path: Path
    task: int
    episodes: NDArray[np.int64]
    sizes: tuple[int, int]
    steps: int

    @property
    def name(self) -> str:
        """For example ``tdmpc2/chunk_0/task-3``."""
        return f"tdmpc2/{self.path.stem}/task-{self.task}"

    @property
    def transitions(self) -> int:
        """All of them."""
        return len(self.episodes) * (self.steps - 1)


class _Container:
    """What a tensordict is read as: its fields, and nothing that runs."""


def _remade(kind: type, state: dict[str, Any]) -> dict[str, Any]:
    """What newer tensordicts are read as, whose files call a function of theirs."""
    return state


def tdmpc2_tasks(path: Path) -> list[TDMPC2Task]:
    """The tasks of a file, by their numbers. Columns that are 0 in every row of a task are its padding.

    Raises:
        ModuleNotFoundError: PyTorch is not installed.
        TrajWorldError: The file cannot be read without running anything it names, or lacks an array.
    """
    arrays = _load(path)
    count, steps = arrays["reward"].shape
    tasks = arrays["task"].reshape(count, -1)[:, 0] if "task" in arrays else np.zeros(count)
    found = []
    for task in np.unique(tasks):
        episodes = np.flatnonzero(tasks == task)
        sizes = (
            max(_width(arrays["obs"][one]) for one in episodes),
            max(_width(arrays["action"][one, 1:]) for one in episodes),
        )
        found.append(TDMPC2Task(path, int(task), episodes, sizes, steps))
    if not found or steps < 2 or not all(one.sizes[0] for one in found):
        raise TrajWorldError(f"{path}: a task has no episode of two steps, or no observation that is not 0")
    return found


def read_tdmpc2(task: TDMPC2Task, account: Account | None = None) -> Iterator[Episode]:
    """The episodes of a task, one at a time.

    A row's action and reward led to its observation; the first row's are fillers and are not read.

    Raises:
        TrajWorldError: An episode holds a NaN elsewhere.
    """
    account, arrays = account or Account(), _load(task.path)
    observations, actions = task.sizes
    for number in task.episodes:
        rewards = np.asarray(arrays["reward"][number, 1:])
        account.keep(rewards)
        made = Episode(
            np.array(arrays["obs"][number, :, :observations]),
            np.array(arrays["action"][number, 1:, :actions]),
            rewards,
        )
        yield check_episode(made, f"{task.path}, episode {number}")


def _load(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays ``obs [E, T, O]``, ``action [E, T, A]``, ``reward [E, T]`` and perhaps ``task``, memory-mapped."""
    import torch

    allowed: list[Any] = [(_Container, name) for name in _CONTAINERS] + [(dict, name) for name in _TABLES]
    allowed.append((_remade, "tensordict._reductions._make_td"))
    try:
        with torch.serialization.safe_globals(allowed):
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
            shape = ["episode", "step", "value"][:dimensions]
            raise TrajWorldError(f"{path}: {name!r} must be an array of numbers, {shape}")
    if len({array.shape[:2] for array in arrays.values()}) != 1:
        shapes = ", ".join(f"{name} {array.shape}" for name, array in arrays.items())
        raise TrajWorldError(f"{path}: its arrays disagree on the episodes or steps: {shapes}")
    return arrays


def _width(rows: NDArray[Any]) -> int:
    """One more than the last column of rows ``[T, K]`` that is not 0 in each of them."""
    used = np.flatnonzero((rows != 0).any(axis=0))
    return int(used[-1]) + 1 if len(used) else 0
