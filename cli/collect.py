"""``trajworld data collect``: run simulators and keep their transitions as Minari datasets."""

import json
from typing import Any

import click

from trajworld.collect.collector import default_workers
from trajworld.collect.datasets import DEFAULT_ID, collect_datasets, dataset_targets
from trajworld.data.minari_datasets import dataset_path
from trajworld.errors import UsageError
from trajworld.policies.behaviour import BEHAVIOURS, make_behaviour

from .output import make_table, print_table
from .progress import job_progress

_TRANSITIONS = 20_000

seed_option = click.option(
    "--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Another seed, other episodes."
)
workers_option = click.option(
    "--workers",
    type=click.IntRange(min=1),
    help="Processes; any number gives the same datasets.  [default: one a core, fewer for little to do]",
)


@click.command(short_help="Run Gymnasium and dm_control environments into Minari datasets.")
@click.argument("environments", metavar="ENV...", nargs=-1, required=True)
@click.option(
    "--transitions",
    type=click.IntRange(min=1),
    help=f"Transitions of each environment; the last episode is cut there.  [default: {_TRANSITIONS}]",
)
@click.option("--episodes", type=click.IntRange(min=1), help="Episodes of each environment instead.")
@click.option(
    "--behaviour",
    type=click.Choice(BEHAVIOURS),
    default="ou",
    show_default=True,
    help="uniform: independent random actions; ou: Ornstein-Uhlenbeck (coloured) noise; constant: random "
    "pushes that are held; gait: sine waves; mixed: each episode one of the first three, of a random scale and "
    "correlation; varied: of the first four.",
)
@click.option(
    "--noise-scale",
    type=float,
    help="In half action ranges: ou's standard deviation (default 0.5), else the range drawn from (1).",
)
@click.option(
    "--noise-correlation",
    type=float,
    help="ou: of a step's noise with the next's (default 0.9); constant: that a push is held for another step (0.95).",
)
@seed_option
@workers_option
@click.option(
    "--id",
    "template",
    metavar="TEMPLATE",
    default=DEFAULT_ID,
    show_default=True,
    help="The Minari id of each dataset.",
)
@click.option("--replace", is_flag=True, help="Replace datasets of the same id.")
@click.option("--skip-existing", is_flag=True, help="Leave out environments whose dataset is there.")
@click.option("--json", "as_json", is_flag=True, help="Print the summary as JSON.")
def collect(
    environments: tuple[str, ...],
    transitions: int | None,
    episodes: int | None,
    behaviour: str,
    noise_scale: float | None,
    noise_correlation: float | None,
    seed: int,
    workers: int | None,
    template: str,
    replace: bool,
    skip_existing: bool,
    as_json: bool,
) -> None:
    """Collect transitions of each ENV into a Minari dataset of its own.

    ENV is a Gymnasium id with continuous actions (Hopper-v5, Pendulum-v1), dm_control/DOMAIN-TASK
    (dm_control/cheetah-run), or a procedural robot (robot/legged-17, robot/snake-3: each number is another).
    Changed physics follow a question mark, in quotes for the shell: Pendulum-v1 takes g, m and l; every MuJoCo
    environment takes gravity (m/s²), friction and mass (factors) and timestep (s), and Gymnasium's take their own
    arguments too (include_cfrc_ext_in_observation=false).

    An episode depends on the seed, the environment's name and its number alone. Where a simulator breaks
    (NaN, an exception) the episode is cut before the bad step. What is finished stays when a later one fails.

    \b
    Examples:
      trajworld data collect Hopper-v5
      trajworld data collect Swimmer-v5 dm_control/fish-swim robot/legged-17 --transitions 50000 --behaviour mixed
      trajworld data collect "Pendulum-v1?g=5.0&l=1.5" --episodes 100 --behaviour uniform
      trajworld data collect "Hopper-v5?gravity=5&mass=1.2" --id "moon/{environment}/{behaviour}-v1"
    """
    if transitions is not None and episodes is not None:
        raise UsageError("give --transitions or --episodes, not both")
    if replace and skip_existing:
        raise UsageError("give --replace or --skip-existing, not both")
    if episodes is None:
        transitions = transitions or _TRANSITIONS
    actions = make_behaviour(behaviour, noise_scale, noise_correlation)
    targets = dataset_targets(environments, behaviour, template)
    if skip_existing:
        for there in [one for one in targets if dataset_path(one).exists()]:
            click.echo(f"{there} is there already: left as it is", err=True)
            del targets[there]
    expected = sum(transitions or (episodes or 0) * found.time_limit for found in targets.values())
    finished: list[dict[str, Any]] = []
    try:
        with job_progress("Collecting", "transitions" if transitions else "episodes") as progress:
            for collected in collect_datasets(
                targets,
                behaviour_name=behaviour,
                behaviour=actions,
                transitions=transitions,
                episodes=episodes,
                seed=seed,
                workers=workers or default_workers(expected),
                replace=replace,
                progress=progress,
            ):
                finished.append(collected)
    finally:
        # Printed after a failure or a Ctrl-C too: these datasets are whole and stay.
        if as_json:
            click.echo(json.dumps(finished, indent=2))
        elif finished:
            _print(finished)


def _print(finished: list[dict[str, Any]]) -> None:
    headings = ("dataset", "episodes", "transitions", "mean length", "mean return", "seconds")
    rows = []
    for one in finished:
        means = f"{one['mean_length']:.1f}", f"{one['mean_return']:.2f}", f"{one['seconds']:.1f}"
        rows.append((one["dataset"], one["episodes"], one["transitions"], *means))
    print_table(make_table(headings, rows, [False] + [True] * 5))
    for one in finished:
        if one["unstable"]:
            click.echo(
                f"Warning: {one['environment']}: {one['unstable']} episodes broke and were cut before the bad step "
                f"({one['dropped']} left out whole): {one['unstable_reason']}"
            )
