"""Reading robomimic's HDF5 files: a group of arrays for each demonstration."""

import itertools
import json
import math
import re
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from trajworld.data.account import BROKEN, UNRECORDED, Account
from trajworld.data.d4rl import broken_links, hdf5_array, open_hdf5
from trajworld.data.episode import Episode, as_floats, check_episode, no_rewards
from trajworld.data.source import Source, value_names
from trajworld.errors import DAMAGE, TrajWorldError, UsageError

if TYPE_CHECKING:
    import h5py


def is_robomimic(path: Path) -> bool:
    """Whether an HDF5 file has robomimic's group of demonstrations; False where it cannot be read."""
    import h5py

    try:
        with h5py.File(path, "r") as file:
            return isinstance(file.get("data"), h5py.Group)
    except OSError:
        return False


def read_robomimic(path: Path, mask: str | None = None) -> Source:
    """Open a robomimic file, whose demonstrations are the episodes; those of the filter ``mask/NAME`` only, if given.

    An observation is its vectors side by side, in alphabetical order; images are not read. With ``next_obs`` every step
    is a transition, and an episode also ends where a step's successor is not the next row; without it the last step of
    each demonstration is left out.
    """
    with open_hdf5(path) as file:
        data, masks = file["data"], file["mask"] if _is_group(file, "mask") else {}
        names = sorted(
            (name for name in data if re.fullmatch(r"demo_\d+", name)), key=lambda name: int(name[5:])
        )
        if mask is not None:
            if mask not in masks:
                raise UsageError(f"{path} has no filter {mask!r}: it has {', '.join(masks) or 'none'}")
            chosen = np.asarray(hdf5_array(masks, mask, path, 1, "SO"), "S")
            names = [name for name in names if name.encode() in chosen]
        if not names or not _is_group(data, f"{names[0]}/obs"):
            raise TrajWorldError(
                f"{path} has no demonstration with observations: robomimic's dataset_states_to_obs.py extracts them"
            )
        seen = data[names[0]]["obs"]
        arrays = {key: hdf5_array(seen, key, path) for key in sorted(seen)}
        # Vectors, and plain numbers.
        sizes = {key: math.prod(array.shape[1:]) for key, array in arrays.items() if len(array.shape) <= 2}
        if not sizes:
            raise TrajWorldError(f"{path}: no observation is a vector of numbers: images are not read")
        try:
            environment = str(json.loads(data.attrs["env_args"])["env_name"])
        except DAMAGE:
            environment = path.stem
        actions = [hdf5_array(data[name], "actions", path, 2) for name in names]
        vectors = {**sizes, "actions": actions[0].shape[1]}
        called = tuple(name for vector, size in vectors.items() for name in value_names(vector, size))
        total = sum(map(len, actions))
    read = partial(_read_episodes, path, names, list(sizes))
    return Source(path.stem, f"robomimic/{environment}", path, [path], read, total, called)


def _is_group(file: "h5py.Group", name: str) -> bool:
    import h5py

    return file.get(name, getclass=True) is h5py.Group


def _read_episodes(
    path: Path, names: Sequence[str], keys: Sequence[str], account: Account
) -> Iterator[Episode]:
    def observed(group: "h5py.Group") -> NDArray[np.floating]:
        arrays = [np.atleast_1d(as_floats(hdf5_array(group, key, path))) for key in keys]
        if len({len(array) for array in arrays}) > 1:
            raise TrajWorldError(
                f"{path}, {group.name}: its observations disagree on the rows: it is damaged"
            )
        return np.concatenate(
            [array.reshape(len(array), math.prod(array.shape[1:])) for array in arrays], axis=1
        )

    with open_hdf5(path) as file:
        for name in names:
            group = file["data"][name]
            actions, observations = (
                as_floats(hdf5_array(group, "actions", path, 2)),
                observed(group["obs"]),
            )
            rewards, dones = (
                as_floats(hdf5_array(group, one, path, 1)).reshape(-1)
                if one in group
                else no_rewards(len(actions))
                for one in ("rewards", "dones")
            )
            following = observed(group["next_obs"]) if "next_obs" in group else observations
            # Some programs write an attribute as an array of one number.
            samples = np.ravel(group.attrs.get("num_samples", len(actions))).tolist()
            counts = len(actions), len(rewards), len(observations), len(following), *samples[:2]
            if any(count != len(actions) for count in counts):
                raise TrajWorldError(
                    f"{path}, {name}: actions, rewards, obs, next_obs and num_samples count {counts}: it is damaged"
                )
            done = bool((dones[-1:] > 0).any())
            if "next_obs" not in group:
                account.leave_out(UNRECORDED, rewards[-1:])
                observations, following = observations[:-1], observations[1:]
                actions, rewards, done = actions[:-1], rewards[:-1], False
            if not len(actions):
                continue
            broken = broken_links(observations, following)
            account.note(BROKEN, int(broken.sum()))
            stops = [*(np.flatnonzero(broken) + 1).tolist(), len(actions)]
            for begin, end in itertools.pairwise([0, *stops]):
                seen = np.concatenate([observations[begin:end], following[end - 1 : end]])
                over = done and end == len(actions)
                made = Episode(seen, actions[begin:end], rewards[begin:end], over, not over)
                account.keep(made.rewards)
                yield check_episode(made, f"{path}, {name}")
