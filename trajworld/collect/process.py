"""How a worker process starts; without NumPy, so that the thread limits are set before NumPy reads them."""

import os
import signal
import threading
from multiprocessing import parent_process

THREAD_LIMITS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


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
