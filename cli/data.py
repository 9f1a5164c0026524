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
@click.option(
    "--model", help="Also show which share of the rows lies outside what this model was trained on."
)
@json_option
def inspect(spec: str, output: Path | None, model: str | None, as_json: bool) -> None:
    """Show a dataset's episodes, transitions and the values of each variate, and what to look at before training.

    SPEC is `minari:ID` (downloaded if need be), the ID of a local Minari dataset, a store's folder, a D4RL or robomimic
    .hdf5 file, a CSV or Parquet table with its TOML beside it, a TD-MPC2 .pt file of one task, or a folder of LeRobot
    data or UniTraj episodes. What is not a store is converted to one first, once.

    A variate is constant, takes few values, changes seldom, or lies at an end of its range in many rows (saturation).
    The source's notes have its sampling period, missing rows and missing values.

    \b
    Examples:
      trajworld data inspect mujoco/hopper/medium-v0 -o hopper.png
      trajworld data inspect hopper_medium-v2.hdf5 --json
      trajworld data inspect tank.csv --model runs/tank/best.keras
    """
    from trajworld.data.checks import variate_checks
    from trajworld.data.resolve import open_dataset
    from trajworld.data.summary import draw_summary, summarise

    with job_progress("Converting") as progress:
        dataset = open_dataset(spec, progress=progress)
    checks = variate_checks(dataset)
    summary = {**summarise(dataset), "checks": checks}
    if model is not None:
        from trajworld.models.files import describe_model
        from trajworld.models.identity import Identity
        from trajworld.models.names import find_model
        from trajworld.models.outside import share_outside

        described = describe_model(find_model(model))
        identity = Identity.from_config({key: described[key] for key in vars(Identity()) if key in described})
        outside = summary["outside"] = share_outside(identity, dataset)
        facts = [f"{share:.2%} of {name}" for name, share in outside["variates"].items() if share]
        about = [f"{outside['rows']:.1%} of the rows lie outside {outside['range']}", ", ".join(facts)]
        if not outside["range"]:
            about = ["all rows: it was trained on no such environment; fine-tune it (train --init)"]
    if output is not None:
        draw_summary(dataset, output)
    if as_json:
        click.echo(json.dumps(summary, indent=2))
        return
    reward = "1 reward" if dataset.reward else "no reward recorded"
    sizes = f"{dataset.observation_size} observation, {reward}, {dataset.action_size} action"
    print_facts(
        [
            ("dataset", dataset.name),
            ("environment", dataset.environment or "(not known)"),
            ("episodes", f"{dataset.num_episodes:,} ({dataset.terminated.sum():,} terminated)"),
            ("transitions", dataset.num_transitions),
            ("variates", f"{dataset.num_variates} ({sizes})"),
            ("store", str(dataset.path)),
            *(("source", line) for line in (dataset.account.lines() if dataset.account else ())),
            *((f"for {model}", line) for line in (about if model else ()) if line),
        ]
    )
    names = [name for name in ("episode_length", "episode_return") if name in summary]
    spreads = {name.replace("_", " "): summary[name] for name in names}
    rows = [
        (
            name,
            *(number(one[key], 4) for key in ("minimum", "mean", "maximum", "std")),
            checks[name]["look_at"] if name in checks else "",
        )
        for name, one in (spreads | summary["variates"]).items()
    ]
    headers = ("", "min", "mean", "max", "std", "look at")
    print_table(make_table(headers, rows, (False, *[True] * 4, False)))
    if output is not None:
        click.echo(f"Picture: {output}")


@data.command(short_help="Write which columns of a table are what, for you to check.")
@click.argument("file", type=PATH)
@click.option("-o", "--output", type=FILE, help="The TOML to write.  [default: FILE's name with .toml]")
@click.option("--overwrite", is_flag=True, help="Replace a TOML that is there.")
def columns(file: Path, output: Path | None, overwrite: bool) -> None:
    """Write the TOML that says which columns of a CSV or Parquet FILE are observation, action and reward, what tells
    its episodes apart, and its period: a first version, guessed from the columns' names and values.

    \b
    Examples:
      trajworld data columns tank.csv
      trajworld data columns tank.parquet -o my.toml
    """
    from trajworld.data.table_columns import columns_path, write_columns

    path = write_columns(file, output or columns_path(file), overwrite)
    click.echo(path.read_text(encoding="utf-8"), nl=False)
    click.echo(f"Written to {path}: check it.", err=True)


@data.command("import", short_help="Make Minari datasets of other data: tables, LeRobot, robomimic, ….")
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
@click.option("--columns", type=FILE, help="A table's TOML, where it is not beside it.")
@click.option("--mask", metavar="NAME", help="Of a robomimic file, the demonstrations of this filter only.")
@click.option(
    "--test",
    type=float,
    default=0.0,
    metavar="SHARE",
    help="Keep the last episodes for a test: NAME-test-v0.",
)
@click.option("--description", default="", help="A line for people.")
@click.option("--replace", is_flag=True, help="Replace a dataset of the same id.")
@json_option
def import_(source: Path, dataset_id: str, as_json: bool, **options: Any) -> None:
    """Make Minari datasets of a file or folder of another format.

    A CSV or Parquet table, one row a time step, needs a TOML that says what its columns are (`trajworld data columns`
    writes a first version). Logs without rewards stay without: models are trained and measured on observations alone.

    UniTraj's root makes one dataset an environment that pre-training uses, name/SOURCE/ENVIRONMENT-v0 of an id name-v0;
    a TD-MPC2 file of several tasks one a task, name/task-N-v0; an import that was stopped continues. Says how many
    transitions and how much reward the source holds, how much was kept, and why the rest was not.

    \b
    Examples:
      trajworld data import tank.csv --id mine/tank-v0 --test 0.2         # with tank.toml
      trajworld data import tank.parquet --columns my.toml --id mine/tank-v0
      trajworld data import lerobot/pusht/ --id lerobot/pusht-v0          # LeRobot v2.1, v3.0
      trajworld data import low_dim_v15.hdf5 --mask train --id robomimic/lift-v0
      trajworld data import mt30/chunk_0.pt --id tdmpc2/mt30-v0           # TD-MPC2
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
