"""The pool of workers: their cores and threads, how they end, and that Ctrl-C is the parent's alone."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import CancelledError, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

import pytest
from waiting import runs, wait_for

from trajworld.errors import TrajWorldError, UsageError
from trajworld.processes import (
    THREAD_LIMITS,
    Workers,
    available_cores,
    core_shares,
    finished_tasks,
    starting_workers,
)

pytestmark = pytest.mark.once

needs_linux = pytest.mark.skipif(
    sys.platform != "linux", reason="chooses cores, looks into /proc, masks signals"
)


def _meet(folder, me, others):
    """Where the worker runs, once as many workers as ``others`` run at the same time."""
    (folder / str(me)).touch()
    wait_for(lambda: len(os.listdir(folder)) >= others)
    return sorted(os.sched_getaffinity(0)), {os.environ[name] for name in THREAD_LIMITS}


def _last_for_ever(path):
    path.write_text(str(os.getpid()))
    time.sleep(3600)


def _double(number):
    if number < 0:
        os._exit(1)
    return 2 * number


@pytest.mark.parametrize("workers", [1, 2])
def test_finished_tasks_are_given_with_their_keys(workers):
    tasks = [(f"task {number}", (number,)) for number in range(9)]
    found = list(finished_tasks(_double, tasks, workers, str))
    assert (found if workers == 1 else sorted(found)) == [(key, 2 * number) for key, (number,) in tasks]


def test_a_worker_that_dies_is_an_error_that_names_the_tasks():
    with pytest.raises(TrajWorldError, match="worker process died while it ran one of a"):
        list(finished_tasks(_double, [("a", (-1,)), ("a", (1,))], 2, str))


def test_a_pool_can_be_left_while_a_worker_sends_its_result():
    for delay in (0.1, 0.2, 0.3):
        pool = Workers(1).__enter__()
        pool.submit(bytes, 1).result(timeout=240)
        pool.submit(bytes, 2**28)
        time.sleep(delay)
        leaving = threading.Thread(target=pool.__exit__, daemon=True)
        leaving.start()
        leaving.join(60)
        assert not leaving.is_alive(), "the pool waits for the rest of a result whose sender is dead"


@needs_linux
@pytest.mark.parametrize("pinned", [True, False])
def test_pinned_workers_share_the_cores_others_have_one_thread(tmp_path, pinned):
    cores = available_cores()
    if len(cores) < 2:
        pytest.skip("one core cannot be shared")
    with Workers(2, pinned=pinned) as workers:
        tasks = [workers.submit(_meet, tmp_path, number, 2) for number in range(2)]
        found = [task.result(timeout=240) for task in tasks]
    if pinned:
        assert sorted(core for share, _ in found for core in share) == cores, "each has cores of its own"
        assert all(threads == {str(len(share))} for share, threads in found)
    else:
        assert found == [(cores, {"1"})] * 2


def test_cores_are_shared_evenly_by_at_least_one_worker():
    with pytest.raises(UsageError, match="at least 1"):
        Workers(0)
    assert core_shares([0, 1, 4, 5, 7], 2) == [[0, 4, 7], [1, 5]]
    assert core_shares([3, 8], 3) == [[3], [8], [3]]


@needs_linux
def test_leaving_kills_a_running_task_at_once(tmp_path):
    path = tmp_path / "pid"
    with Workers(1) as workers:
        workers.submit(_last_for_ever, path)
        waiting = workers.submit(_last_for_ever, tmp_path / "never")
        wait_for(lambda: path.exists() and path.read_text())
        began = time.monotonic()
    assert time.monotonic() - began < 60
    assert not runs(path.read_text())
    with pytest.raises((BrokenProcessPool, CancelledError)):
        waiting.result(timeout=60)
    assert not (tmp_path / "never").exists()


@needs_linux
def test_workers_end_with_a_parent_that_was_killed(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import os, time\nfrom trajworld.processes import Workers\nif __name__ == '__main__':\n"
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


@needs_linux
def test_a_worker_is_born_deaf_to_ctrl_c_and_stays_so():
    # Without the initializer: what a worker is before it has imported anything of ours.
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        with starting_workers():
            born = pool.submit(_blocked)
        assert born.result()
    with Workers(1) as workers:
        assert workers.submit(_survives).result()
    assert not _blocked()


@needs_linux
def test_a_ctrl_c_meanwhile_is_not_lost_to_the_parent():
    def start_while_interrupted():
        with starting_workers():
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        start_while_interrupted()
    assert not _blocked()
