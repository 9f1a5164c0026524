"""The doctor: what it reports of this process's own libraries, of missing and of broken backends."""

import importlib.metadata
import json
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from trajworld import doctor
from trajworld.cli.main import cli
from trajworld.doctor import Framework, Report, examine, try_framework

ACTIVE = os.environ["KERAS_BACKEND"]


def fake(folder: Path, name: str, source: str) -> None:
    """A package that is found before the real one."""
    (folder / name).mkdir()
    (folder / name / "__init__.py").write_text(source)


def hide(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Make packages look as if they were not installed."""
    find = doctor.importlib.util.find_spec
    version = doctor._version
    monkeypatch.setattr(
        doctor.importlib.util, "find_spec", lambda name: None if name in names else find(name)
    )
    monkeypatch.setattr(doctor, "_version", lambda name: None if name in names else version(name))


def works(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every framework works, without being tried."""
    monkeypatch.setattr(
        doctor, "try_framework", lambda name, timeout: Framework(name, "1.0", True, "gpu: Tesla", 2)
    )


@pytest.mark.slow
def test_active_backend_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "2")
    found = try_framework(ACTIVE, 300)
    assert found.works, found.problem
    assert found.version == __import__(ACTIVE).__version__
    if found.device == "cpu":
        assert (found.devices, found.training) == (2 if ACTIVE == "jax" else 1, 1)
    assert found.device.split(":")[0] in ("cpu", "gpu", "tpu")


def test_report_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    works(monkeypatch)
    monkeypatch.setenv("TRAJWORLD_HOME", str(tmp_path / "not" / "yet"))
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    report = examine()
    assert report.versions["python"] == platform.python_version()
    assert report.versions["numpy"] == np.__version__
    assert report.versions["trajworld"] == importlib.metadata.version("trajworld")
    assert [framework.name for framework in report.frameworks] == ["jax", "tensorflow", "torch"]
    assert report.active == ACTIVE
    assert report.healthy
    assert 1 <= report.cores <= os.cpu_count()
    assert report.home == str(tmp_path / "not" / "yet")
    stat = os.statvfs(tmp_path)
    assert report.home_free == pytest.approx(stat.f_bavail * stat.f_frsize, rel=0.05)
    assert report.minari == str(tmp_path / "minari")
    assert not (tmp_path / "not").exists()


def test_what_is_missing_names_its_pip_command(monkeypatch: pytest.MonkeyPatch) -> None:
    hide(monkeypatch, *doctor.FRAMEWORKS, "dm_control", "minari", "pandas", "ray")
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    report = examine()
    assert not report.healthy
    assert report.versions["minari"] is None
    assert report.missing[0].what == "torch (needed): not installed"
    declared = [text.split(";")[0].strip() for text in importlib.metadata.requires("trajworld")]
    mends = {missing.what.partition(":")[0]: missing.mend for missing in report.missing}
    needed, optional = ("torch", "minari", "pandas"), ("jax", "tensorflow", "dm_control", "ray")
    for name in (*needed, *optional):
        wanted = next(text for text in declared if re.match(rf"{name}\b(?!-)", text))
        assert f"pip install '{wanted}'" in mends[f"{name} ({'needed' if name in needed else 'optional'})"]
    shown = CliRunner().invoke(cli, ["doctor"], env={"COLUMNS": "200"})
    assert shown.exit_code == 1
    assert mends["torch (needed)"] in shown.stdout


def test_a_gpu_that_is_not_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(doctor, "_GPU_NODES", (str(tmp_path),))
    monkeypatch.setattr(
        doctor,
        "try_framework",
        lambda name, timeout: Framework(name, "1", True, "cpu" if name == "jax" else "gpu: Tesla", 1),
    )
    missing = [one for one in examine().missing if "GPU" in one.what]
    assert len(missing) == 1
    assert missing[0].what.startswith("jax")
    assert "cuda" in missing[0].mend


@pytest.mark.parametrize(
    ("source", "timeout", "problem"),
    [
        ("raise ImportError('libcudart.so.13 is missing')", 60, "ImportError: libcudart.so.13 is missing"),
        ("import os; os._exit(139)", 60, "ended with the code 139"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", 60, "ended with the code -11"),
        ("import time; time.sleep(60)", 1, "did not answer within 1 s"),
    ],
)
def test_broken_backends(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, source: str, timeout: float, problem: str
) -> None:
    # Keras imports the framework that KERAS_BACKEND names: here, a broken one that stands before any other.
    for name in doctor.FRAMEWORKS:
        fake(tmp_path, name, source)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: True)
    found = try_framework("jax", timeout)
    assert not found.works
    assert problem in found.problem


def test_table_and_json(monkeypatch: pytest.MonkeyPatch) -> None:
    works(monkeypatch)
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    text = CliRunner().invoke(cli, ["doctor"], env={"COLUMNS": "200"})
    assert text.exit_code == 0
    assert "2 x gpu: Tesla (a run trains on 1)" in text.output
    assert "active: KERAS_BACKEND names it" in text.output
    assert "The active backend, tensorflow, works." in text.output
    machine = CliRunner().invoke(cli, ["doctor", "--json"])
    assert machine.exit_code == 0
    answer = json.loads(machine.stdout)
    assert answer["healthy"] is True
    assert answer["active"] == "tensorflow"
    assert set(answer) == {*Report.__dataclass_fields__, "healthy"}


@pytest.mark.slow
def test_a_broken_active_backend_ends_with_exit_code_1() -> None:
    code = "import sys; from trajworld.cli.main import main; sys.exit(main(['doctor', '--json']))"
    environment = {**os.environ, "KERAS_BACKEND": "caffe"}
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, env=environment)
    assert done.returncode == 1
    answer = json.loads(done.stdout)
    assert answer["healthy"] is False
    assert answer["missing"][0]["what"] == "KERAS_BACKEND=caffe is none of jax, tensorflow, torch"


def test_wrong_timeouts_are_refused() -> None:
    assert [CliRunner().invoke(cli, ["doctor", "--timeout", value]).exit_code for value in ("0", "soon")] == [
        2,
        2,
    ]
