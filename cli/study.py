"""``trajworld study``: run a study, or make its report anew."""

import importlib
import inspect
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from trajworld.errors import DAMAGE, TrajWorldError, UsageError, one_line
from trajworld.studies import STUDIES

from .options import documented, field_options
from .output import console, print_table
from .progress import cell_progress

if TYPE_CHECKING:
    from trajworld.study.run import Engine, Study


class _Runs(click.Group):
    """One command for each study, made from its class when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names of the studies."""
        return list(STUDIES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command that runs a study."""
        return _command(study_class(cmd_name)) if cmd_name in STUDIES else None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Names alone: importing every study for its first sentence would take seconds."""
        with formatter.section("Studies"):
            formatter.write_text(", ".join(STUDIES))


def study_class(name: str) -> "type[Any]":
    """The class of a study.

    Raises:
        UsageError: There is none of that name.
    """
    if name not in STUDIES:
        raise UsageError(f"no study is called {name!r}: there are {', '.join(STUDIES)}")
    module, _, found = STUDIES[name].partition(":")
    return getattr(importlib.import_module(module), found)


@click.group("study", short_help="Run the studies: transfer, zero-shot, backends, quickstart.")
def study() -> None:
    """Run a study: a list of cells (single measurements) that are run where they are missing, and their report.

    \b
    Examples:
      trajworld study list
      trajworld study run transfer --model trajworld-small --sizes 1000,4000 -o transfer
      trajworld study run transfer --engine ray -o transfer      # on a Ray cluster
      trajworld study report transfer                            # the report again, from its table
    """


@study.command("list")
def list_studies() -> None:
    """List the studies."""
    for name in STUDIES:
        first = inspect.cleandoc(study_class(name).__doc__ or "").split("\n\n")[0]
        click.echo(f"{name:12} {' '.join(first.split())}")


@study.group("run", cls=_Runs)
def run() -> None:
    """Run what is missing of a study, then write its report. Ctrl-C keeps what is finished."""


@study.command("report")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--json", "as_json", is_flag=True, help="Print the tables as JSON.")
def report(folder: Path, as_json: bool) -> None:
    """Make the report in FOLDER anew from its table; no cell is run."""
    from trajworld.study.report import read_report, write_report

    name, options, table, origin, pictures = read_report(folder)
    kind = study_class(name)
    try:
        given = {key: tuple(value) if isinstance(value, list) else value for key, value in options.items()}
        study = kind(**given)
        page = write_report(study, table, folder, origin, pictures)
        show(study, table, page, as_json)
    except DAMAGE as error:
        why = f"{folder} holds no whole report of this version of the study ({one_line(error)})"
        raise TrajWorldError(f"{why}: run it again") from None


def execute(
    study: "Study", output: Path, store_folder: Path, engine: "Engine", workers: int, as_json: bool
) -> None:
    """Prepare and run a study, write its report into ``output`` and print its tables.

    Raises:
        TrajWorldError: Cells failed (the report of the others is written), or a file cannot be written.
        KeyboardInterrupt: Ctrl-C.
    """
    from trajworld.study.cells import Store
    from trajworld.study.report import claim_folder, write_report
    from trajworld.study.run import known_cells, origins, run_study

    err = console(stderr=True)
    claim_folder(study, output)
    study.prepare(workers, lambda line: err.print(line, highlight=False, markup=False, soft_wrap=True))
    store = Store(store_folder)
    with cell_progress(err) as observe:
        failed = run_study(study, store, engine, observe)
    table = store.table(known_cells(study, store))
    pictures = study.pictures(table, store) if len(table) and hasattr(study, "pictures") else {}
    page = write_report(study, table, output, origins(study, store), pictures)
    show(study, table, page, as_json)
    if failed:
        cells = f"{len(failed)} cell{'s' * (len(failed) > 1)}"
        raise TrajWorldError(f"{cells} failed; the others are kept. The first: {failed[0]}")


def show(study: "Study", table: Any, page: Path, as_json: bool) -> None:
    """Print the tables of a study."""
    from trajworld.study.cells import plain
    from trajworld.study.tables import terminal

    tables = study.tables(table) if len(table) else {}
    if as_json:
        found = {title: plain(one.to_dict("records")) for title, one in tables.items()}
        click.echo(json.dumps({"study": study.name, "report": str(page), "tables": found}, indent=2))
        return
    for title, one in tables.items():
        print_table(terminal(title, one))
        click.echo()
    click.echo(f"Report: {page}")


_FOLDER = click.Path(path_type=Path, file_okay=False)
_COMMON = (
    click.option("-o", "--output", type=_FOLDER, help="Folder for the report.  [default: trajworld-STUDY]"),
    click.option("--store", type=_FOLDER, help="Folder of finished cells.  [default: in the library's own folder]"),
    click.option("--engine", type=click.Choice(["local", "ray"]), default="local", show_default=True,
                 help="Processes of this machine, or a Ray cluster."),
    click.option("--address", help="Of a Ray cluster that runs.  [default: one on this machine]"),
    click.option("--workers", type=click.IntRange(min=1),
                 help="Processes, each on cores of its own.  [default: one a core; one on a GPU]"),
    click.option("--json", "as_json", is_flag=True, help="Print the tables as JSON."),
)  # fmt: skip


def _command(kind: "type[Any]") -> click.Command:
    """The command of a study: its options are the fields of its class, their help the docstring's attributes."""
    protocol, _ = documented(kind)

    def callback(
        output: Path | None,
        store: Path | None,
        engine: str,
        address: str | None,
        workers: int | None,
        as_json: bool,
        **options: Any,
    ) -> None:
        from trajworld.data.home import home
        from trajworld.study.run import LocalEngine, RayEngine, default_workers

        study = kind(**options)
        fixed: int | None = getattr(study, "workers", None)
        if fixed and (engine == "ray" or (workers or fixed) != fixed):
            raise UsageError(f"the study {kind.name} has its own number of workers, {fixed}, on this machine")
        count = workers or fixed or default_workers()
        chosen = RayEngine(address) if engine == "ray" else LocalEngine(count)
        folder = output or Path(f"trajworld-{kind.name}")
        execute(study, folder, store or home() / "cells", chosen, count, as_json)

    command = click.Command(
        kind.name,
        params=field_options(kind),
        callback=callback,
        help=re.sub(r"\n {2,}", " ", protocol).replace("\n- ", "\n\n- "),
        short_help=protocol.split(".")[0],
    )
    for add in _COMMON:
        add(command)
    return command
