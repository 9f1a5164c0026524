"""Frameworks that compute on one device here, and keep their state in the variables.

Keras 3.15 distributes over several only on JAX; for TensorFlow there is a prototype that says not to use it.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import keras

from trajworld.backend import Layout, Tensor
from trajworld.errors import UsageError

_T = TypeVar("_T")


class OneDevice:
    """The part of :class:`trajworld.backend.Backend` that is about several devices, for one."""

    name: str

    def join(self, coordinator: str, processes: int | None = None, process: int | None = None) -> None:
        raise UsageError(f"{self.name} trains in one process: several need KERAS_BACKEND=jax")

    def leave(self, problem: str | None = None) -> None:
        """Nothing was joined."""

    def distribute(self, devices: int | None, batch_size: int, usual: int | None = None) -> Layout:
        if devices not in (None, 1):
            raise UsageError(
                f"{self.name} trains on one device, not {devices}: several need KERAS_BACKEND=jax"
            )
        return Layout()

    def lead_first(self, action: Callable[[], _T]) -> _T:
        return action()

    def any_process(self, flag: bool) -> bool:
        return flag


class InPlaceStep:
    """A training step that updates the model's and the optimiser's variables: nothing needs writing back."""

    def __init__(self, optimizer: Any, step: Callable[..., Tensor]) -> None:
        self._optimizer, self._step = optimizer, step

    def __call__(self, learning_rate: float, *arrays: Any) -> Tensor:
        self._optimizer.learning_rate = learning_rate
        return self._step(*tensors(arrays))

    def write_back(self) -> None:
        """Nothing to do."""


def tensors(arrays: Any) -> Any:
    """NumPy arrays as tensors on the device that Keras computes on; None stays."""
    return keras.tree.map_structure(
        lambda array: array if array is None else keras.ops.convert_to_tensor(array), arrays
    )
