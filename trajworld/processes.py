"""How a worker process starts; without NumPy, so that the thread limits are set before NumPy reads them."""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from multiprocessing import parent_process

THREAD_LIMITS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


@contextlib.contextmanager
def starting_workers() -> Iterator[None]:
    """For a block that starts processes: a Ctrl-C is this process's alone, as after :func:`start_worker`.

    Without it a Ctrl-C that comes while a worker imports its modules ends in Python's own traceback.
    """
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


def start_worker(threads: int = 1) -> None:
    """Use so many threads, leave Ctrl-C to the parent, and end when the parent does, however it ends."""
    for name in THREAD_LIMITS:
        os.environ[name] = str(threads)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
