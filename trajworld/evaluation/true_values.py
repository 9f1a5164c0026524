"""The true values of policies: from the simulator, or from a file of them."""

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from trajworld.collect.collector import default_workers
from trajworld.collect.returns import policy_returns
from trajworld.environments.names import parse_name
from trajworld.errors import TrajWorldError, UsageError
from trajworld.evaluation.ope import mean_row
from trajworld.evaluation.ope_settings import OpeSettings
from trajworld.files import read_json
from trajworld.policies.policy import Policy
from trajworld.processes import Progress
from trajworld.study.tables import standard_error


def simulated_values(
    environment: str,
    policies: Mapping[str, Policy],
    starts: NDArray[np.floating] | None,
    settings: OpeSettings,
    episodes: int,
    progress: Progress = lambda *_: None,
    workers: int | None = None,
) -> pd.DataFrame:
    """The oracle: policies' values in the simulator, from its own initial states or from ``starts [N, O]`` in turn.

    Returns:
        A row a policy, as :func:`imagined_values` gives, with the ``standard error``; a ``problem`` is that of episodes
        in which the simulator broke.
    """
    found = policy_returns(
        policies,
        environment=environment,
        episodes=episodes,
        horizon=settings.horizon,
        gamma=settings.discount,
        seed=settings.seed,
        workers=workers or default_workers(len(policies) * episodes * settings.horizon),
        starts=starts,
        progress=progress,
    )
    rows = []
    for one in found:
        values = np.array(one["discounted_returns"])
        counts = {"steps": one["length"], "ended": one["terminated"] / episodes}
        broken = f"the simulator broke in {one['unstable']} of {episodes} episodes, which end there"
        problem = {"problem": broken if one["unstable"] else ""}
        error = {"standard error": standard_error(values)}
        rows.append(mean_row(one["policy"], values) | counts | error | problem)
    return pd.DataFrame(rows)


def read_true_values(
    path: Path, policies: list[str], settings: OpeSettings, limit: float, environment: str
) -> pd.DataFrame:
    """True values of policies in the data's environment, as a table, where episodes have at most ``limit`` steps."""
    try:
        found = read_json(path)["policies"]
        rows = [(one["policy"], float(one["discounted"]), float(one["discounted_stderr"])) for one in found]
        horizons = [min(float(one.get("horizon") or limit), limit) for one in found]
    except (TypeError, KeyError, ValueError):
        wanted = "what `trajworld policy evaluate -o` writes, of 2 episodes or more"
        raise TrajWorldError(f"{path} is not {wanted}") from None
    for one, steps in zip(found, horizons, strict=True):
        measured = str(one.get("environment") or "")
        # One robot's name in a dataset differs from Gymnasium's; both show changes of physics.
        if environment and measured and parse_name(measured).changes != parse_name(environment).changes:
            raise TrajWorldError(f"{path} holds returns in {measured}, and the data are of {environment}")
        if one.get("gamma") != settings.discount or steps not in (settings.horizon, math.inf):
            raise UsageError(
                f"{path} holds returns with a discount of {one.get('gamma')} over at most {steps:g} steps, where "
                f"{settings.discount} and {settings.horizon} are asked for: give these, or measure again"
            )
    known = pd.DataFrame(rows, columns=["policy", "truth", "truth error"])
    if missing := sorted(set(policies) - set(known["policy"])):
        raise TrajWorldError(f"{path} has no true value of {missing[0]}: it has {', '.join(known['policy'])}")
    return known
