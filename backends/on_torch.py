"""PyTorch: eager steps, inference mode for whatever needs no gradient."""

from collections.abc import Callable
from typing import Any

import keras
import torch

from trajworld.backend import Device, Tensor

from .host_memory import keep_freed_memory, peak_resident_memory, release_freed_memory
from .one_device import OneDevice
from .torch_product import product

keep_freed_memory()


class _TorchTrainingStep:
    def __init__(self, model: Any, optimizer: Any, loss: Callable[..., Tensor]) -> None:
        self._variables = model.trainable_variables
        self._optimizer = optimizer
        self._loss = loss
        optimizer.build(self._variables)

    def __call__(self, learning_rate: float, *arrays: Any) -> Tensor:
        self._optimizer.learning_rate = learning_rate
        parameters = [variable.value for variable in self._variables]
        value = self._loss(*_tensors(arrays))
        gradients = torch.autograd.grad(value, parameters)
        with torch.no_grad():
            self._optimizer.apply(list(gradients), self._variables)
        return value.detach()

    def write_back(self) -> None:
        """Nothing to do: the step updates the variables in place."""


class TorchBackend(OneDevice):
    """See :class:`trajworld.backend.Backend`."""

    name = "torch"

    def compile(self, function: Callable[..., Any], model: Any) -> Callable[..., Any]:
        def run(*arrays: Any) -> Any:
            # Not inference_mode: a tensor made in it could not be used in training afterwards.
            with torch.no_grad():
                return function(*_tensors(arrays))

        return run

    def product(self, x: Tensor, kernel: Tensor) -> Tensor:
        return product(x, kernel)

    def training_step(self, model: Any, optimizer: Any, loss: Callable[..., Tensor]) -> _TorchTrainingStep:
        return _TorchTrainingStep(model, optimizer, loss)

    def wait(self, value: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()

    def device(self) -> Device:
        if torch.cuda.is_available():
            return Device("gpu", torch.cuda.get_device_name(), torch.cuda.device_count())
        return Device("cpu", "cpu", 1)

    def peak_memory(self) -> int | None:
        if torch.cuda.is_available():
            return torch.cuda.max_memory_allocated()
        return peak_resident_memory()

    def free_memory(self) -> None:
        torch.compiler.reset()
        release_freed_memory()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _tensors(arrays: Any) -> Any:
    """NumPy arrays as tensors on the device that Keras computes on; None stays."""
    return keras.tree.map_structure(
        lambda array: array if array is None else keras.ops.convert_to_tensor(array), arrays
    )


BACKEND = TorchBackend()
