"""TrajWorld (Yin et al. 2025, section 4): alternating attention over time and over variates."""

from typing import Any

import keras
from keras import ops

from trajworld.data.batch import Batch, Variates
from trajworld.models.bins import moments, onehot_cross_entropy
from trajworld.models.interface import Predicted, Short, Step
from trajworld.models.transformer import Cache, Rollout, WindowTransformer, causal, decided

Tensor = Any


@keras.saving.register_keras_serializable("trajworld")
class TrajWorld(WindowTransformer):
    """The transformer over a window of rows, for any number of variates; its weights do not depend on that.

    A rollout goes in chunks of K steps with a key/value cache: all but the newest of the last W rows are encoded, at
    positions 0 to W - 2, then each step adds a row at the next position, the last at W + K - 2.
    """

    kind = "trajworld"
    axes = ("time", "variate")

    def _embed_more(self) -> None:
        self.variate_embedding = self._embedding(self.sizes.variates, "variate_embedding")

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
            variates: Properties of the M variates.
            seed: Scalar int32 that dropout is a function of; None for inference.
            rows: Answer for the last ``rows`` rows only; None for all.
            offset: The first row's position in the window, where that lacks its first rows, which are padding.

        Raises:
            TrajWorldError: T (with ``offset``) or M is more than the model has embeddings for.
        """
        grid = batch, time, count = ops.shape(values)
        x = self._embed(values, ops.arange(time) + offset, variates)
        x, _ = self._blocks(x, grid, causal(time_mask), variates, self.sizes.blocks, seed, rows)
        return self._logits(x, (batch, rows or time, count))

    def next_rows(self, batch: Batch, seed: Tensor | None = None) -> Tensor:
        """Only from the rows before each."""
        return self(batch.values[:, :-1], batch.time_mask[:, :-1], batch.variates, seed=seed)

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
        step = decided(logits, variates.lower, variates.upper, draws)
        return Rollout(cache, step.value, position + 1, variates), step

    def encode_past(self, values: Tensor, time_mask: Tensor, variates: Variates, length: int) -> Cache:
        """The keys and values of a window's first rows ``[B, W, M]``, at positions 0 to W - 1, for :meth:`decode`.

        W may be 0; ``length`` is S, how many rows the cache is to hold, W included; at most the model's window.
        """
        batch, time, count = grid = ops.shape(values)
        if not time:
            return self._empty_cache((batch, length, count))
        return self._encode(
            self._embed(values, ops.arange(time), variates), grid, time_mask, variates, length
        )

    def decode(self, row: Tensor, position: Tensor, cache: Cache, variates: Variates) -> tuple[Tensor, Cache]:
        """Encode one more row ``[B, M]``: its logits ``[B, M, bins]``, and the cache with this row added.

        ``position``, a scalar, is how many rows the cache holds already, to which this one attends.
        """
        batch, count = ops.shape(row)
        grid = (batch, 1, count)
        x = self._embed(ops.expand_dims(row, 1), ops.reshape(position, (1,)), variates)
        x, cache = self._decode(x, grid, ops.ones((batch, 1)), position, cache, variates)
        return self._logits(x, grid)[:, 0], cache

    def _per_variate(self, variates: Variates, count: int) -> Tensor:
        return self.variate_embedding(ops.arange(count)) + super()._per_variate(variates, count)
