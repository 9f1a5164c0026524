"""Fitted Q evaluation (Le et al. 2019): a policy's value from transitions alone, without a model of the environment."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from trajworld.backend import active_backend
from trajworld.data.dataset import Dataset
from trajworld.errors import TrajWorldError
from trajworld.evaluation.ope_settings import FittedQSettings
from trajworld.policies.policy import Policy
from trajworld.processes import Progress

Floats = NDArray[np.float32]

_ACTIONS_KEPT, _DRAWS_KEPT = 400_000, 4
_BALANCED = 50


class QFunctions(keras.Model):
    """P multilayer perceptrons in one batched product: from inputs ``[P, N, I]`` to values ``[P, N]``."""

    def __init__(self, policies: int, inputs: int, width: int, seed: int) -> None:
        super().__init__()
        sizes = (inputs, width, width, 1)
        self._layers_of = []
        for number, (rows, columns) in enumerate(itertools.pairwise(sizes)):
            # All policies have the same initial kernels: only their actions differ.
            draws = np.random.default_rng([seed, number]).normal(0, np.sqrt(2 / rows), (1, rows, columns))
            kernel = self.add_weight(
                shape=(policies, rows, columns), initializer="zeros", name=f"kernel_{number}"
            )
            kernel.assign(np.repeat(draws, policies, axis=0) * (0.1 if columns == 1 else 1.0))
            bias = self.add_weight(shape=(policies, 1, columns), initializer="zeros", name=f"bias_{number}")
            self._layers_of.append((kernel, bias))
        self.built = True

    def call(self, x: Any) -> Any:
        """Values of inputs."""
        for kernel, bias in self._layers_of[:-1]:
            x = ops.relu(ops.matmul(x, kernel) + bias)
        kernel, bias = self._layers_of[-1]
        return (ops.matmul(x, kernel) + bias)[..., 0]


@dataclass(frozen=True)
class _Transitions:
    """``[n]`` transitions: observation, action, reward, next observation, and whether that is terminal."""

    observations: Floats
    actions: Floats
    rewards: NDArray[np.float64]
    followed: Floats
    terminal: NDArray[np.bool_]

    @classmethod
    def of(cls, dataset: Dataset) -> "_Transitions":
        size, ends = dataset.observation_size, dataset.episode_offsets[1:] - 1
        rows = np.asarray(dataset.rows)
        acted = np.delete(np.arange(len(rows)), ends)
        terminal = np.zeros(len(rows), bool)
        terminal[ends[dataset.terminated]] = True
        later = rows[acted + 1]
        return cls(
            rows[acted, :size],
            rows[acted, size + 1 :],
            later[:, size].astype(np.float64),
            later[:, :size],
            terminal[acted + 1],
        )


def fitted_q_values(
    dataset: Dataset,
    policies: Sequence[Policy],
    starts: Floats,
    settings: FittedQSettings,
    progress: Progress | None = None,
) -> NDArray[np.float64]:
    """Values of P policies in initial states: ``[P, N]``, Q of each with an action of the policy.

    All are fitted at once, on the same transitions of ``dataset``, and clipped to the sums that rewards of its range
    allow. Terminal states have the value 0; a time limit is not an end.

    Args:
        dataset: The behaviour dataset.
        policies: The policies.
        starts: ``[N, O]`` initial observations.
        settings: The settings.
        progress: Called after each iteration.

    Raises:
        TrajWorldError: The fit did not stay finite.
    """
    data, backend = _Transitions.of(dataset), active_backend()
    rng = np.random.default_rng(settings.seed)
    centre, scale = data.observations.mean(axis=0), data.observations.std(axis=0)
    scale = np.where(scale < 1e-6, 1.0, scale)

    def inputs(observations: Floats, actions: Floats) -> Floats:
        """``[P, n, O + A]`` of observations ``[n, O]`` and actions ``[P, n, A]``."""
        seen = np.broadcast_to((observations - centre) / scale, (len(policies), *observations.shape))
        return np.concatenate([seen, actions], axis=-1, dtype=np.float32)

    # Values in units of sums of rewards, around each policy's usual value.
    unit = (data.rewards.std() or 1.0) / (1 - settings.discount)
    usual = np.full((len(policies), 1), data.rewards.mean() / (1 - settings.discount))
    # The range of sums of the data's rewards, with an end or without: backups are clipped to it.
    ends = np.minimum(data.rewards.min(), 0), np.maximum(data.rewards.max(), 0)
    least, most = (end / (1 - settings.discount) for end in ends)
    size = dataset.observation_size + dataset.action_size
    fitted, before = (QFunctions(len(policies), size, settings.width, settings.seed) for _ in range(2))
    step = backend.training_step(
        fitted,
        keras.optimizers.Adam(settings.learning_rate),
        lambda x, wanted: ops.sum(ops.mean((fitted(x) - wanted) ** 2, axis=1)),
    )
    value = backend.compile(lambda x: before(x), before)
    count, drawn = len(data.rewards), settings.steps * settings.batch_size
    # A policy's net costs more than Q: its actions are drawn beforehand, a few times for each transition.
    times = int(np.clip(_ACTIONS_KEPT // count, 1, _DRAWS_KEPT))
    acted = np.empty((times, len(policies), count, dataset.action_size), np.float32)
    for draw, number in np.ndindex(acted.shape[:2]):
        for begin in range(0, count, drawn):
            some = slice(begin, begin + drawn)
            acted[draw, number, some] = policies[number].act(data.followed[some], rng)
    for iteration in range(settings.iterations):
        places = rng.integers(count, size=drawn)
        followed = data.followed[places]
        later = acted[rng.integers(times), :, places].swapaxes(0, 1)
        ahead = unit * np.asarray(ops.convert_to_numpy(value(inputs(followed, later))), np.float64)
        now = inputs(data.observations[places], np.broadcast_to(data.actions[places], later.shape))
        kept = settings.discount * ~data.terminal[places]
        if iteration < settings.iterations / 2:
            # The mean value would take the longest to learn, 1 / (1 - discount) backups: it is solved for, so that on
            # average a value is the reward plus the next value; then the backups continue from there.
            held = usual + unit * ops.convert_to_numpy(value(now))
            backup = data.rewards[places] + kept * np.clip(usual + ahead, least, most)
            residual = (backup - held).mean(axis=1, keepdims=True) / (1 - kept).mean()
            usual = np.clip(usual + residual / min(iteration + 1, _BALANCED), least, most)
        wanted = data.rewards[places] + kept * np.clip(usual + ahead, least, most)
        wanted = ((wanted - usual) / unit).astype(np.float32)
        rate = settings.learning_rate * (1 - 0.9 * iteration / settings.iterations)
        for begin in range(0, len(places), settings.batch_size):
            batch = slice(begin, begin + settings.batch_size)
            loss = step(rate, now[:, batch], wanted[:, batch])
        step.write_back()
        before.set_weights(fitted.get_weights())
        if not np.isfinite(float(ops.convert_to_numpy(loss))):
            raise TrajWorldError(f"fitted Q evaluation diverged after {iteration + 1} iterations")
        if progress is not None:
            progress(iteration + 1, settings.iterations, "fitted Q evaluation")
    actions = np.stack([policy.act(starts, rng) for policy in policies])
    found = usual + unit * np.asarray(ops.convert_to_numpy(value(inputs(starts, actions))), np.float64)
    return np.clip(found, least, most)
