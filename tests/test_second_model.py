"""A second kind of world model, linear in the last row, which only this file knows: every part takes it as it is."""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import keras
import numpy as np
import pytest
from keras import ops

import trajworld as tw
from trajworld.data.batch import Batch, Variates
from trajworld.data.dataset import Dataset
from trajworld.data.episode import Episode
from trajworld.data.store import write_store
from trajworld.errors import TrajWorldError, UsageError
from trajworld.models.identity import Identity
from trajworld.models.interface import MODELS, Kind, Predicted, Step
from trajworld.models.rollout import PolicyController
from trajworld.training.config import resolve_config


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


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    MODELS["linear"] = Kind("linear", LinearSizes, f"{__name__}:Linear")
    yield
    del MODELS["linear"]


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


@pytest.fixture
def data(tmp_path: Path) -> Dataset:
    return motion(tmp_path / "data")


@pytest.mark.once
def test_through_the_command_line(tmp_path: Path, data: Dataset, command: Any) -> None:
    run = tmp_path / "run"
    assert command("train", data.path, "--model", "linear", "-o", run)[0] == 0
    config = resolve_config("train", file=run / "config.toml")
    assert config.model == LinearSizes()
    assert config.steps == 600
    shown = json.loads(command("checkpoint", "show", run / "best.keras", "--json")[1])
    expected = {"kind": "linear", "sizes": {"variates": 12, "window": 2}, "parameters": 168}
    assert shown.items() >= expected.items()
    out = tmp_path / "evaluation"
    assert command("evaluate", run / "best.keras", data.path, "--horizon", "25", "-o", out)[0] == 0
    (found,) = json.loads((out / "results.json").read_text())["datasets"]
    # The system is linear: the model learns it but for the reward, which a copy cannot know.
    assert found["prediction"]["normalised_mae"]["predicted"] < 0.05
    assert found["copy_last_row"]["normalised_mae"]["predicted"] > 0.3
    assert found["open_loop"]["mae"][-1] < 0.3 * found["open_loop"]["held_row"][-1]
    assert {path.name for path in out.iterdir()} > {"variates.png", "open-loop.png"}


def test_a_run_is_resumed_and_pretraining_pads(tmp_path: Path, data: Dataset, command: Any) -> None:
    run, other = tmp_path / "run", motion(tmp_path / "other", observations=4, seed=1)
    words = ["--model", "linear", "--steps", "20", "--padded-sizes", "1", "-o", run]
    assert command("pretrain", data.path, other.path, *words)[0] == 0
    assert command("pretrain", "--resume", run, "--steps", "30")[0] == 0
    model = tw.load(run / "last.keras")
    assert (type(model), model.identity.steps) == (Linear, 30)
    assert {source.environment for source in model.identity.sources} == {"test/data", "test/other"}
    assert model.get_weights()[0].any()


def test_through_python(tmp_path: Path, data: Dataset) -> None:
    model = tw.train(data, model={"kind": "linear"}, seed=1)
    tw.save(model, tmp_path / "model.keras")
    model = tw.load(tmp_path / "model.keras")
    table = tw.evaluate(model, data)
    assert (table["normalised_mae"] < 0.05).all()
    assert table.loc["all", "copy_normalised_mae"] > 0.3
    assert table["nll"].notna().all()
    history = np.stack([data.rows[3:8], data.rows[20:25]])
    mean, std = tw.predict(model, history)
    np.testing.assert_allclose(mean, [data.rows[8, :4], data.rows[25, :4]], atol=0.1)
    assert np.all(std > 0)

    actions = np.stack([data.rows[7:32, 4:], data.rows[24:49, 4:]])
    future = tw.rollout(model, history, actions)
    row = history[:, -1].copy()
    for step in range(25):
        row[:, 4:] = actions[:, step]
        row[:, :4] = tw.predict(model, row[:, None])[0]
        row[:, :4] = np.clip(row[:, :4], model.identity.support.lower[:4], model.identity.support.upper[:4])
        np.testing.assert_allclose(future.observations[:, step], row[:, :3], atol=1e-4)
        np.testing.assert_allclose(future.rewards[:, step], row[:, 3], atol=1e-4)
    sampled = tw.rollout(model, history, actions, seed=0)
    assert np.abs(sampled.observations - future.observations).max() > 1e-3

    # A policy drives it too, across the pieces in which a rollout is computed.
    gain = np.random.default_rng(0).normal(size=(3, 2)).astype(np.float32)
    policy = PolicyController(lambda weights, seen, noise: ops.tanh(ops.matmul(seen, weights)), gain, 23)
    driven = tw.rollout(model, history, policy)
    seen = np.concatenate([history[:, -1:, :3], driven.observations[:, :-1]], axis=1)
    np.testing.assert_allclose(driven.actions, np.tanh(seen @ gain), atol=1e-5)


def test_what_a_model_file_and_a_configuration_say_of_their_kind(tmp_path: Path, data: Dataset) -> None:
    path = tmp_path / "model.keras"
    tw.save(Linear(LinearSizes()), path)
    del MODELS["linear"]
    with pytest.raises(TrajWorldError, match=r"not a world model of this version but a Keras .*Linear"):
        tw.load(path)
    with pytest.raises(UsageError, match="no kind of model is called 'linear': there is trajworld"):
        tw.train(data, model={"kind": "linear"})
    MODELS["linear"] = Kind("linear", LinearSizes, f"{__name__}:Linear")
    with pytest.raises(UsageError, match="no model size is called 'blocks'"):
        tw.train(data, model={"kind": "linear", "blocks": 2})
