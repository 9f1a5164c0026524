"""Open-loop rollouts: what a model foresees when only the actions are given (DESIGN §4, rollouts).

Decoding goes in chunks of K predictions with a key/value cache. Encoding the last W rows, at positions 0 to
W - 1, gives a chunk's first prediction; K - 1 single rows, at positions W to W + K - 2, give the others; then
it starts again from the last W rows. Two nested loops: each one's body is compiled once, for any horizon.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from keras import ops

from trajworld.backend import active_backend
from trajworld.errors import UsageError
from trajworld.models.tokenizer import moments, sample
from trajworld.models.transformer import Cache, TrajWorld, Variates

Tensor = Any

CONTEXT = 10
"""W, rows encoded at the start of a chunk."""

CHUNK = 10
"""K, predictions of a chunk."""


class OpenLoop(NamedTuple):
    """What is foreseen of B trajectories over h steps.

    Attributes:
        observations: ``[B, h, O]``: expected, or sampled where that was asked for; these were fed back.
        rewards: ``[B, h]``, the same.
        observation_std: ``[B, h, O]``: standard deviation of each predicted distribution, given its past.
        reward_std: ``[B, h]``, the same.
    """

    observations: Tensor
    rewards: Tensor
    observation_std: Tensor
    reward_std: Tensor


def chunk_sizes(window: int) -> tuple[int, int]:
    """W and K for a model of a window of T rows: the usual ones, less where they do not fit.

    Raises:
        UsageError: The window is a single row.
    """
    if window < 2:
        raise UsageError("a rollout needs a model whose window holds at least 2 rows")
    context = min(CONTEXT, (window + 1) // 2)
    return context, min(CHUNK, window - context + 1)


def open_loop(
    model: TrajWorld,
    history: Tensor,
    history_mask: Tensor,
    actions: Tensor,
    variates: Variates,
    observation_size: int,
    uniforms: Tensor | None = None,
    context: int = CONTEXT,
    chunk: int = CHUNK,
) -> OpenLoop:
    """Predict h steps from a real history and given actions, feeding each prediction back.

    The row fed back holds the predicted observation and reward, clipped to the support, and the given action.

    Args:
        model: The model.
        history: ``[B, H, M]`` real rows, the last being the one to start from; its action is ignored. Only
            the last W rows are read; fewer are padded on the left with masked rows.
        history_mask: ``[B, H]``, 1 for real rows.
        actions: ``[B, h, A]``: ``actions[:, 0]`` is taken in the last row of the history, and
            ``actions[:, k]`` leads to the k-th prediction.
        variates: What is known of the M variates, ``[observation..., reward, action..., padding...]``.
        observation_size: O.
        uniforms: ``[h, 2, B, M]`` draws from [0, 1), to sample the predictions; None for expectations.
        context: W.
        chunk: K; W + K - 1 is at most the model's window.

    Returns:
        The predictions.

    Raises:
        UsageError: ``context`` and ``chunk`` do not fit the model, or the shapes do not fit each other.
    """
    _check(model, history.shape, actions.shape, observation_size, context, chunk)
    horizon, predicted = actions.shape[1], observation_size + 1
    chunks = -(-horizon // chunk)
    rows, mask = _laid_out(history, history_mask, actions, observation_size, context, chunks * chunk)
    batch, length, count = rows.shape
    deviations = ops.zeros((batch, length, predicted), "float32")
    if uniforms is not None:
        uniforms = ops.pad(uniforms, [[0, chunks * chunk - horizon], [0, 0], [0, 0], [0, 0]])

    def written(logits: Tensor, step: Tensor, rows: Tensor, deviations: Tensor) -> tuple[Tensor, Tensor]:
        """The rows and deviations with a step's prediction, ``[B, M, bins]`` logits, in its place."""
        value, deviation = moments(logits, variates.lower, variates.upper)
        if uniforms is not None:
            draws = ops.slice(uniforms, (step, 0, 0, 0), (1, 2, batch, count))[0]
            value = sample(logits, variates.lower, variates.upper, draws)
        value = ops.clip(value, variates.lower, variates.upper)
        place = (0, context + step, 0)
        return (
            ops.slice_update(rows, place, value[:, None, :predicted]),
            ops.slice_update(deviations, place, deviation[:, None, :predicted]),
        )

    def one_chunk(number: Tensor, carry: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        begin = number * chunk
        seen = ops.slice(carry[0], (0, begin, 0), (batch, context, count))
        seen_mask = ops.slice(mask, (0, begin), (batch, context))
        logits, cache = model.prefill(seen, seen_mask, variates, length=context + chunk - 1, rows=1)

        def one_row(k: Tensor, carry: tuple[Tensor, Tensor, Cache]) -> tuple[Tensor, Tensor, Cache]:
            rows, deviations, cache = carry
            row = ops.slice(rows, (0, begin + context + k - 1, 0), (batch, 1, count))[:, 0]
            logits, cache = model.decode(row, context + k - 1, cache, variates)
            return (*written(logits, begin + k, rows, deviations), cache)

        carry = written(logits[:, 0], begin, *carry)
        return ops.fori_loop(1, chunk, one_row, (*carry, cache))[:2]

    rows, deviations = ops.fori_loop(0, chunks, one_chunk, (rows, deviations))
    values, stds = (array[:, context : context + horizon] for array in (rows, deviations))
    reward = observation_size
    return OpenLoop(values[..., :reward], values[..., reward], stds[..., :reward], stds[..., reward])


def compile_open_loop(model: TrajWorld, observation_size: int) -> Callable[..., OpenLoop]:
    """Compile :func:`open_loop`, in chunks that fit the model's window, for data of one observation size.

    Returns:
        A function of history, its mask, actions, variates and (perhaps None) uniforms; compiled once for each
        set of their shapes. It reads the model's weights as they are at the call.
    """
    context, chunk = chunk_sizes(model.sizes.window)

    def run(
        history: Any, history_mask: Any, actions: Any, variates: Variates, uniforms: Any = None
    ) -> OpenLoop:
        return open_loop(
            model, history, history_mask, actions, variates, observation_size, uniforms, context, chunk
        )

    return active_backend().compile(run, model)


def draw_uniforms(horizon: int, batch: int, variates: int, seed: int) -> np.ndarray:
    """Draws for :func:`open_loop`, ``[h, 2, B, M]`` float32 in [0, 1): the same for a seed on every backend.

    A longer horizon begins with the draws of a shorter one.
    """
    return np.random.default_rng(seed).random((horizon, 2, batch, variates), np.float32)


def _laid_out(
    history: Tensor, mask: Tensor, actions: Tensor, observation_size: int, context: int, steps: int
) -> tuple[Tensor, Tensor]:
    """The rows ``[B, W + steps, M]`` and mask of a rollout: history and actions, predictions still 0."""
    history, mask = ops.cast(history, "float32")[:, -context:], ops.cast(mask, "float32")[:, -context:]
    batch, held = mask.shape
    rows = ops.pad(history, [[0, 0], [context - held, steps], [0, 0]])
    # The last real row takes the first action, so that the last prediction has none.
    rows = ops.slice_update(rows, (0, context - 1, observation_size + 1), ops.cast(actions, "float32"))
    mask = ops.pad(mask, [[0, 0], [context - held, 0]])
    return rows, ops.concatenate([mask, ops.ones((batch, steps), "float32")], axis=1)


def _check(
    model: TrajWorld,
    history: tuple[int, ...],
    actions: tuple[int, ...],
    observation_size: int,
    context: int,
    chunk: int,
) -> None:
    """Refuse shapes and sizes that do not fit, by name."""
    if context < 1 or chunk < 2 or context + chunk - 1 > model.sizes.window:
        raise UsageError(
            f"chunks of {chunk} predictions after {context} rows do not fit the model's window of "
            f"{model.sizes.window}: rows and predictions less 1 may be {model.sizes.window} together"
        )
    if len(history) != 3 or len(actions) != 3 or history[0] != actions[0] or not history[1] or not actions[1]:
        raise UsageError(
            f"a history {tuple(history)} and actions {tuple(actions)} must be [B, H, M] and [B, h, A], "
            "of at least one row and one step"
        )
    if observation_size + 1 + actions[2] > history[2]:
        raise UsageError(
            f"{observation_size} observations, a reward and {actions[2]} actions are more than the "
            f"{history[2]} variates of the history"
        )
