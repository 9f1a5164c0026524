"""``trajworld data``: collect, import, list and inspect datasets."""

import json
from pathlib import Path
from typing import Any

import click
from rich.text import Text

from .lazy import LazyCommand, LazyGroup
from .output import make_table, print_table
from .progress import job_progress

_COMMANDS = {
    "collect": LazyCommand(".collect", "collect", "Run environments into Minari datasets."),
    "collect-corpus": LazyCommand(
        ".corpus", "collect_corpus", "Make the corpus that models are pre-trained on."
    ),
    "corpus": LazyCommand(".corpus", "corpus", "Show what a corpus holds."),
    "draw-robots": LazyCommand(".robots", "draw_robots", "Draw procedural robots."),
}


@click.group(cls=LazyGroup, lazy=_COMMANDS)
def data() -> None:
    """Collect, import, list and inspect datasets."""


@data.command("list", short_help="List the local Minari datasets and converted stores.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
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
    shown = [_row(entry, "id", ("environment", "episodes", "transitions")) for entry in minari]
    if minari:
        headers = ("id", "environment", "episodes", "transitions")
        print_table(
            make_table(headers, shown, (False, False, True, True), f"Minari datasets in {datasets_folder()}")
        )
    else:
        click.echo("No Minari datasets yet: `trajworld data collect Hopper-v5` makes one.")
    for store in stores:
        if "error" not in store:
            store["variates"] = store["observation_size"] + 1 + store["action_size"]
            store["folder"] = Path(store["path"]).name
    shown = [_row(store, "name", ("environment", "episodes", "variates", "folder")) for store in stores]
    if stores:
        columns = ("name", "environment", "episodes", "variates", "folder")
        right = (False, False, True, True, False)
        print_table(make_table(columns, shown, right, f"Stores converted to {stores_folder()}"))
    else:
        click.echo("No converted stores: training and `trajworld data inspect` make them.")


@data.command(short_help="Show what a dataset holds.")
@click.argument("spec")
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False, path_type=Path), help="Also draw a picture here (.png)."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
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
    facts = [
        ("dataset", dataset.name),
        ("environment", dataset.environment or "(not known)"),
        ("episodes", f"{dataset.num_episodes:,} ({dataset.terminated.sum():,} terminated)"),
        ("transitions", f"{dataset.num_transitions:,}"),
        (
            "variates",
            f"{dataset.num_variates} ({dataset.observation_size} observation, 1 reward, "
            f"{dataset.action_size} action)",
        ),
        ("store", str(dataset.path)),
    ]
    facts += [("source", line) for line in ([] if dataset.account is None else dataset.account.lines())]
    for name, value in facts:
        click.echo(f"{name:13}{value}")
    spreads = {
        "episode length": summary["episode_length"],
        "episode return": summary["episode_return"],
        **summary["variates"],
    }
    rows = [
        (name, *(_number(one[key]) for key in ("minimum", "mean", "maximum", "std")))
        for name, one in spreads.items()
    ]
    print_table(make_table(("", "min", "mean", "max", "std"), rows, (False, *[True] * 4)))
    if output is not None:
        click.echo(f"Picture: {output}")


@data.command("import", short_help="Make Minari datasets of D4RL files or UniTraj folders.")
@click.argument("source", type=click.Path(path_type=Path))
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
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def import_(
    source: Path,
    dataset_id: str,
    environment: str | None,
    max_episode_steps: int,
    description: str,
    replace: bool,
    as_json: bool,
) -> None:
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
        found = [{"path": str(one.path), "account": one.account and one.account.as_json()} for one in made]
        click.echo(json.dumps(found, indent=2))
        return
    for one in made:
        click.echo(str(one.path))
        for line in [] if one.account is None else one.account.lines():
            click.echo(f"  {line}")


def _row(entry: dict[str, Any], name: str, keys: tuple[str, ...]) -> list[object]:
    """The cells of a table's row; an entry that could not be read says why instead."""
    if "error" in entry:
        return [entry[name], Text(entry["error"], style="red"), *[""] * (len(keys) - 1)]
    return [entry[name], *(entry[key] for key in keys)]


def _number(value: float) -> str:
    """Four significant digits, without an exponent where that stays short."""
    if value == 0 or 1e-4 <= abs(value) < 1e6:
        return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.1f}"
    return f"{value:.3e}"
