"""Policies of the DOPE benchmark: pickled dictionaries of arrays, whose kernels are ``[out, in]``."""

import itertools
import os
from pathlib import Path
from typing import Any

import numpy as np

from trajworld.errors import TrajWorldError
from trajworld.interop.restricted_pickle import read_pickle
from trajworld.policies.policy import Layer, Policy

# What the benchmark's files are named after; Gymnasium's versions of today return what the old ones did.
_ENVIRONMENTS = {
    "hopper": "gymnasium/Hopper-v5",
    "walker": "gymnasium/Walker2d-v5",
    "halfcheetah": "gymnasium/HalfCheetah-v5",
}
# Whether tanh squashes the actions.
_SQUASHED = {"tanh_gaussian": True, "gaussian": False}


def read_dope(path: str | os.PathLike[str]) -> Policy:
    """Read a policy of the benchmark, for actions in [-1, 1]; the file's name tells its environment.

    Raises:
        TrajWorldError: The pickle cannot be read, or holds no such policy.
    """
    content = read_pickle(path)
    name = Path(path).name
    try:
        if not isinstance(content, dict) or "last_fc/weight" not in content:
            raise TrajWorldError("it has no last_fc/weight")
        if (shape := content.get("output_distribution")) not in _SQUASHED:
            raise TrajWorldError(
                f"its output distribution {str(shape)[:40]!r} is none of {', '.join(_SQUASHED)}"
            )
        hidden = itertools.takewhile(
            lambda layer: f"{layer}/weight" in content, (f"fc{index}" for index in itertools.count())
        )
        mean = _layer(content, "last_fc")
        bound = np.ones(mean.bias.shape, np.float32)
        return Policy(
            layers=tuple(_layer(content, layer) for layer in hidden),
            mean=mean,
            log_std=_layer(content, "last_fc_log_std") if "last_fc_log_std/weight" in content else None,
            low=-bound,
            high=bound,
            activation=str(content.get("nonlinearity")),
            squash=_SQUASHED[shape],
            environment=_ENVIRONMENTS.get(name.split("_")[0], ""),
            source=f"DOPE {name}",
        )
    except TrajWorldError as error:
        raise TrajWorldError(f"{path} is no policy of DOPE: {error}") from None


def _layer(content: dict[str, Any], name: str) -> Layer:
    return Layer(np.transpose(content[f"{name}/weight"]), np.asarray(content.get(f"{name}/bias")))
