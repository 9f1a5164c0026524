"""The training loss (DESIGN §4): cross-entropy of the next row's observation and reward."""

from typing import Any

from keras import ops

from trajworld.models.bins import CROSS_ENTROPIES
from trajworld.models.trajworld import TrajWorld, Variates

Tensor = Any


def window_loss(
    model: TrajWorld,
    values: Tensor,
    time_mask: Tensor,
    variates: Variates,
    seed: Tensor | None = None,
    targets: str = "onehot",
) -> Tensor:
    """Mean cross-entropy of the observation and reward variates of each next row.

    Averaged over variates, then over the rows whose input row is real.

    Args:
        model: The model.
        values: ``[B, T, M]`` raw rows: the first T - 1 are read, the last T - 1 predicted.
        time_mask: ``[B, T]``.
        variates: What is known of the variates.
        seed: Dropout's seed, None without dropout.
        targets: ``onehot`` or ``gauss``.

    Returns:
        Scalar float32, in nats.
    """
    total, rows = window_loss_sums(model, values, time_mask, variates, seed, targets)
    return total / rows


def window_loss_sums(
    model: TrajWorld,
    values: Tensor,
    time_mask: Tensor,
    variates: Variates,
    seed: Tensor | None = None,
    targets: str = "onehot",
) -> tuple[Tensor, Tensor]:
    """Sum over real rows of their mean cross-entropy, and the number of rows, for averages over batches."""
    logits = model(values[:, :-1], time_mask[:, :-1], variates, seed=seed)
    entropies = CROSS_ENTROPIES[targets](logits, values[:, 1:], variates.lower, variates.upper)
    counted = predicted_mask(variates)
    rows = ops.sum(entropies * counted, axis=-1) / ops.sum(counted)
    present = ops.cast(time_mask[:, :-1], "float32")
    return ops.sum(rows * present), ops.sum(present)


def predicted_mask(variates: Variates) -> Tensor:
    """``[M]`` float32: 1 for the variates that are predicted: observations and the reward, not actions or padding."""
    predicted = 1.0 - ops.cast(variates.is_action, "float32")
    return predicted if variates.mask is None else predicted * ops.cast(variates.mask, "float32")
