"""JAX on several devices and in several processes: data parallel, set up through ``keras.distribution``."""

from collections.abc import Callable
from typing import Any

import jax
import keras
import numpy as np

from trajworld.backend import Layout
from trajworld.errors import UsageError

from .jax_processes import JaxProcesses, lost_process


class JaxDevices(JaxProcesses):
    """The part of :class:`trajworld.backend.Backend` that is about several devices."""

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
        with lost_process():
            return bool(jax.jit(jax.numpy.any, out_shardings=every)(flags))


class _AcrossProcesses(keras.distribution.DataParallel):
    """Variables stay in their process until they are computed with.

    Keras would compare each value over all processes whenever one is assigned, though it be about to be replaced by a
    file's. Here they are equal because all processes make or read the same.
    """

    def get_variable_layout(self, variable: Any) -> None:
        """None of its own."""


def jit_over_devices(
    function: Callable[..., Any], replicated: int, donate_argnums: tuple[int, ...] = ()
) -> Callable[..., Any]:
    """``jax.jit``, over the devices that ``distribute`` chose last; exactly ``jax.jit`` where that is one.

    The compiled program computes what one device would: sums over the batch are over the whole batch, and indices into
    it are global. Its results are whole on every device, so that each process can read them.

    Every device needs the first ``replicated`` arguments whole.
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
            # Of one axis are what all windows share (variates); their number may happen to be the batch's.
            in_batch = np.ndim(leaf) > 1 and np.shape(leaf)[0] == batch and batch % parts == 0
            return _placed(leaf, shared if in_batch else every)

        whole = jax.tree.map(lambda leaf: _placed(leaf, every), whole)
        with lost_process():
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
    """Whole on every device, and shared out along the first axis."""
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
            f"a batch of {batch_size} windows cannot be shared out evenly to {devices} devices: choose a batch size "
            f"that is a multiple of {devices}, such as {near}"
        )
    return Layout(devices, processes, process)
