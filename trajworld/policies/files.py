"""Policies' files: their own ``.npz`` of plain arrays, which reader is for which other kind, and those that ship."""

import os
import re
import zipfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from trajworld.environments.names import parse_name
from trajworld.errors import TrajWorldError, UsageError, one_line
from trajworld.files import atomic_file, open_zip, read_arrays
from trajworld.policies.dope import read_dope
from trajworld.policies.policy import Layer, Policy
from trajworld.policies.sb3 import read_sb3

VERSION = 1
_OBSERVED = ("observation_mean", "observation_scale", "observation_clip")
_NUMBERS = ("low", "high", *_OBSERVED, "mean_limit", "log_std_range")
# What else lies beside policies: a training's stream of transitions, an agent's statistics and its replay buffer.
_BESIDE = re.compile(r"stream-.*|.*(vecnormalize|replay_buffer).*")
# By one of these an archive is known as a policy, of this library or of Stable-Baselines3.
_OWN_MEMBERS, _AGENT_MEMBERS = {"mean_kernel.npy"}, {"policy.pth", "data"}
_TEXTS = ("activation", "environment", "source")
# A folder for each robot: NAME-01.npz, the weakest, and on, with truth.json, their returns in the simulator.
_ZOO = Path(__file__).parent / "zoo"


def save_policy(policy: Policy, path: str | os.PathLike[str]) -> None:
    """Write a policy to an ``.npz``, atomically; equal policies give equal bytes."""
    if Path(path).suffix != ".npz":
        raise UsageError(f"{path}: a policy's file ends in .npz")
    arrays: dict[str, Any] = {name: getattr(policy, name) for name in (*_NUMBERS, *_TEXTS, "squash")}
    layers = {f"layer_{number}": layer for number, layer in enumerate(policy.layers)}
    for name, layer in {**layers, "mean": policy.mean, "log_std": policy.log_std}.items():
        if layer is not None:
            arrays |= {f"{name}_kernel": layer.kernel, f"{name}_bias": layer.bias}
    with atomic_file(path) as temporary:
        np.savez(temporary, version=VERSION, **arrays)


def load_policy(path: str | os.PathLike[str]) -> Policy:
    """Read a policy that :func:`save_policy` wrote; nothing in the file is run."""
    open_zip(path).close()
    arrays = read_arrays(path)
    try:
        if (version := int(arrays["version"])) > VERSION:
            raise TrajWorldError(f"it is of version {version}, and this program reads {VERSION}: update it")

        def layer(name: str) -> Layer:
            return Layer(arrays[f"{name}_kernel"], arrays[f"{name}_bias"])

        plain: dict[str, Any] = {name: arrays[name] for name in _NUMBERS}
        plain |= {name: str(arrays[name]) for name in _TEXTS}
        return Policy(
            layers=tuple(
                layer(f"layer_{n}") for n in range(sum(name.startswith("layer_") for name in arrays) // 2)
            ),
            mean=layer("mean"),
            log_std=layer("log_std") if "log_std_kernel" in arrays else None,
            squash=bool(arrays["squash"]),
            **plain,
        )
    except TrajWorldError as error:
        raise TrajWorldError(f"{path} is no usable policy: {error}") from None
    except Exception as error:  # Damaged archives make Python and NumPy raise a dozen types.
        raise TrajWorldError(f"{path} is damaged, or is no policy ({one_line(error)})") from None


def read_policy(
    path: str | os.PathLike[str],
    *,
    environment: str = "",
    vecnormalize: str | os.PathLike[str] | None = None,
    deterministic: bool = False,
) -> Policy:
    """Read a policy: one of this library (``.npz``), a pickle of DOPE, or a zip of Stable-Baselines3.

    Args:
        path: The file, whose content says which it is; or the name of one that ships, ``zoo/hopper-03``.
        environment: What the policy was made for, where the file does not say or another is meant.
        vecnormalize: See ``read_sb3``.
        deterministic: Leave out the noise.
    """
    if shipped := zoo_files(path):
        if len(shipped) > 1:
            raise UsageError(f"{path} is {len(shipped)} policies: name one, such as zoo/{shipped[-1].stem}")
        path = shipped[0]
    members = _members(path)
    if members & _AGENT_MEMBERS:
        policy = read_sb3(path, vecnormalize)
    else:
        policy = load_policy(path) if members or Path(path).suffix in (".npz", ".zip") else read_dope(path)
    if environment:
        policy = replace(policy, environment=str(parse_name(environment)))
    return policy.deterministic() if deterministic else policy


def zoo_files(name: str | os.PathLike[str]) -> list[Path]:
    """The files of policies that ship, the weakest first: all (``zoo``), a robot's (``zoo/hopper``) or one
    (``zoo/hopper-03``). None for another name, and none if a file, or a folder with policies, of that name exists.

    Raises:
        UsageError: None that ships has that name.
    """
    zoo, _, wanted = os.fspath(name).partition("/")
    if zoo != _ZOO.name or os.path.isfile(name) or _candidates(name):
        return []
    shipped = sorted(_ZOO.glob("*/*.npz"))
    found = [path for path in shipped if wanted in ("", path.parent.name, path.stem)]
    if found or os.path.exists(name):
        return found
    names = [f"zoo/{part}" for part in (*sorted({path.parent.name for path in shipped}), shipped[0].stem)]
    raise UsageError(f"no policy that ships is called {name}: there are zoo, {', '.join(names)}, …")


def zoo_truth(files: Iterable[Path]) -> Path | None:
    """The file of the true values of policies that ship, all of one robot; None where one is another's."""
    folders = {path.parent for path in files}
    ships = len(folders) == 1 and all(folder.parent == _ZOO for folder in folders)
    return folders.pop() / "truth.json" if ships else None


def find_policies(folder: str | os.PathLike[str]) -> dict[Path, Policy | str]:
    """The policies in a folder and below it, by path: each as it was read, or why it cannot be, in words.

    Those that ship (``zoo`` or ``zoo/hopper``) are listed by name.
    """
    if shipped := zoo_files(folder):
        return {Path("zoo", path.stem): load_policy(path) for path in shipped}
    if not Path(folder).is_dir():
        raise TrajWorldError(f"{folder} is no folder")
    found: dict[Path, Policy | str] = {}
    for path in _candidates(folder):
        try:
            found[path] = read_policy(path)
        except TrajWorldError as error:
            found[path] = str(error)
    return found


def policy_files(places: Iterable[str | os.PathLike[str]]) -> dict[str, Path]:
    """The files of policies among files, folders and names of those that ship, by their names (by their paths where
    names are equal). They are not read: a damaged one in a folder is among them.
    """
    found: list[Path] = []
    for place in map(Path, places):
        inside = zoo_files(place) or (_candidates(place) if place.is_dir() else [place])
        if not inside:
            raise TrajWorldError(f"there is no policy in {place}")
        found += inside
    stems = [path.stem for path in found]
    return {str(path) if stems.count(path.stem) > 1 else path.stem: path for path in found}


def read_policies(places: Iterable[str | os.PathLike[str]], **reading: Any) -> dict[str, Policy]:
    """The policies of :func:`policy_files`; see :func:`read_policy`.

    Raises:
        TrajWorldError: One cannot be read.
    """
    return {name: read_policy(path, **reading) for name, path in policy_files(places).items()}


def _candidates(folder: str | os.PathLike[str]) -> list[Path]:
    """The files in a folder and below it that are policies by their names, and archives by what they hold."""
    files = (Path(place) / name for place, _, names in os.walk(folder) for name in names)
    named = sorted(
        one for one in files if one.suffix in (".npz", ".pkl", ".zip") and not _BESIDE.fullmatch(one.name)
    )
    # Other archives, such as an agent's evaluations.npz, are no policies; what is no whole archive may have been one.
    return [path for path in named if not (held := _members(path)) or held & (_OWN_MEMBERS | _AGENT_MEMBERS)]


def _members(path: str | os.PathLike[str]) -> set[str]:
    """The names in a zip archive; none where a file is no whole one."""
    try:
        with zipfile.ZipFile(path) as archive:
            return set(archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return set()
