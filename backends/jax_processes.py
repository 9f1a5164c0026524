"""Several JAX processes that compute together: joining, agreeing, and ending together."""

import contextlib
import itertools
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
import jax.experimental.multihost_utils

from trajworld.errors import TrajWorldError, UsageError

_T = TypeVar("_T")

_FAILED = "trajworld/failed"
_SIGNS_OF_LOSS = ("Gloo", "NCCL", "UNAVAILABLE", "ABORTED", "CANCELLED", "DEADLINE_EXCEEDED")
_LEAVING = threading.Event()
_SECONDS_BETWEEN_LOOKS = 0.5
# What made one process fail may be about to make this one fail, which then says so itself.
_SECONDS_OF_GRACE = 1.0
# Within this time all have looked, and ended.
_SECONDS_TO_END = 3.0


class JaxProcesses:
    """The part of :class:`trajworld.backend.Backend` that is about several processes."""

    def __init__(self) -> None:
        self._turns = itertools.count()

    def join(self, coordinator: str, processes: int | None = None, process: int | None = None) -> None:
        # Not keras.distribution.initialize: beside calling this it draws a seed that nothing here uses, by importing
        # every framework that is installed.
        given: dict[str, Any] = {}
        if coordinator != "auto":
            given = {
                "coordinator_address": coordinator,
                "num_processes": processes,
                "process_id": process,
                # Otherwise a cluster's variables are looked at for what was not given.
                "cluster_detection_method": "deactivate",
            }
        try:
            jax.distributed.initialize(**given)
        except (RuntimeError, ValueError) as error:
            raise TrajWorldError(f"the processes do not find each other: {_first_line(error)}") from None
        if jax.process_count() > 1:
            with _quiet():
                jax.experimental.multihost_utils.sync_global_devices("trajworld")
            threading.Thread(target=_end_when_another_failed, daemon=True).start()

    def leave(self, problem: str | None = None) -> None:
        client = _client()
        if client is None:
            return
        if problem is None:
            self.lead_first(lambda: None)
            return
        _LEAVING.set()
        with contextlib.suppress(RuntimeError):
            # Refused where another process failed first.
            client.key_value_set(_FAILED, f"{jax.process_index()} {problem}")
        if jax.process_index() == 0 and jax.process_count() > 1:
            # Nobody can be told anything without process 0; JAX ends the others by a core dump when it is gone.
            time.sleep(_SECONDS_TO_END)

    def lead_first(self, action: Callable[[], _T]) -> _T:
        client, processes, mine = _client(), jax.process_count(), jax.process_index()
        if client is None or processes == 1:
            return action()
        turn = f"trajworld/turn-{next(self._turns)}"
        if mine > 0:
            _hear(client, turn, 0)
        try:
            done = action()
        except TrajWorldError as error:
            client.key_value_set(f"{turn}/{mine}", f"{error.exit_code} {error}")
            raise
        client.key_value_set(f"{turn}/{mine}", "")
        for process in range(processes):
            if process != mine:
                _hear(client, turn, process)
        return done


@contextlib.contextmanager
def lost_process() -> Iterator[None]:
    """Say in one line where another process went away during a computation."""
    try:
        yield
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        if jax.process_count() == 1 or not any(sign in str(error) for sign in _SIGNS_OF_LOSS):
            raise
        # Another process that failed says why itself, and its word ends this one.
        time.sleep(_SECONDS_TO_END)
        raise TrajWorldError(
            f"another process has ended or cannot be reached; --resume in all of them ({_first_line(error)})"
        ) from None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep from standard output what Gloo prints there when processes first meet: ``--json`` prints there too."""
    sys.stdout.flush()
    held = os.dup(1)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 1)
        yield
    finally:
        os.dup2(held, 1)
        os.close(held)


def _client() -> Any:
    """The store of texts that the processes share, or None; JAX has no public name for it."""
    from jax._src.distributed import global_state

    return global_state.client


def _hear(client: Any, turn: str, process: int) -> None:
    """Wait until another process has taken its turn, and raise what it raised.

    Ctrl-C can interrupt, as it could not a wait inside the client.
    """
    while (answer := _read(client, f"{turn}/{process}")) is None:
        time.sleep(0.02)
    if answer:
        code, _, text = answer.partition(" ")
        kind = UsageError if int(code) == UsageError.exit_code else TrajWorldError
        raise kind(f"process {process}: {text}")


def _read(client: Any, key: str) -> str | None:
    try:
        return str(client.key_value_try_get(key))
    except RuntimeError as error:
        if "NOT_FOUND" in str(error):
            return None
        raise TrajWorldError(f"the coordinator cannot be reached: {_first_line(error)}") from None


def _end_when_another_failed() -> None:
    """Watch, in a thread: the main thread may be inside a computation that waits for the process that failed."""
    client, mine = _client(), str(jax.process_index())
    while True:
        time.sleep(_SECONDS_BETWEEN_LOOKS)
        try:
            found = _read(client, _FAILED)
        except TrajWorldError:
            return
        if found is None:
            continue
        if _LEAVING.wait(_SECONDS_OF_GRACE):
            return
        process, _, problem = found.partition(" ")
        if process != mine:
            sys.stdout.flush()
            print(f"Error: process {process} has ended: {problem}", file=sys.stderr, flush=True)
            os._exit(1)


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines()
    return lines[0][:300] if lines else type(error).__name__
