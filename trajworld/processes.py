"""Worker processes: the one pool of the project, and how its workers start.

Without NumPy or a framework, so that the thread limits and cores are set before one of them reads them: XLA,
TensorFlow and PyTorch start as many threads as there are cores that they may use.
"""

import contextlib
import itertools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import parent_process
from typing import Any, ParamSpec, TypeVar

from trajworld.errors import TrajWorldError, UsageError

THREAD_LIMITS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")

Progress = Callable[[int, int | None, str], None]
"""Called during a long job with the amount done, the total if known, and a label."""

_P = ParamSpec("_P")
_T = TypeVar("_T")
_K = TypeVar("_K")


class Workers(ProcessPoolExecutor):
    """Worker processes that end with this context manager, and with this process, even if it is killed.

    Leaving it kills what still runs. Ctrl-C reaches only this process. When a worker dies, the futures of all that was
    submitted raise ``concurrent.futures.process.BrokenProcessPool``.
    """

    def __init__(self, count: int, *, pinned: bool = False) -> None:
        """Set up ``count`` processes, which start as tasks are submitted; a ``UsageError`` for less than one.

        If ``pinned``, each gets its own cores and as many threads, otherwise one thread on any core.
        """
        if count < 1:
            raise UsageError(f"the number of workers must be at least 1, not {count}")
        self.count = count
        # spawn: a fork would copy the threads of a framework that this process may have imported.
        context = multiprocessing.get_context("spawn")
        shares = context.SimpleQueue() if pinned else None
        if shares is not None:
            for share in core_shares(available_cores(), count):
                shares.put(share)
        super().__init__(count, mp_context=context, initializer=start_worker, initargs=(shares,))

    def __exit__(self, *_: object) -> None:
        for process in list((self._processes or {}).values()):
            process.kill()
        # A worker killed while sending leaves a partial message; the pool would wait forever for the rest.
        results: Any = self._result_queue
        if results is not None:
            results._writer.close()
        self.shutdown(wait=True, cancel_futures=True)

    def submit(self, fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> "Future[_T]":
        """Have a worker call a function that can be pickled."""
        with starting_workers():
            return super().submit(fn, *args, **kwargs)


def started_workers(count: int) -> contextlib.AbstractContextManager[Workers | None]:
    """Workers for a with statement; None in place of a single one, which is this process."""
    return contextlib.nullcontext() if count == 1 else Workers(count)


def worker_died(task: str) -> TrajWorldError:
    """The error to raise for a ``BrokenProcessPool`` while workers ran ``task``."""
    return TrajWorldError(
        f"a worker process died while it ran {task} (memory, a crash, or a script without "
        "`if __name__ == '__main__':`); with one worker, everything runs in this process"
    )


def finished_tasks(
    function: Callable[..., _T],
    tasks: Iterable[tuple[_K, tuple[Any, ...]]],
    workers: int,
    name: Callable[[_K], str],
) -> Generator[tuple[_K, _T], None, None]:
    """Each task's key and the function's result of its arguments, in the order in which they finish.

    A ``TrajWorldError`` that names what ran is raised where a worker died.
    """
    with started_workers(workers) as pool:
        if pool is None:
            yield from ((key, function(*arguments)) for key, arguments in tasks)
            return
        left, running = iter(tasks), dict[Future[_T], _K]()
        try:
            while True:
                # Few at a time, so that results do not pile up in memory.
                for key, arguments in itertools.islice(left, workers + 2 - len(running)):
                    running[pool.submit(function, *arguments)] = key
                if not running:
                    return
                for done in wait(running, return_when=FIRST_COMPLETED).done:
                    found = done.result()
                    yield running.pop(done), found
        except BrokenProcessPool as error:
            names = dict.fromkeys(map(name, running.values()))
            raise worker_died(f"one of {', '.join(names)}") from error


def available_cores() -> list[int]:
    """The numbers of the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def core_shares(cores: list[int], workers: int) -> list[list[int]]:
    """Each worker's cores: as evenly as possible, shared only if there are more workers than cores."""
    return [cores[worker::workers] or [cores[worker % len(cores)]] for worker in range(workers)]


def start_worker(shares: Any = None) -> None:
    """Set up a worker, by a queue with the cores of each, or None: one thread on any core; Ctrl-C is the parent's."""
    cores = None if shares is None else shares.get()
    for name in THREAD_LIMITS:
        os.environ[name] = str(len(cores or [0]))
    if cores is not None and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cores)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


@contextlib.contextmanager
def starting_workers() -> Iterator[None]:
    """Block Ctrl-C while a worker starts: one that came while it imports its modules would end in a traceback."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    from multiprocessing import resource_tracker

    # Python's helper is started with the first process, and lets signals through again when it runs.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_with_parent() -> None:
    if parent := parent_process():
        parent.join()
        os._exit(1)
