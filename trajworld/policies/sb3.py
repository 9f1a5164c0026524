"""Policies of Stable-Baselines3: the actor in the zip that ``model.save`` writes, by arrays and names alone."""

import base64
import io
import json
import math
import os
import pickletools
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trajworld.errors import TrajWorldError, one_line
from trajworld.interop.restricted_pickle import Record, parse_pickle, read_pickle
from trajworld.policies.npz import open_zip
from trajworld.policies.policy import Layer, Policy

VECNORMALIZE = "vecnormalize.pkl"


@dataclass(frozen=True)
class Actor:
    """Where a class of policies keeps its actor.

    Attributes:
        layers: The parts of the state that its linear layers are in, from the observation to the mean action.
        log_std: The part that the logarithm of the standard deviation is in; empty for deterministic ones.
        activation: Unless the policy's arguments name another.
        squash: Whether tanh squashes actions, unless the policy's arguments say.
        log_std_range: See ``Policy``.
    """

    layers: tuple[str, ...]
    log_std: str
    activation: str
    squash: bool
    log_std_range: tuple[float, float] = (-math.inf, math.inf)


_SHARED = "mlp_extractor.shared_net"  # Of versions before 1.8.
_SAC = Actor(("actor.latent_pi", "actor.mu"), "actor.log_std", "ReLU", True, (-20.0, 2.0))
ACTORS = {
    # A2C, PPO and TRPO.
    "ActorCriticPolicy": Actor((_SHARED, "mlp_extractor.policy_net", "action_net"), "log_std", "Tanh", False),
    "SACPolicy": _SAC,
    "TQCPolicy": _SAC,
    "TD3Policy": Actor(("actor.mu",), "", "ReLU", True),
    "ARSPolicy": Actor(("action_net",), "", "ReLU", True),
    "ARSLinearPolicy": Actor(("action_net",), "", "ReLU", False),
}
_ACTIVATIONS = {
    "ReLU": "relu",
    "Tanh": "tanh",
    "ELU": "elu",
    "LeakyReLU": "leaky_relu",
    "SiLU": "silu",
    "Sigmoid": "sigmoid",
}


def read_sb3(path: str | os.PathLike[str], vecnormalize: str | os.PathLike[str] | None = None) -> Policy:
    """Read the policy of an agent that Stable-Baselines3 (1.0 and later) or its contrib package saved.

    Neither of them is needed, only PyTorch. Exploration by gSDE, whose noise lasts for several steps, is left out: such
    a policy does its mean action.

    Args:
        path: The zip.
        vecnormalize: Pickled ``VecNormalize`` statistics of the observations; where not given, the
            ``vecnormalize.pkl`` beside the zip or in the folder of its name, if there is one.

    Raises:
        TrajWorldError: A file is damaged or no such zip, or its policy is no MLP with continuous actions.
    """
    path = Path(path)
    with open_zip(path) as archive:
        try:
            data, state = json.loads(_member(archive, "data")), _member(archive, "policy.pth")
            version = "_stable_baselines3_version"
            version = archive.read(version).decode().strip() if version in archive.namelist() else ""
        except (
            KeyError,
            ValueError,
            zipfile.BadZipFile,
            OSError,
            NotImplementedError,
            RuntimeError,
        ) as error:
            raise TrajWorldError(
                f"{path} is no zip of Stable-Baselines3, or damaged ({one_line(error)})"
            ) from None
    places = path.parent / VECNORMALIZE, path.with_suffix("") / VECNORMALIZE
    statistics = vecnormalize or next((place for place in places if place.is_file()), None)
    try:
        kind, source = (
            _class_name(data["policy_class"]),
            f"Stable-Baselines3 {version} {data.get('num_timesteps')} steps",
        )
        arguments = data.get("policy_kwargs") or {}
        for name in ("observation_space", "action_space"):
            space = parse_pickle(base64.b64decode(data[name][":serialized:"]), f"{path}, {name}")
            if (
                not isinstance(space, Record)
                or not space.name.endswith(".box.Box")
                or np.ndim(space.fields["low"]) != 1
            ):
                raise TrajWorldError(f"its {name.replace('_', ' ')} is no plain box of numbers")
        return make_policy(
            kind,
            _arrays(state),
            low=space.fields["low"],
            high=space.fields["high"],
            arguments=arguments,
            sde=bool(data.get("use_sde")),
            statistics=None if statistics is None else read_pickle(statistics),
            source=source,
        )
    except TrajWorldError as error:
        raise TrajWorldError(f"{path}: {error}") from None
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise TrajWorldError(
            f"{path} is no zip of Stable-Baselines3, or damaged ({one_line(error)})"
        ) from None


def make_policy(
    kind: str,
    state: Mapping[str, np.ndarray[Any, Any]],
    *,
    low: Any,
    high: Any,
    arguments: Mapping[str, Any],
    sde: bool = False,
    statistics: Any = None,
    environment: str = "",
    source: str = "",
) -> Policy:
    """The policy of a state dictionary.

    Args:
        kind: The name of the policy's class, one of ``ACTORS``.
        state: Names to arrays.
        low: The least actions.
        high: The greatest actions.
        arguments: What the class was made with, ``policy_kwargs``.
        sde: Whether it explores by gSDE.
        statistics: The unpickled record of ``VecNormalize``, or None.
        environment: See ``Policy``.
        source: See ``Policy``.

    Raises:
        TrajWorldError: The class is not one of these, or is used in a way that is not read.
    """
    if kind not in ACTORS:
        raise TrajWorldError(
            f"policies of the class {kind[:80]!r} are not read: only multilayer perceptrons of A2C, PPO, TRPO, ARS, "
            f"SAC, TQC and TD3 ({', '.join(ACTORS)})"
        )
    if strange := [name for name in state if re.match(r"(actor\.)?(pi_)?features_extractor\.", name)]:
        raise TrajWorldError(
            f"its features extractor has weights ({strange[0]}): only plain observations are read"
        )
    actor = ACTORS[kind]
    # "<class 'torch.nn.modules.activation.ReLU'>": the name is all that is needed.
    activation = str(arguments.get("activation_fn", actor.activation)).rstrip("'>").rpartition(".")[-1]
    if activation not in _ACTIVATIONS:
        raise TrajWorldError(f"the activation {activation[:40]!r} is none of {', '.join(_ACTIVATIONS)}")
    *hidden, mean = (layer for part in actor.layers for layer in _linear(state, part))
    limit = float(arguments.get("clip_mean", 2.0)) if sde and actor is _SAC else 0.0
    return Policy(
        layers=tuple(hidden),
        mean=mean,
        log_std=None if sde or not actor.log_std else _deviation(state, actor.log_std, len(mean.kernel)),
        low=low,
        high=high,
        activation=_ACTIVATIONS[activation],
        squash=bool(arguments.get("squash_output", actor.squash)),
        mean_limit=limit or math.inf,
        log_std_range=actor.log_std_range,
        environment=environment,
        source=source,
        **_normalisation(statistics),
    )


def _normalisation(statistics: Any) -> dict[str, Any]:
    """The fields of a policy whose observations ``VecNormalize`` scaled."""
    if statistics is None:
        return {}
    moments = statistics.fields.get("obs_rms") if isinstance(statistics, Record) else None
    if moments is None or not statistics.name.endswith(".VecNormalize") or not isinstance(moments, Record):
        raise TrajWorldError("the statistics of the observations are no VecNormalize of plain observations")
    if not statistics.fields["norm_obs"]:
        return {}
    scale = np.sqrt(moments.fields["var"] + statistics.fields["epsilon"])
    found = {"observation_mean": moments.fields["mean"], "observation_scale": scale}
    return found | {"observation_clip": float(statistics.fields["clip_obs"])}


def _linear(state: Mapping[str, np.ndarray[Any, Any]], part: str) -> list[Layer]:
    """The linear layers of a part in order, kernels turned to ``[in, out]``; ARS can do without biases."""
    numbers = [re.fullmatch(rf"{re.escape(part)}(?:\.(\d+))?\.weight", name) for name in state]
    names = [
        match.group()[:-7] for match in sorted(filter(None, numbers), key=lambda match: int(match[1] or 0))
    ]
    kernels = [(np.transpose(state[f"{name}.weight"]), state.get(f"{name}.bias")) for name in names]
    return [Layer(w, np.zeros(w.shape[-1], np.float32) if b is None else b) for w, b in kernels]


def _deviation(state: Mapping[str, np.ndarray[Any, Any]], part: str, width: int) -> Layer:
    """A layer, or a vector that depends on no observation."""
    if part in state:
        return Layer(np.zeros((width, state[part].size), np.float32), state[part])
    return _linear(state, part)[0]


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
    return archive.read(name)


def _arrays(state: bytes) -> dict[str, np.ndarray[Any, Any]]:
    """The arrays of a PyTorch file; PyTorch makes tensors of it and nothing else."""
    import torch

    try:
        tensors = torch.load(io.BytesIO(state), map_location="cpu", weights_only=True)
        return {name: tensor.float().numpy() for name, tensor in tensors.items()}
    except Exception as error:  # Damaged bytes make PyTorch raise a dozen types.
        raise TrajWorldError(f"policy.pth holds no arrays, or is damaged ({one_line(error)})") from None


def _class_name(entry: Mapping[str, str]) -> str:
    """The name of the class that a pickle stands for, which is not loaded."""
    text = ""
    for opcode, argument, _ in pickletools.genops(base64.b64decode(entry[":serialized:"])):
        if "UNICODE" in opcode.name:
            text = str(argument)
        if opcode.name == "GLOBAL":
            return str(argument).rpartition(" ")[-1]
        if opcode.name == "STACK_GLOBAL":
            return text
    raise TrajWorldError("it names no class of policies")
