"""The returns of a planner in its environment, beside those of its proposal and of random actions."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from trajworld.collect.returns import policy_returns
from trajworld.policies.behaviour import Behaviour, Uniform
from trajworld.policies.policy import Policy
from trajworld.processes import Progress
from trajworld.study.tables import HIGH, LOW, half_width

PLANNER, PROPOSAL, RANDOM = "planner", "proposal", "random actions"


def alone(proposal: Policy | None) -> dict[str, Behaviour]:
    """What to compare a planner with: its proposal, as it is defined, and random actions."""
    own: dict[str, Behaviour] = {} if proposal is None else {PROPOSAL: proposal}
    return {**own, RANDOM: Uniform()}


def episode_returns(
    acting: Mapping[str, Behaviour],
    environment: str,
    episodes: int,
    steps: int | None = None,
    seed: int = 0,
    workers: int = 1,
    progress: Progress = lambda *_: None,
    finished: Callable[[str, float], None] = lambda *_: None,
) -> pd.DataFrame:
    """Run behaviours in an environment, from the same starts.

    A planner needs one worker: its model is in this process.

    Args:
        acting: The behaviours, by name.
        environment: Its name.
        episodes: Of each.
        steps: The most steps of an episode; the environment's limit holds as well.
        seed: Of the episodes.
        workers: Processes.
        progress: Called with the number of finished episodes, the total and a label.
        finished: Called with the actor of each finished episode, and its return.

    Returns:
        A row a behaviour, ``acting``: the mean ``return`` of its ``episodes`` with its 95 % interval, ``steps`` and the
        share that ``terminated``, the list of ``returns``, and how many the simulator broke, ``unstable``.

    Raises:
        UsageError: A number is out of range, the environment is unknown, or a policy does not fit it.
    """
    given: Any = {"episodes": episodes, "horizon": steps, "gamma": 1.0, "seed": seed, "workers": workers}
    given |= {"progress": progress, "finished": finished}
    rows = []
    for one in policy_returns(acting, environment=environment, **given):
        width = half_width(np.array(one["returns"]))
        mean, ended = one["return"], one["terminated"] / episodes
        row = {
            "acting": one["policy"],
            "return": mean,
            "return" + LOW: mean - width,
            "return" + HIGH: mean + width,
        }
        row |= {"episodes": episodes, "steps": one["length"], "terminated": ended}
        rows.append(row | {"unstable": one["unstable"], "returns": one["returns"]})
    return pd.DataFrame(rows)
