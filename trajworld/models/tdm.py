"""TDM, the baseline: one flattened sequence of all values, each token predicting the next (Schubert et al. 2023)."""

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from trajworld.data.batch import Batch, Variates
from trajworld.models.bins import moments, onehot_cross_entropy
from trajworld.models.interface import Predicted, Short, Step
from trajworld.models.transformer import Cache, Rollout, WindowTransformer, causal, decided

Tensor = Any


@keras.saving.register_keras_serializable("trajworld")
class TDM(WindowTransformer):
    """The transformer over a window's rows, one after the other, as T * M tokens, with causal attention.

    A token knows its row's position and whether it is an action, but not which variate it is. Tokens of padded rows and
    of masked variates are never attended to. A row is predicted variate by variate, each from those before it, which
    are its own predictions in a rollout: chunks of K steps with a cache of W + K rows, the last predicted at its end.
    """

    kind = "tdm"
    axes = ("time",)

    @property
    def predictions(self) -> dict[str, Callable[..., Predicted]]:
        """Two errors: of a rollout's first step, and of one that is given the true values within the row."""
        return {"autoregressive model": self.predict, "teacher-forced model": self.predict_teacher_forced}

    def call(
        self,
        values: Tensor,
        time_mask: Tensor,
        variates: Variates,
        seed: Tensor | None = None,
        offset: int = 0,
    ) -> Tensor:
        """Logits ``[B, T, M, bins]``: those of a token predict the next one, the last of a row the next row's first.

        Arguments and errors are those of :meth:`trajworld.models.trajworld.TrajWorld.call`.
        """
        grid = ops.shape(values)
        return self._logits(self._tokens(values, time_mask, variates, seed, None, offset), grid)

    def next_rows(self, batch: Batch, seed: Tensor | None = None) -> Tensor:
        """From the rows before each, and the variates before each within it."""
        self._check_sizes(batch.values.shape)
        return self._teacher_forced(batch, seed=seed)

    def predict(self, batch: Batch, short: Short = "padded") -> Predicted:
        """Autoregressive: each variate from the expectations of those before it; see the interface."""
        values, mask, variates, _ = batch
        offset = self._offset(values, short)
        state = self._start(values[:, :-1], mask[:, :-1], variates, values.shape[1], offset)
        _, step, nll = self._predict_row(state, values[:, -1], offset)
        return Predicted(step.predicted, step.std, nll)

    def predict_teacher_forced(self, batch: Batch, short: Short = "padded") -> Predicted:
        """As :meth:`predict`, but each variate from the true values of those before it in the last row, too."""
        lower, upper = batch.variates.lower, batch.variates.upper
        logits = self._teacher_forced(batch, rows=2, offset=self._offset(batch.values, short))[:, 0]
        nll = onehot_cross_entropy(logits, batch.values[:, -1], lower, upper)
        return Predicted(*moments(logits, lower, upper), nll)

    def start(self, history: Tensor, mask: Tensor, variates: Variates) -> Rollout:
        """Encode all rows but the newest; see the interface."""
        self._check_sizes(history.shape)
        return self._start(history, mask, variates, history.shape[1] + self.chunk)

    def step(self, state: Rollout, action: Tensor, draws: Tensor | None = None) -> tuple[Rollout, Step]:
        """Put the action into the newest row, encode it, then predict and encode variate by variate."""
        row = ops.where(state.variates.is_action > 0, action, state.row)
        state, step, _ = self._predict_row(state._replace(row=row), draws=draws)
        return state, step

    def _offset(self, values: Tensor, short: Short) -> int:
        offset = max(self.sizes.window - values.shape[1], 0) if short == "padded" else 0
        self._check_sizes(values.shape, offset)
        return offset

    def _teacher_forced(
        self, batch: Batch, seed: Tensor | None = None, rows: int | None = None, offset: int = 0
    ) -> Tensor:
        """Logits of the last ``rows`` rows but their first, ``[B, rows - 1, M, bins]``."""
        values, mask, variates, _ = batch
        size, time, count = ops.shape(values)
        x = self._tokens(values, mask, variates, seed, rows, offset)
        x = ops.reshape(x, (size, rows or time, count, self.sizes.width))
        # Of the variates that are predicted, only the first has another token before it than the last variate's.
        before = _column(x[:, :-1], _last_real(variates, count))
        x = ops.concatenate([before, x[:, 1:, :-1]], axis=2)
        return self._logits(ops.reshape(x, (-1, self.sizes.width)), (size, (rows or time) - 1, count))

    def _tokens(
        self,
        values: Tensor,
        mask: Tensor,
        variates: Variates,
        seed: Tensor | None = None,
        rows: int | None = None,
        offset: int = 0,
    ) -> Tensor:
        """The blocks' output at the tokens of the last ``rows`` rows, ``[B * rows * M, d]``."""
        batch, time, count = ops.shape(values)
        x = self._embed(values, ops.arange(time) + offset, variates)
        grid, attendable = (batch, time * count, 1), causal(_token_mask(mask, variates, count))
        tokens = None if rows is None else rows * count
        return self._blocks(x, grid, attendable, _unmasked(variates), self.sizes.blocks, seed, tokens)[0]

    def _start(
        self, history: Tensor, mask: Tensor, variates: Variates, length: int, offset: int = 0
    ) -> Rollout:
        """A cache of room for ``length`` rows that holds all but the newest."""
        batch, time, count = ops.shape(history)
        past = time - 1
        if past:
            x = self._embed(history[:, :past], ops.arange(past) + offset, variates)
            tokens = _token_mask(mask[:, :past], variates, count)
            grid = (batch, past * count, 1)
            cache = self._encode(x, grid, tokens, _unmasked(variates), length * count)
        else:
            cache = self._empty_cache((batch, length * count, 1))
        return Rollout(cache, history[:, past], ops.convert_to_tensor(past, "int32"), variates)

    def _predict_row(
        self, state: Rollout, truth: Tensor | None = None, offset: int = 0, draws: Tensor | None = None
    ) -> tuple[Rollout, Step, Tensor]:
        """Encode the newest row, then predict the next; and the likelihood of its truth, zeros without one.

        The variates of the next row are encoded as they are predicted, and again when it is the newest, whole.
        """
        cache, row, position, variates = state
        batch, count = ops.shape(row)
        real = ops.ones((count,)) if variates.mask is None else ops.cast(variates.mask, "float32")

        def feed(values: Tensor, first: Any, position: Tensor, cache: Cache) -> tuple[Tensor, Cache]:
            """Encode variates ``[B, N]`` of a row from ``first`` on: ``[B, N, d]``."""
            number = values.shape[1]
            own = Variates(*(_entries(array, first, number) for array in variates[:3]))
            x = self._embed(values[:, None], ops.reshape(position + offset, (1,)), own)
            added = ops.broadcast_to(_entries(real, first, number), (batch, number))
            at = position * count + first
            x, cache = self._decode(x, (batch, number, 1), added, at, cache, own)
            return ops.reshape(x, (batch, number, self.sizes.width)), cache

        def predict(variate: Any, x: Tensor, found: Tensor) -> Tensor:
            """Write prediction, deviation, value and likelihood of one variate into ``found [4, B, M]``."""
            logits = ops.reshape(self.head(x), (batch, 1, -1))
            lower, upper = (_entries(end, variate, 1) for end in (variates.lower, variates.upper))
            drawn = None if draws is None else _column(draws, variate)
            step = decided(logits, lower, upper, drawn)
            true = None if truth is None else _column(truth, variate, axis=1)
            nll = (
                ops.zeros_like(step.std) if true is None else onehot_cross_entropy(logits, true, lower, upper)
            )
            return ops.slice_update(found, (0, 0, variate), ops.stack([*step, nll]))

        def one_variate(variate: Any, carry: tuple[Tensor, Cache, Tensor]) -> tuple[Tensor, Cache, Tensor]:
            x, cache, found = carry
            last = variate - 1
            fed, cache = feed(_column(found[2], last, axis=1), last, position + 1, cache)
            x = ops.where(_entries(real, last, 1) > 0, fed[:, 0], x)
            return x, cache, predict(variate, x, found)

        last = _last_real(variates, count)
        x, cache = feed(row, 0, position, cache)
        x = _column(x, last, axis=1)[:, 0]
        found = predict(0, x, ops.zeros((4, batch, count)))
        # Up to the first action; the padding behind it is none either.
        actions = ops.cast(variates.is_action, "int32")
        end = ops.where(ops.sum(actions) > 0, ops.cast(ops.argmax(actions), "int32"), last + 1)
        x, cache, found = ops.fori_loop(1, end, one_variate, (x, cache, found))
        step = Step(found[0], found[1], found[2])
        return Rollout(cache, step.value, position + 1, variates), step, found[3]


def _token_mask(mask: Tensor, variates: Variates, count: int) -> Tensor:
    """``[B, T * M]``, 1 for tokens of real rows and variates."""
    real = ops.ones((count,)) if variates.mask is None else ops.cast(variates.mask, "float32")
    return ops.reshape(ops.expand_dims(ops.cast(mask, "float32"), -1) * real, (mask.shape[0], -1))


def _unmasked(variates: Variates) -> Variates:
    """On a grid of tokens their mask is among those of T."""
    return variates._replace(mask=None)


def _last_real(variates: Variates, count: int) -> Tensor:
    """The last variate that is not masked, a scalar int32."""
    if variates.mask is None:
        return ops.convert_to_tensor(count - 1, "int32")
    return ops.cast(ops.max(ops.where(variates.mask > 0, ops.arange(count), 0)), "int32")


def _entries(array: Tensor, first: Any, number: int) -> Tensor:
    return ops.slice(ops.convert_to_tensor(array), (first,), (number,))


def _column(array: Tensor, place: Any, axis: int = 2) -> Tensor:
    """One entry of an axis, which stays."""
    start: list[Any] = [0] * len(array.shape)
    shape = list(array.shape)
    start[axis], shape[axis] = place, 1
    return ops.slice(array, start, shape)
