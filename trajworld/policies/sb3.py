"""Policies of Stable-Baselines3: the actor in the zip that ``model.save`` writes, from arrays and names alone."""

import base64
import json
import math
import os
import pickletools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from trajworld.errors import TrajWorldError, one_line
from trajworld.files import open_zip
from trajworld.interop.restricted_pickle import Record, parse_pickle, read_pickle
from trajworld.interop.torch_file import read_torch
from trajworld.policies.policy import ACTIVATIONS, Layer, Policy

Arrays = Mapping[str, np.ndarray[Any, Any]]


class Actor(NamedTuple):
    """How a class of policies acts, unless its arguments say otherwise: the parts of the state that hold the linear
    layers up to the mean action, and the logarithm of the standard deviation (empty: there is none), and so on.
    """

    layers: tuple[str, ...]
    log_std: str
    activation: str
    squash: bool
    log_std_range: tuple[float, float] = (-math.inf, math.inf)


# Layers shared with the critic are of versions before 1.8.
_LAYERS = ("mlp_extractor.shared_net", "mlp_extractor.policy_net", "action_net")
_SAC = Actor(("actor.latent_pi", "actor.mu"), "actor.log_std", "ReLU", True, (-20.0, 2.0))
ACTORS = {
    "ActorCriticPolicy": Actor(_LAYERS, "log_std", "Tanh", False),  # A2C, PPO, TRPO.
    "SACPolicy": _SAC,
    "TQCPolicy": _SAC,
    "TD3Policy": Actor(("actor.mu",), "", "ReLU", True),
    "ARSPolicy": Actor(("action_net",), "", "ReLU", True),
    "ARSLinearPolicy": Actor(("action_net",), "", "ReLU", False),
}
_ACTIVATIONS = {name.replace("_", ""): name for name in ACTIVATIONS}


def read_sb3(path: str | os.PathLike[str], vecnormalize: str | os.PathLike[str] | None = None) -> Policy:
    """Read the policy of an agent that Stable-Baselines3 (1.0 and later) or its contrib package saved.

    Neither they nor PyTorch are needed. Exploration by gSDE, whose noise lasts for several steps, is left out: such a
    policy takes its mean action.

    Args:
        path: The zip.
        vecnormalize: Pickled ``VecNormalize`` statistics of the observations; where not given, the
            ``vecnormalize.pkl`` beside the zip or in the folder of its name, if there is one.
    """
    path = Path(path)
    places = [folder / "vecnormalize.pkl" for folder in (path.parent, path.with_suffix(""))]
    statistics = vecnormalize or next((place for place in places if place.is_file()), None)
    try:
        with open_zip(path) as archive:
            data, state = json.loads(archive.read("data")), archive.read("policy.pth")
        spaces = [
            parse_pickle(base64.b64decode(data[name][":serialized:"]), path)
            for name in ("observation_space", "action_space")
        ]
        for space in spaces:
            if not space.name.endswith(".box.Box") or np.ndim(space.state["low"]) != 1:
                raise TrajWorldError(
                    f"{path}: only plain boxes of observations and actions are read, no {space.name}"
                )
        return make_policy(
            _class_name(data["policy_class"][":serialized:"]),
            read_torch(f"{path}: policy.pth", state),
            arguments=data.get("policy_kwargs") or {},
            sde=bool(data.get("use_sde")),
            low=spaces[1].state["low"],
            high=spaces[1].state["high"],
            source=f"Stable-Baselines3, {data.get('num_timesteps')} steps"
            + ", mean action in place of gSDE" * bool(data.get("use_sde")),
            **({} if statistics is None else _normalisation(statistics)),
        )
    except TrajWorldError as error:
        raise (error if str(path) in str(error) else TrajWorldError(f"{path}: {error}")) from None
    except Exception as error:  # Damaged archives make Python raise a dozen types.
        raise TrajWorldError(
            f"{path} is no zip of Stable-Baselines3, or damaged ({one_line(error)})"
        ) from None


def make_policy(
    kind: str, state: Arrays, *, arguments: Mapping[str, Any], sde: bool = False, **options: Any
) -> Policy:
    """The policy of a class, made with ``arguments`` (its ``policy_kwargs``), and of a state dictionary.

    ``sde`` says whether it explores by gSDE; ``options`` are further fields of the policy. A ``TrajWorldError`` is
    raised for a class, or a use of it, that is not read.
    """
    if kind not in ACTORS:
        raise TrajWorldError(
            f"policies of the class {kind[:80]!r} are not read: only MLPs, {', '.join(ACTORS)}"
        )
    if strange := [name for name in state if re.match(r"(actor\.)?(pi_)?features_extractor\.", name)]:
        raise TrajWorldError(
            f"its features extractor has weights ({strange[0]}): only plain observations are read"
        )
    actor = ACTORS[kind]
    # "<class 'torch.nn.modules.activation.ReLU'>": the name is all that is needed.
    activation = (
        str(arguments.get("activation_fn", actor.activation)).rstrip("'>").rpartition(".")[-1].lower()
    )
    *hidden, mean = (layer for part in actor.layers for layer in _linear(state, part))
    log_std = None
    if actor.log_std in state and not sde:
        # A vector that depends on no observation.
        deviations = state[actor.log_std]
        log_std = Layer(np.zeros((len(mean.kernel), deviations.size), np.float32), deviations)
    elif actor.log_std and not sde:
        (log_std,) = _linear(state, actor.log_std)
    limit = float(arguments.get("clip_mean", 2.0)) if sde and actor is _SAC else 0.0
    return Policy(
        layers=tuple(hidden),
        mean=mean,
        log_std=log_std,
        activation=_ACTIVATIONS.get(activation, activation[:40]),
        squash=bool(arguments.get("squash_output", actor.squash)),
        mean_limit=limit if limit > 0 else math.inf,
        log_std_range=actor.log_std_range,
        **options,
    )


def _linear(state: Arrays, part: str) -> list[Layer]:
    """The linear layers of a part in order, kernels turned to ``[in, out]``; ARS can do without biases."""
    found = {}
    for name, weight in state.items():
        if match := re.fullmatch(rf"({re.escape(part)}(?:\.(\d+))?)\.weight", name):
            kernel = np.transpose(weight)
            bias = state.get(f"{match[1]}.bias", np.zeros(kernel.shape[-1:], np.float32))
            found[int(match[2] or 0)] = Layer(kernel, bias)
    return [found[number] for number in sorted(found)]


def _normalisation(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The fields of a policy whose observations ``VecNormalize`` scaled, of its pickled statistics."""
    found = read_pickle(path)
    moments = found.state.get("obs_rms") if isinstance(found, Record) else None
    if not isinstance(moments, Record) or not found.name.endswith(".VecNormalize"):
        raise TrajWorldError(f"{path} holds no VecNormalize of plain observations")
    if not found.state["norm_obs"]:
        return {}
    scale = np.sqrt(moments.state["var"] + found.state["epsilon"])
    names = ("observation_mean", "observation_scale", "observation_clip")
    return dict(zip(names, (moments.state["mean"], scale, found.state["clip_obs"]), strict=True))


def _class_name(serialized: str) -> str:
    """The name of the class that a pickle stands for, which is not loaded."""
    text = ""
    for opcode, argument, _ in pickletools.genops(base64.b64decode(serialized)):
        if "UNICODE" in opcode.name or opcode.name == "GLOBAL":
            text = str(argument).rpartition(" ")[-1]
        if opcode.name in ("GLOBAL", "STACK_GLOBAL"):
            return text
    raise TrajWorldError("it names no class of policies")
