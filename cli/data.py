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
    "collect": ("trajworld.cli.collect:collect", "Run environments into Minari datasets."),
    "collect-corpus": (
        "trajworld.cli.collect:collect_corpus",
        "Make the corpus that models are pre-trained on.",
    ),
    "collect-suite": ("trajworld.cli.collect:collect_suite", "Collect datasets for off-policy evaluation."),
    "corpus": ("trajworld.cli.collect:corpus", "Show what a corpus holds."),
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
    columns: tuple[str, ...] = ("id", "environment", "episodes", "transitions")
    _print_entries(minari, columns, f"Minari datasets in {datasets_folder()}")
    if not minari:
        click.echo("No Minari datasets yet: `trajworld data collect Hopper-v5` makes one.")
    for store in stores:
        if "error" not in store:
            store["variates"] = store["observation_size"] + 1 + store["action_size"]
            store["folder"] = Path(store["path"]).name
    columns = ("name", "environment", "episodes", "variates", "folder")
    _print_entries(stores, columns, f"Stores converted to {stores_folder()}")
    if not stores:
        click.echo("No converted stores: training and `trajworld data inspect` make them.")


def _print_entries(entries: list[dict[str, Any]], columns: tuple[str, ...], title: str) -> None:
    """A table, if there is anything; an entry that could not be read says why instead."""
    shown = [{**entry, "environment": entry["error"]} if "error" in entry else entry for entry in entries]
    if shown:
        print_records(shown, columns, title)


@data.command()
def inspect(
    spec: str,
    *,
    output: Picture | None = None,
    model: str | None = None,
    ranges: str | None = None,
    as_json: Json = False,
) -> None:
    """Show a dataset's episodes, transitions and the values of each variate, and what to look at before training.

    SPEC is `minari:ID` (downloaded if need be), the ID of a local Minari dataset, a store's folder, a D4RL or robomimic
    .hdf5 file, a CSV or Parquet table with its TOML beside it, a TD-MPC2 .pt file of one task, or a folder of LeRobot
    data or UniTraj episodes. Other data are converted to a store once.

    A variate is constant, takes few values, changes seldom, or lies at an end of its range in many rows (saturation).
    The source's notes have its sampling period, missing rows and missing values.

    \b
    Examples:
      trajworld data inspect mujoco/hopper/medium-v0 -o hopper.png
      trajworld data inspect hopper_medium-v2.hdf5 --json
      trajworld data inspect tank.csv --model runs/tank/best.keras

    Options:
        model: Also show the share of rows outside the range that this model was trained on.
        ranges: The name of one of its datasets, where it was pre-trained on several of the same environment.
    """
    from trajworld.data.checks import variate_checks
    from trajworld.data.resolve import open_dataset
    from trajworld.data.summary import draw_summary, summarise

    with job_progress("Converting") as progress:
        dataset = open_dataset(spec, progress=progress)
    checks = variate_checks(dataset)
    summary = {**summarise(dataset), "checks": checks}
    known: list[str] = []
    if model is not None:
        from trajworld.models.files import describe_model
        from trajworld.models.identity import Identity
        from trajworld.models.names import find_model
        from trajworld.models.outside import share_outside

        described = describe_model(find_model(model))
        identity = Identity.from_config({key: described[key] for key in vars(Identity()) if key in described})
        outside = summary["outside"] = share_outside(identity, dataset, ranges)
        shares = [f"{share:.2%} of {name}" for name, share in outside["variates"].items() if share]
        known = [f"{outside['rows']:.2%} of the rows lie outside {outside['range']}", *shares]
        if not outside["range"]:
            known = ["all rows: it was trained on no such environment; fine-tune it (train --init)"]
    if output is not None:
        draw_summary(dataset, output)
    if as_json:
        return print_json(summary)
    account = dataset.account.lines() if dataset.account else ()
    plain = summary if dataset.reward else summary | {"reward": "not recorded"}
    facts = [(name, value) for name, value in plain.items() if not isinstance(value, dict)]
    print_facts(
        [*facts, *(("account", line) for line in account), *((f"for {model}", line) for line in known)]
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
    print_rows(("", "min", "mean", "max", "std", "look at"), rows)
    say_picture(output)


@data.command()
def columns(file: File, *, output: File | None = None, overwrite: bool = False) -> None:
    """Write what a table's columns are, for you to check.

    The TOML says which columns of a CSV or Parquet FILE are observation, action and reward, what separates its
    episodes, and its period: a first version, guessed from the columns' names and values.

    \b
    Examples:
      trajworld data columns tank.csv
      trajworld data columns tank.parquet -o my.toml

    Options:
        output: The TOML to write.  [default: FILE's name with .toml]
        overwrite: Replace an existing TOML.
    """
    from trajworld.data.column_guesses import write_columns
    from trajworld.data.table_columns import columns_path

    path = write_columns(file, output or columns_path(file), overwrite)
    click.echo(path.read_text(encoding="utf-8"), nl=False)
    click.echo(f"Written to {path}: check it.", err=True)


@data.command("import")
def import_(
    source: Path,
    *,
    dataset_id: Annotated[str, With(flags=["--id"])],
    environment: str | None = None,
    max_episode_steps: AtLeast1 | None = None,
    columns: File | None = None,
    mask: Annotated[str, With(metavar="NAME")] | None = None,
    test: Annotated[float, With(metavar="SHARE")] = 0.0,
    description: str = "",
    replace: bool = False,
    as_json: Json = False,
) -> None:
    """Make Minari datasets of other data: tables, LeRobot, robomimic, TD-MPC2, D4RL or UniTraj.

    A CSV or Parquet table, one row a time step, needs a TOML that says what its columns are (`trajworld data columns`
    writes a first version). Logs without rewards stay without: models are trained and measured on observations alone.

    UniTraj's root makes one dataset an environment that pre-training uses, name/SOURCE/ENVIRONMENT-v0 of an id name-v0
    (the shares and ranges of its mixture stay behind: to pre-train with them, name the root itself);
    a TD-MPC2 file of several tasks one a task, name/task-N-v0; a stopped import continues. Prints how many
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

    Options:
        dataset_id: Id of the new Minari dataset: (namespace/)name-v0.
        environment: The environment's name, where the source does not give it: gymnasium/Hopper-v5.
        max_episode_steps: Step limit of D4RL files with neither timeouts nor next_observations.  [default: 1000]
        columns: A table's TOML, if it is not beside it.
        mask: Of a robomimic file, the demonstrations of this filter only.
        test: Keep this share of the episodes, the last ones, for a test: NAME-test-v0.
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
            columns=columns,
            mask=mask,
            test=test,
            description=description,
            replace=replace,
            progress=progress,
        )
    if as_json:
        return print_json(
            [{"path": str(one.path), "account": one.account and vars(one.account)} for one in made]
        )
    for one in made:
        click.echo(str(one.path))
        for line in one.account.lines() if one.account else ():
            click.echo(f"  {line}")


@data.command()
def draw_robots(robots: Annotated[tuple[str, ...], With(metavar="ROBOT...")], *, output: File) -> None:
    """Draw procedural robots side by side.

    ROBOT is a name like robot/legged-17, robot/runner-5 or robot/snake-3; those on legs are seen from the side, snakes
    from above.

    \b
    Examples:
      trajworld data draw-robots robot/legged-{0..11} robot/runner-{0..11} robot/snake-{0..5} -o robots.png

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
