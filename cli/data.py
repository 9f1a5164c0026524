"""``trajworld data``: collect, import, list and inspect datasets."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from rich.text import Text

from trajworld.errors import UsageError
from trajworld.text import number

from .lazy import LazyGroup
from .options import FILE, PATH, json_option
from .output import make_table, print_facts, print_table
from .progress import job_progress

_COMMANDS = {
    "collect": (".collect:collect", "Run environments into Minari datasets."),
    "collect-corpus": (".corpus:collect_corpus", "Make the corpus that models are pre-trained on."),
    "corpus": (".corpus:corpus", "Show what a corpus holds."),
}


@click.group(cls=LazyGroup, lazy=_COMMANDS)
def data() -> None:
    """Collect, import, list and inspect datasets."""


@data.command("list", short_help="List the local Minari datasets and converted stores.")
@json_option
def list_datasets(as_json: bool) -> None:
    """List the local Minari datasets and the stores converted on this machine.

    \b
    Examples:
      trajworld data list
      trajworld data list --json
    """
    from trajworld.data.home import stores_folder
    from trajworld.data.minari_datasets import datasets_folder, local_datasets
    from trajworld.data.resolve import converted_stores

    minari, stores = local_datasets(), converted_stores()
    if as_json:
        click.echo(json.dumps({"minari": minari, "stores": stores}, indent=2))
        return
    shown: Sequence[str] = ("id", "environment", "episodes", "transitions")
    _print_entries(minari, shown, f"Minari datasets in {datasets_folder()}")
    if not minari:
        click.echo("No Minari datasets yet: `trajworld data collect Hopper-v5` makes one.")
    for store in stores:
        if "error" not in store:
            store["variates"] = store["observation_size"] + 1 + store["action_size"]
            store["folder"] = Path(store["path"]).name
    shown = ("name", "environment", "episodes", "variates", "folder")
    _print_entries(stores, shown, f"Stores converted to {stores_folder()}")
    if not stores:
        click.echo("No converted stores: training and `trajworld data inspect` make them.")


def _print_entries(entries: list[dict[str, Any]], columns: Sequence[str], title: str) -> None:
    """A table; an entry that could not be read says why instead."""
    rows = [
        [entry[columns[0]], Text(entry["error"], style="red"), *[""] * (len(columns) - 2)]
        if "error" in entry
        else [entry[column] for column in columns]
        for entry in entries
    ]
    right = [column in ("episodes", "transitions", "variates") for column in columns]
    if rows:
        print_table(make_table(columns, rows, right, title))


@data.command(short_help="Show what a dataset holds.")
@click.argument("spec")
@click.option("-o", "--output", type=FILE, help="Also draw a picture here (.png).")
@json_option
def inspect(spec: str, output: Path | None, as_json: bool) -> None:
    """Show a dataset's episodes, transitions and the values of each variate.

    SPEC is `minari:ID` (downloaded if need be), the ID of a local Minari dataset, a store's folder, a D4RL
    .hdf5 file, or a folder of UniTraj episodes. What is not a store is converted to one first, once.

    \b
    Examples:
      trajworld data inspect mujoco/hopper/medium-v0 -o hopper.png
      trajworld data inspect hopper_medium-v2.hdf5 --json
    """
    from trajworld.data.resolve import open_dataset
    from trajworld.data.summary import draw_summary, summarise

    with job_progress("Converting") as progress:
        dataset = open_dataset(spec, progress=progress)
    summary = summarise(dataset)
    if output is not None:
        draw_summary(dataset, output)
    if as_json:
        click.echo(json.dumps(summary, indent=2))
        return
    sizes = f"{dataset.observation_size} observation, 1 reward, {dataset.action_size} action"
    print_facts(
        [
            ("dataset", dataset.name),
            ("environment", dataset.environment or "(not known)"),
            ("episodes", f"{dataset.num_episodes:,} ({dataset.terminated.sum():,} terminated)"),
            ("transitions", dataset.num_transitions),
            ("variates", f"{dataset.num_variates} ({sizes})"),
            ("store", str(dataset.path)),
            *(("source", line) for line in (dataset.account.lines() if dataset.account else ())),
        ]
    )
    spreads = {name.replace("_", " "): summary[name] for name in ("episode_length", "episode_return")}
    rows = [
        (name, *(number(one[key], 4) for key in ("minimum", "mean", "maximum", "std")))
        for name, one in (spreads | summary["variates"]).items()
    ]
    print_table(make_table(("", "min", "mean", "max", "std"), rows, (False, *[True] * 4)))
    if output is not None:
        click.echo(f"Picture: {output}")


@data.command("import", short_help="Make Minari datasets of D4RL files or UniTraj folders.")
@click.argument("source", type=PATH)
@click.option("--id", "dataset_id", required=True, help="Id of the new Minari dataset: (namespace/)name-v0.")
@click.option(
    "--environment", help="The environment's name, where the source does not give it: gymnasium/Hopper-v5."
)
@click.option(
    "--max-episode-steps",
    type=click.IntRange(min=1),
    default=1000,
    show_default=True,
    help="Step limit of D4RL files without timeouts.",
)
@click.option("--description", default="", help="A line for people.")
@click.option("--replace", is_flag=True, help="Replace a dataset of the same id.")
@json_option
def import_(source: Path, dataset_id: str, as_json: bool, **options: Any) -> None:
    """Make Minari datasets of a D4RL .hdf5 file or a UniTraj folder.

    A folder of one environment's episodes makes one dataset. UniTraj's root makes one an environment that
    pre-training uses, name/SOURCE/ENVIRONMENT-v0 of an id name-v0; an import that was stopped continues. Says how many
    transitions and how much reward the source holds, how much was kept, and why the rest was not.

    \b
    Examples:
      trajworld data import hopper_medium-v2.hdf5 --id d4rl/hopper/medium-v2
      trajworld data import unitraj/ --id unitraj-v0
    """
    from trajworld.data.resolve import import_dataset

    with job_progress("Importing") as progress:
        made = import_dataset(source, dataset_id, progress=progress, **options)
    if as_json:
        found = [{"path": str(one.path), "account": one.account and one.account.as_json()} for one in made]
        click.echo(json.dumps(found, indent=2))
        return
    for one in made:
        click.echo(str(one.path))
        for line in one.account.lines() if one.account else ():
            click.echo(f"  {line}")


@data.command(short_help="Draw procedural robots.")
@click.argument("robots", metavar="ROBOT...", nargs=-1, required=True)
@click.option("-o", "--output", required=True, type=FILE, help="The picture (.png).")
def draw_robots(robots: tuple[str, ...], output: Path) -> None:
    """Draw ROBOTs (robot/legged-17, robot/snake-3) side by side: legged ones from the side, snakes from above.

    \b
    Examples:
      trajworld data draw-robots robot/legged-{0..17} robot/snake-{0..5} -o robots.png
    """
    from trajworld.environments.names import ROBOT, parse_name
    from trajworld.environments.robots.kinds import parse_robot
    from trajworld.environments.robots.picture import draw_robots as draw

    names = [parse_name(text) for text in robots]
    for name in names:
        if name.family != ROBOT or name.changes:
            raise UsageError(f"{name} is no robot to draw: write a kind and a number, as in robot/legged-17")
    draw([parse_robot(name.identifier) for name in names], output)
    click.echo(f"Picture: {output}")
