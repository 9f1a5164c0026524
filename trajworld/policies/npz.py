"""Policies as files of their own: plain arrays in an ``.npz``, which anything that has NumPy reads."""

import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from trajworld.errors import TrajWorldError, UsageError, one_line
from trajworld.files import atomic_file, kind_of_file
from trajworld.policies.policy import Layer, Policy

VERSION = 1
# A policy takes well below a MB; a small zip may unpack to any size.
_MOST_BYTES = 1 << 28
_VECTORS = ("low", "high", "observation_mean", "observation_scale")
_NUMBERS = ("observation_clip", "mean_limit")
_TEXTS = ("activation", "environment", "source")


def save_policy(policy: Policy, path: str | os.PathLike[str]) -> None:
    """Write a policy, atomically; equal policies give equal bytes.

    Raises:
        UsageError: The name does not end in ``.npz``.
        TrajWorldError: The file cannot be written.
    """
    if Path(path).suffix != ".npz":
        raise UsageError(f"{path}: a policy's file ends in .npz")
    arrays: dict[str, Any] = {name: getattr(policy, name) for name in (*_VECTORS, *_NUMBERS, *_TEXTS)}
    arrays |= {"version": VERSION, "squash": policy.squash, "log_std_range": policy.log_std_range}
    named = {f"layer_{number}": layer for number, layer in enumerate(policy.layers)} | {"mean": policy.mean}
    for name, layer in (named | ({} if policy.log_std is None else {"log_std": policy.log_std})).items():
        arrays |= {f"{name}_kernel": layer.kernel, f"{name}_bias": layer.bias}
    with atomic_file(path) as temporary:
        np.savez(temporary, **arrays)


def load_policy(path: str | os.PathLike[str]) -> Policy:
    """Read a policy that :func:`save_policy` wrote; nothing in the file is run.

    Raises:
        TrajWorldError: The file is missing, damaged, of a later version, or holds no such policy.
    """
    with open_zip(path):
        pass
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        if (version := int(arrays["version"])) > VERSION:
            raise TrajWorldError(f"it is of version {version}, and this program reads {VERSION}: update it")
        number = sum(name.startswith("layer_") for name in arrays) // 2
        layers = [_layer(arrays, f"layer_{index}") for index in range(number)]
        low, high = arrays["log_std_range"].tolist()
        options: dict[str, Any] = {name: arrays[name] for name in _VECTORS}
        options |= {name: float(arrays[name]) for name in _NUMBERS}
        options |= {name: str(arrays[name]) for name in _TEXTS}
        return Policy(
            layers=tuple(layers),
            mean=_layer(arrays, "mean"),
            log_std=_layer(arrays, "log_std") if "log_std_kernel" in arrays else None,
            squash=bool(arrays["squash"]),
            log_std_range=(float(low), float(high)),
            **options,
        )
    except TrajWorldError as error:
        raise TrajWorldError(f"{path} is no usable policy: {error}") from None
    except KeyError as error:
        raise TrajWorldError(f"{path} is no policy: it lacks {one_line(error)[10:]}") from None
    except Exception as error:  # Damaged archives make Python and NumPy raise a dozen types.
        raise TrajWorldError(f"{path} is damaged, or is no policy ({one_line(error)})") from None


def open_zip(path: str | os.PathLike[str]) -> zipfile.ZipFile:
    """Open a zip archive of a policy, of a size that one may have.

    Raises:
        TrajWorldError: It is missing, is no zip archive, is cut short, or unpacks to more than 256 MB.
    """
    try:
        archive = zipfile.ZipFile(path)
    except OSError as error:
        raise TrajWorldError(f"cannot read {path}: {error.strerror or error}") from None
    except zipfile.BadZipFile as error:
        raise TrajWorldError(f"{path} is no whole zip archive ({kind_of_file(path) or error})") from None
    if sum(entry.file_size for entry in archive.infolist()) > _MOST_BYTES:
        archive.close()
        raise TrajWorldError(f"{path} unpacks to more than {_MOST_BYTES >> 20} MB: that is no policy")
    return archive


def _layer(arrays: dict[str, Any], name: str) -> Layer:
    return Layer(arrays[f"{name}_kernel"], arrays[f"{name}_bias"])
