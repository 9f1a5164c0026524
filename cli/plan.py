"""``trajworld plan``: act in an environment by planning inside a model."""

import json
import time
from pathlib import Path
from typing import Annotated, Any

import click

from trajworld.backend import require_framework
from trajworld.errors import TrajWorldError, UsageError
from trajworld.planning.settings import PlannerSettings
from trajworld.text import number

from .commands import AtLeast1, Folder, Json, Seed, With, command, parameters_of
from .output import print_json, print_table
from .progress import job_progress


@command(params=parameters_of(PlannerSettings))
def plan(
    model_name: Annotated[str, With(metavar="MODEL")],
    spec: Annotated[str, With(metavar="DATASET")],
    *,
    proposal: Annotated[Path, With(metavar="POLICY")] | None = None,
    deterministic: bool = False,
    environment: Annotated[str, With(metavar="ENV")] = "",
    episodes: AtLeast1 = 3,
    baseline_episodes: AtLeast1 = 50,
    steps: AtLeast1 | None = None,
    seed: Seed = 0,
    ranges: Annotated[str, With(metavar="DATASET")] | None = None,
    as_json: Json = False,
    output: Folder | None = None,
    **options: Any,
) -> None:
    """Act in the environment of DATASET by planning inside MODEL (model predictive control), and compare the returns.

    In each step action sequences are imagined, and the first action of the best is done; the model reads the real rows
    of the episode. Candidates are random, or around a proposal policy's actions in the model. DATASET says what
    the variates are, and the range of those that a pre-trained model never saw. Beside the planner act the proposal
    alone and random actions. MODEL and DATASET are what
    `trajworld evaluate` takes, POLICY what `trajworld policy` reads.

    \b
    Examples:
      trajworld plan runs/hopper/best.keras trajworld/gymnasium-hopper-v5/mixed-v0 --method cem
      trajworld plan runs/hopper/best.keras dope/hopper-v5-medium-replay-v0 --proposal zoo/hopper-05 --horizon 50
      trajworld plan trajworld-small mine-v0 --environment Pendulum-v1 --steps 200 -o plan

    Options:
        proposal: The policy to plan around.
        deterministic: Have it do its mean action, without noise of its own.
        environment: Where to act.  [default: that of the data]
        episodes: Of the planner.
        baseline_episodes: Of the proposal and of random actions, which cost little.
        steps: The most of an episode.  [default: the environment's limit]
        ranges: As of `trajworld evaluate`.
        output: Make this folder: results.json and a table.
    """
    require_framework()
    settings = PlannerSettings(**options)
    if output is not None and output.exists():
        raise TrajWorldError(f"{output} exists already: name another folder")
    import pandas as pd

    from trajworld.collect.collector import default_workers
    from trajworld.data.resolve import open_dataset
    from trajworld.environments.open import open_environment
    from trajworld.evaluation.ope import check_policies
    from trajworld.evaluation.ranges import named_ranges, support_for
    from trajworld.files import atomic_folder, write_json
    from trajworld.models.names import load
    from trajworld.planning.episodes import PLANNER, alone, episode_returns
    from trajworld.planning.planner import Planner
    from trajworld.policies.files import read_policy
    from trajworld.study.tables import terminal

    policy = None if proposal is None else read_policy(proposal, deterministic=deterministic)
    with job_progress("Converting") as progress:
        dataset = open_dataset(spec, progress=progress)
    if not (where := environment or dataset.environment):
        raise UsageError(f"{dataset.name} does not say its environment: name one by --environment")
    opened = open_environment(where)
    opened.close()
    check_policies({} if policy is None else {str(proposal): policy}, dataset)
    model = load(model_name)
    with job_progress("Converting") as progress:
        support = support_for(model, dataset, named_ranges(ranges, [model], progress=progress))
    done, limit = 0, opened.description.time_limit
    most = episodes * min(steps or limit, limit)
    with job_progress("Planning", "steps") as progress:

        def observe() -> None:
            nonlocal done
            progress(done := done + 1, most, "steps at most")

        planner = Planner(model, support.support, dataset, settings, policy, observe)
        began = time.perf_counter()
        found = episode_returns({PLANNER: planner}, where, episodes, steps, seed)
        seconds = time.perf_counter() - began
    with job_progress("Acting", "episodes") as progress:
        given = (
            alone(policy),
            where,
            baseline_episodes,
            steps,
            seed,
            default_workers(baseline_episodes * limit),
        )
        others = episode_returns(*given, progress)
    table = pd.concat([found, others], ignore_index=True)
    results = {
        "kind": "planning",
        "model": model_name,
        "dataset": dataset.name,
        "environment": where,
        "ranges": support.origin,
        "settings": {
            **vars(settings),
            "proposal": str(proposal or ""),
            "deterministic": deterministic,
            "steps": steps,
            "seed": seed,
        },
        "seconds": round(seconds, 3),
        "returns": json.loads(table.to_json(orient="records")),
    }
    if output is not None:
        with atomic_folder(output) as folder:
            write_json(folder / "results.json", results)
            table.drop(columns="returns").to_csv(folder / "returns.csv", index=False)
    if as_json:
        return print_json(results)
    print_table(terminal(f"Returns in {where}", table.drop(columns=["returns", "unstable"])))
    click.echo(
        f"{number(seconds / max(done, 1))} seconds for each planned action. Read over {support.origin}."
    )
    for name, broken in zip(table["acting"], table["unstable"], strict=True):
        if broken:
            click.echo(f"Warning: {name}: the simulator broke in {broken} episodes, cut there")
