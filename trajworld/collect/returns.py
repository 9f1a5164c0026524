"""Monte-Carlo returns of policies in the simulator."""

import contextlib
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trajworld.collect.episodes import run_episodes
from trajworld.environments.open import open_environment
from trajworld.errors import UsageError
from trajworld.policies.behaviour import Behaviour
from trajworld.policies.policy import Policy
from trajworld.processes import Progress, finished_tasks

_EPISODES_AT_ONCE = 8
_PURPOSE = 0x6F7065


def policy_returns(
    policies: Mapping[str, Behaviour],
    *,
    environment: str = "",
    episodes: int = 10,
    horizon: int | None = None,
    gamma: float = 0.995,
    seed: int = 0,
    workers: int = 1,
    starts: NDArray[np.floating] | None = None,
    progress: Progress = lambda *_: None,
    finished: Callable[[str, float], None] = lambda *_: None,
) -> list[dict[str, Any]]:
    """Run each policy in its environment and return its returns, the same for any number of workers.

    Episode i has the same start for all policies: it depends on the seed, the environment's name, i and whether
    ``starts`` are given. One that the simulator breaks counts up to that step.

    Args:
        policies: By name, as in the result. A behaviour that is no ``Policy`` does not name its environment.
        environment: Where they all run, instead of the one each was made for.
        episodes: Of each policy.
        horizon: The most steps of an episode; the environment's limit holds as well.
        gamma: The discount of a step, in (0, 1].
        seed: Of the episodes.
        workers: Processes.
        starts: ``[N, O]`` observations in which the episodes begin, in turn; None for the environment's own starts.
        progress: Called with the number of finished episodes, the total and a label.
        finished: Called with the policy and the return of each finished episode, in any order.

    Returns:
        For each ``policy`` its ``environment``, ``episodes``, ``horizon``, ``gamma``, ``seed``; the means ``return``
        and ``discounted``, of each the ``_std`` over episodes and the ``_stderr`` of the mean (None for one episode);
        the mean ``length``, how many episodes ``terminated`` and how many were ``unstable``; and each episode's
        ``returns`` and ``discounted_returns``.
    """
    if episodes < 1 or not 0 < gamma <= 1 or seed < 0 or (horizon is not None and horizon < 1):
        raise UsageError(
            f"episodes {episodes}, horizon {horizon}, gamma {gamma:g}, seed {seed}: at least 1 episode of at least 1 "
            "step, a discount in (0, 1] and a seed of at least 0 are needed"
        )
    names = _environments(policies, environment)
    # Not the episodes of a dataset collected with this seed; and given starts have other episodes than its own starts:
    # the two may be compared.
    salt = [seed, _PURPOSE] if starts is None else [seed, _PURPOSE, 1]
    own = int(np.random.SeedSequence(salt).generate_state(1)[0])
    size = max(1, min(_EPISODES_AT_ONCE, len(policies) * episodes // (4 * workers)))
    tasks = {
        (name, first): (gamma, names[name], policy, own, first, min(size, episodes - first), horizon, starts)
        for name, policy in policies.items()
        for first in range(0, episodes, size)
    }
    what = ", ".join(policies) if len(policies) < 3 else f"{len(policies)} policies"
    found: dict[tuple[str, int], Any] = {}
    for key, rows in finished_tasks(_returns, tasks.items(), workers, lambda key: key[0]):
        found[key] = rows
        for row in rows:
            finished(key[0], row[0])
        progress(sum(map(len, found.values())), len(policies) * episodes, what)
    answer = []
    for name in policies:
        rows = [row for key in tasks if key[0] == name for row in found[key]]
        totals, discounted, lengths, terminated, unstable = np.array(rows, np.float64).T
        settings = {"episodes": episodes, "horizon": horizon, "gamma": gamma, "seed": seed}
        counts = {"terminated": int(terminated.sum()), "unstable": int(unstable.sum())}
        answer.append(
            {"policy": name, "environment": names[name], **settings}
            | {**_summary("return", totals), **_summary("discounted", discounted)}
            | {"length": float(lengths.mean()), **counts}
            | {"returns": totals.tolist(), "discounted_returns": discounted.tolist()}
        )
    return answer


def _environments(policies: Mapping[str, Behaviour], given: str) -> dict[str, str]:
    """Each policy's environment by its canonical name, when the policy fits it."""
    described, names = {}, {}
    for name, policy in policies.items():
        wanted = given or getattr(policy, "environment", "")
        if not wanted:
            raise UsageError(f"{name}: the file does not say its environment: name one by --environment")
        if wanted not in described:
            with contextlib.closing(open_environment(wanted)) as opened:
                described[wanted] = opened.description
        has = described[wanted]
        sizes = has.observation_size, has.action_size
        if isinstance(policy, Policy) and (policy.observation_size, policy.action_size) != sizes:
            raise UsageError(
                f"{name} takes {policy.observation_size} observation values and gives {policy.action_size} actions, "
                f"where {has.name} has {has.observation_size} and {has.action_size}"
            )
        names[name] = has.name
    return names


def _returns(gamma: float, *task: Any) -> list[tuple[float, float, int, bool, bool]]:
    """For each episode: return, discounted return, length, whether it terminated, whether the simulator broke."""
    rows = []
    for rollout in run_episodes(*task):
        episode = rollout.episode
        rewards = np.zeros(0) if episode is None else episode.rewards.astype(np.float64)
        discounted = float(rewards @ gamma ** np.arange(len(rewards)))
        ends = bool(episode and episode.terminated), bool(rollout.unstable)
        rows.append((float(rewards.sum()), discounted, len(rewards), *ends))
    return rows


def _summary(name: str, values: np.ndarray[Any, Any]) -> dict[str, float | None]:
    deviation = float(values.std(ddof=1)) if len(values) > 1 else None
    error = None if deviation is None else deviation / math.sqrt(len(values))
    return {name: float(values.mean()), f"{name}_std": deviation, f"{name}_stderr": error}
