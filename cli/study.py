"""``trajworld study`` and ``quickstart``: run a study, or make its report anew."""

import re
import shutil
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, Literal

import click

from trajworld.backend import require_framework
from trajworld.errors import DAMAGE, TrajWorldError, UsageError, one_line
from trajworld.studies import STUDIES

from .commands import AtLeast1, Command, Folder, Json, LazyGroup, command, documented, parameters_of
from .output import console, print_json, print_table, say
from .progress import cell_progress

if TYPE_CHECKING:
    from trajworld.study.run import Engine, Study


@click.group(cls=LazyGroup, lazy={})
def study() -> None:
    """Run a study: a list of cells (single measurements) that are run if missing, and their report.

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
    for name, (_, words) in STUDIES.items():
        click.echo(f"{name:12} {words}")


class _Runs(LazyGroup):
    """One command for each study, made from its class when it is called."""

    def load(self, place: str) -> click.Command:
        """The command of a study: its options are the fields of its class, its help the docstring."""
        kind = resolve_name(place)

        def run_study(**options: Any) -> None:
            _run(kind, **options)

        words = re.sub(r"\n {2,}", " ", documented(kind.__doc__)[0]).replace("\n- ", "\n\n- ")
        words += f"\n\n\b\nExample:\n  trajworld study run {kind.name} {kind.example} -o {kind.name}"
        params = [*parameters_of(kind), *parameters_of(_run, leave_out={"kind"})]
        return Command(kind.name, help=words, params=params, callback=run_study)


@study.group("run", cls=_Runs, lazy=STUDIES)
def run() -> None:
    """Run the missing cells of a study, then write its report. Ctrl-C keeps finished ones."""


@study.command("report")
def report(folder: Folder, *, as_json: Json = False) -> None:
    """Make the report in FOLDER anew from its table; no cell is run."""
    from trajworld.study.report import read_report, write_report

    name, options, table, origin, pictures = read_report(folder)
    try:
        kind = resolve_name(STUDIES[name][0])
        given = {key: tuple(value) if isinstance(value, list) else value for key, value in options.items()}
        study = kind(**given)
        page = write_report(study, table, folder, origin, pictures)
        _show(study, table, page, as_json)
    except DAMAGE as error:
        why = f"{folder} holds no whole report of this version of the study ({one_line(error)})"
        raise TrajWorldError(f"{why}: run it again") from None


@command()
def quickstart(
    *,
    output: Path = Path("trajworld-quickstart"),
    scale: Literal["small", "tiny"] = "small",
    seed: int = 0,
    as_json: Json = False,
) -> None:
    """Show what pre-training buys on a robot that the model has never seen.

    Collects trajectories of Gymnasium's hopper and fine-tunes the model that ships, trajworld-small, on several
    amounts of them, against training from scratch with equal steps and learning rates, and against copying the
    last row. Writes a report (index.html) with pictures. Run again after Ctrl-C, it continues.

    \b
    Examples:
      trajworld quickstart
      KERAS_BACKEND=torch trajworld quickstart -o quick-torch
      trajworld quickstart --scale tiny -o /tmp/try

    Options:
        output: Folder for everything: datasets, results, report. Must not exist, be empty, or hold the same quickstart.
        scale: small: a real result, at most 5 minutes on two cores; tiny: a test run of half a minute.
        seed: Of everything that is random.
    """
    require_framework()
    from trajworld.files import read_json
    from trajworld.studies.quickstart import SCALES, Quickstart
    from trajworld.study.report import RECORD, options
    from trajworld.study.run import LocalEngine, default_workers

    study = Quickstart(**SCALES[scale], seed=seed, datasets=str(output.absolute() / "datasets"))
    record = output / RECORD
    same = record.is_file() and read_json(record).get("options") == options(study)
    if output.exists() and not same and (not output.is_dir() or any(output.iterdir())):
        raise UsageError(f"{output} is not empty: name another folder with -o, or remove it first")
    workers = default_workers()
    _execute(study, output, output / "cells", LocalEngine(workers), workers, as_json)


def _run(
    kind: "type[Any]",
    *,
    output: Folder | None = None,
    store: Folder | None = None,
    engine: Literal["local", "ray"] = "local",
    address: str | None = None,
    workers: AtLeast1 | None = None,
    as_json: Json = False,
    **options: Any,
) -> None:
    """Run a study of the given options.

    Options:
        output: Folder for the report.  [default: trajworld-STUDY]
        store: Folder of finished cells.  [default: in the library's own folder]
        engine: Processes of this machine, or a Ray cluster.
        address: Of a running Ray cluster.  [default: one on this machine]
        workers: Processes of the local engine, each on its own cores.  [default: one per core; one on a GPU]
    """
    from trajworld.data.home import home
    from trajworld.study.run import LocalEngine, RayEngine, default_workers

    if address and engine != "ray":
        raise UsageError("--address is of a Ray cluster: add --engine ray")
    study = kind(**options)
    fixed: int | None = getattr(study, "workers", None)
    if fixed and (engine == "ray" or (workers or fixed) != fixed):
        raise UsageError(f"the study {kind.name} has its own number of workers, {fixed}, on this machine")
    count = workers or fixed or default_workers()
    chosen = RayEngine(address) if engine == "ray" else LocalEngine(count)
    folder = output or Path(f"trajworld-{kind.name}")
    _execute(study, folder, store or home() / "cells", chosen, count, as_json)


def _execute(
    study: "Study", output: Path, store_folder: Path, engine: "Engine", workers: int, as_json: bool
) -> None:
    """Prepare and run a study, write its report into ``output`` and print its tables.

    A ``TrajWorldError`` is raised where cells failed; the report of the others is written, as it is after Ctrl-C.
    """
    from trajworld.files import one_writer
    from trajworld.study.cells import Store
    from trajworld.study.report import claim_folder, write_report
    from trajworld.study.run import known_cells, origins, run_study

    err, new, store = console(stderr=True), not output.exists(), Store(store_folder)
    failed, stopped = list[str](), None
    claim_folder(study, output)
    try:
        # Preparing may take long: another process that writes is told of before.
        with one_writer(store.folder, "the store of cells"):
            study.prepare(workers, lambda line: say(err, line))
    except UsageError:
        if new:
            shutil.rmtree(output, ignore_errors=True)
        raise
    try:
        with cell_progress(err) as observe:
            failed = run_study(study, store, engine, observe)
    except KeyboardInterrupt as signal:
        stopped = signal
    table = store.table(known_cells(study, store))
    if stopped and not len(table):
        raise stopped
    pictures = study.pictures(table, store) if len(table) and hasattr(study, "pictures") else {}
    page = write_report(study, table, output, origins(study, store), pictures)
    if stopped:
        say(err, f"Stopped; the report of what is finished: {page}")
        raise stopped
    _show(study, table, page, as_json)
    if failed:
        cells = f"{len(failed)} cell{'s' * (len(failed) > 1)}"
        raise TrajWorldError(f"{cells} failed; the others are kept. The first: {failed[0]}")


def _show(study: "Study", table: Any, page: Path, as_json: bool) -> None:
    """Print the tables of a study."""
    from trajworld.study.cells import plain
    from trajworld.study.tables import terminal

    tables = study.tables(table) if len(table) else {}
    if as_json:
        found = {title: plain(one.to_dict("records")) for title, one in tables.items()}
        return print_json({"study": study.name, "report": str(page), "tables": found})
    for title, one in tables.items():
        print_table(terminal(title, one))
        click.echo()
    click.echo(f"Report: {page}")
