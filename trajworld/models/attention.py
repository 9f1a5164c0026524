"""Attention along one axis, then a feed-forward net, post-norm: the layer of TrajWorld.

Activations are ``[N, d]`` with ``N = B * T * M``: a dense layer on two dimensions is one large matrix product on every
backend, and only the attention itself sees the grid ``(B, T, M)`` behind it.
"""

import functools
import math
from typing import Any

import keras
from keras import ops

from trajworld.backend import active_backend
from trajworld.models.dropout import dropout

Tensor = Any

Grid = tuple[Any, Any, Any]
"""(B, T, M): windows, rows and variates behind the flattened activations."""

MASKED_LOGIT = -1e4

# b: window, t and s: rows, m and n: variates, h: head, d: feature in the head.
_EQUATIONS = {
    "time": ("btmhd,bsmhd->bmhts", "bmhts,bsmhd->btmhd"),
    "variate": ("btmhd,btnhd->bthmn", "bthmn,btnhd->btmhd"),
    # As the products read them: keys and values of many rows must not be moved for a single one.
    "cache": ("btmhd,bmhsd->bmhts", "bmhts,bmhsd->btmhd"),
}

# No row attends to later ones. Many rows go in groups of queries, each without later keys: a training step of 480
# tokens took 0.70 of its time.
_LONG, _PARTS = 64, 4

DROPOUT_SITES = 3
"""How many dropouts one :class:`AttentionFeedForward` has."""


class RowDense(keras.layers.Dense):
    """A dense layer of ``[N, features]`` whose product the backend chooses."""

    def __init__(self, units: int, **kwargs: Any) -> None:
        super().__init__(units, kernel_initializer="lecun_normal", **kwargs)

    def call(self, inputs: Tensor, training: bool | None = None) -> Tensor:
        """``[N, features]`` to ``[N, units]``."""
        outputs = active_backend().product(inputs, ops.convert_to_tensor(self.kernel)) + self.bias
        return outputs if self.activation is None else self.activation(outputs)


class AttentionFeedForward(keras.layers.Layer):
    """``x = LN(x + attention(x)); x = LN(x + FFN(x))``, multi-head, along one axis of the grid.

    ``axis`` is ``"time"`` (rows attend to rows of the same variate) or ``"variate"`` (variates of one row attend to
    each other). Dropout of ``rate`` acts on attention's output, on its projection and on the FFN's output; ``site`` is
    the number of the first of these.
    """

    def __init__(self, width: int, heads: int, rate: float, axis: str, site: int = 0, **kwargs: Any) -> None:
        super().__init__(autocast=False, **kwargs)
        self.width, self.heads, self.rate, self.axis, self.site = width, heads, rate, axis, site
        norm = functools.partial(keras.layers.LayerNormalization, epsilon=1e-6, dtype=self.dtype_policy)
        dense = functools.partial(RowDense, dtype=self.dtype_policy)
        # One product for queries, keys and values: three narrow ones cost more on every backend.
        self.query_key_value = dense(3 * width, name="query_key_value")
        self.projection = dense(width, name="projection")
        self.attention_norm = norm(name="attention_norm")
        gelu = functools.partial(ops.gelu, approximate=True)
        self.expansion = dense(4 * width, activation=gelu, name="expansion")
        self.contraction = dense(width, name="contraction")
        self.feed_forward_norm = norm(name="feed_forward_norm")
        self.build()

    def build(self, input_shape: Any = None) -> None:
        """Make the weights; their shapes depend only on the sizes."""
        norms = self.attention_norm, self.feed_forward_norm
        for layer in (self.query_key_value, norms[0], self.expansion, self.projection, norms[1]):
            layer.build((None, self.width))
        self.contraction.build((None, 4 * self.width))
        self.built = True

    def call(
        self,
        x: Tensor,
        grid: Grid,
        attendable: Tensor | None,
        seed: Tensor | None = None,
        cache: tuple[Tensor, Tensor] | None = None,
        cache_index: Any = 0,
        rows: int | None = None,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """``[B * T * M, d]`` to ``[B * rows * M, d]``, and keys and values: the updated cache where one was given.

        Args:
            x: ``[B * T * M, d]``, of the ``grid``.
            grid: ``(B, T, M)``.
            attendable: Which keys each query may see, broadcastable to ``[B, M, heads, T, S]`` (time; S is T, or
                the cache's length) or ``[B, T, heads, M, M]`` (variate); None for all. Keras has its own ``mask``.
            seed: Dropout's; None in inference.
            cache: Keys and values of earlier rows, each of :func:`for_cache`; time axis only.
            cache_index: At which row of the cache these T rows go.
            rows: Answer for the last ``rows`` rows only (all are keys); None for all.
        """
        time = grid[1]
        query, key, value = self.query_key_value_of(x, grid)
        if rows is not None and rows != time:
            query = query[:, time - rows :]
            x = ops.reshape(ops.reshape(x, (*grid, self.width))[:, time - rows :], (-1, self.width))
            if attendable is not None and self.axis == "time":
                attendable = attendable[..., time - rows :, :]
        if cache is None:
            attended = self._attend(query, key, value, attendable)
        else:
            key, value = (
                ops.slice_update(held, (0, 0, 0, cache_index, 0), ops.cast(for_cache(new), held.dtype))
                for held, new in zip(cache, (key, value), strict=True)
            )
            attended = self._mixture("cache", query, key, value, attendable)
        attended = dropout(attended, self.rate, seed, self.site)
        projected = dropout(self.projection(attended), self.rate, seed, self.site + 1)
        x = self.attention_norm(x + projected)
        fed = dropout(self.contraction(self.expansion(x)), self.rate, seed, self.site + 2)
        return self.feed_forward_norm(x + fed), (key, value)

    def query_key_value_of(self, x: Tensor, grid: Grid) -> tuple[Tensor, Tensor, Tensor]:
        """``[B * T * M, d]`` to queries, keys and values, ``[B, T, M, heads, d / heads]`` each."""
        triple = ops.reshape(self.query_key_value(x), (*grid, 3, self.heads, self.width // self.heads))
        # Unstacked, not sliced: the gradient of three slices is three arrays of zeros, filled and added.
        query, key, value = ops.unstack(triple, 3, axis=3)
        return query, key, value

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, attendable: Tensor | None) -> Tensor:
        """Attention along the axis, ``[B, T, M, heads, d / heads]`` three times to ``[N, d]``."""
        time = query.shape[1]
        if self.axis == "variate" or attendable is None or time != key.shape[1] or time < _LONG:
            return self._mixture(self.axis, query, key, value, attendable)
        parts, size = [], -(-time // _PARTS)
        for begin in range(0, time, size):
            end = min(begin + size, time)
            seen = attendable[..., begin:end, :end]
            given = query[:, begin:end], key[:, :end], value[:, :end]
            part = self._mixture(self.axis, *given, seen)
            parts.append(ops.reshape(part, (query.shape[0], -1, self.width)))
        return ops.reshape(ops.concatenate(parts, axis=1), (-1, self.width))

    def _mixture(
        self, axis: str, query: Tensor, key: Tensor, value: Tensor, attendable: Tensor | None
    ) -> Tensor:
        """Softmax attention, to ``[N, d]``; the softmax in float32."""
        scores, mixture = _EQUATIONS[axis]
        scale = 1.0 / math.sqrt(self.width // self.heads)
        logits = ops.cast(ops.einsum(scores, query, key), "float32") * scale
        if attendable is not None:
            logits = ops.where(attendable, logits, MASKED_LOGIT)
        # Keras warns of a softmax over a single entry, which is 1.
        weights = ops.softmax(logits, axis=-1) if logits.shape[-1] != 1 else ops.ones_like(logits)
        weights = ops.cast(weights, value.dtype)
        return ops.reshape(ops.einsum(mixture, weights, value), (-1, self.width))


def for_cache(array: Tensor) -> Tensor:
    """Keys or values ``[B, T, M, heads, d / heads]`` as a cache holds them, ``[B, M, heads, T, d / heads]``."""
    return ops.transpose(array, (0, 2, 3, 1, 4))
