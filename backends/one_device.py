"""Frameworks that compute on one device here.

Keras 3.15 distributes over several on JAX alone: on PyTorch there is no ``keras.distribution``, and what there is for
TensorFlow is a prototype that says not to use it.
"""

from collections.abc import Callable
from typing import TypeVar

from trajworld.backend import Layout
from trajworld.errors import UsageError

_T = TypeVar("_T")


class OneDevice:
    """The part of :class:`trajworld.backend.Backend` that is about several devices, for one."""

    name: str

    def join(self, coordinator: str, processes: int | None = None, process: int | None = None) -> None:
        """Refuse."""
        raise UsageError(f"{self.name} trains in one process: several need KERAS_BACKEND=jax")

    def leave(self, problem: str | None = None) -> None:
        """Nothing was joined."""

    def distribute(self, devices: int | None, batch_size: int, usual: int | None = None) -> Layout:
        """One device."""
        if devices not in (None, 1):
            raise UsageError(
                f"{self.name} trains on one device, not {devices}: several need KERAS_BACKEND=jax"
            )
        return Layout()

    def lead_first(self, action: Callable[[], _T]) -> _T:
        """Do it."""
        return action()

    def any_process(self, flag: bool) -> bool:
        """There is no other."""
        return flag
