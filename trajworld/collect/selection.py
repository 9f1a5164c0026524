"""Choosing policies of clearly different skill among many, such as the snapshots of a training."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from trajworld.collect.returns import policy_returns
from trajworld.errors import UsageError
from trajworld.files import atomic_folder, write_json
from trajworld.policies.files import save_policy
from trajworld.policies.policy import Policy
from trajworld.processes import Progress

APART = 4.0
"""Two values are distinct if this many standard errors of their difference apart."""


def pick_spread(values: ArrayLike, errors: ArrayLike, count: int) -> list[int]:
    """Choose ``count`` of values ``[N]`` with standard errors ``[N]``, from the least to the greatest, in this order.

    Of all choices with the fewest neighbours less than ``APART`` standard errors of their difference apart, the one
    whose sum of squared distances from an even grid is least.
    """
    value, error = np.asarray(values, np.float64), np.asarray(errors, np.float64)
    order = np.argsort(value, kind="stable")
    value, error = value[order], error[order]
    grid, spread = np.linspace(value[0], value[-1], count), np.ptp(value) or 1.0
    gap, least = np.subtract.outer(value, value).T, APART * np.hypot.outer(error, error)
    # The cost of a step from one value up to another: a pair too close outweighs any distances from the grid.
    step = np.where(np.tri(len(value), dtype=bool), np.inf, (gap < least) * float(count))
    cost = np.where(np.arange(len(value)) == 0, 0.0, np.inf)
    before = []
    for place in grid[1:]:
        through = cost[:, None] + step
        before.append(through.argmin(axis=0))
        cost = through.min(axis=0) + ((value - place) / spread) ** 2
    chosen = [len(value) - 1]
    for last in reversed(before):
        chosen.append(int(last[chosen[-1]]))
    return [int(one) for one in order[chosen[::-1]]]


def select_policies(
    policies: Mapping[str, Policy],
    name: str,
    *,
    count: int,
    episodes: int = 100,
    horizon: int | None = None,
    gamma: float = 0.995,
    seed: int = 0,
    workers: int = 1,
    progress: Progress = lambda *_: None,
) -> tuple[dict[str, Policy], list[dict[str, Any]]]:
    """Choose policies of one environment by their mean discounted returns; the weakest is ``NAME-01``.

    They are chosen by half of the episodes and then run in others, so that the reported returns are not biased by the
    selection; where the two disagree, the second decides their order.

    Returns:
        The policies, and a row for each as ``policy_returns`` gives it, without the episodes' returns, and with
        ``apart``: how many standard errors of the difference its discounted return lies above the one before.
    """
    places = {policy.environment for policy in policies.values()}
    if len(places) > 1:
        raise UsageError(
            f"the policies are of {', '.join(sorted(places))}: choose among those of one environment"
        )
    if len(policies) < count:
        raise UsageError(f"there are {len(policies)} policies, and {count} are to be chosen")
    common: dict[str, Any] = {"horizon": horizon, "gamma": gamma, "workers": workers, "progress": progress}
    own = policies
    if len(policies) > count:
        found = policy_returns(policies, episodes=episodes // 2, seed=seed, **common)
        values, errors = ([one[key] for one in found] for key in ("discounted", "discounted_stderr"))
        names = [found[index]["policy"] for index in pick_spread(values, errors, count)]
        own = {one: policies[one] for one in names}
    rows = policy_returns(own, episodes=episodes, seed=seed + 1, **common)
    rows.sort(key=lambda row: row["discounted"])
    chosen, truth = {}, []
    for number, row in enumerate(rows):
        called = f"{name}-{number + 1:02}"
        chosen[called] = own[row["policy"]]
        apart = None
        if number:
            error = np.hypot(row["discounted_stderr"], rows[number - 1]["discounted_stderr"])
            apart = float((row["discounted"] - rows[number - 1]["discounted"]) / max(error, 1e-12))
        kept = {key: value for key, value in row.items() if key not in ("returns", "discounted_returns")}
        truth.append({**kept, "policy": called, "apart": apart})
    return chosen, truth


def write_selection(folder: Path, chosen: Mapping[str, Policy], truth: list[dict[str, Any]]) -> None:
    """Write what :func:`select_policies` returns to a folder: the policies' files, and ``truth.json``."""
    with atomic_folder(folder) as temporary:
        for name, policy in chosen.items():
            save_policy(policy, temporary / f"{name}.npz")
        write_json(temporary / "truth.json", {"policies": truth})
