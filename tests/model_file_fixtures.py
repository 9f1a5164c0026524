"""What the tests of model files share: a saved model, and that file written again with something changed."""

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from keras import ops

from trajworld.models.files import save_model
from trajworld.models.identity import Identity
from trajworld.models.ranges import training_support
from trajworld.models.sizes import TrajWorldSizes
from trajworld.models.trajworld import TrajWorld

SIZES = TrajWorldSizes(blocks=2, width=8, heads=2, window=5, bins=16, variates=12, dropout=0.1)
IDENTITY = Identity(
    training_support([0.0, -1.0, 0.1], [1.0, 2.0, 0.2]),
    environment="gymnasium/Toy-v0",
    observation_size=1,
    action_size=1,
    history={"steps": 7, "versions": {"keras": "3"}},
)
CONFIG, WEIGHTS = "config.json", "model.weights.h5"


@pytest.fixture(scope="module")
def model() -> TrajWorld:
    model = TrajWorld(SIZES, IDENTITY)
    rng = np.random.default_rng(0)
    for variable in model.weights:
        variable.assign(rng.normal(size=variable.shape).astype(np.float32))
    return model


@pytest.fixture(scope="module")
def saved(model: TrajWorld, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "model.keras"
    save_model(model, path)
    return path


@pytest.fixture
def remade(saved: Path, tmp_path: Path) -> Callable[..., Path]:
    """A function that writes the saved archive again with some of its members replaced, removed or added."""

    def remake(members: dict[str, Any], compression: int = zipfile.ZIP_STORED) -> Path:
        path = tmp_path / "remade.keras"
        with zipfile.ZipFile(saved) as source, zipfile.ZipFile(path, "w", compression) as target:
            contents: dict[str, Any] = {name: source.read(name) for name in source.namelist()}
            for name, content in {**contents, **members}.items():
                if content is not None:
                    target.writestr(name, content)
        return path

    return remake


@pytest.fixture
def with_config(saved: Path, remade: Callable[..., Path]) -> Callable[..., Path]:
    """A function that writes the saved archive again with its configuration changed in place."""

    def remake(change: Callable[[dict[str, Any]], Any]) -> Path:
        with zipfile.ZipFile(saved) as archive:
            config = json.loads(archive.read(CONFIG))
        change(config)
        return remade({CONFIG: json.dumps(config)})

    return remake


@pytest.fixture
def with_weights(saved: Path, remade: Callable[..., Path]) -> Callable[..., Path]:
    """A function that writes the saved archive again with its HDF5 file changed in place."""

    def remake(change: Callable[[h5py.File], Any]) -> Path:
        with zipfile.ZipFile(saved) as archive:
            content = io.BytesIO(archive.read(WEIGHTS))
        with h5py.File(content, "r+") as weights:
            change(weights)
        return remade({WEIGHTS: content.getvalue()})

    return remake


def assert_equal(first: TrajWorld, second: TrajWorld) -> None:
    assert first.get_config() == second.get_config()
    for one, other in zip(first.weights, second.weights, strict=True):
        assert one.path == other.path
        np.testing.assert_array_equal(ops.convert_to_numpy(one.value), ops.convert_to_numpy(other.value))
