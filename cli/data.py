"""``trajworld data``: collect, import, list and inspect datasets."""

from pathlib import Path
from typing import Annotated, Any

import click

from trajworld.errors import UsageError
from trajworld.text import number

from .commands import AtLeast1, File, Json, LazyGroup, Picture, With
from .output import print_facts, print_json, print_records, print_rows, say_picture
from .progress import job_progress

_COMMANDS = {
    "collect": (".collect:collect", "Run environments into Minari datasets."),
    "collect-corpus": (".collect:collect_corpus", "Make the corpus that models are pre-trained on."),
    "corpus": (".collect:corpus", "Show what a corpus holds."),
}


@click.group(cls=LazyGroup, lazy=_COMMANDS)
def data() -> None:
    """Collect, import, list and inspect datasets."""


@data.command("list")
def list_datasets(*, as_json: Json = False) -> None:
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
        return print_json({"minari": minari, "stores": stores})
    columns = {"environment": "{}", "episodes": "{:,}", "transitions": "{:,}"}
    _print_entries(minari, {"id": "{}", **columns}, f"Minari datasets in {datasets_folder()}")
    if not minari:
        click.echo("No Minari datasets yet: `trajworld data collect Hopper-v5` makes one.")
    for store in stores:
        if "error" not in store:
            store["variates"] = store["observation_size"] + 1 + store["action_size"]
            store["folder"] = Path(store["path"]).name
    columns = {"environment": "{}", "episodes": "{:,}", "variates": "{}", "folder": "{}"}
    _print_entries(stores, {"name": "{}", **columns}, f"Stores converted to {stores_folder()}")
    if not stores:
        click.echo("No converted stores: training and `trajworld data inspect` make them.")


def _print_entries(entries: list[dict[str, Any]], columns: dict[str, str], title: str) -> None:
    """A table, if there is anything; an entry that could not be read says why instead."""
    shown = [{**entry, "environment": entry["error"]} if "error" in entry else entry for entry in entries]
    if shown:
        print_records(shown, columns, title)


@data.command()
def inspect(spec: str, *, output: Picture | None = None, as_json: Json = False) -> None:
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
        return print_json(summary)
    account = dataset.account.lines() if dataset.account else ()
    facts = [(name, value) for name, value in summary.items() if not isinstance(value, dict)]
    print_facts([*facts, *(("account", line) for line in account)])
    spreads = {name.replace("_", " "): summary[name] for name in ("episode_length", "episode_return")}
    rows = [
        (name, *(number(one[key], 4) for key in ("minimum", "mean", "maximum", "std")))
        for name, one in (spreads | summary["variates"]).items()
    ]
    print_rows(("", "min", "mean", "max", "std"), rows)
    say_picture(output)


@data.command("import")
def import_(
    source: Path,
    *,
    dataset_id: Annotated[str, With(flags=["--id"])],
    environment: str | None = None,
    max_episode_steps: AtLeast1 = 1000,
    description: str = "",
    replace: bool = False,
    as_json: Json = False,
) -> None:
    """Make Minari datasets of a D4RL .hdf5 file or a UniTraj folder.

    A folder of one environment's episodes makes one dataset. UniTraj's root makes one an environment that
    pre-training uses, name/SOURCE/ENVIRONMENT-v0 of an id name-v0; an import that was stopped continues. Says how many
    transitions and how much reward the source holds, how much was kept, and why the rest was not.

    \b
    Examples:
      trajworld data import hopper_medium-v2.hdf5 --id d4rl/hopper/medium-v2
      trajworld data import unitraj/ --id unitraj-v0

    Options:
        dataset_id: Id of the new Minari dataset: (namespace/)name-v0.
        environment: The environment's name, where the source does not give it: gymnasium/Hopper-v5.
        max_episode_steps: Step limit of D4RL files without timeouts.
        description: A line for people.
        replace: Replace a dataset of the same id.
    """
    from trajworld.data.resolve import import_dataset

    with job_progress("Importing") as progress:
        made = import_dataset(
            source,
            dataset_id,
            environment=environment,
            max_episode_steps=max_episode_steps,
            description=description,
            replace=replace,
            progress=progress,
        )
    if as_json:
        return print_json(
            [{"path": str(one.path), "account": one.account and one.account.as_json()} for one in made]
        )
    for one in made:
        click.echo(str(one.path))
        for line in one.account.lines() if one.account else ():
            click.echo(f"  {line}")


@data.command()
def draw_robots(robots: Annotated[tuple[str, ...], With(metavar="ROBOT...")], *, output: File) -> None:
    """Draw procedural robots side by side.

    ROBOT is such as robot/legged-17 or robot/snake-3; legged ones are seen from the side, snakes from above.

    \b
    Examples:
      trajworld data draw-robots robot/legged-{0..17} robot/snake-{0..5} -o robots.png

    Options:
        output: The picture (.png).
    """
    from trajworld.environments.names import ROBOT, parse_name
    from trajworld.environments.robots.kinds import parse_robot
    from trajworld.environments.robots.picture import draw_robots as draw

    names = [parse_name(text) for text in robots]
    for name in names:
        if name.family != ROBOT or name.changes:
            raise UsageError(f"{name} is no robot to draw: write a kind and a number, as in robot/legged-17")
    draw([parse_robot(name.identifier) for name in names], output)
    say_picture(output)
