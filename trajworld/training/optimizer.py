"""The optimiser and its schedule."""

import math

import keras

from trajworld.training.config import TrainingConfig


def learning_rate(config: TrainingConfig, step: int) -> float:
    """The rate of step ``step``, counted from 0: linear from 0 to the peak, then a cosine to 0 at ``decay_steps``.

    Handed to each step, rather than compiled into it, so that runs that differ in their rate share one compilation.
    """
    if step < config.warmup_steps:
        return config.learning_rate * step / config.warmup_steps
    share = (step - config.warmup_steps) / max(config.decay_steps - config.warmup_steps, 1)
    return config.learning_rate * 0.5 * (1.0 + math.cos(math.pi * min(share, 1.0)))


def make_optimizer(config: TrainingConfig) -> keras.optimizers.Optimizer:
    """AdamW with decoupled decay of every weight, after clipping the global norm; each step is given its rate."""
    return keras.optimizers.AdamW(
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        beta_1=0.9,
        beta_2=0.999,
        epsilon=1e-8,
        global_clipnorm=config.clip_norm,
    )
