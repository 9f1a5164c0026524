"""A second kind of world model, which only this file registers: every part takes it as it is."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from keras import ops
from linear_model import Linear, LinearSizes, motion

import trajworld as tw
from trajworld.data.dataset import Dataset
from trajworld.errors import TrajWorldError, UsageError
from trajworld.models.interface import MODELS, Kind
from trajworld.models.rollout import PolicyController
from trajworld.training.config import resolve_config


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    MODELS["linear"] = Kind("linear", LinearSizes, "linear_model:Linear")
    yield
    del MODELS["linear"]


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
    MODELS["linear"] = Kind("linear", LinearSizes, "linear_model:Linear")
    with pytest.raises(UsageError, match="no model size is called 'blocks'"):
        tw.train(data, model={"kind": "linear", "blocks": 2})
