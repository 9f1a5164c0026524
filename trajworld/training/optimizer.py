"""The optimiser and its schedule (DESIGN §4)."""

import keras

from trajworld.training.config import TrainingConfig


def learning_rate_schedule(config: TrainingConfig) -> keras.optimizers.schedules.LearningRateSchedule:
    """Linear warm-up from 0 to the peak, then a cosine to 0 at ``decay_steps``, warm-up included in them."""
    return keras.optimizers.schedules.CosineDecay(
        initial_learning_rate=0.0,
        warmup_target=config.learning_rate,
        warmup_steps=config.warmup_steps,
        decay_steps=max(config.decay_steps - config.warmup_steps, 1),
        alpha=0.0,
    )


def make_optimizer(config: TrainingConfig) -> keras.optimizers.Optimizer:
    """AdamW(0.9, 0.999, eps 1e-8) with decoupled decay of every weight, after clipping the global norm."""
    return keras.optimizers.AdamW(
        learning_rate=learning_rate_schedule(config),
        weight_decay=config.weight_decay,
        beta_1=0.9,
        beta_2=0.999,
        epsilon=1e-8,
        global_clipnorm=config.clip_norm,
    )
