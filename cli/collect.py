"""``trajworld data collect``, ``collect-corpus``, ``collect-suite`` and ``corpus``: run simulators, show a corpus."""

import contextlib
import os
import shlex
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import click

from trajworld.collect.collector import default_workers
from trajworld.collect.corpus import (
    DEFAULT_NAME,
    check_families,
    corpus_folder,
    make_datasets,
    member_of,
    open_corpus,
    plan_corpus,
)
from trajworld.collect.corpus_table import PRETRAIN, ROLES, Row, read_table, select
from trajworld.collect.datasets import DEFAULT_ID, collect_datasets, dataset_targets
from trajworld.data.minari_datasets import dataset_path
from trajworld.errors import UsageError
from trajworld.policies.behaviour import BEHAVIOURS, make_behaviour

from .commands import AtLeast1, File, Folder, Json, Picture, Seed, With, Workers, command
from .output import print_json, print_records, say_picture
from .progress import job_progress


@contextlib.contextmanager
def _finished(as_json: bool, show: Callable[[list[dict[str, Any]]], None]) -> Iterator[list[dict[str, Any]]]:
    """A list of what is finished, printed at the end, even after a failure or Ctrl-C: it is whole and stays."""
    finished: list[dict[str, Any]] = []
    try:
        yield finished
    finally:
        if as_json:
            print_json(finished)
        elif finished:
            show(finished)


@command()
def collect(
    environments: Annotated[tuple[str, ...], With(metavar="ENV...")],
    *,
    transitions: AtLeast1 | None = None,
    episodes: AtLeast1 | None = None,
    behaviour: Annotated[str, click.Choice(BEHAVIOURS)] = "ou",
    noise_scale: float | None = None,
    noise_correlation: float | None = None,
    seed: Seed = 0,
    workers: Workers | None = None,
    template: Annotated[str, With(flags=["--id"], metavar="TEMPLATE")] = DEFAULT_ID,
    replace: bool = False,
    skip_existing: bool = False,
    as_json: Json = False,
) -> None:
    """Collect transitions of each ENV into its own Minari dataset.

    ENV is a Gymnasium id with continuous actions (Hopper-v5, Pendulum-v1), dm_control/DOMAIN-TASK
    (dm_control/cheetah-run), or a procedural robot (robot/legged-17, robot/snake-3, robot/runner-5: each number is
    another).
    Changed physics follow a question mark, in quotes for the shell: Pendulum-v1 takes g, m and l; every MuJoCo
    environment takes gravity (m/s²), friction and mass (factors) and timestep (s), and Gymnasium's take their own
    arguments too (include_cfrc_ext_in_observation=false).

    An episode depends only on the seed, the environment's name and its number. Where a simulator breaks
    (NaN, an exception) the episode is cut before the bad step. Finished datasets stay when a later one fails.

    \b
    Examples:
      trajworld data collect Hopper-v5
      trajworld data collect Swimmer-v5 dm_control/fish-swim robot/legged-17 --transitions 50000 --behaviour mixed
      trajworld data collect "Pendulum-v1?g=5.0&l=1.5" --episodes 100 --behaviour uniform
      trajworld data collect "Hopper-v5?gravity=5&mass=1.2" --id "moon/{environment}/{behaviour}-v1"

    Options:
        transitions: Transitions of each environment; the last episode is cut there.  [default: 20000]
        episodes: Episodes of each environment instead.
        behaviour: uniform: independent random actions; ou: Ornstein-Uhlenbeck (coloured) noise; constant: random
            pushes that are held; gait: sine waves; mixed: each episode one of the first three, of a random scale and
            correlation; varied: of the first four; running: the same, faster.
        noise_scale: In half action ranges: ou's standard deviation (default 0.5), else the range drawn from (1).
        noise_correlation: ou: of a step's noise with the next's (default 0.9); constant: that a push is held for
            another step (0.95).
        template: The Minari id of each dataset.
        replace: Replace datasets of the same id.
        skip_existing: Leave out environments whose dataset exists.
    """
    if transitions is not None and episodes is not None:
        raise UsageError("give --transitions or --episodes, not both")
    if replace and skip_existing:
        raise UsageError("give --replace or --skip-existing, not both")
    if episodes is None:
        transitions = transitions or 20_000
    actions = make_behaviour(behaviour, noise_scale, noise_correlation)
    targets = dataset_targets(environments, behaviour, template)
    if skip_existing:
        for there in [one for one in targets if dataset_path(one).exists()]:
            click.echo(f"{there} exists already: left as it is", err=True)
            del targets[there]
    expected = sum(transitions or (episodes or 0) * found.time_limit for found in targets.values())
    unit = "transitions" if transitions else "episodes"
    with _finished(as_json, _print_finished) as finished, job_progress("Collecting", unit) as progress:
        rows = collect_datasets(
            targets,
            behaviour=actions,
            transitions=transitions,
            episodes=episodes,
            seed=seed,
            workers=workers or default_workers(expected),
            replace=replace,
            progress=progress,
        )
        finished.extend(rows)


def _print_finished(finished: list[dict[str, Any]]) -> None:
    means = {"mean_length": "{:.1f}", "mean_return": "{:.2f}", "seconds": "{:.1f}"}
    print_records(finished, ("dataset", "episodes", "transitions", *means), **means)
    _warn_unstable(finished)


def _warn_unstable(finished: list[dict[str, Any]]) -> None:
    for one in finished:
        if one["unstable"]:
            click.echo(
                f"Warning: {one['environment']}: {one['unstable']} episodes broke and were cut before the bad step "
                f"({one['dropped']} left out whole): {one['unstable_reason']}"
            )


@command()
def collect_corpus(
    *,
    name: str = DEFAULT_NAME,
    list_only: Annotated[bool, With(flags=["--list"])] = False,
    table: File | None = None,
    only: Annotated[tuple[str, ...], With(metavar="PATTERN")] = (),
    role: Annotated[str, click.Choice(ROLES)] | None = None,
    transitions: AtLeast1 = 20_000,
    weights: Annotated[tuple[str, ...], With(metavar="SOURCE=FACTOR")] = (),
    seed: Seed = 0,
    workers: Workers | None = None,
    output: Folder | None = None,
    as_json: Json = False,
) -> None:
    """Make one Minari dataset of each environment of a table, for pre-training and for tests on unseen ones.

    Behaviours are mixed within a dataset: uniform actions, coloured noise, pushes, gaits, and policies of a search (for
    runners from clumsy to fast), from usual and perturbed starts. Each dataset depends only on the seed and its line of
    the table: a stopped or killed corpus continues where it was and ends the same, file by file.

    \b
    Examples:
      trajworld data collect-corpus --list
      trajworld data collect-corpus
      trajworld data collect-corpus --only 'robot/snake-*' --transitions 2000 --name snakes
      trajworld pretrain corpus:corpus -o runs/pre

    Options:
        name: What its datasets' ids begin with.
        list_only: Show the table of environments and do nothing.
        table: A table (CSV) in place of the built-in one; corpus-1 is its first edition.
        only: Only matching environments or sources, e.g. dm_control or 'robot/*'; may be repeated. The corpus is
            these and those of earlier runs.
        role: Only environments of this role.  [default: both]
        transitions: Transitions of an environment of size 1.
        weights: Multiply the weights of a source in pre-training, e.g. legged=2; may be repeated; kept by later runs.
        output: The folder of Minari datasets to write to.  [default: Minari's, MINARI_DATASETS_PATH]
    """
    rows = read_table(table)
    chosen = select(rows, only, role)
    corpus_folder(name)  # refuses a name that is none
    if list_only:
        return _list(chosen, name, as_json)
    factors = dict(_factor(text) for text in weights)
    if output is not None:
        # Where Minari and the worker processes look.
        os.environ["MINARI_DATASETS_PATH"] = str(output.absolute())
    began = time.monotonic()
    jobs, there = plan_corpus(name, chosen, transitions, seed)
    check_families(jobs)
    total = sum(job.transitions for job in jobs)
    with (
        open_corpus(name, rows, factors, chosen),
        _finished(as_json, lambda made: None) as made,
        job_progress("Collecting") as progress,
    ):
        made.extend(make_datasets(jobs, workers or default_workers(total), progress))
    if not as_json:
        _warn_unstable(made)
        there_only = "" if output is None else f"MINARI_DATASETS_PATH={shlex.quote(str(output.absolute()))} "
        click.echo(
            f"Made {len(made)} datasets ({total:,} transitions) in {time.monotonic() - began:.0f} s; "
            f"{len(there)} were there already. `{there_only}trajworld data corpus {name}` describes the corpus."
        )


@command()
def corpus(name: str = DEFAULT_NAME, *, output: Picture | None = None, as_json: Json = False) -> None:
    """Show the datasets of the corpus NAME (default: corpus), made by `trajworld data collect-corpus`.

    Coverage says how evenly a dataset's observations fill their ranges: 1 evenly, near 0 in one place.

    \b
    Examples:
      trajworld data corpus
      trajworld data corpus snakes -o snakes.png
    """
    # Only here are pandas and matplotlib needed.
    from trajworld.collect.corpus_summary import describe_corpus, draw_corpus

    entries, missing = describe_corpus(name)
    if output is not None:
        draw_corpus(name, entries, output)
    if as_json:
        return print_json({"name": name, "entries": entries, "missing": missing})
    columns = ["environment", "role", "share", "M", "transitions", "episodes", "mean_length", "terminated"]
    columns += ["coverage", "mix"]
    rows = []
    for entry in entries:
        share = {"share": entry["weight"]} if entry["role"] == PRETRAIN else {}
        mix = " ".join(f"{kind} {part:.0%}" for kind, part in entry["behaviours"].items())
        rows.append({**entry, **share, "M": entry["variates"], "mix": mix})
    print_records(rows, columns, share="{:.2%}", mean_length="{:.0f}", coverage="{:.2f}")
    for role in ROLES:
        if of_role := [entry for entry in entries if entry["role"] == role]:
            click.echo(
                f"{role}: {len(of_role)} environments of {len({one['variates'] for one in of_role})} different M, "
                f"{sum(one['transitions'] for one in of_role):,} transitions in "
                f"{sum(one['episodes'] for one in of_role):,} episodes"
            )
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        click.echo(f"still to be made: {', '.join(missing[:3])}{more}")
    say_picture(output)


def _factor(text: str) -> tuple[str, float]:
    source, _, factor = text.partition("=")
    try:
        return source, float(factor)
    except ValueError:
        raise UsageError(f"--weights takes SOURCE=FACTOR, as in legged=2, not {text!r}") from None


def _list(rows: list[Row], name: str, as_json: bool) -> None:
    entries = [{"dataset": member_of(name, row).dataset_id, **asdict(row)} for row in rows]
    for entry in entries:
        entry["variates"] = entry.pop("num_variates")
    if as_json:
        return print_json(entries)
    columns = (
        "environment",
        "source",
        "variates",
        "role",
        "weight",
        "size",
        "behaviour",
        "search",
        "variants",
    )
    shown = [{**entry, "variants": " ".join(entry["variants"])} for entry in entries]
    print_records(shown, columns, **dict.fromkeys(("weight", "size", "search"), "{:g}"))
    sizes = len({row.num_variates for row in rows})
    counts = ", ".join(f"{sum(row.role == role for row in rows)} {role}" for role in ROLES)
    click.echo(f"{len(rows)} environments ({counts}) of {sizes} different M")


@command()
def collect_suite(
    *,
    policies: Annotated[tuple[Path, ...], With(metavar="PATH", required=True)] = (),
    name: str = "trajworld/suite",
    streams: Folder | None = None,
    transitions: AtLeast1 = 100_000,
    seed: Seed = 0,
    workers: Workers | None = None,
    as_json: Json = False,
) -> None:
    """Collect behaviour datasets for off-policy evaluation after D4RL's recipe, from policies of any skill.

    Five datasets for each environment of the policies: random; medium and expert, each the sampled behaviour of one
    policy; medium-expert, half of each; medium-replay, equal parts of uniform actions and of all policies up to
    medium, with more or less noise, or what medium was trained on. Expert is the policy of the greatest return, medium
    that nearest a third of it. Existing datasets are left as they are: a stopped collection continues.

    \b
    Examples:
      trajworld data collect-suite --policies dope/policies --name dope
      trajworld data collect-suite --policies zoo --name zoo
      trajworld data collect-suite --policies hopper --name mine --streams training --transitions 20000

    Options:
        policies: A policy's file, a folder of them, or zoo; may be repeated.
        name: What the datasets' ids begin with: NAME/hopper-v5-medium-v0.
        streams: A folder of the training runs (`trajworld policy train`) of the policies: medium-replay is all
            transitions of medium's run up to it, or as many as asked for.
        transitions: Transitions of each dataset.
    """
    from trajworld.collect.suites import collect_suite as collected
    from trajworld.collect.suites import plan_suite, suite_there
    from trajworld.policies.files import read_policies

    dataset_path(f"{name}/x-v0")  # refuses a name that is none
    found = read_policies(policies)
    with job_progress("Ranking", "episodes") as progress:
        planned = plan_suite(
            name,
            found,
            streams=streams,
            seed=seed,
            workers=workers or default_workers(10_000 * len(found)),
            progress=progress,
        )
    for there in suite_there(planned, transitions, seed):
        click.echo(f"{there} exists already: left as it is", err=True)
    count = workers or default_workers(transitions)
    with _finished(as_json, _print_suite) as made, job_progress("Collecting") as progress:
        made.extend(collected(planned, transitions=transitions, seed=seed, workers=count, progress=progress))


def _print_suite(finished: list[dict[str, Any]]) -> None:
    means = {"mean_length": "{:.0f}", "mean_return": "{:.1f}"}
    print_records(finished, ("dataset", "parts", "episodes", *means), **means)
    _warn_unstable(finished)
