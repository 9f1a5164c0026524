"""The tokenizer: values to bin probabilities and back, in Keras ops.

Everything is computed in float32 under any dtype policy of the model: a bin of 1/256 of the range is below bfloat16's
resolution. Values are first measured in bin widths from the support's lower end, so one code serves every support.
"""

import math
from typing import Any

from keras import ops

from trajworld.backend import active_backend

# Before the first tensor is made: what a backend settles about memory must come before its threads start.
active_backend()

SIGMA = 0.75
"""Standard deviation of the Gauss-histogram, in bin widths."""

_MASS_EPSILON = 5e-7
"""Added to the mass inside the support: 1e-6 on the scale of erf differences, which is twice the cdf's."""

Tensor = Any


def encode(values: Tensor, lower: Tensor, upper: Tensor, bins: int) -> Tensor:
    """Gauss-histogram of each value ``[..., M]`` clipped to its support: ``[..., M, B]`` float32 probabilities.

    Bin i's is the difference of the normal cdf, centred at the value with a standard deviation of 0.75 bin widths, over
    the bin's edges, divided by the mass inside the support, whose ends are ``[M]`` or scalar.
    """
    position = ops.clip(_bin_units(values, lower, upper, bins), 0.0, float(bins))
    edges = ops.arange(bins + 1, dtype="float32")
    scaled = (edges - ops.expand_dims(position, -1)) * (1.0 / (SIGMA * math.sqrt(2.0)))
    cdf = 0.5 * ops.erf(scaled)
    mass = cdf[..., -1:] - cdf[..., :1] + _MASS_EPSILON
    return (cdf[..., 1:] - cdf[..., :-1]) / mass


def target_bins(values: Tensor, lower: Tensor, upper: Tensor, bins: int) -> Tensor:
    """The bin that holds each value, those outside the support falling in the end bins; ``[..., M]`` int32."""
    position = ops.clip(_bin_units(values, lower, upper, bins), 0.0, bins - 1.0)
    return ops.cast(ops.floor(position), "int32")


def moments(logits: Tensor, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
    """Expectation and standard deviation of each predicted distribution, both ``[..., M]`` float32 in raw units."""
    probabilities = ops.softmax(ops.cast(logits, "float32"), axis=-1)
    bins = int(probabilities.shape[-1])
    centres = (ops.arange(bins, dtype="float32") + 0.5) / float(bins)
    mean = ops.sum(probabilities * centres, axis=-1)
    spread = ops.sqrt(ops.sum(probabilities * ops.square(centres - ops.expand_dims(mean, -1)), axis=-1))
    lower, upper = ops.cast(lower, "float32"), ops.cast(upper, "float32")
    return lower + mean * (upper - lower), spread * (upper - lower)


def sample(logits: Tensor, lower: Tensor, upper: Tensor, uniforms: Tensor) -> Tensor:
    """Draw a bin from each predicted distribution, then a value uniformly inside it.

    By ``uniforms``, ``[2, ..., M]`` independent draws from [0, 1): which bin (by inverting the cumulative
    distribution), and where in it.
    """
    cumulative = ops.cumsum(ops.softmax(ops.cast(logits, "float32"), axis=-1), axis=-1)
    bins = int(cumulative.shape[-1])
    # Scaled by the last entry: rounding leaves the sum a little off 1, and a draw beyond it would have no bin.
    threshold = ops.expand_dims(uniforms[0], -1) * cumulative[..., -1:]
    index = ops.sum(ops.cast(cumulative <= threshold, "float32"), axis=-1)
    index = ops.minimum(index, float(bins - 1))
    lower, upper = ops.cast(lower, "float32"), ops.cast(upper, "float32")
    return lower + (index + uniforms[1]) / float(bins) * (upper - lower)


def onehot_cross_entropy(logits: Tensor, values: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """Cross-entropy of ``logits [..., M, B]`` against the bins of ``values [..., M]``: ``[..., M]`` float32, nats."""
    logits = ops.cast(logits, "float32")
    bins = int(logits.shape[-1])
    indices = ops.expand_dims(target_bins(values, lower, upper, bins), -1)
    chosen = ops.squeeze(ops.take_along_axis(logits, indices, axis=-1), -1)
    return ops.logsumexp(logits, axis=-1) - chosen


def gauss_cross_entropy(logits: Tensor, values: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """Cross-entropy against the Gauss-histogram of each value (HL-Gauss soft targets); shapes as above."""
    logits = ops.cast(logits, "float32")
    probabilities = encode(values, lower, upper, int(logits.shape[-1]))
    total = ops.sum(probabilities, axis=-1)
    return ops.logsumexp(logits, axis=-1) * total - ops.sum(probabilities * logits, axis=-1)


CROSS_ENTROPIES = {"onehot": onehot_cross_entropy, "gauss": gauss_cross_entropy}
"""The losses by the name of their targets."""


def _bin_units(values: Tensor, lower: Tensor, upper: Tensor, bins: int) -> Tensor:
    """Distance from the support's lower end in bin widths: 0 at ``lower``, ``bins`` at ``upper``; not clipped."""
    values, lower, upper = (ops.cast(array, "float32") for array in (values, lower, upper))
    return (values - lower) / (upper - lower) * float(bins)
