"""Model files: what is written comes back on every backend."""

import dataclasses
import importlib.util
import os
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import keras
import numpy as np
import pytest
from model_file_fixtures import IDENTITY, SIZES, assert_equal

from trajworld.errors import TrajWorldError
from trajworld.models.files import describe_model, load_model, save_model
from trajworld.models.trajworld import TrajWorld


def test_a_model_comes_back_equal(
    model: TrajWorld, saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert_equal(model, load_model(saved))
    assert os.listdir(saved.parent) == ["model.keras"]
    monkeypatch.setattr(
        time, "localtime", lambda *_: time.gmtime(0)
    )  # Zip archives know no years before 1980.
    save_model(TrajWorld(SIZES, IDENTITY, dtype="mixed_bfloat16"), tmp_path / "mixed.keras")
    assert load_model(tmp_path / "mixed.keras").temporal[0].compute_dtype == "bfloat16"
    described = describe_model(saved)
    assert described["sizes"] == dataclasses.asdict(SIZES)
    assert (described["parameters"], described["bytes"]) == (model.count_params(), saved.stat().st_size)
    assert described.items() >= {"environment": IDENTITY.environment, "history": IDENTITY.history}.items()
    assert described["saved"]["keras_version"] == keras.__version__


def test_keras_and_this_library_read_each_other_s_files(
    model: TrajWorld,
    saved: Path,
    tmp_path: Path,
    remade: Callable[..., Path],
    with_config: Callable[..., Path],
) -> None:
    assert_equal(model, keras.saving.load_model(saved))
    model.save(tmp_path / "keras.keras")
    assert_equal(model, load_model(tmp_path / "keras.keras"))
    assert_equal(model, load_model(remade({}, zipfile.ZIP_DEFLATED)))
    # As files were written before there were several kinds.
    path = with_config(lambda config: config["config"].pop("kind"))
    assert_equal(model, load_model(path))
    assert describe_model(path)["kind"] == "trajworld"


def test_a_saved_model_replaces_another_whole_or_not_at_all(model: TrajWorld, tmp_path: Path) -> None:
    path = tmp_path / "deep" / "model.keras"
    save_model(model, path)
    before = path.read_bytes()
    broken = TrajWorld(SIZES, IDENTITY)
    broken.head.bias.assign(np.full(SIZES.bins, np.nan, np.float32))
    with pytest.raises(TrajWorldError, match="NaN or infinite"):
        save_model(broken, path)
    for wrong, said in ((path / "model.keras", "cannot write"), (tmp_path / "a.h5", r"end in \.keras")):
        with pytest.raises(TrajWorldError, match=said):
            save_model(model, wrong)
    for history in ({"loss": float("nan")}, {"array": np.zeros(3)}, {"layer": {"class_name": "Dense"}}):
        with pytest.raises(TrajWorldError) as caught:
            save_model(TrajWorld(SIZES, dataclasses.replace(IDENTITY, history=history)), path)
        assert "\n" not in str(caught.value)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == ["model.keras"]


def test_an_interrupted_save_leaves_nothing(
    model: TrajWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zipfile.ZipFile, "writestr", Mock(side_effect=KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        save_model(model, tmp_path / "model.keras")
    assert os.listdir(tmp_path) == []


@pytest.mark.slow
def test_another_backend_reads_it_equally_and_writes_it_back(model: TrajWorld, tmp_path: Path) -> None:
    """Each backend asks the next: run on all three, every one has read every other's."""
    ring = ("jax", "tensorflow", "torch", "jax")
    other = ring[ring.index(keras.backend.backend()) + 1]
    if importlib.util.find_spec(other) is None:
        pytest.skip(f"{other} is not installed")
    models = {}
    for dtype in ("float32", "mixed_bfloat16"):
        models[dtype] = TrajWorld(SIZES, IDENTITY, dtype=dtype)
        models[dtype].set_weights(model.get_weights())
        save_model(models[dtype], tmp_path / f"{dtype}.keras")
    code = (
        "import sys, keras, numpy; from trajworld.models.files import load_model, save_model\n"
        "for dtype in ('float32', 'mixed_bfloat16'):\n"
        "    model = load_model(f'{sys.argv[1]}/{dtype}.keras')\n"
        "    numpy.savez(f'{sys.argv[1]}/back-{dtype}.npz', *model.get_weights())\n"
        "    save_model(model, f'{sys.argv[1]}/back-{dtype}.keras')\n"
        "    print(keras.backend.backend(), model.compute_dtype)"
    )
    command, environment = [sys.executable, "-c", code, tmp_path], {**os.environ, "KERAS_BACKEND": other}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.stdout.split()[-4:] == [other, "float32", other, "bfloat16"], done.stderr[-2000:]
    for dtype, mine in models.items():
        with np.load(tmp_path / f"back-{dtype}.npz") as arrays:
            for name, weight in zip(arrays.files, mine.get_weights(), strict=True):
                np.testing.assert_array_equal(arrays[name], weight)
        assert_equal(mine, load_model(tmp_path / f"back-{dtype}.keras"))
