"""Open-loop rollouts: what a model foresees when only the actions are given (DESIGN §4, rollouts).

Decoding goes in chunks of K predictions with a key/value cache. Encoding the last W rows, at positions 0 to
W - 1, gives a chunk's first prediction; K - 1 single rows, at positions W to W + K - 2, give the others; then
it starts again from the last W rows. A chunk is what is compiled: its shapes are the same for any horizon.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from keras import ops
from numpy.typing import NDArray

from trajworld.backend import active_backend
from trajworld.errors import UsageError
from trajworld.models.bins import moments, sample
from trajworld.models.trajworld import Cache, TrajWorld, Variates

Tensor = Any

CONTEXT = 10
"""W, rows encoded at the start of a chunk."""

CHUNK = 10
"""K, predictions of a chunk."""


class OpenLoop(NamedTuple):
    """What is foreseen of B trajectories over h steps, as NumPy float32.

    Attributes:
        observations: ``[B, h, O]``: expected, or sampled where that was asked for; these were fed back.
        rewards: ``[B, h]``, the same.
        observation_std: ``[B, h, O]``: standard deviation of each predicted distribution, given its past.
        reward_std: ``[B, h]``, the same.
    """

    observations: NDArray[np.float32]
    rewards: NDArray[np.float32]
    observation_std: NDArray[np.float32]
    reward_std: NDArray[np.float32]


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

    def predict(
        rows: Tensor, mask: Tensor, actions: Tensor, variates: Variates, uniforms: Tensor | None
    ) -> tuple[Tensor, ...]:
        return predict_chunk(model, rows, mask, actions, variates, observation_size, uniforms)

    return _in_chunks(
        predict, history, history_mask, actions, variates, observation_size, uniforms, context, chunk
    )


def predict_chunk(
    model: TrajWorld,
    rows: Tensor,
    mask: Tensor,
    actions: Tensor,
    variates: Variates,
    observation_size: int,
    uniforms: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Predict K rows after W rows, decoding with a cache.

    Args:
        model: The model.
        rows: ``[B, W, M]``; the action of the last one is ignored.
        mask: ``[B, W]``, 1 for real rows.
        actions: ``[B, K, A]``: the first is taken in the last of ``rows``, each other in the prediction before it.
        variates: What is known of the M variates.
        observation_size: O.
        uniforms: ``[K, 2, B, M]`` draws to sample the predictions; None for expectations.

    Returns:
        Predictions ``[B, K, O + 1]``, their standard deviations, and the last W rows and their mask, for the next
        chunk.
    """
    (batch, context, count), chunk, predicted = rows.shape, actions.shape[1], observation_size + 1
    rows = ops.pad(rows, [[0, 0], [0, chunk], [0, 0]])
    # The last real row takes the first action, so that the last prediction has none.
    rows = ops.slice_update(rows, (0, context - 1, predicted), ops.cast(actions, "float32"))
    deviations = ops.zeros((batch, chunk, predicted), "float32")

    def written(logits: Tensor, k: Tensor, rows: Tensor, deviations: Tensor) -> tuple[Tensor, Tensor]:
        """The rows and deviations with the k-th prediction, ``[B, M, bins]`` logits, in its place."""
        value, deviation = moments(logits, variates.lower, variates.upper)
        if uniforms is not None:
            draws = ops.slice(uniforms, (k, 0, 0, 0), (1, 2, batch, count))[0]
            value = sample(logits, variates.lower, variates.upper, draws)
        value = ops.clip(value, variates.lower, variates.upper)
        return (
            ops.slice_update(rows, (0, context + k, 0), value[:, None, :predicted]),
            ops.slice_update(deviations, (0, k, 0), deviation[:, None, :predicted]),
        )

    def one_row(k: Tensor, carry: tuple[Tensor, Tensor, Cache]) -> tuple[Tensor, Tensor, Cache]:
        rows, deviations, cache = carry
        row = ops.slice(rows, (0, context + k - 1, 0), (batch, 1, count))[:, 0]
        logits, cache = model.decode(row, context + k - 1, cache, variates)
        return (*written(logits, k, rows, deviations), cache)

    logits, cache = model.prefill(rows[:, :context], mask, variates, length=context + chunk - 1, rows=1)
    carry = (*written(logits[:, 0], 0, rows, deviations), cache)
    rows, deviations, _ = ops.fori_loop(1, chunk, one_row, carry)
    mask = ops.concatenate([mask, ops.ones((batch, chunk), "float32")], axis=1)
    return rows[:, context:, :predicted], deviations, rows[:, chunk:], mask[:, chunk:]


def compile_open_loop(model: TrajWorld, observation_size: int) -> Callable[..., OpenLoop]:
    """Compile :func:`open_loop`, in chunks that fit the model's window, for data of one observation size.

    Returns:
        A function of history, its mask, actions, variates and (perhaps None) uniforms, compiled once for each number
        of trajectories and variates, whatever the horizon. It reads the model's weights as they are at the call.
    """
    context, chunk = chunk_sizes(model.sizes.window)

    def one_chunk(rows: Any, mask: Any, actions: Any, variates: Variates, uniforms: Any) -> tuple[Any, ...]:
        return predict_chunk(model, rows, mask, actions, variates, observation_size, uniforms)

    compiled = active_backend().compile(one_chunk, model)

    def run(
        history: Any, history_mask: Any, actions: Any, variates: Variates, uniforms: Any = None
    ) -> OpenLoop:
        _check(model, np.shape(history), np.shape(actions), observation_size, context, chunk)
        return _in_chunks(
            compiled, history, history_mask, actions, variates, observation_size, uniforms, context, chunk
        )

    return run


def draw_uniforms(horizon: int, batch: int, variates: int, seed: int) -> np.ndarray:
    """Draws for :func:`open_loop`, ``[h, 2, B, M]`` float32 in [0, 1): the same for a seed on every backend.

    A longer horizon begins with the draws of a shorter one.
    """
    return np.random.default_rng(seed).random((horizon, 2, batch, variates), np.float32)


def _in_chunks(
    predict: Callable[..., tuple[Tensor, ...]],
    history: Any,
    history_mask: Any,
    actions: Any,
    variates: Variates,
    observation_size: int,
    uniforms: Any,
    context: int,
    chunk: int,
) -> OpenLoop:
    """Roll out by one call of ``predict`` (:func:`predict_chunk`) a chunk; all of them have the same shapes."""
    held, horizon = min(history.shape[1], context), actions.shape[1]
    missing = -horizon % chunk
    rows = np.pad(_host(history)[:, -held:], [(0, 0), (context - held, 0), (0, 0)])
    mask = np.pad(_host(history_mask)[:, -held:], [(0, 0), (context - held, 0)])
    actions = np.pad(_host(actions), [(0, 0), (0, missing), (0, 0)])
    if uniforms is not None:
        uniforms = np.pad(_host(uniforms), [(0, missing), (0, 0), (0, 0), (0, 0)])
    predictions = []
    for begin in range(0, horizon, chunk):
        steps = slice(begin, begin + chunk)
        draws = None if uniforms is None else uniforms[steps]
        *predicted, rows, mask = predict(rows, mask, actions[:, steps], variates, draws)
        predictions.append(predicted)
    # Read at the end alone: until then the device has always the next chunk to work on.
    values, stds = (
        np.concatenate([_host(part) for part in parts], axis=1)[:, :horizon]
        for parts in zip(*predictions, strict=True)
    )
    reward = observation_size
    return OpenLoop(values[..., :reward], values[..., reward], stds[..., :reward], stds[..., reward])


def _host(array: Any) -> NDArray[np.float32]:
    return np.asarray(ops.convert_to_numpy(array), np.float32)


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
