"""The pool of workers: their cores and threads, how they end, and that Ctrl-C is the parent's alone."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import CancelledError, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import pytest
from waiting import runs, wait_for

from trajworld.errors import UsageError
from trajworld.processes import (
    THREAD_LIMITS,
    Workers,
    available_cores,
    core_shares,
    start_worker,
    starting_workers,
)

needs_affinity = pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity"), reason="cores cannot be chosen here"
)
needs_proc = pytest.mark.skipif(not os.path.isdir("/proc"), reason="looks for processes in /proc")
needs_masks = pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="no signal masks here")


def _meet(folder, me, others):
    """Where the worker runs, once as many workers as ``others`` run at the same time."""
    (folder / str(me)).touch()
    wait_for(lambda: len(os.listdir(folder)) >= others)
    return sorted(os.sched_getaffinity(0)), {os.environ[name] for name in THREAD_LIMITS}


def _last_for_ever(path):
    path.write_text(str(os.getpid()))
    time.sleep(3600)


@needs_affinity
@pytest.mark.parametrize("pinned", [True, False])
def test_pinned_workers_share_the_cores_others_have_one_thread(tmp_path, pinned):
    cores = available_cores()
    if len(cores) < 2:
        pytest.skip("one core cannot be shared")
    with Workers(2, pinned=pinned) as workers:
        tasks = [workers.submit(_meet, tmp_path, number, 2) for number in range(2)]
        (first, threads), (second, more_threads) = [task.result(timeout=60) for task in tasks]
    if pinned:
        assert not set(first) & set(second)
        assert sorted(first + second) == cores
        assert (threads, more_threads) == ({str(len(first))}, {str(len(second))})
    else:
        assert first == second == cores
        assert threads == more_threads == {"1"}


def test_cores_are_shared_evenly():
    assert core_shares([0, 1, 4, 5, 7], 2) == [[0, 4, 7], [1, 5]]
    assert core_shares([3, 8], 3) == [[3], [8], [3]]


def test_there_is_at_least_one_worker():
    with pytest.raises(UsageError, match="at least 1"):
        Workers(0)


@needs_proc
def test_leaving_kills_a_running_task_at_once(tmp_path):
    path = tmp_path / "pid"
    with Workers(1) as workers:
        workers.submit(_last_for_ever, path)
        waiting = workers.submit(_last_for_ever, tmp_path / "never")
        wait_for(lambda: path.exists() and path.read_text())
        began = time.monotonic()
    assert time.monotonic() - began < 10
    assert not runs(path.read_text())
    with pytest.raises((BrokenProcessPool, CancelledError)):
        waiting.result(timeout=60)
    assert not (tmp_path / "never").exists()


def test_a_worker_that_dies_breaks_the_pool(tmp_path):
    path = tmp_path / "pid"
    with Workers(2) as workers:
        tasks = [workers.submit(_last_for_ever, path), workers.submit(_last_for_ever, tmp_path / "other")]
        wait_for(lambda: path.exists() and path.read_text())
        os.kill(int(path.read_text()), signal.SIGKILL)
        for task in tasks:
            with pytest.raises(BrokenProcessPool):
                task.result(timeout=60)
        with pytest.raises(BrokenProcessPool):
            workers.submit(os.getpid)


@needs_proc
def test_workers_end_with_a_parent_that_was_killed(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import os, time\n"
        "from trajworld.processes import Workers\n"
        "if __name__ == '__main__':\n"
        "    with Workers(1) as workers:\n"
        "        print(workers.submit(os.getpid).result(), flush=True)\n"
        "        workers.submit(time.sleep, 3600).result()\n"
    )
    parent = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True)
    worker = parent.stdout.readline().strip()
    assert runs(worker)
    parent.kill()
    parent.communicate()
    wait_for(lambda: not runs(worker))


def _blocked():
    return signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def _survives():
    os.kill(os.getpid(), signal.SIGINT)
    return True


@needs_masks
def test_a_worker_is_born_deaf_to_ctrl_c_and_stays_so():
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


@needs_masks
def test_a_ctrl_c_meanwhile_is_not_lost_to_the_parent():
    seen = []
    before = signal.signal(signal.SIGINT, lambda *_: seen.append("Ctrl-C"))
    try:
        with starting_workers():
            os.kill(os.getpid(), signal.SIGINT)
        wait_for(lambda: seen)
    finally:
        signal.signal(signal.SIGINT, before)
    assert not _blocked()
