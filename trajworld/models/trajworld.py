"""TrajWorld (DESIGN §4; Yin et al. 2025, section 4): attention over time and over variates, turn about."""

import dataclasses
from typing import Any, NamedTuple

import keras
from keras import ops

from trajworld.errors import TrajWorldError
from trajworld.models.attention import DROPOUT_SITES, AttentionFeedForward, Grid, RowDense
from trajworld.models.bins import encode
from trajworld.models.identity import Identity
from trajworld.models.sizes import ModelSizes

Tensor = Any


class Cache(NamedTuple):
    """What cached decoding carries from row to row.

    Attributes:
        keys: ``[B, S, M, heads, d / heads]`` for each block's temporal attention.
        values: The same.
        time_mask: ``[B, S]``, 1 for real rows that the cache holds.
    """

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]
    time_mask: Tensor


class Variates(NamedTuple):
    """What is known of the variates of a batch.

    Attributes:
        is_action: ``[M]`` int32, 1 for an action.
        lower: ``[M]`` float32, lower ends of the support.
        upper: ``[M]`` float32, upper ends.
        mask: ``[M]`` float32, 0 for variates added to make a batch rectangular; None where all are real.
    """

    is_action: Tensor
    lower: Tensor
    upper: Tensor
    mask: Tensor | None = None


@keras.saving.register_keras_serializable("trajworld")
class TrajWorld(keras.Model):
    """The transformer over a window of rows, for any number of variates.

    Its weights do not depend on M, so one model reads any environment without being rebuilt.

    Args:
        sizes: Blocks, width, heads and the rest.
        identity: What the model was trained on: its support, environment and versions; travels with its file.
    """

    def __init__(self, sizes: ModelSizes, identity: Identity | None = None, **kwargs: Any) -> None:
        # Raw values must reach the tokenizer in float32 whatever the policy: Keras would cast them to bfloat16 first.
        super().__init__(autocast=False, **kwargs)
        self.sizes = sizes
        self.identity = identity or Identity()
        policy = self.dtype_policy
        self.input_projection = RowDense(
            sizes.width, kernel_initializer="lecun_normal", name="input_projection", dtype=policy
        )
        self.kind_embedding = self._embedding(2, "kind_embedding")
        self.position_embedding = self._embedding(sizes.window, "position_embedding")
        self.variate_embedding = self._embedding(sizes.variates, "variate_embedding")
        self.temporal: list[AttentionFeedForward] = []
        self.across: list[AttentionFeedForward] = []
        for block in range(sizes.blocks):
            for axis, halves in (("time", self.temporal), ("variate", self.across)):
                site = (2 * block + (axis == "variate")) * DROPOUT_SITES
                name = f"block_{block}_{axis}"
                halves.append(
                    AttentionFeedForward(
                        sizes.width, sizes.heads, axis, sizes.dropout, site, name=name, dtype=policy
                    )
                )
        self.head = RowDense(sizes.bins, kernel_initializer="lecun_normal", name="head", dtype=policy)
        self.build()

    def _embedding(self, entries: int, name: str) -> keras.layers.Embedding:
        initializer = keras.initializers.RandomNormal(stddev=self.sizes.width**-0.5)
        return keras.layers.Embedding(
            entries, self.sizes.width, embeddings_initializer=initializer, name=name, dtype=self.dtype_policy
        )

    def build(self, input_shape: Any = None) -> None:
        """Make the weights; no shape of the inputs matters to them."""
        if self.built:  # type: ignore[has-type]
            return
        self.input_projection.build((None, self.sizes.bins))
        for embedding in (self.kind_embedding, self.position_embedding, self.variate_embedding):
            embedding.build()
        self.head.build((None, self.sizes.width))
        self.built = True

    def __call__(self, values: Tensor, *arguments: Any, **named: Any) -> Any:
        """Check the sizes, then :meth:`call`: an error raised within that is one that Keras rewrites."""
        self._check_sizes(values.shape, named.get("offset", 0))
        return super().__call__(values, *arguments, **named)

    def call(
        self,
        values: Tensor,
        time_mask: Tensor,
        variates: Variates,
        seed: Tensor | None = None,
        rows: int | None = None,
        offset: int = 0,
    ) -> Tensor:
        """Predict every next row of a window.

        Args:
            values: ``[B, T, M]`` raw values, rows ``[observation, reward, action]``; T at most the model's window.
            time_mask: ``[B, T]``, 1 for real rows, 0 for left padding.
            variates: What is known of the M variates.
            seed: Scalar int32 that dropout is a function of; None for inference.
            rows: Answer for the last ``rows`` rows only; None for all.
            offset: The first row's position in the window: a window without its first ``offset`` rows, all padding,
                gives the same.

        Returns:
            ``[B, rows, M, bins]`` logits: those at row t predict the variates of row t + 1.

        Raises:
            TrajWorldError: T (with ``offset``) or M is more than the model has embeddings for.
        """
        return self._window(values, time_mask, variates, seed, rows, offset)[0]

    def prefill(
        self, values: Tensor, time_mask: Tensor, variates: Variates, length: int, rows: int | None = None
    ) -> tuple[Tensor, Cache]:
        """Encode a window's first rows and keep the keys and values of its temporal attention.

        Args:
            values: ``[B, W, M]``.
            time_mask: ``[B, W]``.
            variates: What is known of the variates.
            length: S, how many rows the cache is to hold, W included; at most the model's window.
            rows: Answer for the last ``rows`` rows only.

        Returns:
            ``[B, rows, M, bins]`` logits, and the cache to pass to :meth:`decode`, whose next position is W.
        """
        self._check_sizes(values.shape)
        logits, pairs = self._window(values, time_mask, variates, None, rows)
        room = length - values.shape[1]

        def padded(array: Tensor) -> Tensor:
            return ops.pad(array, [[0, 0], [0, room]] + [[0, 0]] * (len(array.shape) - 2))

        keys, past = zip(*[(padded(key), padded(value)) for key, value in pairs], strict=True)
        return logits, Cache(keys, past, padded(ops.cast(time_mask, "float32")))

    def decode(self, row: Tensor, position: Tensor, cache: Cache, variates: Variates) -> tuple[Tensor, Cache]:
        """Encode one more row, attending to the cached ones.

        Args:
            row: ``[B, M]`` raw values.
            position: Scalar int, the row's position in the window: how many rows the cache holds already.
            cache: As :meth:`prefill` or this method returned it.
            variates: What is known of the variates.

        Returns:
            ``[B, M, bins]`` logits, and the cache with this row added.
        """
        batch, count = ops.shape(row)
        grid, length = (batch, 1, count), cache.time_mask.shape[1]
        x = self._embed(ops.expand_dims(row, 1), ops.reshape(position, (1,)), variates)
        added = ops.ones((batch, 1), dtype=cache.time_mask.dtype)
        time_mask = ops.slice_update(cache.time_mask, (0, position), added)
        reachable = ops.logical_and(time_mask > 0, ops.arange(length) <= position)
        reachable = ops.reshape(reachable, (batch, 1, 1, 1, length))
        keys, past = [], []
        for index in range(self.sizes.blocks):
            held = (cache.keys[index], cache.values[index])
            x, (key, value) = self.temporal[index](
                x, grid=grid, attendable=reachable, cache=held, cache_index=position
            )
            x, _ = self.across[index](x, grid=grid, attendable=_variate_mask(variates))
            keys.append(key)
            past.append(value)
        return self._logits(x, grid)[:, 0], Cache(tuple(keys), tuple(past), time_mask)

    def _window(
        self,
        values: Tensor,
        time_mask: Tensor,
        variates: Variates,
        seed: Tensor | None,
        rows: int | None,
        offset: int = 0,
    ) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """Logits of the last ``rows`` rows, and each block's keys and values."""
        batch, time, count = ops.shape(values)
        grid = (batch, time, count)
        steps = ops.arange(time)
        x = self._embed(values, steps + offset, variates)
        causal = ops.expand_dims(steps, 1) >= ops.expand_dims(steps, 0)
        present = ops.reshape(time_mask, (batch, 1, 1, 1, time)) > 0
        temporal_mask = ops.logical_and(causal, present)
        pairs = []
        for index, (temporal, across) in enumerate(zip(self.temporal, self.across, strict=True)):
            # Nobody reads the last block's earlier rows when only the last are asked for.
            asked = rows if index == self.sizes.blocks - 1 else None
            x, pair = temporal(x, grid=grid, attendable=temporal_mask, seed=seed, rows=asked)
            grid = (batch, asked or time, count)
            x, _ = across(x, grid=grid, attendable=_variate_mask(variates), seed=seed)
            pairs.append(pair)
        return self._logits(x, grid), pairs

    def _embed(self, values: Tensor, positions: Tensor, variates: Variates) -> Tensor:
        """``[B, T, M]`` raw values to ``[B * T * M, d]``."""
        batch, time, count = ops.shape(values)
        encoded = encode(values, variates.lower, variates.upper, self.sizes.bins)
        encoded = ops.reshape(ops.cast(encoded, self.compute_dtype), (-1, self.sizes.bins))
        x = ops.reshape(self.input_projection(encoded), (batch, time, count, self.sizes.width))
        per_variate = self.variate_embedding(ops.arange(count)) + self.kind_embedding(variates.is_action)
        per_row = ops.expand_dims(self.position_embedding(positions), 1)
        return ops.reshape(x + (per_row + per_variate), (-1, self.sizes.width))

    def _logits(self, x: Tensor, grid: Grid) -> Tensor:
        return ops.reshape(self.head(x), (*grid, self.sizes.bins))

    def _check_sizes(self, shape: tuple[int | None, ...], offset: int = 0) -> None:
        if len(shape) != 3:
            raise TrajWorldError(f"values must be [windows, rows, variates], not of shape {tuple(shape)}")
        if shape[1] is not None and shape[1] + offset > self.sizes.window:
            raise TrajWorldError(
                f"a window of {shape[1] + offset} rows is longer than the model's {self.sizes.window}"
            )
        if shape[2] is not None and shape[2] > self.sizes.variates:
            raise TrajWorldError(
                f"{shape[2]} variates are more than the {self.sizes.variates} this model has embeddings for: "
                f"make the model with a larger table (--variates {shape[2]})"
            )

    def get_config(self) -> dict[str, Any]:
        """Sizes and identity as plain numbers, strings and lists."""
        return {
            "sizes": dataclasses.asdict(self.sizes),
            "identity": self.identity.to_config(),
            "dtype": self.dtype_policy.name,
            "name": self.name,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "TrajWorld":
        """The inverse of :meth:`get_config`."""
        config = dict(config)
        sizes, identity = ModelSizes(**config.pop("sizes")), Identity.from_config(config.pop("identity"))
        return cls(sizes, identity, **config)


def _variate_mask(variates: Variates) -> Tensor | None:
    """``[M]`` to a key mask of variate attention, ``[1, 1, 1, 1, M]``."""
    return None if variates.mask is None else ops.reshape(variates.mask, (1, 1, 1, 1, -1)) > 0
