"""The optimiser and its schedule."""

import math
from typing import Any

import keras

from trajworld.training.config import TrainingConfig

# Besides embeddings, by Keras's own rule.
_OUTSIDE_BLOCKS = ["input_projection", "head"]


def learning_rate(config: TrainingConfig, step: int) -> float:
    """The rate of step ``step``, counted from 0: linear from 0 to the peak, then a cosine to 0 at ``decay_steps``.

    Handed to each step, rather than compiled into it, so that runs that differ in their rate share one compilation.
    """
    if step < config.warmup_steps:
        return config.learning_rate * step / config.warmup_steps
    share = (step - config.warmup_steps) / max(config.decay_steps - config.warmup_steps, 1)
    return config.learning_rate * 0.5 * (1.0 + math.cos(math.pi * min(share, 1.0)))


def make_optimizer(config: TrainingConfig) -> keras.optimizers.Optimizer:
    """The optimiser of a configuration; each step is given its rate, and clips the global norm first.

    AdamW with decoupled decay of every weight, as published; or Muon for the matrices of the blocks, whose updates are
    scaled to the size of AdamW's (Liu et al., 2025, arXiv:2502.16982), and AdamW for embeddings, the first and the last
    layer, biases and norms.

    Where the configuration asks for it, the optimiser keeps a moving average of the weights, which begins with those
    after the first step.
    """
    common: dict[str, Any] = {
        "learning_rate": float(config.learning_rate),
        "weight_decay": config.weight_decay,
        "epsilon": 1e-8,
        "global_clipnorm": config.clip_norm,
        "use_ema": config.average > 0,
        "ema_momentum": config.average,
    }
    if config.optimizer == "muon":
        return keras.optimizers.Muon(
            adam_weight_decay=config.weight_decay, exclude_layers=_OUTSIDE_BLOCKS, **common
        )
    return keras.optimizers.AdamW(beta_1=0.9, beta_2=0.999, **common)


def exchange_averages(model: Any, optimizer: keras.optimizers.Optimizer) -> None:
    """Exchange the weights with their averages, if the optimiser keeps any; done twice, nothing has changed.

    A model with the averages is what is evaluated and saved; beside it, the optimiser's state then holds the weights
    that training continues from.
    """
    # Keras has no public access to them, but to overwrite the weights.
    averages = optimizer._model_variables_moving_average if optimizer.use_ema else ()
    for weight, average in zip(model.trainable_variables, averages, strict=bool(averages)):
        held = keras.ops.copy(weight.value)
        weight.assign(keras.ops.copy(average.value))
        average.assign(held)
