"""PyTorch: eager steps, inference mode for whatever needs no gradient."""

from collections.abc import Callable
from typing import Any

import torch

from trajworld.backend import Device, Tensor

from .host_memory import keep_freed_memory, peak_resident_memory, release_freed_memory
from .one_device import InPlaceStep, OneDevice, tensors
from .torch_product import product

keep_freed_memory()


class TorchBackend(OneDevice):
    """See :class:`trajworld.backend.Backend`."""

    name = "torch"

    def compile(self, function: Callable[..., Any], model: Any) -> Callable[..., Any]:
        def run(*arrays: Any) -> Any:
            # Not inference_mode: a tensor made in it could not be used in training afterwards.
            with torch.no_grad():
                return function(*tensors(arrays))

        return run

    def product(self, x: Tensor, kernel: Tensor) -> Tensor:
        return product(x, kernel)

    def training_step(self, model: Any, optimizer: Any, loss: Callable[..., Tensor]) -> InPlaceStep:
        variables = model.trainable_variables
        optimizer.build(variables)

        def step(*arrays: Any) -> Tensor:
            value = loss(*arrays)
            gradients = torch.autograd.grad(value, [variable.value for variable in variables])
            with torch.no_grad():
                optimizer.apply(list(gradients), variables)
            return value.detach()

        return InPlaceStep(optimizer, step)

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


BACKEND = TorchBackend()
