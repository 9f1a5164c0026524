"""``trajworld policy``: list, show, import, evaluate and train policies."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import click

from trajworld.text import number

from .commands import AtLeast1, File, Json, LazyGroup, With, parameters_of
from .output import print_facts, print_json, print_records
from .progress import job_progress

PolicyFile = Annotated[Path, With(metavar="POLICY")]
Seed = Annotated[int, click.IntRange(min=0)]


@dataclass(frozen=True)
class Reading:
    """How a policy's file is read.

    Attributes:
        environment: What the policy acts in, where its file does not say: Hopper-v5.
        deterministic: Do the mean action, without noise.
        vecnormalize: Stable-Baselines3's statistics of observations.  [default: vecnormalize.pkl beside the zip]
    """

    environment: str = ""
    deterministic: bool = False
    vecnormalize: Path | None = None


_reading = parameters_of(Reading)


@click.group(cls=LazyGroup, lazy={})
def policy() -> None:
    """List, import, evaluate and train policies.

    POLICY is a file of this library (.npz), a pickle of the DOPE benchmark (.pkl), or the zip of a Stable-Baselines3
    agent (A2C, PPO, TRPO, ARS, SAC, TQC or TD3 with an MLP policy). Nothing in a file is run.
    """


@policy.command("list")
def list_(folder: Path = Path("."), *, as_json: Json = False) -> None:
    """List the policies in FOLDER (default: this one) and in those below it.

    \b
    Examples:
      trajworld policy list dope/policies
    """
    from trajworld.policies.files import find_policies

    found = find_policies(folder)
    entries = [
        {"file": str(path), **({"problem": one} if isinstance(one, str) else one.describe())}
        for path, one in found.items()
    ]
    if as_json:
        return print_json(entries)
    good = [{**one, "sizes": _sizes(one)} for one in entries if "problem" not in one]
    texts = dict.fromkeys(("file", "environment", "kind", "sizes"), "{}")
    print_records(good, texts | {"parameters": "{:,}", "source": "{}"})
    for one in entries:
        if "problem" in one:
            click.echo(f"Left out: {one['problem']}")


@policy.command(params=_reading)
def show(file: PolicyFile, *, as_json: Json = False, **options: Any) -> None:
    """Show a policy's environment, kind and sizes.

    \b
    Examples:
      trajworld policy show hopper_online_8.pkl
    """
    from trajworld.policies.files import read_policy

    _print(read_policy(file, **options).describe(), as_json)


@policy.command("import", params=_reading)
def import_(file: PolicyFile, *, output: File, as_json: Json = False, **options: Any) -> None:
    """Make a file of this library, plain arrays in an .npz, of a policy of DOPE or of Stable-Baselines3.

    \b
    Examples:
      trajworld policy import hopper_online_8.pkl -o hopper-8.npz
      trajworld policy import trpo/Hopper-v3.zip --environment Hopper-v5 --deterministic -o trpo.npz

    Options:
        output: The file to write (.npz).
    """
    from trajworld.policies.files import read_policy, save_policy

    found = read_policy(file, **options)
    save_policy(found, output)
    _print(found.describe(), as_json)


@policy.command(params=_reading)
def evaluate(
    files: Annotated[tuple[Path, ...], With(metavar="POLICY...")],
    *,
    episodes: AtLeast1 = 10,
    horizon: AtLeast1 | None = None,
    gamma: float = 0.995,
    seed: Seed = 0,
    workers: AtLeast1 | None = None,
    output: File | None = None,
    as_json: Json = False,
    **options: Any,
) -> None:
    """Run each POLICY in its environment: mean returns, discounted and not, with standard errors.

    Policies act as they are defined, by draws where they are stochastic. Episode i starts alike for every policy.

    \b
    Examples:
      trajworld policy evaluate dope/policies/hopper_online_*.pkl --episodes 100 -o returns.json
      trajworld policy evaluate trpo/Hopper-v3.zip --environment Hopper-v5 --deterministic

    Options:
        episodes: Of each policy.
        horizon: The most steps of an episode.  [default: the environment's limit]
        gamma: The discount of a step.
        seed: Another seed, other episodes.
        workers: Processes; any number gives the same.  [default: one a core, fewer for little to do]
        output: Write everything, each episode's returns too, here (.json).
    """
    from trajworld.collect.collector import default_workers
    from trajworld.collect.returns import policy_returns
    from trajworld.files import write_json
    from trajworld.policies.files import read_policies

    policies = read_policies(files, **options)
    with job_progress("Evaluating", "episodes") as progress:
        found = policy_returns(
            policies,
            episodes=episodes,
            horizon=horizon,
            gamma=gamma,
            seed=seed,
            workers=workers or default_workers(len(policies) * episodes * (horizon or 1000)),
            progress=progress,
        )
    if output is not None:
        write_json(output, {"policies": found})
    if as_json:
        return print_json({"policies": found})
    means = "return", "discounted"
    shown = [
        {**one, **{name: f"{number(one[name], 4)} ± {number(one[name + '_stderr'])}" for name in means}}
        for one in found
    ]
    columns = dict.fromkeys(("policy", "environment", "episodes", "length", "terminated", *means), "{}")
    print_records(shown, columns | {"length": "{:.0f}"})
    for one in found:
        if one["unstable"]:
            click.echo(
                f"Warning: {one['policy']}: the simulator broke in {one['unstable']} episodes, cut there"
            )


@policy.command()
def train(
    environment: Annotated[str, With(metavar="ENV")],
    *,
    output: Path,
    every: AtLeast1 = 10_000,
    snapshots: AtLeast1 = 10,
    network: str = "64,64",
    seed: Seed = 0,
) -> None:
    """Train by soft actor-critic in ENV (Hopper-v5, dm_control/cheetah-run, …), and keep snapshots.

    The folder holds snapshot-NNN.npz, the policies, and stream-NNN.npz, all transitions of the training. The same
    command continues a training that was stopped, and one with more --snapshots goes further.

    \b
    Examples:
      trajworld policy train Hopper-v5 -o hopper --every 20000 --snapshots 20
      trajworld policy evaluate hopper/snapshot-*.npz

    Options:
        output: The folder of the training; one that is there is continued.
        every: Steps between snapshots.
        snapshots: How many.
        network: Widths of the hidden layers.
        seed: Another seed, another training.
    """
    from trajworld.policies.train import train_policies

    try:
        widths = tuple(int(part) for part in network.split(","))
    except ValueError:
        raise click.BadParameter(f"{network!r} is not like 64,64", param_hint="--network") from None
    settings: dict[str, Any] = {"every": every, "snapshots": snapshots, "network": widths, "seed": seed}
    with job_progress("Training", "steps") as progress:
        found = train_policies(environment, output, progress=progress, **settings)
    click.echo("\n".join(map(str, found)))


def _print(described: dict[str, Any], as_json: bool) -> None:
    if as_json:
        return print_json(described)
    print_facts({**described, "sizes": _sizes(described)}.items())


def _sizes(described: dict[str, Any]) -> str:
    return " → ".join(map(str, described["sizes"]))
