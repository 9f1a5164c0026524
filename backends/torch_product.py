"""PyTorch: a product with a dense layer's kernel, by the library that is fastest for it on this processor."""

import functools
import platform
from typing import Any

import torch

from .processor import processor_lines

# What torch.compile makes of a linear layer on the CPU; there is no other way to oneDNN for float32.
_LINEAR = (
    getattr(torch.ops.mkldnn, "_linear_pointwise", None) if torch.backends.mkldnn.is_available() else None
)


def product(x: Any, kernel: Any) -> Any:
    """``x @ kernel``, ``[N, k]`` by ``[k, m]``."""
    if x.dtype == torch.float32 and x.device.type == "cpu" and _one_dnn_is_faster():
        return _OneDnnProduct.apply(x, kernel)
    return torch.matmul(x, kernel)


@functools.cache
def _one_dnn_is_faster() -> bool:
    """Whether this processor has instructions that PyTorch's usual library, MKL, does not use for float32.

    MKL leaves AVX-512 alone on AMD's processors: there oneDNN is 2.2 to 2.7 times as fast at this model's shapes.
    """
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
