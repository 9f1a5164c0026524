"""Trials in several processes, each on cores of its own: faster than one process on all of them for small models.

This module imports no framework, so that a worker's cores are set before one counts them: XLA, TensorFlow and PyTorch
start as many threads as they are allowed cores.
"""

import contextlib
import functools
import multiprocessing
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trajworld.errors import TrajWorldError
from trajworld.processes import start_worker, starting_workers
from trajworld.transfer.plan import Trial, TrialSettings

if TYPE_CHECKING:
    from trajworld.transfer.trials import TrialResult


@dataclass(frozen=True)
class Task:
    """A trial and where its data and its model are; see ``trajworld.transfer.trials.run_trial``."""

    trial: Trial
    settings: TrialSettings
    pool: str
    test: str
    init: Path | None


def run_tasks(
    next_task: Callable[[], Task | None],
    finish: Callable[[Task, "TrialResult"], None],
    fail: Callable[[Task, TrajWorldError], None],
    workers: int,
) -> None:
    """Run tasks until there is none and none is running.

    Args:
        next_task: Gives a task that can be begun; None where there is none, or none before another has finished.
        finish: Told of each task that has finished, in this process.
        fail: Told of each task that could not be finished; the others go on.
        workers: Processes, each on cores of its own; 1 for this process, on all of them.

    Raises:
        TrajWorldError: A worker died, or ``finish`` or ``fail`` raised it. Tasks that have finished are finished.
        KeyboardInterrupt: Ctrl-C: the tasks that ran are lost.
    """
    with tempfile.TemporaryDirectory(prefix="trajworld-trials-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        if workers == 1:
            while (task := next_task()) is not None:
                _settle(task, functools.partial(run_task, task, folder), finish, fail)
            return
        running: dict[Future[TrialResult], Task] = {}
        with _pool(workers) as pool:
            try:
                while True:
                    while len(running) < workers and (task := next_task()) is not None:
                        with starting_workers():
                            running[pool.submit(run_task, task, folder)] = task
                    if not running:
                        return
                    for done in wait(running, return_when=FIRST_COMPLETED).done:
                        _settle(running[done], done.result, finish, fail)
                        del running[done]
            except BrokenProcessPool as error:
                # One death breaks the whole pool; what was finished before that is kept.
                wait(running)
                dead = {one for one in running if isinstance(one.exception(), BrokenProcessPool)}
                for done in running.keys() - dead:
                    _settle(running[done], done.result, finish, fail)
                trials = "; ".join(describe(running[one].trial) for one in dead) or "no trial"
                raise TrajWorldError(
                    f"a worker process died (memory, or a crash) while these ran: {trials}. What was finished is kept"
                ) from error


def _settle(
    task: Task,
    result: "Callable[[], TrialResult]",
    finish: Callable[[Task, "TrialResult"], None],
    fail: Callable[[Task, TrajWorldError], None],
) -> None:
    """Tell of a task's result, or of its failure; an error of ``finish`` itself is not the task's."""
    try:
        found = result()
    except TrajWorldError as error:
        fail(task, error)
    else:
        finish(task, found)


def run_task(task: Task, folder: Path) -> "TrialResult":
    """Run one task in this process; its run directory, made in ``folder``, is removed."""
    from trajworld.data.resolve import open_dataset
    from trajworld.transfer.trials import run_trial

    with tempfile.TemporaryDirectory(prefix="trial-", dir=folder, ignore_cleanup_errors=True) as name:
        run = Path(name) / "run"
        result = run_trial(task.trial, task.settings, task.pool, open_dataset(task.test), task.init, run)
        shutil.rmtree(run, ignore_errors=True)
        return result


def describe(trial: Trial) -> str:
    """A trial in a line."""
    return (
        f"{trial.environment}, {trial.side}, {trial.transitions:,} transitions, rate {trial.learning_rate:g}, "
        f"seed {trial.seed}"
    )


def default_workers() -> int:
    """One process a core, where a trial computes on the processor."""
    from trajworld.backend import active_backend

    return len(available_cores()) if active_backend().device().kind == "cpu" else 1


def available_cores() -> list[int]:
    """The numbers of the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def core_shares(cores: list[int], workers: int) -> list[list[int]]:
    """Each worker's cores: as even as can be, none of them shared but where there are more workers than cores."""
    if workers >= len(cores):
        return [[cores[worker % len(cores)]] for worker in range(workers)]
    return [cores[worker::workers] for worker in range(workers)]


@contextlib.contextmanager
def _pool(workers: int) -> Iterator[Executor]:
    # spawn: a fork would copy the threads of a framework that this process has imported.
    context = multiprocessing.get_context("spawn")
    shares: Any = context.SimpleQueue()
    for share in core_shares(available_cores(), workers):
        shares.put(share)
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=start_worker, initargs=(shares,))
    try:
        yield pool
    finally:
        # After a failure or a Ctrl-C, what they would still give is not wanted any more, and a trial takes long.
        for process in list((pool._processes or {}).values()):
            process.kill()
        pool.shutdown(wait=True, cancel_futures=True)
