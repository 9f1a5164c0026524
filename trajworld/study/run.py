"""Running a study: its missing cells, on an engine, each finished cell kept at once."""

import itertools
import logging
import os
import time
import warnings
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, wait
from dataclasses import replace
from statistics import fmean
from typing import Any, ClassVar, NamedTuple, Protocol

import pandas as pd
from matplotlib.figure import Figure

from trajworld.backend import active_backend
from trajworld.charts import Look
from trajworld.errors import TrajWorldError, first_line
from trajworld.files import one_writer
from trajworld.processes import Workers, available_cores
from trajworld.study.cells import Cell, Result, Store, Task
from trajworld.versions import versions

Say = Callable[[str], None]


class Study(Protocol):
    """A frozen dataclass whose fields are its options, and whose docstring is its protocol, in plain words."""

    name: ClassVar[str]
    example: ClassVar[str]
    """Options, for an example of its command."""

    def prepare(self, workers: int, say: Say) -> None:
        """Make what the cells need and is missing, such as datasets; ``say`` is called with a line of news."""

    def cells(self, table: pd.DataFrame) -> list[Cell]:
        """The cells, as far as they are known from what is finished; ``table`` is of those that were known before."""

    def tables(self, table: pd.DataFrame) -> dict[str, pd.DataFrame]:
        """Tables for people, by title; see :mod:`trajworld.study.tables` for their columns."""

    def charts(self, table: pd.DataFrame, look: Look) -> dict[str, Figure]:
        """Charts, by title."""


Measured = tuple[Result, dict[str, Any]]
"""A cell's result and its origin; see :func:`run_cell`."""


class LocalEngine:
    """Processes of this machine, each on its own cores; one worker is this process itself, on all its cores."""

    def __init__(self, workers: int) -> None:
        self.slots = workers
        self._workers: Workers | None = None

    def __enter__(self) -> "LocalEngine":
        self._workers = Workers(self.slots, pinned=True).__enter__() if self.slots > 1 else None
        return self

    def __exit__(self, *_: object) -> None:
        if self._workers is not None:
            self._workers.__exit__()

    def submit(self, cell: Cell) -> "Future[Measured]":
        """Begin a cell; without workers, run it to its end."""
        if self._workers is not None:
            try:
                return self._workers.submit(run_cell, cell.task, cell.settings, cell.places)
            except BrokenExecutor:
                # A worker has died, and its pool with it; the cells that ran know by their futures.
                self.__exit__()
                return self.__enter__().submit(cell)
        future: Future[Measured] = Future()
        try:
            future.set_result(run_cell(cell.task, cell.settings, cell.places))
        except Exception as error:
            future.set_exception(error)
        return future


class RayEngine:
    """A Ray cluster: one of this machine that ends with the study, or the one at ``address``.

    Every machine must see the data and weights under the same paths; only this process writes the store.
    """

    def __init__(self, address: str | None = None) -> None:
        self.slots, self._address = 0, address

    def __enter__(self) -> "RayEngine":
        import ray

        names = ("KERAS_BACKEND", "MINARI_DATASETS_PATH", "TRAJWORLD_HOME")
        environment = {"env_vars": {name: os.environ[name] for name in names if name in os.environ}}
        quiet = {"log_to_driver": False, "include_dashboard": False, "logging_level": logging.ERROR}
        try:
            with warnings.catch_warnings():
                # JAX warns of every fork; Ray's end in another program at once.
                warnings.simplefilter("ignore", RuntimeWarning)
                ray.init(address=self._address, runtime_env=environment, **quiet)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise TrajWorldError(f"Ray does not start: {first_line(error)}") from None
        self.slots = max(1, int(ray.cluster_resources().get("CPU", 1)))
        self._remote = ray.remote(num_cpus=1, max_retries=0)(run_cell)
        return self

    def __exit__(self, *_: object) -> None:
        import ray

        ray.shutdown()

    def submit(self, cell: Cell) -> "Future[Measured]":
        """Begin a cell somewhere in the cluster."""
        return self._remote.remote(cell.task, cell.settings, cell.places).future()


Engine = LocalEngine | RayEngine
"""Where cells are computed; a context manager, with ``slots`` for as many cells at once."""


def default_workers() -> int:
    """One process per core where cells compute on the processor; one on a GPU."""
    return len(available_cores()) if active_backend().device().kind == "cpu" else 1


def run_cell(task: Task, settings: Mapping[str, Any], places: Mapping[str, str]) -> Measured:
    """Measure; the result, and its origin: ``seconds``, ``backend``, ``device``, ``cores`` and ``versions``."""
    began = time.perf_counter()
    found = task(settings, places)
    seconds = round(time.perf_counter() - began, 3)
    result = found if isinstance(found, Result) else Result(found)
    origin = {"seconds": seconds, **(result.origin or _here()), "cores": len(available_cores())}
    return result, {**origin, "versions": versions()}


def _here() -> dict[str, str]:
    backend = active_backend()
    return {"backend": backend.name, "device": "{0.name} ({0.kind})".format(backend.device())}


class Progress(NamedTuple):
    """What is known when a cell has ended: why it failed, and how many of the known cells are finished."""

    cell: Cell
    problem: str | None
    done: int
    total: int
    seconds_left: float


def known_cells(study: Study, store: Store) -> list[Cell]:
    """All cells of a study that follow from what is finished in the store."""
    cells: list[Cell] = []
    while True:
        found = list({cell.key: cell for cell in study.cells(store.table(cells))}.values())
        if [cell.key for cell in found] == [cell.key for cell in cells]:
            return cells
        cells = found


def run_study(
    study: Study, store: Store, engine: Engine, observe: Callable[[Progress], None] = lambda progress: None
) -> list[str]:
    """Run the cells of a prepared study that the store does not hold, each kept at once; then ``observe`` is called.

    A cell that fails is reported and stops nothing. When a worker process dies, the cells that ran are run again one at
    a time; one that then ends its worker again has failed. Ctrl-C loses the cells that run, and no others.

    Returns:
        A line for each cell that failed.

    Raises:
        TrajWorldError: Another process writes to the store, or the disk is full.
    """
    failed: dict[str, str] = {}
    suspects: dict[str, Cell] = {}
    running: dict[Future[Measured], Cell] = {}
    took: dict[str, list[float]] = {}

    def ended(cell: Cell, problem: str | None = None) -> None:
        suspects.pop(cell.key, None)
        if problem is not None:
            failed[cell.key] = f"{cell}: {problem}"
        cells = known_cells(study, store)
        missing = [one for one in cells if store.get(one) is None and one.key not in failed]
        every = list(itertools.chain(*took.values())) or [0.0]
        left = sum(fmean(took.get(one.task.__name__, every)) for one in missing) / engine.slots
        observe(Progress(cell, problem, len(cells) - len(missing) - len(failed), len(cells), left))

    with one_writer(store.folder, "the store of cells"), engine:
        while True:
            slots, ready = 1, list(suspects.values())
            if not suspects:
                begun = failed.keys() | {cell.key for cell in running.values()}
                cells = known_cells(study, store)
                ready = [cell for cell in cells if cell.key not in begun and store.get(cell) is None]
                slots = engine.slots
            for cell in ready[: slots - len(running)]:
                places = {"store": str(store.folder.absolute()), **cell.places}
                running[engine.submit(replace(cell, places=places))] = cell
            if not running:
                return list(failed.values())
            died: list[Cell] = []
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                cell = running.pop(future)
                try:
                    result, origin = future.result()
                except BrokenExecutor:
                    died.append(cell)
                except Exception as error:
                    ended(cell, _line(error))
                else:
                    store.put(cell, result, origin)
                    took.setdefault(cell.task.__name__, []).append(origin["seconds"])
                    ended(cell)
            if died:
                # One death breaks the whole pool: what else ran is lost, too.
                died += running.values()
                wait(running)
                running.clear()
            for cell in died:
                if cell.key in suspects:
                    ended(cell, "its worker process died (memory, or a crash)")
                else:
                    suspects[cell.key] = cell


def origins(study: Study, store: Store) -> dict[str, Any]:
    """What ran the finished cells: their number and seconds, and each model, backend, device and version that occurs.

    A model is known by its digest, where a cell's settings hold one under ``init``.
    """
    found = [record for cell in known_cells(study, store) if (record := store.get(cell)) is not None]
    facts: dict[str, list[str]] = {"model": [], "backend": [], "device": []}
    for record in found:
        origin, init = record["origin"], record["settings"].get("init") or {}
        pairs = {"model": init.get("digest"), "backend": origin["backend"], "device": origin["device"]}
        for name, value in (pairs | origin["versions"]).items():
            facts.setdefault(name, []).extend([value] if value else [])
    return {
        "cells": len(found),
        "seconds": round(sum(record["origin"]["seconds"] for record in found), 1),
        **{name: ", ".join(dict.fromkeys(values)) for name, values in facts.items() if values},
    }


def _line(error: BaseException) -> str:
    # Ray's own errors hold the task's as their cause.
    error = getattr(error, "cause", None) or error
    text = " ".join(str(error).split()) or type(error).__name__
    return text if isinstance(error, TrajWorldError) else f"{type(error).__name__}: {text}"
