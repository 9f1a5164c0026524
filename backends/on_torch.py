"""PyTorch: eager steps, and products by the library that is fastest for them on this processor."""

import functools
import platform
from collections.abc import Callable
from typing import Any

import torch

from trajworld.backend import Device, Tensor

from .host_memory import keep_freed_memory, peak_resident_memory, release_freed_memory
from .one_device import InPlaceStep, OneDevice, tensors
from .processor import processor_lines

keep_freed_memory()
# What torch.compile makes of a linear layer on the CPU; there is no other way to oneDNN for float32.
_LINEAR = (
    getattr(torch.ops.mkldnn, "_linear_pointwise", None) if torch.backends.mkldnn.is_available() else None
)


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
        if x.dtype == torch.float32 and x.device.type == "cpu" and _one_dnn_is_faster():
            return _OneDnnProduct.apply(x, kernel)
        return torch.matmul(x, kernel)

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
        return torch.cuda.max_memory_allocated() if torch.cuda.is_available() else peak_resident_memory()

    def free_memory(self) -> None:
        torch.compiler.reset()
        release_freed_memory()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


@functools.cache
def _one_dnn_is_faster() -> bool:
    """Whether MKL, PyTorch's usual library, leaves AVX-512 alone, as on AMD: oneDNN was 2.2 to 2.7 times as fast."""
    if _LINEAR is None or torch.backends.cpu.get_cpu_capability() != "AVX512":
        return False
    return "AuthenticAMD" in "".join([platform.processor(), *processor_lines("vendor_id")])


class _OneDnnProduct(torch.autograd.Function):
    """``x @ kernel`` and its gradient, all three products by oneDNN."""

    @staticmethod
    def forward(context: Any, x: Any, kernel: Any) -> Any:
        context.save_for_backward(x, kernel)
        return _times_transposed(x, kernel.T)

    @staticmethod
    def backward(context: Any, gradient: Any) -> tuple[Any, Any]:
        x, kernel = context.saved_tensors
        of_x = _times_transposed(gradient, kernel) if context.needs_input_grad[0] else None
        if not context.needs_input_grad[1]:
            return of_x, None
        # The wider of the two on the right: the other way round takes half as long again.
        if kernel.shape[0] > kernel.shape[1]:
            return of_x, _times_transposed(gradient.T, x.T).T
        return of_x, _times_transposed(x.T, gradient.T)


def _times_transposed(left: Any, right: Any) -> Any:
    """``left @ right.T``."""
    assert _LINEAR is not None
    return _LINEAR(left, right, None, "none", [], "")


BACKEND = TorchBackend()
