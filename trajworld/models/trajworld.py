"""TrajWorld (Yin et al. 2025, section 4): alternating attention over time and over variates."""

from typing import Any, NamedTuple

import keras
from keras import ops

from trajworld.data.batch import Batch, Variates
from trajworld.errors import TrajWorldError
from trajworld.models.attention import DROPOUT_SITES, AttentionFeedForward, Grid, RowDense
from trajworld.models.bins import CROSS_ENTROPIES, encode, moments, onehot_cross_entropy, sample
from trajworld.models.identity import Identity
from trajworld.models.interface import Predicted, Short, Step, model_config, model_from_config
from trajworld.models.sizes import TrajWorldSizes

Tensor = Any
Pair = tuple[Tensor, Tensor]
"""Keys and values of one block's temporal attention, ``[B, S, M, heads, d / heads]`` each."""


class Cache(NamedTuple):
    """Keys and values of each block, and ``[B, S]``, 1 for real rows that the cache holds."""

    pairs: tuple[Pair, ...]
    time_mask: Tensor


class Rollout(NamedTuple):
    """Where a rollout stands: the cache of the rows before the newest, that row ``[B, M]``, and its position."""

    cache: Cache
    row: Tensor
    position: Tensor
    variates: Variates


@keras.saving.register_keras_serializable("trajworld")
class TrajWorld(keras.Model):
    """The transformer over a window of rows, for any number of variates; its weights do not depend on that.

    A rollout goes in chunks of K steps with a key/value cache: all but the newest of the last W rows are encoded, at
    positions 0 to W - 2, then each step adds a row at the next position, the last at W + K - 2.
    """

    kind = "trajworld"

    def __init__(self, sizes: TrajWorldSizes, identity: Identity | None = None, **kwargs: Any) -> None:
        # Raw values must reach the tokenizer in float32 whatever the policy: Keras would cast them to bfloat16 first.
        super().__init__(autocast=False, **kwargs)
        self.sizes = sizes
        self.identity = identity or Identity()
        # W is 10, or about half of a smaller window; K is 10, or what that has room for.
        self.context = min(10, (sizes.window + 1) // 2)
        self.chunk = min(10, sizes.window - self.context + 1)
        policy = self.dtype_policy
        self.input_projection = RowDense(sizes.width, name="input_projection", dtype=policy)
        self.kind_embedding = self._embedding(2, "kind_embedding")
        self.position_embedding = self._embedding(sizes.window, "position_embedding")
        self.variate_embedding = self._embedding(sizes.variates, "variate_embedding")
        self.temporal: list[AttentionFeedForward] = []
        self.across: list[AttentionFeedForward] = []
        given = sizes.width, sizes.heads, sizes.dropout
        for half in range(2 * sizes.blocks):
            axis, halves = ("variate", self.across) if half % 2 else ("time", self.temporal)
            name = f"block_{half // 2}_{axis}"
            halves.append(AttentionFeedForward(*given, axis, half * DROPOUT_SITES, name=name, dtype=policy))
        self.head = RowDense(sizes.bins, name="head", dtype=policy)
        self.build()

    def _embedding(self, entries: int, name: str) -> keras.layers.Embedding:
        width, initial = self.sizes.width, keras.initializers.RandomNormal(stddev=self.sizes.width**-0.5)
        return keras.layers.Embedding(entries, width, initial, name=name, dtype=self.dtype_policy)

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
        """Logits ``[B, rows, M, bins]``: those at row t predict the variates of row t + 1.

        Args:
            values: ``[B, T, M]`` raw values, rows ``[observation, reward, action]``.
            time_mask: ``[B, T]``, 1 for real rows, 0 for left padding.
            variates: What is known of the M variates.
            seed: Scalar int32 that dropout is a function of; None for inference.
            rows: Answer for the last ``rows`` rows only; None for all.
            offset: The first row's position in the window, where that lacks its first rows, which are padding.

        Raises:
            TrajWorldError: T (with ``offset``) or M is more than the model has embeddings for.
        """
        grid = batch, time, count = ops.shape(values)
        x = self._embed(values, ops.arange(time) + offset, variates)
        x, _ = self._blocks(x, grid, _causal(time_mask), variates, self.sizes.blocks, seed, rows)
        return self._logits(x, (batch, rows or time, count))

    def loss_sums(
        self, batch: Batch, seed: Tensor | None = None, targets: str = "onehot"
    ) -> tuple[Tensor, Tensor]:
        """Cross-entropy of the next observation and reward in nats, the mean over variates; see the interface."""
        values, mask, variates, _ = batch
        logits = self(values[:, :-1], mask[:, :-1], variates, seed=seed)
        entropies = CROSS_ENTROPIES[targets](logits, values[:, 1:], variates.lower, variates.upper)
        predicted = 1.0 - ops.cast(variates.is_action, "float32")
        if variates.mask is not None:
            predicted = predicted * ops.cast(variates.mask, "float32")
        rows = ops.sum(entropies * predicted, axis=-1) / ops.sum(predicted)
        present = ops.cast(mask[:, :-1], "float32")
        return ops.sum(rows * present), ops.sum(present)

    def predict(self, batch: Batch, short: Short = "padded") -> Predicted:
        """The expectation over bins, and the negative log-likelihood of the true bin; see the interface."""
        values, mask, variates, _ = batch
        offset = max(self.sizes.window - values.shape[1], 0) if short == "padded" else 0
        logits = self(values[:, :-1], mask[:, :-1], variates, rows=1, offset=offset)[:, 0]
        mean, std = moments(logits, variates.lower, variates.upper)
        nll = onehot_cross_entropy(logits, values[:, -1], variates.lower, variates.upper)
        return Predicted(mean, std, nll)

    def start(self, history: Tensor, mask: Tensor, variates: Variates) -> Rollout:
        """Encode all rows but the newest; see the interface."""
        self._check_sizes(history.shape)
        past = history.shape[1] - 1
        cache = self.encode_past(history[:, :past], mask[:, :past], variates, past + self.chunk)
        return Rollout(cache, history[:, past], ops.convert_to_tensor(past, "int32"), variates)

    def step(self, state: Rollout, action: Tensor, draws: Tensor | None = None) -> tuple[Rollout, Step]:
        """Put the action into the newest row and encode it; see the interface."""
        cache, row, position, variates = state
        row = ops.where(variates.is_action > 0, action, row)
        logits, cache = self.decode(row, position, cache, variates)
        mean, std = moments(logits, variates.lower, variates.upper)
        value = mean if draws is None else sample(logits, variates.lower, variates.upper, draws)
        value = ops.clip(value, variates.lower, variates.upper)
        return Rollout(cache, value, position + 1, variates), Step(mean, std, value)

    def encode_past(self, values: Tensor, time_mask: Tensor, variates: Variates, length: int) -> Cache:
        """The keys and values of a window's first rows ``[B, W, M]``, at positions 0 to W - 1, for :meth:`decode`.

        W may be 0; ``length`` is S, how many rows the cache is to hold, W included; at most the model's window.
        """
        grid = batch, time, count = ops.shape(values)
        blocks, room = self.sizes.blocks, length - values.shape[1]

        def padded(array: Tensor) -> Tensor:
            return ops.pad(array, [[0, 0], [0, room]] + [[0, 0]] * (len(array.shape) - 2))

        mask = padded(ops.cast(time_mask, "float32"))
        if not values.shape[1]:
            shape = (batch, length, count, self.sizes.heads, self.sizes.width // self.sizes.heads)
            return Cache(((ops.zeros(shape, self.compute_dtype),) * 2,) * blocks, mask)
        x = self._embed(values, ops.arange(time), variates)
        x, pairs = self._blocks(x, grid, _causal(time_mask), variates, blocks - 1)
        # Nobody reads what the last block makes of these rows, only what later rows attend to.
        pairs.append(self.temporal[-1].query_key_value_of(x, grid)[1:])
        return Cache(tuple((padded(key), padded(value)) for key, value in pairs), mask)

    def decode(self, row: Tensor, position: Tensor, cache: Cache, variates: Variates) -> tuple[Tensor, Cache]:
        """Encode one more row ``[B, M]``: its logits ``[B, M, bins]``, and the cache with this row added.

        ``position``, a scalar, is how many rows the cache holds already, to which this one attends.
        """
        batch, count = ops.shape(row)
        grid, length = (batch, 1, count), cache.time_mask.shape[1]
        x = self._embed(ops.expand_dims(row, 1), ops.reshape(position, (1,)), variates)
        added = ops.ones((batch, 1), dtype=cache.time_mask.dtype)
        time_mask = ops.slice_update(cache.time_mask, (0, position), added)
        reachable = ops.logical_and(time_mask > 0, ops.arange(length) <= position)
        reachable = ops.reshape(reachable, (batch, 1, 1, 1, length))
        x, pairs = self._blocks(
            x, grid, reachable, variates, self.sizes.blocks, held=cache.pairs, position=position
        )
        return self._logits(x, grid)[:, 0], Cache(tuple(pairs), time_mask)

    def _blocks(
        self,
        x: Tensor,
        grid: Grid,
        attendable: Tensor,
        variates: Variates,
        count: int,
        seed: Tensor | None = None,
        rows: int | None = None,
        held: tuple[Pair, ...] | None = None,
        position: Any = 0,
    ) -> tuple[Tensor, list[Pair]]:
        """The first ``count`` blocks' answer at the last ``rows`` rows, and each one's keys and values."""
        batch, time, variate_count = grid
        # ``[M]`` to a key mask of variate attention.
        real = None if variates.mask is None else ops.reshape(variates.mask, (1, 1, 1, 1, -1)) > 0
        pairs = []
        for index in range(count):
            # Nobody reads the last block's earlier rows when only the last are asked for.
            asked = rows if index == self.sizes.blocks - 1 else None
            cached = {} if held is None else {"cache": held[index], "cache_index": position}
            x, pair = self.temporal[index](
                x, grid=grid, attendable=attendable, seed=seed, rows=asked, **cached
            )
            grid = (batch, asked or time, variate_count)
            x, _ = self.across[index](x, grid=grid, attendable=real, seed=seed)
            pairs.append(pair)
        return x, pairs

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
        rows = (shape[1] or 0) + offset
        if rows > self.sizes.window:
            raise TrajWorldError(f"a window of {rows} rows is longer than the model's {self.sizes.window}")
        if (shape[2] or 0) > self.sizes.variates:
            raise TrajWorldError(
                f"{shape[2]} variates are more than the {self.sizes.variates} this model has embeddings for: "
                f"make the model with a larger table (--variates {shape[2]})"
            )

    get_config, from_config = model_config, staticmethod(model_from_config)


def _causal(time_mask: Tensor) -> Tensor:
    """Which rows each row of windows ``[B, T]`` may attend to: ``[B, 1, 1, T, T]``."""
    batch, time = ops.shape(time_mask)
    steps = ops.arange(time)
    earlier = ops.expand_dims(steps, 1) >= ops.expand_dims(steps, 0)
    return ops.logical_and(earlier, ops.reshape(time_mask, (batch, 1, 1, 1, time)) > 0)
