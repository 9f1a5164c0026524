"""Policies of the DOPE benchmark: pickled dictionaries of arrays, whose kernels are ``[out, in]``."""

import os
from pathlib import Path

import numpy as np

from trajworld.errors import TrajWorldError
from trajworld.interop.restricted_pickle import read_pickle
from trajworld.policies.policy import Layer, Policy

# What the benchmark's files are named after, and the versions of today.
_ENVIRONMENTS = {"hopper": "Hopper-v5", "walker": "Walker2d-v5", "halfcheetah": "HalfCheetah-v5"}
# Whether tanh squashes the actions.
_SQUASHED = {"tanh_gaussian": True, "gaussian": False}


def read_dope(path: str | os.PathLike[str]) -> Policy:
    """Read a policy of the benchmark, for actions in [-1, 1]; the file's name gives its environment."""
    content, name = read_pickle(path), Path(path).name
    if not isinstance(content, dict) or str(content.get("output_distribution")) not in _SQUASHED:
        raise TrajWorldError(
            f"{path} is no policy of DOPE: it has no output_distribution of {', '.join(_SQUASHED)}"
        )
    environment = _ENVIRONMENTS.get(name.split("_")[0], "")
    try:
        layers = {
            key.removesuffix("/weight"): Layer(
                np.transpose(kernel), np.asarray(content.get(key.replace("/weight", "/bias")))
            )
            for key, kernel in content.items()
            if str(key).endswith("/weight")
        }
        mean, log_std = layers.pop("last_fc"), layers.pop("last_fc_log_std", None)
        return Policy(
            layers=tuple(layers[f"fc{index}"] for index in range(len(layers))),
            mean=mean,
            log_std=log_std,
            activation=str(content.get("nonlinearity")),
            squash=_SQUASHED[str(content["output_distribution"])],
            environment=environment and f"gymnasium/{environment}",
            source=f"DOPE {name}",
        )
    except KeyError as error:
        raise TrajWorldError(f"{path} is no policy of DOPE: it lacks {error.args[0]}/weight") from None
    except (TrajWorldError, ValueError) as error:  # NumPy refuses lists of different lengths.
        raise TrajWorldError(f"{path} is no policy of DOPE: {error}") from None
