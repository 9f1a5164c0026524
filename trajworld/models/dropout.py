"""Dropout whose mask is a function of (seed, site, position), the same on every backend.

A training step must replay bit for bit after a crash, without a generator's hidden state; and on a CPU a cryptographic
generator costs more than the layers it serves. A few integer operations of a counter give bits that are good enough to
drop units by, and a compiler fuses them into the multiplication.
"""

from typing import Any

from keras import ops

Tensor = Any


# As int32 of the same bits: not every backend multiplies unsigned integers, all wrap signed ones.
_GOLDEN, _MIX_1, _MIX_2 = 0x9E3779B1 - 2**32, 0x7FEB352D, 0x846CA68B - 2**32


def _shifted(bits: Tensor, places: int) -> Tensor:
    """Logical shift to the right of int32."""
    return ops.bitwise_and(ops.right_shift(bits, places), (1 << (32 - places)) - 1)


def scramble(bits: Tensor) -> Tensor:
    """Mix int32 ``bits`` so that each output bit depends on every input bit (two multiply-xorshift rounds)."""
    bits = ops.bitwise_xor(bits, _shifted(bits, 16)) * _MIX_1
    bits = ops.bitwise_xor(bits, _shifted(bits, 15)) * _MIX_2
    return ops.bitwise_xor(bits, _shifted(bits, 16))


def dropout(inputs: Tensor, rate: float, seed: Tensor | None, site: int) -> Tensor:
    """Zero each entry of ``[N, d]`` with probability ``rate`` and scale the rest by ``1 / (1 - rate)``.

    ``seed``, a scalar int32, differs for each training step; None, in inference, means no dropout; ``site`` is which of
    the model's dropouts this is: each gets its own bits of the seed.
    """
    if seed is None or rate == 0.0:
        return inputs
    rows, width = ops.shape(inputs)
    offset = ((site + 1) * 0x3C6EF35 + 2**31) % 2**32 - 2**31
    key = scramble(ops.cast(seed, "int32") + offset)
    counter = ops.reshape(ops.arange(rows * width, dtype="int32"), (rows, width))
    bits = ops.bitwise_and(scramble(counter * _GOLDEN + key), 0xFFFFFF)
    kept = ops.cast(bits >= round(rate * 2**24), inputs.dtype)
    return inputs * (kept * ops.cast(1.0 / (1.0 - rate), inputs.dtype))
