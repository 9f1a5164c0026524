"""JAX on several devices and in several processes: data parallel, joining, agreeing, and ending together."""

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
import keras
import numpy as np

from trajworld.backend import Layout
from trajworld.errors import TrajWorldError, UsageError, first_line

_T = TypeVar("_T")

_FAILED = "trajworld/failed"
_SIGNS_OF_LOSS = ("Gloo", "NCCL", "UNAVAILABLE", "ABORTED", "CANCELLED", "DEADLINE_EXCEEDED")
_LEAVING = threading.Event()
_SECONDS_BETWEEN_LOOKS = 0.5
# The cause of one process's failure may be about to fail this one too, which then reports it itself.
_SECONDS_OF_GRACE = 1.0
# Within this time all have looked, and ended.
_SECONDS_TO_END = 3.0


class JaxDevices:
    """The part of :class:`trajworld.backend.Backend` that is about several devices and processes."""

    def __init__(self) -> None:
        self._turns = itertools.count()

    def join(self, coordinator: str, processes: int | None = None, process: int | None = None) -> None:
        # Not keras.distribution.initialize, which also imports every framework that is installed, to draw a seed.
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
            raise TrajWorldError(f"the processes do not find each other: {first_line(error)}") from None
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
            # Nothing can be sent without process 0; JAX ends the others by a core dump when it is gone.
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

    def distribute(self, devices: int | None, batch_size: int, usual: int | None = None) -> Layout:
        layout = _layout(devices, batch_size, usual)
        if layout.devices == 1:
            keras.distribution.set_distribution(None)
        else:
            names = keras.distribution.list_devices()[: layout.devices]
            kind = keras.distribution.DataParallel if layout.processes == 1 else _AcrossProcesses
            # Not by Keras: each process makes the whole batch and hands over its own part.
            keras.distribution.set_distribution(kind(devices=names, auto_shard_dataset=False))
        return layout

    def any_process(self, flag: bool) -> bool:
        spread = keras.distribution.distribution()
        if jax.process_count() == 1 or spread is None:
            return flag
        mesh = spread.device_mesh.backend_mesh
        every, one = _shardings(mesh)
        mine = np.full(1, flag)
        flags = jax.make_array_from_callback((mesh.size,), one, lambda index: mine)
        with _lost_process():
            return bool(jax.jit(jax.numpy.any, out_shardings=every)(flags))


class _AcrossProcesses(keras.distribution.DataParallel):
    """Variables stay in their process until they are computed with: all processes make or read the same.

    Keras would compare each value over all processes whenever one is assigned.
    """

    def get_variable_layout(self, variable: Any) -> None:
        """None of its own."""


def jit_over_devices(
    function: Callable[..., Any], replicated: int, donate_argnums: tuple[int, ...] = ()
) -> Callable[..., Any]:
    """``jax.jit``, over the devices that ``distribute`` chose last; exactly ``jax.jit`` where that is one.

    It computes what one device would, sums over the whole batch included, and its results are whole on every device.
    The first ``replicated`` arguments are needed whole on each.
    """
    spread = keras.distribution.distribution()
    if spread is None:
        return jax.jit(function, donate_argnums=donate_argnums)
    every, shared = _shardings(spread.device_mesh.backend_mesh)
    parts = spread.device_mesh.devices.size
    compiled = jax.jit(function, donate_argnums=donate_argnums, out_shardings=every)

    def call(*arguments: Any) -> Any:
        whole, arrays = arguments[:replicated], arguments[replicated:]
        sizes = (np.shape(leaf) for leaf in jax.tree.leaves(arrays))
        batch = next((shape[0] for shape in sizes if shape), 0)

        def place(leaf: Any) -> Any:
            # Arrays of one axis are shared by all windows (variates); their length may equal the batch's.
            in_batch = np.ndim(leaf) > 1 and np.shape(leaf)[0] == batch and batch % parts == 0
            return _placed(leaf, shared if in_batch else every)

        whole = jax.tree.map(lambda leaf: _placed(leaf, every), whole)
        with _lost_process():
            return compiled(*whole, *jax.tree.map(place, arrays))

    return call


def _placed(array: Any, sharding: Any) -> Any:
    """The array on the devices, each process bringing what its own devices need."""
    if isinstance(array, jax.Array):
        # What spans processes was placed before.
        if array.sharding == sharding or not array.is_fully_addressable:
            return array
        if jax.process_count() == 1:
            return jax.device_put(array, sharding)
    host = np.asarray(array)
    host = host.astype(jax.dtypes.canonicalize_dtype(host.dtype), copy=False)
    return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])


def _shardings(mesh: Any) -> tuple[Any, Any]:
    """Whole on every device, and split along the first axis."""
    spec = jax.sharding.PartitionSpec
    return jax.sharding.NamedSharding(mesh, spec()), jax.sharding.NamedSharding(mesh, spec(*mesh.axis_names))


def _layout(devices: int | None, batch_size: int, usual: int | None) -> Layout:
    processes, process = jax.process_count(), jax.process_index()
    kind, found = jax.devices()[0].platform, jax.device_count()
    if processes > 1:
        if devices not in (None, found):
            raise UsageError(
                f"{processes} processes train on all of their {found} devices: leave out --devices {devices}"
            )
        devices = found
    elif devices is None:
        at_most = usual if usual and usual <= found else 1 if kind == "cpu" else found
        devices = max(count for count in range(1, at_most + 1) if batch_size % count == 0)
    if devices < 1:
        raise UsageError(f"the number of devices must be at least 1, not {devices}")
    if devices > found:
        hint = f": JAX_NUM_CPU_DEVICES={devices} divides one processor" if kind == "cpu" else ""
        raise UsageError(f"JAX finds {found} {kind} device{'s' * (found > 1)} here, not {devices}{hint}")
    if batch_size % devices:
        near = max(1, round(batch_size / devices)) * devices
        raise UsageError(
            f"a batch of {batch_size} windows cannot be split evenly among {devices} devices: choose a batch size "
            f"that is a multiple of {devices}, such as {near}"
        )
    return Layout(devices, processes, process)


@contextlib.contextmanager
def _lost_process() -> Iterator[None]:
    """Say in one line where another process went away during a computation."""
    try:
        yield
    except (jax.errors.JaxRuntimeError, ValueError) as error:
        if jax.process_count() == 1 or not any(sign in str(error) for sign in _SIGNS_OF_LOSS):
            raise
        # A process that failed says why itself, which ends this one.
        time.sleep(_SECONDS_TO_END)
        raise TrajWorldError(
            f"another process has ended or cannot be reached; --resume in all of them ({first_line(error)})"
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
    """Wait, as Ctrl-C can interrupt, until another process has taken its turn, and raise what it raised."""
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
        raise TrajWorldError(f"the coordinator cannot be reached: {first_line(error)}") from None


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
