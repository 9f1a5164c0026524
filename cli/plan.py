"""``trajworld plan``: act in an environment by planning inside a model."""

import json
import time
from pathlib import Path
from typing import Annotated, Any

import click

from trajworld.backend import require_framework
from trajworld.errors import UsageError
from trajworld.files import refuse_existing
from trajworld.planning.settings import PlannerSettings
from trajworld.text import number

from .commands import AtLeast1, Folder, Json, Seed, With, command, parameters_of
from .output import print_json, print_table, warn_of_endless
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

    In each step action sequences are imagined, and the first action of the plan that they give is taken; the model
    reads the real rows of the episode. Candidates are random, or around a proposal policy's actions in the model.
    DATASET defines the variates, and the range of those that a pre-trained model never saw. The proposal alone and
    random actions are run for comparison. MODEL and DATASET are what `trajworld evaluate` takes, POLICY what
    `trajworld policy` reads.

    \b
    Examples:
      trajworld plan runs/hopper/best.keras trajworld/gymnasium-hopper-v5/mixed-v0 --method cem
      trajworld plan runs/hopper/best.keras dope/hopper-v5-medium-replay-v0 --proposal zoo/hopper-05 --horizon 50
      trajworld plan trajworld-small mine-v0 --environment Pendulum-v1 --steps 200 -o plan

    Options:
        proposal: The policy to plan around.
        deterministic: Its mean action, without its own noise.
        environment: Where to act.  [default: that of the data]
        episodes: Episodes of the planner.
        baseline_episodes: Episodes of the proposal and of random actions (cheap).
        steps: The most steps of an episode.  [default: the environment's limit]
        ranges: As in `trajworld evaluate`.
        output: Make this folder: results.json and a table.
    """
    require_framework()
    if deterministic and proposal is None:
        raise UsageError("--deterministic is about the policy of --proposal, of which there is none")
    settings = PlannerSettings(**options).resolved(proposal is not None)
    refuse_existing(output)
    import pandas as pd

    from trajworld.collect.collector import default_workers
    from trajworld.data.resolve import open_dataset
    from trajworld.environments.open import open_environment
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
    about = opened.description
    found, sizes = ((one.observation_size, one.action_size) for one in (about, dataset))
    if found != sizes:
        raise UsageError(
            f"{about.name} has {found[0]} observation values and {found[1]} actions, but {dataset.name} {sizes[0]} and "
            f"{sizes[1]}"
        )
    warn_of_endless(dataset, about.name)
    model = load(model_name)
    with job_progress("Converting") as progress:
        support = support_for(model, dataset, named_ranges(ranges, [model], progress=progress))
    limit = min(steps or about.time_limit, about.time_limit)
    # The planner is made first, which refuses what it cannot plan for.
    done, began = 0, 0.0

    def observe() -> None:
        nonlocal done, began
        # The first action waits for compilation.
        began = began or time.perf_counter()
        done += 1
        planning(done, episodes * limit, "steps at most")

    planner = Planner(model, support.support, dataset, settings, policy, about.name, observe)
    given: Any = {"environment": where, "steps": steps, "seed": seed}
    with job_progress("Acting", "episodes") as progress:
        workers = default_workers(baseline_episodes * limit)
        others = episode_returns(
            alone(policy), episodes=baseline_episodes, workers=workers, progress=progress, **given
        )
    with job_progress("Planning", "steps") as planning:
        planned = episode_returns({PLANNER: planner}, episodes=episodes, finished=say_return, **given)
    seconds = (time.perf_counter() - began) / (done - 1) if done > 1 else None
    table = pd.concat([planned, others], ignore_index=True)
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
        "seconds for each action": seconds,
        "returns": json.loads(table.to_json(orient="records")),
    }
    if output is not None:
        with atomic_folder(output) as folder:
            write_json(folder / "results.json", results)
            table.drop(columns="returns").to_csv(folder / "returns.csv", index=False)
    if as_json:
        return print_json(results)
    print_table(terminal(f"Returns in {where}", table.drop(columns=["returns", "unstable"])))
    if seconds is not None:
        click.echo(f"{number(seconds)} seconds for each planned action.")
    click.echo(f"Read over {support.origin}.")
    for name, broken in zip(table["acting"], table["unstable"], strict=True):
        if broken:
            click.echo(f"Warning: {name}: the simulator broke in {broken} episodes, cut there")


def say_return(name: str, value: float) -> None:
    """Print what is finished: planning takes minutes an episode, and may be interrupted."""
    click.echo(f"An episode of the {name} is finished, return {number(value)}", err=True)
