"""``trajworld policy``: list, show, import, evaluate and train policies."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import click

from trajworld.files import refuse_existing
from trajworld.text import number

from .commands import AtLeast1, File, Folder, Json, LazyGroup, Seed, With, Workers, list_of, parameters_of
from .output import print_facts, print_json, print_records
from .progress import job_progress

PolicyFile = Annotated[Path, With(metavar="POLICY")]


@dataclass(frozen=True)
class Reading:
    """How a policy's file is read.

    Attributes:
        environment: The policy's environment, if its file does not name it: Hopper-v5.
        deterministic: Take the mean action, without noise.
        vecnormalize: Stable-Baselines3's statistics of observations.  [default: vecnormalize.pkl beside the zip]
    """

    environment: str = ""
    deterministic: bool = False
    vecnormalize: Path | None = None


_reading = parameters_of(Reading)


@click.group(cls=LazyGroup, lazy={})
def policy() -> None:
    """List, import, evaluate, train and select policies.

    POLICY is a file of this library (.npz), a pickle of the DOPE benchmark (.pkl), the zip of a Stable-Baselines3
    agent (A2C, PPO, TRPO, ARS, SAC, TQC or TD3 with an MLP policy), or the name of one that ships, such as
    zoo/hopper-03; zoo/hopper is all of a robot's, from near random to the best. Nothing in a file is run.
    """


@policy.command("list")
def list_(folder: Path = Path("."), *, as_json: Json = False) -> None:
    """List the policies in FOLDER (default: this one) and in those below it; zoo: those that ship.

    \b
    Examples:
      trajworld policy list dope/policies
      trajworld policy list zoo
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
    print_records(good, ("file", "environment", "kind", "sizes", "parameters", "source"))
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
    workers: Workers | None = None,
    output: File | None = None,
    as_json: Json = False,
    **options: Any,
) -> None:
    """Run each POLICY in its environment: mean returns, discounted and not, with standard errors.

    Policies act as they are defined, by draws where they are stochastic. Episode i has the same start for all policies.

    \b
    Examples:
      trajworld policy evaluate dope/policies/hopper_online_*.pkl --episodes 100 -o returns.json
      trajworld policy evaluate trpo/Hopper-v3.zip --environment Hopper-v5 --deterministic
      trajworld policy evaluate zoo/hopper --episodes 20

    Options:
        episodes: Episodes of each policy.
        horizon: The most steps of an episode.  [default: the environment's limit]
        gamma: The discount of a step.
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
    if as_json:
        print_json({"policies": found})
    else:
        _print_returns(found, ("policy", "environment", "episodes", "length", "terminated"))
        for one in found:
            if one["unstable"]:
                click.echo(
                    f"Warning: {one['policy']}: the simulator broke in {one['unstable']} episodes, cut there"
                )
    # Last: whatever becomes of the file, the evaluation is not lost.
    if output is not None:
        write_json(output, {"policies": found})


@policy.command()
def train(
    environment: Annotated[str, With(metavar="ENV")],
    *,
    output: Path,
    every: AtLeast1 = 10_000,
    snapshots: AtLeast1 = 10,
    network: Annotated[str, list_of(int)] = "64,64",
    seed: Seed = 0,
) -> None:
    """Train by soft actor-critic in ENV (Hopper-v5, dm_control/cheetah-run, …), and keep snapshots.

    The folder holds snapshot-NNN.npz, the policies, and stream-NNN.npz, all transitions of the training. The same
    command continues a stopped training, and one with more --snapshots goes further.

    \b
    Examples:
      trajworld policy train Hopper-v5 -o hopper --every 20000 --snapshots 20
      trajworld policy evaluate hopper/snapshot-*.npz

    Options:
        output: The folder of the training; an existing one is continued.
        every: Steps between snapshots.
        snapshots: Number of snapshots.
        network: Widths of the hidden layers.
        seed: Seed of the training.
    """
    from trajworld.policies.train import train_policies

    settings: dict[str, Any] = {"every": every, "snapshots": snapshots, "network": network, "seed": seed}
    with job_progress("Training", "steps") as progress:
        found = train_policies(environment, output, progress=progress, **settings)
    click.echo("\n".join(map(str, found)))


@policy.command()
def select(
    places: Annotated[tuple[Path, ...], With(metavar="PATH...")],
    *,
    output: Folder,
    count: Annotated[int, click.IntRange(min=2)] = 11,
    episodes: Annotated[int, click.IntRange(min=4)] = 100,
    horizon: AtLeast1 | None = None,
    gamma: float = 0.995,
    seed: Seed = 0,
    workers: Workers | None = None,
    as_json: Json = False,
) -> None:
    """Choose policies of one environment from near random to the best, as evenly spread in value as possible.

    PATH is a policy's file, or a folder such as `trajworld policy train` makes. Each is run for half of the episodes;
    those that are chosen, at least four standard errors apart in discounted return where that is possible, are run
    again, in other episodes. The folder gets their files, NAME-01.npz the weakest, and truth.json with their returns,
    as `trajworld ope --truth` takes it.

    \b
    Examples:
      trajworld policy train Hopper-v5 -o training --every 10000 --snapshots 30
      trajworld policy select training --count 11 -o hopper
      trajworld ope simulator mine-v0 --policies hopper --truth hopper/truth.json

    Options:
        output: The folder to make; its name is that of the policies.
        count: Number of policies.
        episodes: Episodes of each chosen policy.
        horizon: The most steps of an episode.  [default: the environment's limit]
        gamma: The discount of a step.
    """
    from trajworld.collect.collector import default_workers
    from trajworld.collect.selection import select_policies, write_selection
    from trajworld.policies.files import read_policies

    refuse_existing(output)
    policies = read_policies(places)
    with job_progress("Evaluating", "episodes") as progress:
        chosen, truth = select_policies(
            policies,
            output.resolve().name,
            count=count,
            episodes=episodes,
            horizon=horizon,
            gamma=gamma,
            seed=seed,
            workers=workers or default_workers(len(policies) * episodes * (horizon or 1000) // 2),
            progress=progress,
        )
    write_selection(output, chosen, truth)
    if as_json:
        return print_json({"policies": truth})
    shown = [{**one, "source": chosen[one["policy"]].source} for one in truth]
    _print_returns(shown, ("policy", "source", "episodes", "length", "apart"), apart="{:.1f}")


def _print_returns(found: list[dict[str, Any]], columns: tuple[str, ...], **formats: str) -> None:
    means = "return", "discounted"
    shown = [
        {**one, **{name: f"{number(one[name], 4)} ± {number(one[name + '_stderr'])}" for name in means}}
        for one in found
    ]
    print_records(shown, (*columns, *means), length="{:.0f}", **formats)


def _print(described: dict[str, Any], as_json: bool) -> None:
    if as_json:
        return print_json(described)
    print_facts({**described, "sizes": _sizes(described)}.items())


def _sizes(described: dict[str, Any]) -> str:
    return " → ".join(map(str, described["sizes"]))
