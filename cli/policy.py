"""``trajworld policy``: list, show, import, evaluate and train policies."""

import json
from pathlib import Path
from typing import Any

import click

from trajworld.text import number

from .options import FILE, PATH, json_option
from .output import make_table, print_facts, print_table
from .progress import job_progress

_source_options = (
    click.option(
        "--environment", default="", metavar="ENV", help="What it acts in, where its file does not say."
    ),
    click.option("--deterministic", is_flag=True, help="Do the mean action, without noise."),
    click.option(
        "--vecnormalize",
        type=FILE,
        help="Stable-Baselines3's observation statistics.  [default: vecnormalize.pkl beside the zip]",
    ),
)
_seed_option = click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)


def _reading(command: Any) -> Any:
    for option in reversed(_source_options):
        command = option(command)
    return command


@click.group()
def policy() -> None:
    """List, import, evaluate and train policies.

    POLICY is a file of this library (.npz), a pickle of the DOPE benchmark (.pkl), or the zip of a Stable-Baselines3
    agent (A2C, PPO, TRPO, ARS, SAC, TQC or TD3 with an MLP policy). Nothing in a file is run.
    """


@policy.command("list", short_help="List the policies in a folder.")
@click.argument("folder", type=PATH, default=".")
@json_option
def list_(folder: Path, as_json: bool) -> None:
    """List the policies in FOLDER (default: this one) and in those below it.

    \b
    Examples:
      trajworld policy list dope/policies
    """
    from trajworld.policies.policy import Policy
    from trajworld.policies.read import describe_policy, find_policies

    entries: list[dict[str, Any]] = []
    for path, found in find_policies(folder).items():
        described = describe_policy(found) if isinstance(found, Policy) else {"problem": str(found)}
        entries.append({"file": str(path), **described})
    if as_json:
        click.echo(json.dumps(entries, indent=2))
        return
    good = [entry for entry in entries if "problem" not in entry]
    rows = [
        (
            one["file"],
            one["environment"],
            f"{one['kind']}, {one['bounds']}",
            _sizes(one),
            one["parameters"],
            one["source"],
        )
        for one in good
    ]
    print_table(make_table(("file", "environment", "kind", "sizes", "parameters", "from"), rows))
    for one in entries:
        if "problem" in one:
            click.echo(f"Left out: {one['problem']}")


@policy.command(short_help="Show what a policy's file holds.")
@click.argument("file", metavar="POLICY", type=PATH)
@_reading
@json_option
def show(file: Path, as_json: bool, **options: Any) -> None:
    """Show a policy's environment, kind and sizes.

    \b
    Examples:
      trajworld policy show hopper_online_8.pkl
    """
    from trajworld.policies.read import read_policy

    _print(read_policy(file, **options), as_json)


@policy.command("import", short_help="Make a policy's file of one of DOPE or Stable-Baselines3.")
@click.argument("file", metavar="POLICY", type=PATH)
@click.option("-o", "--output", required=True, type=FILE, help="The file to write (.npz).")
@_reading
@json_option
def import_(file: Path, output: Path, as_json: bool, **options: Any) -> None:
    """Make a file of this library, plain arrays in an .npz, of a policy of DOPE or of Stable-Baselines3.

    \b
    Examples:
      trajworld policy import hopper_online_8.pkl -o hopper-8.npz
      trajworld policy import trpo/Hopper-v3.zip --environment Hopper-v5 --deterministic -o trpo.npz
    """
    from trajworld.policies.npz import save_policy
    from trajworld.policies.read import read_policy

    found = read_policy(file, **options)
    save_policy(found, output)
    _print(found, as_json)


@policy.command(short_help="Measure the returns of policies in the simulator.")
@click.argument("files", metavar="POLICY...", nargs=-1, required=True, type=PATH)
@click.option("--episodes", type=click.IntRange(min=1), default=10, show_default=True, help="Of each policy.")
@click.option(
    "--horizon",
    type=click.IntRange(min=1),
    help="The most steps of an episode.  [default: the environment's]",
)
@click.option("--gamma", type=float, default=0.995, show_default=True, help="The discount of a step.")
@_seed_option
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    help="Processes; any number gives the same returns.  [default: one a core, fewer for little to do]",
)
@_reading
@click.option("-o", "--output", type=FILE, help="Write everything, each episode's returns too, here (.json).")
@json_option
def evaluate(
    files: tuple[Path, ...],
    episodes: int,
    horizon: int | None,
    gamma: float,
    seed: int,
    workers: int | None,
    output: Path | None,
    as_json: bool,
    **options: Any,
) -> None:
    """Run each POLICY in its environment: mean returns, discounted and not, with standard errors.

    Policies act as they are defined, by draws where they are stochastic. Episode i starts alike for every policy.

    \b
    Examples:
      trajworld policy evaluate dope/policies/hopper_online_*.pkl --episodes 100 -o returns.json
      trajworld policy evaluate trpo/Hopper-v3.zip --environment Hopper-v5 --deterministic
    """
    from trajworld.collect.collector import default_workers
    from trajworld.collect.returns import policy_returns
    from trajworld.files import write_json
    from trajworld.policies.read import read_policy

    stems = [file.stem for file in files]
    names = {file: file.stem if stems.count(file.stem) == 1 else str(file) for file in files}
    policies = {name: read_policy(file, **options) for file, name in names.items()}
    steps = len(policies) * episodes * (horizon or 1000)
    with job_progress("Evaluating", "episodes") as progress:
        found = policy_returns(
            policies,
            episodes=episodes,
            horizon=horizon,
            gamma=gamma,
            seed=seed,
            workers=workers or default_workers(steps),
            progress=progress,
        )
    if output is not None:
        write_json(output, found)
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    rows = []
    for one in found:
        means = [
            f"{number(one[name], 4)} ± {number(one[name + '_stderr'])}" for name in ("return", "discounted")
        ]
        length = f"{one['length']:.0f}"
        rows.append((one["policy"], one["environment"], one["episodes"], length, one["terminated"], *means))
    headings = (
        "policy",
        "environment",
        "episodes",
        "mean length",
        "terminated",
        "return",
        f"discounted by {gamma:g}",
    )
    print_table(make_table(headings, rows, [False, False, *[True] * 5]))
    for one in found:
        if one["unstable"]:
            click.echo(
                f"Warning: {one['policy']}: the simulator broke in {one['unstable']} episodes, cut there"
            )


@policy.command(short_help="Train policies of growing skill.")
@click.argument("environment", metavar="ENV")
@click.option(
    "-o", "--output", required=True, type=PATH, help="The folder of the training; it is continued there."
)
@click.option(
    "--every", type=click.IntRange(min=1), default=10_000, show_default=True, help="Steps of a snapshot."
)
@click.option("--snapshots", type=click.IntRange(min=1), default=10, show_default=True, help="How many.")
@click.option("--network", default="64,64", show_default=True, help="Widths of the hidden layers.")
@_seed_option
@json_option
def train(environment: str, output: Path, network: str, as_json: bool, **options: Any) -> None:
    """Train by soft actor-critic in ENV (Hopper-v5, dm_control/cheetah-run, …), and keep snapshots.

    The folder holds snapshot-NNN.npz, the policies, and stream-NNN.npz, all transitions of the training. The same
    command continues a training that was stopped, and one with more --snapshots goes further.

    \b
    Examples:
      trajworld policy train Hopper-v5 -o hopper --every 20000 --snapshots 20
      trajworld policy evaluate hopper/snapshot-*.npz
    """
    from trajworld.policies.train import train_policies

    try:
        widths = tuple(int(part) for part in network.split(","))
    except ValueError:
        raise click.BadParameter(f"{network!r} is not like 64,64", param_hint="--network") from None
    with job_progress("Training", "steps") as progress:
        found = train_policies(environment, output, network=widths, progress=progress, **options)
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    rows = [(one["file"], one["steps"], one["episodes"], number(one["return"], 4)) for one in found]
    headings = ("snapshot", "steps", "training episodes", "mean training return")
    print_table(make_table(headings, rows, [False, True, True, True]))


def _print(found: Any, as_json: bool) -> None:
    from trajworld.policies.read import describe_policy

    described = describe_policy(found)
    if as_json:
        click.echo(json.dumps(described, indent=2))
        return
    described["sizes"] = _sizes(described)
    print_facts(
        [(name.replace("_", " "), value if value != "" else None) for name, value in described.items()]
    )


def _sizes(described: dict[str, Any]) -> str:
    return " → ".join(map(str, described["sizes"]))
