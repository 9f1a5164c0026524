"""Off-policy evaluation of several policies: how good the estimates are, and how far they rest on the data."""

import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import KDTree
from scipy.stats import pearsonr, spearmanr

from trajworld.collect.collector import default_workers
from trajworld.collect.returns import policy_returns
from trajworld.data.dataset import Dataset
from trajworld.environments.names import parse_name
from trajworld.environments.open import open_environment
from trajworld.environments.termination import termination_rule
from trajworld.errors import TrajWorldError, UsageError
from trajworld.evaluation.one_step import Progress
from trajworld.evaluation.ope_settings import FittedQSettings, OpeSettings
from trajworld.evaluation.returns import ROWS_KEPT, Returns, imagined_returns, initial_states
from trajworld.models.interface import WorldModel
from trajworld.models.ranges import Support
from trajworld.models.rollout import compile_rollout
from trajworld.policies.policy import Policy
from trajworld.study.tables import HIGH, LOW, half_width, interval, standard_error

METRICS = ("absolute error", "error / range", "Spearman", "Pearson", "regret@1", "regret@5")

_ROWS = 5000
_OTHERS = 1000


def ope_metrics(estimates: ArrayLike, truths: ArrayLike, spread: float | None = None) -> dict[str, float]:
    """How well estimates ``[P]`` of policies' values agree with the true values ``[P]``.

    Mean absolute error, raw and divided by the range of the true values; Spearman's and Pearson's correlation;
    regret@k, how much worse than the best policy is the best of the k that are estimated highest, divided by the range.
    NaN where it is not defined: equal true values, equal estimates, fewer than two policies, k policies or fewer. A
    policy without a finite estimate is never chosen and has no part in errors and correlations, but in the range, which
    ``spread`` replaces.

    Raises:
        UsageError: The two are not of one length.
    """
    estimate, truth = np.asarray(estimates, np.float64), np.asarray(truths, np.float64)
    if estimate.shape != truth.shape or estimate.ndim != 1 or not len(truth):
        raise UsageError(
            f"estimates {estimate.shape} and true values {truth.shape} must be of one length, [P]"
        )
    spread, best = spread or np.ptp(truth) or np.nan, truth.max()
    known = np.isfinite(estimate)
    if not known.any():
        return dict.fromkeys(METRICS, np.nan)
    estimate, truth = estimate[known], truth[known]
    error = float(np.abs(estimate - truth).mean())
    # Of equal estimates the worst is taken.
    order = np.lexsort((truth, -estimate))
    regrets = [float((best - truth[order[:k]].max()) / spread) if k < len(known) else np.nan for k in (1, 5)]
    varied = np.ptp(estimate) > 0 and np.ptp(truth) > 0
    ranks = [float(of(estimate, truth).statistic) if varied else np.nan for of in (spearmanr, pearsonr)]
    return dict(zip(METRICS, (error, error / spread, *ranks, *regrets), strict=True))


def metrics_table(
    estimates: ArrayLike, truths: ArrayLike, seed: int = 0, replicates: int = 1000
) -> pd.DataFrame:
    """:func:`ope_metrics`, one a row, with 95 % intervals of a bootstrap over policies, where there are several."""
    estimate, truth = np.asarray(estimates, np.float64), np.asarray(truths, np.float64)
    found = ope_metrics(estimate, truth)
    drawn = np.random.default_rng(seed).integers(len(truth), size=(replicates, len(truth)))
    spread = float(np.ptp(truth))
    values = np.array([list(ope_metrics(estimate[one], truth[one], spread).values()) for one in drawn])
    ends, known = np.full((2, len(found)), np.nan), np.isfinite(values).any(axis=0) & (len(truth) > 1)
    if known.any():
        ends[:, known] = interval(values[:, known])
    return pd.DataFrame(
        {"metric": list(found), "value": found.values(), "value" + LOW: ends[0], "value" + HIGH: ends[1]}
    )


@dataclass(frozen=True, eq=False)
class Coverage:
    """How far imagined rows lie from a dataset, measured to the nearest of its rows in standard deviations.

    A distance is divided by the mean distance of real rows, of other episodes where there are several: 1 is like the
    data.
    """

    observation_size: int
    scale: NDArray[np.float64]
    states: KDTree
    pairs: KDTree
    usual: tuple[float, float]
    furthest: float

    @classmethod
    def of(cls, dataset: Dataset, seed: int = 0) -> "Coverage":
        """Of 5,000 of a dataset's rows; 1,000 others say what is usual."""
        size, rng = dataset.observation_size, np.random.default_rng(seed)
        episodes = rng.permutation(dataset.num_episodes)
        # An episode's last row has no action.
        acted = [np.arange(*dataset.episode_offsets[[e, e + 1]])[:-1] for e in episodes]
        places = np.concatenate(acted)
        held = places[: max(len(acted[0]), len(places) // 5) if len(acted) > 1 else max(1, len(places) // 2)]
        rest = places[len(held) :] if len(held) < len(places) else places
        chosen, others = (
            np.sort(rng.permutation(part)[:most]) for part, most in ((rest, _ROWS), (held, _OTHERS))
        )
        rows = np.delete(np.asarray(dataset.rows[chosen], np.float64), size, axis=1)
        real = np.delete(np.asarray(dataset.rows[others], np.float64), size, axis=1)
        scale = rows.std(axis=0)
        scale[scale < 1e-6] = 1.0
        states, pairs = KDTree(rows[:, :size] / scale[:size]), KDTree(rows / scale)
        near = states.query(real[:, :size] / scale[:size])[0]
        both = pairs.query(real / scale)[0]
        usual = (float(near.mean()) or 1.0, float(both.mean()) or 1.0)
        return cls(size, scale, states, pairs, usual, float(near.max()))

    def measure(self, returns: Returns) -> dict[str, float]:
        """Distances of a policy's imagined states, and of these with its actions; and the share of rollouts that leave
        the data: those of which a state, of at most 2,000 of the policy, lies further than any real one.

        Where rollouts fade, those that go on stand for the others, too.
        """
        if not len(returns.rows):
            return {}
        # No more of a rollout's states than if none faded: of more, more lie far away.
        count = int(np.ceil(ROWS_KEPT * returns.parts[..., 1].sum() / returns.lengths.sum()))
        rows, (origins, chunks) = returns.rows[:count] / self.scale, returns.places[:, :count]
        drawn, every, size = returns.drawn, np.arange(len(returns.weights)), self.observation_size
        weights, near = 1 / drawn.mean(axis=0)[chunks], self.states.query(rows[:, :size])[0]
        far, first = near > self.furthest, np.full((len(drawn), 1), len(every))
        np.minimum.at(first[:, 0], origins[far], chunks[far])
        # Of those that go on and had not left before (Kaplan-Meier).
        staying = drawn & (first >= every)
        leaving = (staying & (first == every)).sum(axis=0) / np.maximum(staying.sum(axis=0), 1)
        return {
            "state distance": float(np.average(near, weights=weights) / self.usual[0]),
            "state and action": float(np.average(self.pairs.query(rows)[0], weights=weights) / self.usual[1]),
            "left the data": float(1 - np.prod(1 - leaving)),
        }


def imagined_values(
    models: Sequence[tuple[WorldModel, Support]],
    dataset: Dataset,
    policies: Mapping[str, Policy],
    settings: OpeSettings,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Estimate policies' values by rollouts inside one model, or several, each with the range over which it reads.

    Returns:
        A row a policy: its ``estimate``, the mean over initial states and then over models, with its 95 % interval
        (``estimate low``, ``estimate high``), how many ``states``, mean ``steps`` and the share of rollouts that
        ``ended``, the distances of :class:`Coverage`, and the ``problem`` of rollouts that are left out. Of several
        models the interval holds their spread too, whose standard deviation is ``between models``.

    Raises:
        TrajWorldError: A policy is of another size.
    """
    check_policies(policies, dataset)
    ends, coverage = termination_rule(dataset.environment), Coverage.of(dataset, settings.seed)
    starts = initial_states(dataset, settings.states, settings.seed)
    tables = []
    for number, (model, support) in enumerate(models):
        run = compile_rollout(model, dataset.observation_size)
        told = None if progress is None else functools.partial(_of_several, progress, number, len(models))
        own = replace(settings, sample=settings.sample or getattr(model, "samples", False))
        found = imagined_returns(model, run, dataset, support, starts, policies, ends, own, told)
        rows = []
        for name, one in found.items():
            counts = (
                {"steps": one.lengths.mean(), "ended": np.clip(one.ended.mean(), 0, 1)}
                if len(one.lengths)
                else {}
            )
            rows.append(
                mean_row(name, one.discounted) | counts | coverage.measure(one) | {"problem": one.problem}
            )
        tables.append(pd.DataFrame(rows))
    return tables[0] if len(tables) == 1 else _over_models(tables)


def _of_several(progress: Progress, number: int, count: int, done: int, total: int, what: str) -> None:
    progress(number * total + done, count * total, what)


def _over_models(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """The mean over models, policy by policy; all have the same initial states, whose error it does not make less."""
    groups = pd.concat(tables).groupby("policy", sort=False)
    table, problems = (
        groups.mean(numeric_only=True),
        groups["problem"].agg(lambda each: "; ".join(filter(None, each))),
    )
    within = pd.concat(tables).assign(error=lambda rows: (rows["estimate" + HIGH] - rows["estimate"]) ** 2)
    table["between models"] = groups["estimate"].std()
    width = np.sqrt(
        within.groupby("policy", sort=False)["error"].mean() + groups["estimate"].agg(half_width) ** 2
    )
    table["estimate" + LOW], table["estimate" + HIGH] = table["estimate"] - width, table["estimate"] + width
    return table.assign(problem=problems).reset_index()


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


def fitted_values(
    dataset: Dataset,
    policies: Mapping[str, Policy],
    settings: OpeSettings,
    fitting: FittedQSettings,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Policies' values by fitted Q evaluation, a row a policy, as :func:`imagined_values` gives."""
    from trajworld.evaluation.fitted_q import fitted_q_values

    check_policies(policies, dataset)
    starts = initial_states(dataset, settings.states, settings.seed)
    values = fitted_q_values(dataset, list(policies.values()), starts, fitting, progress)
    return pd.DataFrame([mean_row(name, row) for name, row in zip(policies, values, strict=True)])


def mean_row(name: str, values: NDArray[np.floating]) -> dict[str, Any]:
    """A policy's value and its 95 % interval, from one of each initial state ``[N]``, as a row of a table."""
    mean, width = (float(values.mean()), half_width(values)) if len(values) else (np.nan, np.nan)
    ends = {"estimate" + LOW: mean - width, "estimate" + HIGH: mean + width}
    return {"policy": name, "estimate": mean, **ends, "states": len(values)}


def method_metrics(table: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """:func:`metrics_table` of each ``method`` of a table of policies' ``estimate`` and ``truth``.

    ``policies`` says how many have a finite estimate.
    """
    parts = []
    for method, rows in table.groupby("method", sort=False):
        found = metrics_table(rows["estimate"], rows["truth"], seed)
        parts.append(found.assign(method=method, policies=int(np.isfinite(rows["estimate"]).sum())))
    columns = ["method", "policies", "metric", "value", "value" + LOW, "value" + HIGH]
    return pd.concat(parts)[columns] if parts else pd.DataFrame(columns=columns)


def check_policies(policies: Mapping[str, Policy], dataset: Dataset) -> None:
    """Refuse policies that cannot act in a dataset's environment, by name, and a dataset without rewards."""
    if not dataset.reward:
        raise TrajWorldError(f"{dataset.name} records no rewards: there is no return to estimate")
    wanted, robot = (dataset.observation_size, dataset.action_size), robot_of(dataset.environment)
    for name, policy in policies.items():
        if (policy.observation_size, policy.action_size) != wanted:
            raise TrajWorldError(
                f"the policy {name} reads {policy.observation_size} observation values and gives {policy.action_size} "
                f"actions, but {dataset.name} has {wanted[0]} and {wanted[1]}"
            )
        if robot and policy.environment and robot_of(policy.environment) != robot:
            raise TrajWorldError(
                f"the policy {name} is for {policy.environment}, but {dataset.name} of {dataset.environment}"
            )


def of_robot(policies: Mapping[str, Policy], environment: str) -> dict[str, Policy]:
    """Those of the environment's robot, and those of which it is not known."""
    robot = robot_of(environment)
    known = {name: robot_of(one.environment) for name, one in policies.items() if robot and one.environment}
    return {name: one for name, one in policies.items() if known.get(name, robot) == robot}


def robot_of(environment: str) -> str:
    """An environment's name without its version and changes: what policies are shared by; empty of an empty one."""
    name = parse_name(environment) if environment else None
    return "" if name is None else f"{name.family}/{re.sub(r'-v[0-9]+$', '', name.identifier)}"


def within_limit(settings: OpeSettings, environment: str) -> OpeSettings:
    """The settings with a horizon of at most the environment's time limit, where it can be opened here."""
    return replace(settings, horizon=int(min(settings.horizon, time_limit(environment))))


def time_limit(environment: str) -> float:
    """The most steps of an environment's episode; infinite where it cannot be opened here."""
    try:
        opened = open_environment(environment)
    except TrajWorldError:
        return np.inf
    opened.close()
    return opened.description.time_limit
