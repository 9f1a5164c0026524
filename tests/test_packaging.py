"""The built wheel: one import name, every module and data file of the checkout, and nothing else."""

import configparser
import os
import shutil
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

pytestmark = pytest.mark.once

CHECKOUT = Path(__file__).parents[1]
# Folder of the checkout -> where its files are installed.
FOLDERS = {
    "trajworld": "trajworld",
    "backends": "trajworld/backends",
    "benchmarks": "trajworld/benchmarks",
    "cli": "trajworld/cli",
}
DATA_SUFFIXES = {".typed", ".html", ".toml", ".csv", ".ini", ".keras", ".md", ".npz", ".json"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from a copy of the checkout, so that nothing is left in it."""
    pytest.importorskip("setuptools", minversion="77")
    copy = tmp_path_factory.mktemp("checkout")
    for name in [*FOLDERS, "pyproject.toml", "README.md", "LICENSE"]:
        source = CHECKOUT / name
        if source.is_dir():
            shutil.copytree(source, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, copy)
    target = tmp_path_factory.mktemp("wheel")
    # As pip and build do it, neither of which need be in an environment.
    code = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
    command = [sys.executable, "-P", "-c", code, target]
    done = subprocess.run(command, cwd=copy, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (built,) = target.glob("trajworld-*.whl")
    return built


@pytest.mark.slow
def test_holds_every_module_and_data_file_and_the_metadata(wheel: Path) -> None:
    expected = {
        f"{target}/{path.relative_to(CHECKOUT / folder).as_posix()}"
        for folder, target in FOLDERS.items()
        for path in (CHECKOUT / folder).rglob("*")
        if path.suffix in {".py", *DATA_SUFFIXES}
    }
    assert expected >= {"trajworld/py.typed", "trajworld/cli/main.py", "trajworld/benchmarks/pytest.ini"}
    entry_points = configparser.ConfigParser()
    with zipfile.ZipFile(wheel) as archive:
        described = {name for name in archive.namelist() if ".dist-info/" in name}
        assert set(archive.namelist()) - described == expected
        folder = described.pop().split("/")[0]
        metadata = Parser().parsestr(archive.read(f"{folder}/METADATA").decode())
        entry_points.read_string(archive.read(f"{folder}/entry_points.txt").decode())
        archive.getinfo(f"{folder}/licenses/LICENSE")
    assert metadata["Name"] == "trajworld"
    assert {"jax", "tensorflow", "torch", "hub", "test"} <= set(metadata.get_all("Provides-Extra"))
    assert entry_points["console_scripts"]["trajworld"] == "trajworld.cli.main:main"


@pytest.mark.slow
def test_it_runs_from_the_wheel_alone(wheel: Path, tmp_path: Path) -> None:
    shutil.unpack_archive(wheel, tmp_path / "site", "zip")
    backend = os.environ.get("KERAS_BACKEND", "jax")
    options = ["--quick", "--backends", backend, "--suites", "tokenizing", "--store", "cells", "-o", "found"]
    code = "import sys, trajworld.cli.main as main; print(main.__file__); sys.exit(main.main(sys.argv[1:]))"

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-P", "-c", code, *arguments],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done

    assert run("policy", "list", "zoo").stdout.count("zoo/hopper-") == 11
    done = run("study", "run", "backends", *options)
    assert Path(done.stdout.splitlines()[0]).is_relative_to(tmp_path)
    measured = (tmp_path / "found" / "table.csv").read_text()
    assert "encode and project" in measured
    assert "target bins" in measured
