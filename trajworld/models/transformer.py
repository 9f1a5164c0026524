"""What transformers over windows of rows share: tokens in, logits out, blocks, the key/value cache, and the loss."""

from typing import Any, ClassVar, NamedTuple

import keras
from keras import ops

from trajworld.data.batch import Batch, Variates
from trajworld.errors import TrajWorldError
from trajworld.models.attention import DROPOUT_SITES, AttentionFeedForward, Grid, RowDense, for_cache
from trajworld.models.bins import CROSS_ENTROPIES, encode, moments, sample
from trajworld.models.identity import Identity
from trajworld.models.interface import Step, model_config, model_from_config

Tensor = Any
Pair = tuple[Tensor, Tensor]
"""Keys and values of one block's temporal attention; in a cache ``[B, M, heads, S, d / heads]`` each."""


class Cache(NamedTuple):
    """Keys and values of each block, and ``[B, S]``, 1 for real rows (or tokens) that the cache holds."""

    pairs: tuple[Pair, ...]
    time_mask: Tensor


class Rollout(NamedTuple):
    """Where a rollout stands: the cache of the rows before the newest, that row ``[B, M]``, and its position."""

    cache: Cache
    row: Tensor
    position: Tensor
    variates: Variates


class WindowTransformer(keras.Model):
    """A transformer of tokens, one for each variate of each row, which predicts bins.

    Its blocks attend along ``axes``, one after the other, on a grid ``(B, T, M)``: over T, and perhaps over M. Weights
    do not depend on the number of variates.
    """

    axes: ClassVar[tuple[str, ...]]

    def __init__(self, sizes: Any, identity: Identity | None = None, **kwargs: Any) -> None:
        # Raw values must reach the tokenizer in float32 under any policy: Keras would cast them to bfloat16 first.
        super().__init__(autocast=False, **kwargs)
        self.sizes = sizes
        self.identity = identity or Identity()
        # W is 10, or about half of a smaller window.
        self.context = min(10, (sizes.window + 1) // 2)
        # K is 10, or as many as end at a position that was trained: a window's last row is only predicted.
        self.chunk = min(10, sizes.window - self.context)
        policy = self.dtype_policy
        self.input_projection = RowDense(sizes.width, name="input_projection", dtype=policy)
        self.kind_embedding = self._embedding(2, "kind_embedding")
        self.position_embedding = self._embedding(sizes.window, "position_embedding")
        self._embed_more()
        self.temporal: list[AttentionFeedForward] = []
        self.across: list[AttentionFeedForward] = []
        given = sizes.width, sizes.heads, sizes.dropout
        for number in range(len(self.axes) * sizes.blocks):
            axis = self.axes[number % len(self.axes)]
            name = f"block_{number // len(self.axes)}_{axis}"
            layer = AttentionFeedForward(*given, axis, number * DROPOUT_SITES, name=name, dtype=policy)
            (self.temporal if axis == "time" else self.across).append(layer)
        self.head = RowDense(sizes.bins, name="head", dtype=policy)
        self.build()

    def _embed_more(self) -> None:
        """Make further embeddings."""

    def _embedding(self, entries: int, name: str) -> keras.layers.Embedding:
        width, initial = self.sizes.width, keras.initializers.RandomNormal(stddev=self.sizes.width**-0.5)
        made = keras.layers.Embedding(entries, width, initial, name=name, dtype=self.dtype_policy)
        made.build()
        return made

    def build(self, input_shape: Any = None) -> None:
        """Make the weights; they do not depend on the inputs' shapes."""
        if self.built:  # type: ignore[has-type]
            return
        self.input_projection.build((None, self.sizes.bins))
        self.head.build((None, self.sizes.width))
        self.built = True

    def __call__(self, values: Tensor, *arguments: Any, **named: Any) -> Any:
        """Check the sizes, then ``call``: Keras rewrites errors that are raised within that."""
        self._check_sizes(values.shape, named.get("offset", 0))
        return super().__call__(values, *arguments, **named)

    def next_rows(self, batch: Batch, seed: Tensor | None = None) -> Tensor:
        """Logits ``[B, T - 1, M, bins]`` of each row of windows but the first, given the true values before it."""
        raise NotImplementedError

    def loss_sums(
        self, batch: Batch, seed: Tensor | None = None, targets: str = "onehot"
    ) -> tuple[Tensor, Tensor]:
        """Cross-entropy of the next observation and reward in nats, the mean over variates; see the interface."""
        values, mask, variates, _ = batch
        logits = self.next_rows(batch, seed)
        entropies = CROSS_ENTROPIES[targets](logits, values[:, 1:], variates.lower, variates.upper)
        predicted = 1.0 - ops.cast(variates.is_action, "float32")
        if variates.mask is not None:
            predicted = predicted * ops.cast(variates.mask, "float32")
        rows = ops.sum(entropies * predicted, axis=-1) / ops.sum(predicted)
        present = ops.cast(mask[:, :-1], "float32")
        return ops.sum(rows * present), ops.sum(present)

    def _encode(self, x: Tensor, grid: Grid, time_mask: Tensor, variates: Variates, length: int) -> Cache:
        """The keys and values of a grid's ``x``, in a cache with room for ``length`` of its T."""
        x, pairs = self._blocks(x, grid, causal(time_mask), variates, self.sizes.blocks - 1)
        # The last block's output at these rows is not used, only what later rows attend to.
        pairs.append(self.temporal[-1].query_key_value_of(x, grid)[1:])
        room = length - grid[1]

        def held(array: Tensor) -> Tensor:
            return ops.pad(for_cache(array), [[0, 0]] * 3 + [[0, room], [0, 0]])

        mask = ops.pad(ops.cast(time_mask, "float32"), [[0, 0], [0, room]])
        return Cache(tuple((held(key), held(value)) for key, value in pairs), mask)

    def _empty_cache(self, grid: Grid) -> Cache:
        batch, length, count = grid
        shape = (batch, count, self.sizes.heads, length, self.sizes.width // self.sizes.heads)
        pair = (ops.zeros(shape, self.compute_dtype),) * 2
        return Cache((pair,) * self.sizes.blocks, ops.zeros((batch, length)))

    def _decode(
        self, x: Tensor, grid: Grid, added: Tensor, position: Tensor, cache: Cache, variates: Variates
    ) -> tuple[Tensor, Cache]:
        """Add the T of a grid to a cache that holds ``position`` already; they attend to all of these.

        ``added`` is their mask, ``[B, T]``. Returns the blocks' output for ``x``, and the cache.
        """
        batch, time, _ = grid
        length = cache.time_mask.shape[1]
        time_mask = ops.slice_update(cache.time_mask, (0, position), ops.cast(added, "float32"))
        earlier = ops.arange(length) <= ops.expand_dims(ops.arange(time), 1) + position
        real = ops.reshape(time_mask, (batch, 1, 1, 1, length)) > 0
        x, pairs = self._blocks(
            x,
            grid,
            ops.logical_and(real, earlier),
            variates,
            self.sizes.blocks,
            held=cache.pairs,
            position=position,
        )
        return x, Cache(tuple(pairs), time_mask)

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
        """The first ``count`` blocks' answer at the last ``rows`` of T, and each one's keys and values."""
        batch, time, variate_count = grid
        # ``[M]`` to a key mask of variate attention.
        real = None if variates.mask is None else ops.reshape(variates.mask, (1, 1, 1, 1, -1)) > 0
        pairs = []
        for index in range(count):
            # The last block's earlier rows are not used when only the last are asked for.
            asked = rows if index == self.sizes.blocks - 1 else None
            cached = {} if held is None else {"cache": held[index], "cache_index": position}
            x, pair = self.temporal[index](
                x, grid=grid, attendable=attendable, seed=seed, rows=asked, **cached
            )
            grid = (batch, asked or time, variate_count)
            if self.across:
                x, _ = self.across[index](x, grid=grid, attendable=real, seed=seed)
            pairs.append(pair)
        return x, pairs

    def _embed(self, values: Tensor, positions: Tensor, variates: Variates) -> Tensor:
        """``[B, T, M]`` raw values to ``[B * T * M, d]``."""
        batch, time, count = ops.shape(values)
        encoded = encode(values, variates.lower, variates.upper, self.sizes.bins)
        encoded = ops.reshape(ops.cast(encoded, self.compute_dtype), (-1, self.sizes.bins))
        x = ops.reshape(self.input_projection(encoded), (batch, time, count, self.sizes.width))
        per_row = ops.expand_dims(self.position_embedding(positions), 1)
        return ops.reshape(x + (per_row + self._per_variate(variates, count)), (-1, self.sizes.width))

    def _per_variate(self, variates: Variates, count: int) -> Tensor:
        """What is added to the tokens of each variate, ``[M, d]``."""
        return self.kind_embedding(variates.is_action)

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


def decided(logits: Tensor, lower: Tensor, upper: Tensor, draws: Tensor | None) -> Step:
    """What is predicted by ``logits [..., M, bins]``: the expectation, or a sample by ``draws [2, ..., M]``."""
    mean, std = moments(logits, lower, upper)
    predicted = mean if draws is None else sample(logits, lower, upper, draws)
    return Step(predicted, std, ops.clip(predicted, lower, upper))


def causal(time_mask: Tensor) -> Tensor:
    """Which rows each row of windows ``[B, T]`` may attend to: ``[B, 1, 1, T, T]``."""
    batch, time = ops.shape(time_mask)
    steps = ops.arange(time)
    earlier = ops.expand_dims(steps, 1) >= ops.expand_dims(steps, 0)
    return ops.logical_and(earlier, ops.reshape(time_mask, (batch, 1, 1, 1, time)) > 0)
