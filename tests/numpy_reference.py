"""TrajWorld in plain float64 NumPy, written from its definition: what the tests hold the model against."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import scipy.special
import scipy.stats
from keras import ops
from numpy.typing import NDArray

from trajworld.data.batch import Variates
from trajworld.models.identity import action_mask
from trajworld.models.sizes import TransformerSizes

MASKED_LOGIT = -1e4

Array = NDArray[Any]


def numpy(tensor: object) -> Array:
    return np.asarray(ops.convert_to_numpy(tensor))


def known_variates(observations: int, actions: int, padded: int | None = None) -> Variates:
    rng = np.random.default_rng(observations)
    count = padded or observations + 1 + actions
    lower = rng.uniform(-3, 0, count).astype(np.float32)
    mask = (np.arange(count) < observations + 1 + actions).astype(np.float32)
    upper = lower + rng.uniform(0.5, 4, count).astype(np.float32)
    is_action = np.pad(action_mask(observations, actions), (0, count - observations - 1 - actions))
    return Variates(is_action, lower, upper, mask if padded else None)


def windows(variates: Variates, batch: int = 3, rows: int = 6, seed: int = 1) -> tuple[Array, Array]:
    """Random windows, some values outside the support; all but the first padded on the left, with just such values."""
    rng = np.random.default_rng(seed)
    span = variates.upper - variates.lower
    values = variates.lower + rng.uniform(-0.2, 1.2, (batch, rows, len(span))) * span
    time_mask = np.ones((batch, rows), np.float32)
    for index in range(1, batch):
        time_mask[index, : index * rows // batch] = 0
    return values.astype(np.float32), time_mask


def histogram(values: Array, lower: Array, upper: Array, bins: int) -> Array:
    """The definition of the tokens, in float64: cdf differences over the mass inside plus 5e-7 (1e-6 of erf)."""
    values, lower, upper = (array.astype(np.float64)[..., None] for array in (values, lower, upper))
    width = (upper - lower) / bins
    edges = lower + width * np.arange(bins + 1)
    cdf = scipy.stats.norm.cdf(edges, loc=np.clip(values, lower, upper), scale=0.75 * width)
    return np.diff(cdf, axis=-1) / (cdf[..., -1:] - cdf[..., :1] + 5e-7)


def scramble(bits: NDArray[np.uint32]) -> NDArray[np.uint32]:
    bits = (bits ^ (bits >> np.uint32(16))) * np.uint32(0x7FEB352D)
    bits = (bits ^ (bits >> np.uint32(15))) * np.uint32(0x846CA68B)
    return bits ^ (bits >> np.uint32(16))


def expected_mask(shape: tuple[int, int], rate: float, seed: int, site: int) -> NDArray[np.bool_]:
    """The hash in unsigned NumPy integers, which wrap by definition."""
    start = np.array([seed], np.int64).astype(np.uint32) + np.uint32((site + 1) * 0x3C6EF35 % 2**32)
    counter = np.arange(shape[0] * shape[1], dtype=np.uint32).reshape(shape)
    bits = scramble(counter * np.uint32(0x9E3779B1) + scramble(start))
    return (bits & np.uint32(0xFFFFFF)) >= round(rate * 2**24)


class Reference:
    """The model in float64, one window at a time; ``weights`` by the layer's name and its own, ``head/kernel``.

    With dropout where there is a ``seed``: on attention, its projection and the feed-forward net of layer k, at sites
    3k, 3k + 1 and 3k + 2.
    """

    def __init__(
        self, sizes: TransformerSizes, weights: Mapping[str, Array], seed: int | None = None
    ) -> None:
        self.sizes, self.seed, self.number, self.site = sizes, seed, 0, 0
        self.weights = {name: array.astype(np.float64) for name, array in weights.items()}

    def dense(self, name: str, x: Array) -> Array:
        return x @ self.weights[f"{name}/kernel"] + self.weights[f"{name}/bias"]

    def norm(self, name: str, x: Array) -> Array:
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6)
        return scaled * self.weights[f"{name}/gamma"] + self.weights[f"{name}/beta"]

    def attention(self, name: str, sequence: Array, seen: Array) -> Array:
        """``[S, d]`` to ``[S, d]``; ``seen[i, j]`` says whether i attends to j."""
        width, size = self.sizes.width, self.sizes.width // self.sizes.heads
        packed = self.dense(f"{name}/query_key_value", sequence)
        query, key, value = packed[:, :width], packed[:, width : 2 * width], packed[:, 2 * width :]
        heads = []
        for head in range(self.sizes.heads):
            part = slice(head * size, (head + 1) * size)
            scores = np.where(seen, query[:, part] @ key[:, part].T / np.sqrt(size), MASKED_LOGIT)
            heads.append(scipy.special.softmax(scores, axis=-1) @ value[:, part])
        return np.concatenate(heads, axis=-1)

    def drop(self, x: Array) -> Array:
        """At the next site: the part of the batch's mask that is this window's."""
        if self.seed is None:
            return x
        tokens, rate = x.size // self.sizes.width, self.sizes.dropout
        shape = (self.number + 1) * tokens, self.sizes.width
        mask = expected_mask(shape, rate, self.seed, self.site)[-tokens:]
        self.site += 1
        return x * mask.reshape(x.shape) / (1 - rate)

    def half(self, name: str, x: Array, attended: Array) -> Array:
        projected = self.dense(f"{name}/projection", self.drop(attended))
        x = self.norm(f"{name}/attention_norm", x + self.drop(projected))
        hidden = self.dense(f"{name}/expansion", x)
        hidden = 0.5 * hidden * (1 + np.tanh(np.sqrt(2 / np.pi) * (hidden + 0.044715 * hidden**3)))
        fed = self.drop(self.dense(f"{name}/contraction", hidden))
        return self.norm(f"{name}/feed_forward_norm", x + fed)

    def __call__(self, values: Array, time_mask: Array, variates: Variates) -> Array:
        found = []
        for self.number, (one, mask) in enumerate(zip(values, time_mask, strict=True)):
            self.site = 0
            found.append(self.window(one, mask, variates))
        return np.stack(found)

    def window(self, values: Array, time_mask: Array, variates: Variates) -> Array:
        rows, count = values.shape
        weights = self.weights
        encoded = histogram(values, variates.lower, variates.upper, self.sizes.bins)
        x = (
            self.dense("input_projection", encoded)
            + weights["kind_embedding/embeddings"][variates.is_action]
            + weights["position_embedding/embeddings"][:rows, None]
            + weights["variate_embedding/embeddings"][:count]
        )
        earlier = np.tril(np.ones((rows, rows), bool)) & (time_mask[None, :] > 0)
        real = np.ones(count, bool) if variates.mask is None else variates.mask > 0
        for block in range(self.sizes.blocks):
            name = f"block_{block}_time"
            attended = [self.attention(name, x[:, m], earlier) for m in range(count)]
            x = self.half(name, x, np.stack(attended, axis=1))
            name = f"block_{block}_variate"
            everything = np.broadcast_to(real[None, :], (count, count))
            x = self.half(name, x, np.stack([self.attention(name, row, everything) for row in x]))
        return self.dense("head", x)


class FlatReference(Reference):
    """The baseline TDM: a window's tokens one after the other, with one attention in a block."""

    def window(self, values: Array, time_mask: Array, variates: Variates) -> Array:
        rows, count = values.shape
        encoded = histogram(values, variates.lower, variates.upper, self.sizes.bins)
        x = self.dense("input_projection", encoded)
        x = x + self.weights["kind_embedding/embeddings"][variates.is_action]
        x = x + self.weights["position_embedding/embeddings"][:rows, None]
        x = x.reshape(rows * count, -1)
        real = np.ones(count) if variates.mask is None else variates.mask
        seen = np.tril(np.ones((rows * count,) * 2, bool)) & (np.outer(time_mask, real).ravel() > 0)
        for block in range(self.sizes.blocks):
            x = self.half(f"block_{block}_time", x, self.attention(f"block_{block}_time", x, seen))
        return self.dense("head", x).reshape(rows, count, -1)


def weights_of_model(model: Any) -> dict[str, Array]:
    """The weights that a model holds."""
    return {variable.path.removeprefix(f"{model.name}/"): numpy(variable.value) for variable in model.weights}
