"""Reading robomimic's HDF5 files: a group of arrays for each demonstration."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from trajworld.data.account import Account
from trajworld.data.d4rl import open_hdf5
from trajworld.data.episode import Episode, as_floats, check_episode, no_rewards
from trajworld.errors import TrajWorldError, UsageError

if TYPE_CHECKING:
    import h5py

_UNRECORDED = "the result of a demonstration's last action is not in the file (it has no next_obs)"


@dataclass(frozen=True)
class RobomimicInfo:
    """What a file holds.

    Attributes:
        environment: ``robomimic/NAME`` by its ``env_args``, or by the file's name.
        demonstrations: The groups that are read, in order.
        keys: The observations' names, in order: those that are vectors, no images.
        transitions: How many transitions the file counts.
    """

    path: Path
    environment: str
    demonstrations: tuple[str, ...]
    keys: tuple[str, ...]
    transitions: int


def is_robomimic(path: Path) -> bool:
    """Whether an HDF5 file has robomimic's group of demonstrations; False where it cannot be read."""
    import h5py

    try:
        with h5py.File(path, "r") as file:
            return isinstance(file.get("data"), h5py.Group)
    except OSError:
        return False


def read_robomimic(
    path: Path, mask: str | None = None, account: Account | None = None
) -> tuple[RobomimicInfo, Iterator[Episode]]:
    """Open a robomimic file and read its demonstrations one at a time; of the filter ``mask/NAME`` only, if given.

    An observation is its vectors side by side, in alphabetical order. With ``next_obs`` every step is a transition,
    without it the last one of each demonstration is left out. ``account`` is brought up to date as they are read.

    Raises:
        UsageError: There is no such filter.
        TrajWorldError: The file is damaged, lacks an array, or refers to other files; while reading, that arrays
            disagree or hold a NaN.
    """
    with open_hdf5(path) as file:
        names = sorted((name for name in file["data"] if re.fullmatch(r"\w+_\d+", name)), key=_number)
        if mask is not None:
            masks = file.get("mask", {})
            if mask not in masks:
                raise UsageError(f"{path} has no filter {mask!r}: it has {', '.join(masks) or 'none'}")
            wanted = {name.decode() for name in np.asarray(_array(masks, mask, path), "S")}
            names = [name for name in names if name in wanted]
        if not names:
            raise TrajWorldError(f"{path}: no demonstration is in its group 'data'")
        first = file["data"][names[0]]
        if "obs" not in first:
            raise TrajWorldError(
                f"{path}: {names[0]} has no observations: robomimic's dataset_states_to_obs.py extracts them"
            )
        keys = tuple(key for key in sorted(first["obs"]) if len(_array(first["obs"], key, path).shape) <= 2)
        try:
            environment = str(json.loads(file["data"].attrs["env_args"])["env_name"])
        except (KeyError, TypeError, ValueError):
            environment = path.stem
        total = sum(len(_array(file["data"][name], "actions", path)) for name in names)
    if not keys:
        raise TrajWorldError(
            f"{path}: no observation of {names[0]} is a vector of numbers: images are not read"
        )
    info = RobomimicInfo(path, f"robomimic/{environment}", tuple(names), keys, total)
    return info, _read_episodes(info, account or Account())


def _read_episodes(info: RobomimicInfo, account: Account) -> Iterator[Episode]:
    with open_hdf5(info.path) as file:
        for name in info.demonstrations:
            group, where = file["data"][name], f"{info.path}, {name}"
            actions, observations = (
                as_floats(_array(group, "actions", info.path)[:]),
                _observed(group, "obs", info),
            )
            rewards = no_rewards(len(actions))
            if "rewards" in group:
                rewards = as_floats(_array(group, "rewards", info.path)[:]).reshape(-1)
            dones = _array(group, "dones", info.path)[:] if "dones" in group else np.zeros(1)
            done = bool(dones[-1:].any())
            count = group.attrs.get("num_samples", len(actions))
            if not len(actions) == len(rewards) == len(observations) == count:
                raise TrajWorldError(
                    f"{where}: {len(observations)} observations, {len(actions)} actions and {len(rewards)} rewards for "
                    f"num_samples {count}: the file is damaged"
                )
            if "next_obs" in group:
                observations = np.concatenate([observations, _observed(group, "next_obs", info)[-1:]])
            else:
                account.leave_out(_UNRECORDED, rewards[-1:])
                actions, rewards, done = actions[:-1], rewards[:-1], False
            if len(actions):
                account.keep(rewards)
                yield check_episode(Episode(observations, actions, rewards, done, not done), where)


def _observed(group: "h5py.Group", kind: str, info: RobomimicInfo) -> NDArray[np.floating]:
    arrays = [as_floats(_array(group[kind], key, info.path)[:]) for key in info.keys]
    return np.concatenate([array.reshape(len(array), -1) for array in arrays], axis=1)


def _array(group: "h5py.Group", name: str, path: Path) -> "h5py.Dataset":
    """An array of the file itself, never one that lies in another file."""
    import h5py

    found = group.get(name, getlink=True) if name in group else None
    item = group[name] if isinstance(found, h5py.HardLink) else None
    if not isinstance(item, h5py.Dataset) or item.external or item.is_virtual:
        raise TrajWorldError(
            f"{path}: {group.name}/{name} must be an array of this file: it is missing or a link"
        )
    if item.dtype.kind not in "fiub" and not group.name.startswith("/mask"):
        raise TrajWorldError(f"{path}: {group.name}/{name} holds no numbers but {item.dtype} values")
    return item


def _number(name: str) -> tuple[str, int]:
    stem, _, number = name.rpartition("_")
    return stem, int(number)
