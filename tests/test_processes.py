"""Workers are started so that a Ctrl-C is the parent's alone."""

import multiprocessing
import os
import signal
import time
from concurrent.futures import ProcessPoolExecutor

import pytest

from trajworld.processes import start_worker, starting_workers

pytestmark = pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="no signal masks here")


def _blocked() -> bool:
    return signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def _survives() -> bool:
    os.kill(os.getpid(), signal.SIGINT)
    return True


def test_a_worker_is_born_deaf_to_ctrl_c_and_stays_so() -> None:
    context = multiprocessing.get_context("spawn")
    # Without the initializer: what a worker is before it has imported anything of ours.
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        with starting_workers():
            born = pool.submit(_blocked)
        assert born.result()
    with ProcessPoolExecutor(1, mp_context=context, initializer=start_worker) as pool:
        with starting_workers():
            born = pool.submit(_survives)
        assert born.result()
    assert not _blocked()


def test_a_ctrl_c_meanwhile_is_not_lost_to_the_parent() -> None:
    seen = []
    before = signal.signal(signal.SIGINT, lambda *_: seen.append("Ctrl-C"))
    try:
        with starting_workers():
            os.kill(os.getpid(), signal.SIGINT)
        deadline = time.monotonic() + 10
        while not seen and time.monotonic() < deadline:
            time.sleep(0.01)
    finally:
        signal.signal(signal.SIGINT, before)
    assert seen == ["Ctrl-C"]
    assert not _blocked()
