"""The doctor: what it reports of this process's own libraries, of missing and of broken backends."""

import importlib.metadata
import json
import os
import platform
import re
from pathlib import Path
from typing import Any

import pytest

from trajworld import doctor
from trajworld.doctor import Framework, examine, try_framework

pytestmark = pytest.mark.once

ACTIVE = os.environ["KERAS_BACKEND"]


@pytest.fixture
def devices(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Every framework works, without being tried, on the device that stands here, or else on a Tesla."""
    found: dict[str, str] = {}
    tried = lambda name, timeout: Framework(name, "1.0", True, found.get(name, "gpu: Tesla"), 2)  # noqa: E731
    monkeypatch.setattr(doctor, "try_framework", tried)
    return found


# Elsewhere the doctor itself is run before the tests.
@pytest.mark.slow
def test_active_backend_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "2")
    found = try_framework(ACTIVE, 300)
    assert found.works, found.problem
    assert found.version == __import__(ACTIVE).__version__
    if found.device == "cpu":
        assert (found.devices, found.training) == (2 if ACTIVE == "jax" else 1, 1)
    assert found.device.split(":")[0] in ("cpu", "gpu", "tpu")


@pytest.mark.usefixtures("devices")
def test_report_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, command: Any) -> None:
    monkeypatch.setenv("TRAJWORLD_HOME", str(tmp_path / "not" / "yet"))
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    code, out, _ = command("doctor", "--json")
    report = json.loads(out)
    assert (code, report["healthy"], report["active"]) == (0, True, "tensorflow")
    versions = {name: importlib.metadata.version(name) for name in ("numpy", "trajworld", "keras")}
    assert report["versions"].items() >= {"python": platform.python_version(), **versions}.items()
    assert [framework["name"] for framework in report["frameworks"]] == ["jax", "tensorflow", "torch"]
    assert 1 <= report["cores"] <= os.cpu_count()
    assert (report["home"], report["minari"]) == (str(tmp_path / "not" / "yet"), str(tmp_path / "minari"))
    stat = os.statvfs(tmp_path)
    assert report["home_free"] == pytest.approx(stat.f_bavail * stat.f_frsize, rel=0.05)
    assert not (tmp_path / "not").exists()
    code, out, _ = command("doctor")
    assert code == 0
    for words in ("gpu: Tesla", "KERAS_BACKEND", "backend, tensorflow, works."):
        assert words in out
    monkeypatch.setenv("KERAS_BACKEND", "caffe")
    code, out, _ = command("doctor", "--json")
    assert (code, json.loads(out)["healthy"]) == (1, False)
    assert json.loads(out)["missing"][0]["what"].startswith("KERAS_BACKEND=caffe is none of jax,")


def test_what_is_missing_names_its_pip_command(monkeypatch: pytest.MonkeyPatch, command: Any) -> None:
    hidden = (*doctor.FRAMEWORKS, "dm_control", "minari", "pandas", "ray", "stable_baselines3")
    for module, name in (doctor.importlib.util, "find_spec"), (doctor, "_version"):
        real = getattr(module, name)
        fake = lambda name, real=real: None if name in hidden else real(name)  # noqa: E731
        monkeypatch.setattr(module, name, fake)
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    report = examine()
    assert not report["healthy"]
    assert report["versions"]["minari"] is None
    assert report["missing"][0]["what"] == "torch (needed): not installed"
    declared = [text.split(";")[0].strip() for text in importlib.metadata.requires("trajworld")]
    fixes = {missing["what"].partition(":")[0]: missing["fix"] for missing in report["missing"]}
    needed, optional = ("torch", "minari", "pandas"), ("jax", "tensorflow", "dm_control", "ray")
    assert "stable-baselines3" in fixes["stable_baselines3 (optional)"]
    for name in (*needed, *optional):
        wanted = next(text for text in declared if re.match(rf"{name}\b(?!-)", text))
        assert f"pip install '{wanted}'" in fixes[f"{name} ({'needed' if name in needed else 'optional'})"]
    code, out, _ = command("doctor")
    assert code == 1
    assert fixes["torch (needed)"] in out


def test_a_gpu_that_is_not_used(
    monkeypatch: pytest.MonkeyPatch, devices: dict[str, str], tmp_path: Path
) -> None:
    monkeypatch.setattr(doctor, "_GPU_NODE", str(tmp_path))
    devices["jax"] = "cpu"
    (missing,) = [one for one in examine()["missing"] if "GPU" in one["what"]]
    assert missing["what"].startswith("jax")
    assert "cuda" in missing["fix"]


@pytest.mark.parametrize(
    ("source", "timeout", "problem"),
    [
        ("raise ImportError('libcudart.so.13 is missing')", 300, "ImportError: libcudart.so.13 is missing"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", 300, "ended with the code -11"),
        ("import time; time.sleep(60)", 1, "did not answer within 1 s"),
    ],
)
def test_broken_backends(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, source: str, timeout: float, problem: str
) -> None:
    # Keras imports the framework that KERAS_BACKEND names: here, a broken one that stands before any other.
    for name in doctor.FRAMEWORKS:
        (tmp_path / f"{name}.py").write_text(source)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: True)
    found = try_framework("jax", timeout)
    assert not found.works
    assert problem in found.problem
