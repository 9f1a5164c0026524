"""Policies' files of any kind: which reader is for which, and what a folder holds."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from trajworld.environments.names import parse_name
from trajworld.errors import TrajWorldError
from trajworld.policies.npz import load_policy, open_zip
from trajworld.policies.policy import Policy

_SUFFIXES = (".npz", ".pkl", ".zip")


def read_policy(
    path: str | os.PathLike[str],
    *,
    environment: str = "",
    vecnormalize: str | os.PathLike[str] | None = None,
    deterministic: bool = False,
) -> Policy:
    """Read a policy: one of this library (``.npz``), a pickle of DOPE, or a zip of Stable-Baselines3.

    Args:
        path: The file; its content tells which it is.
        environment: What the policy was made for, where the file does not say or another is meant.
        vecnormalize: See ``read_sb3``.
        deterministic: Leave out the noise.

    Raises:
        UsageError: The environment's name is none.
        TrajWorldError: The file is missing, damaged, or holds no policy that can be read.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(2)
    except OSError as error:
        raise TrajWorldError(f"cannot read {path}: {error.strerror or error}") from None
    if start == b"PK":
        with open_zip(path) as archive:
            names = archive.namelist()
    if start == b"PK" and not {"policy.pth", "data"}.isdisjoint(names):
        from trajworld.policies.sb3 import read_sb3

        policy = read_sb3(path, vecnormalize)
    elif start == b"PK" or Path(path).suffix in (".npz", ".zip"):
        policy = load_policy(path)
    else:
        from trajworld.policies.dope import read_dope

        policy = read_dope(path)
    if environment:
        policy = replace(policy, environment=str(parse_name(environment)))
    return policy.deterministic() if deterministic else policy


def find_policies(folder: str | os.PathLike[str]) -> dict[Path, Policy | TrajWorldError]:
    """The policies in a folder and those below it, by path: what was read of each, or why it cannot be.

    Raises:
        TrajWorldError: There is no such folder.
    """
    from trajworld.policies.sb3 import VECNORMALIZE

    if not Path(folder).is_dir():
        raise TrajWorldError(f"{folder} is no folder")
    found: dict[Path, Policy | TrajWorldError] = {}
    for path in sorted(Path(folder).rglob("*")):
        if path.suffix in _SUFFIXES and path.name != VECNORMALIZE and path.is_file():
            try:
                found[path] = read_policy(path)
            except TrajWorldError as error:
                found[path] = error
    return found


def describe_policy(policy: Policy) -> dict[str, Any]:
    """What there is to know of a policy, as JSON has it."""
    return {
        "environment": policy.environment,
        "kind": "deterministic" if policy.log_std is None else "Gaussian",
        "bounds": "tanh" if policy.squash else "clipped",
        "sizes": list(policy.sizes),
        "activation": policy.activation,
        "normalises_observations": bool(
            policy.observation_mean.any() or (policy.observation_scale != 1).any()
        ),
        "parameters": sum(
            a.size + b.size for a, b in (*policy.layers, policy.mean, *filter(None, [policy.log_std]))
        ),
        "low": policy.low.tolist(),
        "high": policy.high.tolist(),
        "source": policy.source,
    }
