"""A second kind of world model, linear in the last row, and data that it can learn."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import keras
import numpy as np
from keras import ops

from trajworld.data.batch import Batch, Variates
from trajworld.data.dataset import Dataset
from trajworld.data.episode import Episode
from trajworld.data.store import write_store
from trajworld.models.identity import Identity
from trajworld.models.interface import Predicted, Step


@dataclass(frozen=True)
class LinearSizes:
    """A table of ``variates`` by ``variates`` coefficients."""

    presets: ClassVar[dict[str, "LinearSizes"]] = {}
    runs: ClassVar[dict[tuple[str, str], dict[str, Any]]] = {
        ("small", kind): {"steps": 600, "batch_size": 32, "learning_rate": 3e-2, "warmup_steps": 5}
        for kind in ("train", "pretrain")
    }
    variates: int = 12
    window: int = 2

    @property
    def parameters(self) -> int:
        return self.variates * (self.variates + 2)


LinearSizes.presets["small"] = LinearSizes()


class State(NamedTuple):
    row: Any
    variates: Variates


class Linear(keras.Model):
    """The next row, scaled to [0, 1], is Gaussian around a linear function of the last one."""

    kind = "linear"
    context = 1
    chunk = None

    def __init__(self, sizes: LinearSizes, identity: Identity | None = None, **kwargs: Any) -> None:
        super().__init__(autocast=False, **kwargs)
        self.sizes, self.identity = sizes, identity or Identity()
        count = sizes.variates
        self.kernel = self.add_weight(shape=(count, count), initializer="zeros", name="kernel")
        self.bias = self.add_weight(shape=(count,), initializer="zeros", name="bias")
        self.log_std = self.add_weight(shape=(count,), initializer="zeros", name="log_std")
        self.built = True

    def distribution(self, row: Any, variates: Variates) -> tuple[Any, Any]:
        count, scale = row.shape[-1], variates.upper - variates.lower
        kernel, bias, log_std = (ops.convert_to_tensor(w) for w in (self.kernel, self.bias, self.log_std))
        known = 1.0 if variates.mask is None else variates.mask
        scaled = (row - variates.lower) / scale * known
        mean = scaled + ops.matmul(scaled, kernel[:count, :count]) + bias[:count]
        std = ops.exp(log_std[:count]) * scale
        return variates.lower + mean * scale, ops.broadcast_to(std, ops.shape(mean))

    def predict(self, batch: Batch, short: str = "padded") -> Predicted:
        mean, std = self.distribution(batch.values[:, -2], batch.variates)
        error = (batch.values[:, -1] - mean) / std
        return Predicted(mean, std, 0.5 * error**2 + ops.log(std) + 0.5 * math.log(2 * math.pi))

    def loss_sums(self, batch: Batch, seed: Any = None, targets: str = "onehot") -> tuple[Any, Any]:
        variates = batch.variates
        predicted = 1.0 - ops.cast(variates.is_action, "float32")
        if variates.mask is not None:
            predicted = predicted * variates.mask
        nll = self.predict(batch).nll - ops.log(variates.upper - variates.lower)
        present = batch.time_mask[:, -2]
        return ops.sum(ops.sum(nll * predicted, axis=-1) / ops.sum(predicted) * present), ops.sum(present)

    def start(self, history: Any, mask: Any, variates: Variates) -> State:
        return State(history[:, -1], variates)

    def step(self, state: State, action: Any, draws: Any = None) -> tuple[State, Step]:
        row, variates = state
        mean, std = self.distribution(ops.where(variates.is_action > 0, action, row), variates)
        if draws is not None:
            mean = mean + std * ops.sqrt(-2 * ops.log(1 - draws[0])) * ops.cos(2 * math.pi * draws[1])
        value = ops.clip(mean, variates.lower, variates.upper)
        return State(value, variates), Step(mean, std, value)


def motion(folder: Path, observations: int = 3, seed: int = 0) -> Dataset:
    """Episodes of a linear system with two actions, whose reward is its first observation after the step."""
    rng = np.random.default_rng(seed)
    turn = 0.9 * np.linalg.qr(rng.normal(size=(observations,) * 2))[0]
    push = rng.normal(size=(2, observations))
    episodes = []
    for length in (60, 50, 40, 70):
        actions = rng.uniform(-1, 1, (length, 2))
        rows = [rng.normal(size=observations)]
        for action in actions:
            rows.append(rows[-1] @ turn + 0.3 * action @ push)
        states = np.stack(rows)
        episodes.append(Episode(states, actions, states[1:, 0]))
    return write_store(folder, episodes, name=folder.name, source="", environment=f"test/{folder.name}")
