"""Imported published weights against the recorded outputs of the published implementation."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from numpy_reference import numpy

from trajworld.backend import active_backend
from trajworld.cli.main import main
from trajworld.data.batch import Variates
from trajworld.models import bins as binning
from trajworld.models.files import load_model
from trajworld.models.trajworld import TrajWorld

Floats = NDArray[np.float32]


@pytest.fixture(scope="module")
def golden(goldens: Path) -> dict[str, NDArray[Any]]:
    with np.load(goldens / "golden.npz") as arrays:
        return dict(arrays)


@pytest.fixture(scope="module")
def known(golden: dict[str, NDArray[Any]]) -> Variates:
    return Variates(golden["is_action"], golden["min_values"], golden["max_values"])


@pytest.fixture(scope="module")
def model(
    goldens: Path, golden: dict[str, NDArray[Any]], tmp_path_factory: pytest.TempPathFactory
) -> TrajWorld:
    """The model in the file that the command line makes of the published one."""
    path = tmp_path_factory.mktemp("imported") / "model.keras"
    words = ["--heads", str(golden["heads"]), "--environment", "gymnasium/Toy-v0"]
    assert main(["checkpoint", "import", str(goldens / "trm_dynamics.pkl"), "-o", str(path), *words]) == 0
    return load_model(path)


def compiled(model: TrajWorld, function: Callable[..., Any]) -> Callable[..., Any]:
    return active_backend().compile(function, model)


def assert_real_rows_close(found: object, golden: dict[str, NDArray[Any]], name: str) -> None:
    real = golden["time_mask"] > 0
    assert 0 < real.sum() < real.size
    np.testing.assert_allclose(numpy(found)[real], golden[name][real], atol=1e-4)


def test_whole_window(model: TrajWorld, golden: dict[str, NDArray[Any]], known: Variates) -> None:
    logits = compiled(model, model)(golden["values"], golden["time_mask"], known)
    assert_real_rows_close(logits, golden, "logits")
    mean = binning.moments(logits, golden["min_values"], golden["max_values"])[0]
    assert_real_rows_close(mean, golden, "mean")


def test_cached_decoding(model: TrajWorld, golden: dict[str, NDArray[Any]], known: Variates) -> None:
    values, steps, window = golden["values"], int(golden["prefill_steps"]), golden["values"].shape[1]
    decode = compiled(model, model.decode)
    past = compiled(model, functools.partial(model.encode_past, length=window))
    cache = past(values[:, :steps], golden["time_mask"][:, :steps], known)
    answers = []
    for position in range(steps, window):
        logits, cache = decode(values[:, position], np.int32(position), cache, known)
        answers.append(numpy(logits)[:, None])
    found = np.concatenate(answers, axis=1)
    for name in ("incremental_logits", "logits"):
        np.testing.assert_allclose(found, golden[name][:, steps:], atol=1e-4)


def test_encoding_and_target_bins(golden: dict[str, NDArray[Any]]) -> None:
    values, lower, upper = (golden[name] for name in ("values", "min_values", "max_values"))
    np.testing.assert_allclose(
        numpy(binning.encode(values, lower, upper, 256)), golden["input_probs"], atol=1e-4
    )
    found = numpy(binning.target_bins(values, lower, upper, 256))
    exact = (values.astype(np.float64) - lower) / (upper.astype(np.float64) - lower) * 256
    near_an_edge = np.abs(exact - np.round(exact)) < 256 * 4 * np.finfo(np.float32).eps
    np.testing.assert_array_equal(found[~near_an_edge], golden["target_bins"][~near_an_edge])
    assert near_an_edge.mean() < 0.05
    assert np.all(np.abs(found - golden["target_bins"]) <= 1)
