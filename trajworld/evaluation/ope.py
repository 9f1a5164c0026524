"""Off-policy evaluation of several policies, inside models or by fitted Q evaluation."""

import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from trajworld.data.dataset import Dataset
from trajworld.environments.names import parse_name
from trajworld.environments.open import open_environment
from trajworld.environments.termination import termination_rule
from trajworld.errors import TrajWorldError, UsageError
from trajworld.evaluation.coverage import Coverage
from trajworld.evaluation.imagined import imagined_returns, initial_states
from trajworld.evaluation.ope_settings import FittedQSettings, OpeSettings
from trajworld.models.interface import WorldModel
from trajworld.models.ranges import Support
from trajworld.models.rollout import compile_rollout
from trajworld.policies.files import policy_files, read_policy
from trajworld.policies.policy import Policy
from trajworld.processes import Progress
from trajworld.study.tables import HIGH, LOW, half_width


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
        TrajWorldError: A policy has another size.
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
    """The mean over models, policy by policy; all have the same initial states, whose error it does not reduce."""
    groups = pd.concat(tables).groupby("policy", sort=False)
    table, problems = (
        groups.mean(numeric_only=True),
        groups["problem"].agg(lambda each: "; ".join(filter(None, each))),
    )
    within = pd.concat(tables).assign(error=lambda rows: (rows["estimate" + HIGH] - rows["estimate"]) ** 2)
    table["between models"] = groups["estimate"].std()
    error = within.groupby("policy", sort=False)["error"].mean()
    between = groups["estimate"].agg(lambda each: half_width(each.dropna()))
    width = np.sqrt(error + between**2)
    table["estimate" + LOW], table["estimate" + HIGH] = table["estimate"] - width, table["estimate"] + width
    return table.assign(problem=problems).reset_index()


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


def check_policies(policies: Mapping[str, Policy], dataset: Dataset, environment: str = "") -> None:
    """Refuse policies that cannot act in an environment, the dataset's by default, and a dataset without rewards."""
    if not dataset.reward:
        raise TrajWorldError(f"{dataset.name} records no rewards: there is no return to estimate")
    environment = environment or dataset.environment
    wanted, robot = (dataset.observation_size, dataset.action_size), robot_of(environment)
    for name, policy in policies.items():
        if (policy.observation_size, policy.action_size) != wanted:
            raise TrajWorldError(
                f"the policy {name} reads {policy.observation_size} observation values and gives {policy.action_size} "
                f"actions, but {dataset.name} has {wanted[0]} and {wanted[1]}"
            )
        if robot and policy.environment and robot_of(policy.environment) != robot:
            raise TrajWorldError(
                f"the policy {name} is for {policy.environment}, but {dataset.name} of {environment}"
            )


def policies_by_environment(paths: Sequence[str], datasets: Sequence[Dataset]) -> dict[str, dict[str, Path]]:
    """The files of the policies that are for each dataset's environment, by their names.

    Raises:
        UsageError: There is none for a dataset, or it names no environment.
        TrajWorldError: One cannot act in its environment.
    """
    files, found = policy_files(paths), dict[str, dict[str, Path]]()
    read = {name: read_policy(path) for name, path in files.items()}
    for data in datasets:
        own = of_robot(read, data.environment) if data.environment else {}
        if not own:
            raise UsageError(f"no policy is for {data.environment or data.name}")
        check_policies(own, data)
        found[data.environment] = {name: files[name] for name in own}
    return found


def of_robot(policies: Mapping[str, Policy], environment: str) -> dict[str, Policy]:
    """Those of the environment's robot, and those whose robot is unknown."""
    robot = robot_of(environment)
    known = {name: robot_of(one.environment) for name, one in policies.items() if robot and one.environment}
    return {name: one for name, one in policies.items() if known.get(name, robot) == robot}


def robot_of(environment: str) -> str:
    """An environment's name without its version and changes, which policies are shared by; empty for an empty one."""
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
