"""Weights and batches that are the same under each backend: drawn by NumPy from a seed."""

import functools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from trajworld.backend import active_backend
from trajworld.data.batch import Batch, Variates
from trajworld.models.identity import Identity, action_mask
from trajworld.models.interface import new_model
from trajworld.models.ranges import training_support
from trajworld.models.rollout import GivenActions, compile_rollout
from trajworld.training.loop import mean_loss

from .cases import Case

Floats = NDArray[np.float32]
_WEIGHTS_SEED, _BATCH_SEED, _ROLLOUT_SEED, _MOTION_SEED = 1, 2, 3, 4


def make_model(case: Case) -> Any:
    """A model whose weights depend only on their place and shape, of the sizes that training starts with."""
    model, values = new_model(case.sizes, Identity(), case.dtype), []
    for index, variable in enumerate(model.weights):
        generator, shape = np.random.default_rng([_WEIGHTS_SEED, index]), tuple(variable.shape)
        noise = generator.standard_normal(shape).astype(np.float32)
        if len(shape) > 1:
            # A kernel's rows are its inputs; an embedding's deviation is 1 / sqrt(d).
            inputs = shape[-1] if "embedding" in variable.path else shape[0]
            values.append(noise / np.float32(np.sqrt(inputs)))
        else:
            # Norms' scales near 1, biases near 0, none of them exactly: a missing one would show.
            values.append(np.float32(0.02) * noise + np.float32(variable.name == "gamma"))
    model.set_weights(values)
    return model


def draw_batch(case: Case) -> Batch:
    """Whole windows of values in [0, 1]."""
    generator = np.random.default_rng([_BATCH_SEED, case.variates, case.batch])
    shape = (case.batch, case.sizes.window, case.variates)
    values = generator.uniform(size=shape).astype(np.float32)
    return Batch(values, np.ones(shape[:2], np.float32), _unit_variates(case))


def draw_uneven_batch(case: Case) -> Batch:
    """The same with values that leave the support and windows that are padded, each by another number of rows."""
    values, mask, variates, _ = draw_batch(case)
    values = values * np.float32(1.2) - np.float32(0.1)
    for window in range(case.batch):
        mask[window, : window % (case.sizes.window - 1)] = 0
    return Batch(values * mask[:, :, None], mask, variates)


def draw_rollout(case: Case, horizon: int, context: int) -> tuple[Floats, Floats, Variates, GivenActions]:
    """A history of W rows, its mask, the variates, and actions for ``horizon`` steps."""
    generator = np.random.default_rng([_ROLLOUT_SEED, case.variates, case.batch])
    history = generator.uniform(size=(case.batch, context, case.variates)).astype(np.float32)
    # Drawn step by step, so that a longer rollout begins like a shorter one.
    actions = generator.uniform(size=(horizon, case.batch, case.actions)).astype(np.float32).swapaxes(0, 1)
    mask = np.ones(history.shape[:2], np.float32)
    return history, mask, _unit_variates(case), GivenActions(np.ascontiguousarray(actions))


def training_call(case: Case) -> Callable[[], None]:
    """A call that makes a training step with dropout, and waits for it."""
    backend, model = active_backend(), make_model(case)
    optimizer = keras.optimizers.AdamW(1e-4, weight_decay=1e-5, global_clipnorm=0.25)
    step = backend.training_step(model, optimizer, lambda batch, seed: mean_loss(model, batch, seed))
    batch, seed = draw_batch(case), np.array(1, np.int32)
    return lambda: backend.wait(step(1e-4, batch, seed))


def rollout_call(case: Case) -> Callable[[], Any]:
    """A call that rolls out one chunk; it returns NumPy arrays, so has waited."""
    model = make_model(case)
    compiled = compile_rollout(model, case.observations)
    return functools.partial(compiled, *draw_rollout(case, model.chunk, model.context))


def draw_motion(steps: int, batch: int, window: int, holdout: int) -> tuple[Floats, Floats, Variates]:
    """Windows of a damped, driven pair of oscillators: four observations, a reward and one action.

    Training windows ``[steps, B, T, 6]``, holdout windows ``[holdout, T, 6]`` of other episodes, and the variates,
    whose support is the range of the training episodes.
    """
    generator = np.random.default_rng(_MOTION_SEED)
    length, episodes, held = 3 * window, 48, 12
    rows = np.zeros((episodes, length, 6), np.float32)
    state = generator.normal(size=(episodes, 4))
    reward, action = np.zeros(episodes), np.zeros(episodes)
    change = np.array([[0, 1, 0, 0], [-1, -0.1, 0.3, 0], [0, 0, 0, 1], [0.3, 0, -2, -0.1]])
    for row in range(length):
        action = 0.8 * action + 0.4 * generator.normal(size=episodes)
        rows[:, row] = np.column_stack([state, reward, action])
        state = state + 0.15 * (state @ change.T) + 0.15 * np.outer(action, [0, 1, 0, 0.5])
        reward = -np.square(state).sum(axis=1) / 4

    def windows(source: Floats, count: int) -> Floats:
        episode = generator.integers(len(source), size=count)
        first = generator.integers(length - window + 1, size=count)
        return source[episode[:, None], first[:, None] + np.arange(window)]

    training = rows[held:]
    support = training_support(training.min(axis=(0, 1)), training.max(axis=(0, 1)))
    drawn = windows(training, steps * batch).reshape(steps, batch, window, 6)
    variates = Variates(action_mask(4, 1), support.lower, support.upper)
    return drawn, windows(rows[:held], holdout), variates


def _unit_variates(case: Case) -> Variates:
    zeros = np.zeros(case.variates, np.float32)
    return Variates(action_mask(case.observations, case.actions), zeros, zeros + 1)
