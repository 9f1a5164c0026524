"""``trajworld policy``: list, show, import, evaluate and train policies."""

import json
from pathlib import Path
from typing import Any

import click

from trajworld.text import number

from .options import FILE, PATH, json_option
from .output import make_table, print_facts, print_table
from .progress import job_progress

_COUNT = click.IntRange(min=1)
_policy = click.argument("file", metavar="POLICY", type=PATH)
_seed = click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True)


def _reading(command: Any) -> Any:
    """Add the options of reading a policy."""
    for option in (
        click.option(
            "--vecnormalize",
            type=FILE,
            help="Stable-Baselines3's statistics of observations.  [default: vecnormalize.pkl beside the zip]",
        ),
        click.option("--deterministic", is_flag=True, help="Do the mean action, without noise."),
        click.option(
            "--environment", default="", metavar="ENV", help="What it acts in, if its file does not say."
        ),
    ):
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
    from trajworld.policies.files import find_policies
    from trajworld.policies.policy import Policy

    found = find_policies(folder)
    good = {str(path): one.describe() for path, one in found.items() if isinstance(one, Policy)}
    bad = {str(path): one for path, one in found.items() if isinstance(one, str)}
    if as_json:
        entries = [{"file": file, **one} for file, one in good.items()]
        click.echo(
            json.dumps(entries + [{"file": file, "problem": one} for file, one in bad.items()], indent=2)
        )
        return
    columns = ("environment", "kind", "sizes", "parameters", "source")
    rows = [(file, *({**one, "sizes": _sizes(one)}[name] for name in columns)) for file, one in good.items()]
    print_table(make_table(("file", *columns), rows))
    for problem in bad.values():
        click.echo(f"Left out: {problem}")


@policy.command(short_help="Show what a policy's file holds.")
@_policy
@_reading
@json_option
def show(file: Path, as_json: bool, **options: Any) -> None:
    """Show a policy's environment, kind and sizes.

    \b
    Examples:
      trajworld policy show hopper_online_8.pkl
    """
    from trajworld.policies.files import read_policy

    _print(read_policy(file, **options).describe(), as_json)


@policy.command("import", short_help="Make a policy's file of one of DOPE or Stable-Baselines3.")
@_policy
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
    from trajworld.policies.files import read_policy, save_policy

    found = read_policy(file, **options)
    save_policy(found, output)
    _print(found.describe(), as_json)


@policy.command(short_help="Measure the returns of policies in the simulator.")
@click.argument("files", metavar="POLICY...", nargs=-1, required=True, type=PATH)
@click.option("--episodes", type=_COUNT, default=10, show_default=True, help="Of each policy.")
@click.option(
    "--horizon", type=_COUNT, help="The most steps of an episode.  [default: the environment's limit]"
)
@click.option("--gamma", type=float, default=0.995, show_default=True, help="The discount of a step.")
@_seed
@click.option("--workers", type=_COUNT, help="Processes; any number gives the same.  [default: by the work]")
@_reading
@click.option("-o", "--output", type=FILE, help="Write everything, each episode's returns too, here (.json).")
@json_option
def evaluate(
    files: tuple[Path, ...],
    workers: int | None,
    output: Path | None,
    as_json: bool,
    environment: str,
    deterministic: bool,
    vecnormalize: Path | None,
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
    from trajworld.policies.files import read_policy

    stems = [file.stem for file in files]
    reading: dict[str, Any] = {
        "environment": environment,
        "deterministic": deterministic,
        "vecnormalize": vecnormalize,
    }
    policies = {
        file.stem if stems.count(file.stem) == 1 else str(file): read_policy(file, **reading)
        for file in files
    }
    workers = workers or default_workers(len(policies) * options["episodes"] * (options["horizon"] or 1000))
    with job_progress("Evaluating", "episodes") as progress:
        found = policy_returns(policies, workers=workers, progress=progress, **options)
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
        shown = (
            one["policy"],
            one["environment"],
            one["episodes"],
            f"{one['length']:.0f}",
            one["terminated"],
            *means,
        )
        rows.append(shown)
    headings = ("policy", "environment", "episodes", "mean length", "terminated", "return", "discounted")
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
@click.option("--every", type=_COUNT, default=10_000, show_default=True, help="Steps between snapshots.")
@click.option("--snapshots", type=_COUNT, default=10, show_default=True, help="How many.")
@click.option("--network", default="64,64", show_default=True, help="Widths of the hidden layers.")
@_seed
def train(environment: str, output: Path, network: str, **options: Any) -> None:
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
    click.echo("\n".join(map(str, found)))


def _print(described: dict[str, Any], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(described, indent=2))
        return
    facts = {**described, "sizes": _sizes(described)}
    print_facts([(name.replace("_", " "), value or None) for name, value in facts.items()])


def _sizes(described: dict[str, Any]) -> str:
    return " → ".join(map(str, described["sizes"]))
