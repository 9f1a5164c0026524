"""The study of backends: rows, differences, tables, a run through the command line, failures and Ctrl-C."""

import io
import json
import signal
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from waiting import runs, wait_for

from trajworld import doctor
from trajworld.benchmarks import study, tasks
from trajworld.benchmarks.cases import FOLDER
from trajworld.benchmarks.study import Backends
from trajworld.benchmarks.tasks import ARRAYS, benchmark, difference
from trajworld.charts import Look
from trajworld.cli.main import cli
from trajworld.doctor import Framework
from trajworld.errors import TrajWorldError, UsageError
from trajworld.study.cells import Result, Store
from trajworld.study.run import LocalEngine, known_cells, run_study

pytestmark = pytest.mark.once

ACTIVE = keras.backend.backend()
OTHER = "torch" if ACTIVE == "tensorflow" else "tensorflow"
SPEED = """
import os
from trajworld.benchmarks.cases import Case
from trajworld.benchmarks.measure import keep

def test_training(benchmark):
    benchmark.pedantic(lambda: sum(range(1000)), rounds=3)
    stats = benchmark.stats.stats
    facts = {"peak_float32": 2e11, "first": 100.0, "flops": 10**9, "count": 608}
    keep(benchmark, "good", Case("tiny"), wanted=[stats.median, stats.min, 3], **facts)

def test_rollout(benchmark):
    raise ValueError("no memory")

def test_forward():
    os._exit(9)
"""
LONG = """
import os, subprocess, sys, time
from pathlib import Path
def test_long():
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    place = Path(__file__).with_name("started")
    place.with_suffix(".new").write_text(f"{os.getpid()} {child.pid}")
    place.with_suffix(".new").rename(place)
    time.sleep(600)
"""


@pytest.fixture
def suites(tmp_path, monkeypatch):
    """A folder of suites that take no time."""
    folder = tmp_path / "suites"
    folder.mkdir()
    for name in ("conftest.py", "pytest.ini"):
        (folder / name).write_text((FOLDER / name).read_text())
    (folder / "test_speed.py").write_text(SPEED)
    (folder / "test_memory.py").write_text(LONG)
    monkeypatch.setattr(tasks, "FOLDER", folder)
    return folder


@pytest.fixture
def frameworks(monkeypatch):
    """A function that says which backends work from now on; at first the active one and JAX."""

    def working(*names):
        study._tried.cache_clear()
        monkeypatch.setattr(
            doctor,
            "try_framework",
            lambda name, timeout: Framework(name, "1.0", name in names, "cpu", problem="not installed"),
        )

    working(ACTIVE, "jax")
    yield working
    study._tried.cache_clear()


def test_rows_are_what_was_kept_beside_its_times(suites):
    found = benchmark({"suite": "training", "backend": ACTIVE, "device": "cpu", "quick": True}, {})
    (row,) = found.rows
    assert [row["seconds"], row["best_seconds"], row["rounds"]] == row["wanted"]
    assert row["per_second"] * row["seconds"] == pytest.approx(608)
    assert row["share_of_peak"] == pytest.approx(1e9 / row["seconds"] / 2e11)
    assert row["compile_seconds"] == pytest.approx(100 - row["seconds"])
    assert (row["size"], row["variates"], row["case"]) == ("tiny", 15, "good, tiny, M = 15, float32")
    assert found.origin == {"backend": ACTIVE, "device": "cpu"}


def test_differences_from_jax_are_cells_of_their_own(tmp_path, frameworks):
    frameworks("jax", "tensorflow", "torch")
    generator, store, arrays = np.random.default_rng(0), Store(tmp_path), {}
    compared = Backends(suites=("accuracy",), quick=True)
    for cell in compared.cells(pd.DataFrame()):
        shapes = {"logits/tiny": (5, 7), "losses": (20,), "holdout_error": ()}
        found = {name: generator.uniform(3, 6, shape) for name, shape in shapes.items()}
        content = io.BytesIO()
        np.savez(content, **found)
        arrays[cell.settings["backend"]] = found
        origin = {"seconds": 1.0, "backend": "", "device": "", "versions": {}}
        store.put(cell, Result([{"backend": cell.settings["backend"]}], {ARRAYS: content.getvalue()}), origin)
    assert run_study(compared, store, LocalEngine(1)) == []
    rows = store.table(known_cells(compared, store))
    rows = rows[rows["task"] == "difference"]
    assert rows["backend"].unique().tolist() == ["tensorflow", "torch"]
    for backend, one in rows.groupby("backend"):
        theirs, ours = arrays["jax"], arrays[backend]
        pairs = {name: list(zip(theirs[name].flat, ours[name].flat, strict=True)) for name in theirs}
        expected = [max(abs(x - y) for x, y in pairs["logits/tiny"])]
        expected += [abs(y - x) / x for name in ("losses", "holdout_error") for x, y in pairs[name]]
        np.testing.assert_allclose(one["difference"], expected, rtol=1e-9)
        assert one["measure"].tolist() == ["logits", *["loss"] * 20, "holdout error"]
        assert one["step"].tolist()[1:21] == list(range(1, 21))

    (tmp_path / f"b{ARRAYS}").write_bytes(b"PK no archive")
    with pytest.raises(TrajWorldError, match=r"b\.npz"):
        difference({"cells": ["b", "b"]}, {"store": str(tmp_path)})


def table():
    """Two backends' training in both dtypes, on a machine that was busy once, and differences."""
    common = {"version": "1", "processor": "Abacus", "cores": 2, "suite": "training", "size": "small"}
    model = common | {"measure": "step", "variates": 15, "peak_bfloat16": 1e11, "unit": "rows"}
    columns = ["backend", "dtype", "seconds", "peak_float32", "share_of_peak"]
    values = [
        ("jax", "float32", 0.2, 2e11, 0.025),
        ("jax", "mixed_bfloat16", 0.1, 2e11, 0.05),
        ("torch", "float32", 0.4, 4e11, 0.00625),
        ("torch", "mixed_bfloat16", 0.5, 1e11, 0.02),
    ]
    timed = pd.DataFrame(values, columns=columns).assign(**model)
    timed["case"] = "step, small, " + timed["dtype"]
    apart = pd.DataFrame({"step": [1, 100, 200], "difference": [0.0, 5e-3, 1e-4]})
    given = {"suite": "accuracy", "backend": "torch", "measure": "loss", "case": "losses", "reference": "jax"}
    return pd.concat([timed, apart.assign(**given)], ignore_index=True).assign(device="cpu")


def test_tables_have_a_row_for_each_quantity_and_a_column_for_each_backend():
    found = Backends(suites=("accuracy", "training")).tables(table())
    machine, accuracy, training = found.values()
    speed = training.set_index(["quantity", "of"])
    assert speed.loc[("median, ms", "small, float32")].tolist() == [200, 400, ""]
    assert speed.loc[("of the peak, %", "small, float32")].tolist() == pytest.approx([2.5, 0.625, ""])
    gain = speed.loc[("times float32's speed", "small, mixed_bfloat16")]
    assert gain.tolist() == pytest.approx([2, 0.8, "PyTorch"])
    (losses,) = accuracy.to_dict("records")
    wanted = {"PyTorch": 5e-3, "target": 1e-3, "within": False}
    assert losses == {"quantity": "difference from JAX", "of": "losses", **wanted}
    assert machine.set_index("quantity").loc["float32 GFLOP/s", "PyTorch"] == 400
    charts = Backends().charts(table(), Look())
    assert list(charts) == ["Speed", "Share of the peak", "Losses"]
    (axes,) = charts["Speed"].axes
    assert sorted(round(bar.get_width()) for bar in axes.patches) == [20, 50, 100, 100]


@pytest.mark.slow
def test_a_failing_suite_is_named_and_the_others_are_kept(suites, frameworks, tmp_path):
    options = f"--quick --backends {ACTIVE},{OTHER} --suites forward,rollout,training".split()
    folders = ["--store", str(tmp_path / "store"), "-o", str(tmp_path / "report")]
    outcome = CliRunner().invoke(cli, ["study", "run", "backends", *options, *folders])
    assert isinstance(outcome.exception, TrajWorldError)
    assert "2 cells failed" in str(outcome.exception)
    assert "forward" in str(outcome.exception)
    for words in (
        "test_rollout - ValueError: no memory",
        f"KERAS_BACKEND={ACTIVE} pytest -s {suites}/test_speed.py::test_rollout",
        f"{study.NAMES[OTHER]} is left out: not installed",
    ):
        assert words in outcome.stderr
    rows = pd.read_csv(tmp_path / "report" / "table.csv")
    assert rows[["suite", "measure", "backend"]].values.tolist() == [["training", "good", ACTIVE]]
    origin = json.loads((tmp_path / "report" / "study.json").read_text())["origin"]
    assert (origin["backend"], origin["device"]) == (ACTIVE, "cpu")


ELSEWHERE = """
import sys
from pathlib import Path
from trajworld.benchmarks import tasks
from trajworld.cli.main import main
tasks.FOLDER = Path(sys.argv[1])
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").is_file(), reason="needs Linux's list of processes")
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_run_keeps_what_is_finished_and_leaves_no_process(suites, tmp_path, sent):
    store, started = tmp_path / "store", suites / "started"
    options = ["--backends", ACTIVE, "--suites", "training,memory", "--store", str(store)]
    command = [sys.executable, "-P", "-c", ELSEWHERE, str(suites), "study", "run", "backends", *options]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    try:
        wait_for(started.is_file, process)
        process.send_signal(sent)
        _, errors = process.communicate(timeout=240)
    finally:
        process.kill()
    assert process.returncode == (130 if sent == signal.SIGINT else -sent)
    assert "Traceback" not in errors
    assert "1 of 2: benchmark: suite training" in errors
    (kept,) = store.glob("*.json")
    assert json.loads(kept.read_text())["settings"]["suite"] == "training"
    wait_for(lambda: not any(runs(int(child)) for child in started.read_text().split()))


def test_wrong_options_are_refused_in_one_line(frameworks):
    for options, words in ({"suites": ("flying",)}, "flying"), ({"backends": ("abacus",)}, "abacus"):
        with pytest.raises(UsageError, match=f"'{words}' is none of"):
            Backends(**options)
    run = ["study", "run", "backends"]
    for arguments in (["--workers", "2"], ["--engine", "ray"]):
        assert isinstance(CliRunner().invoke(cli, [*run, *arguments]).exception, UsageError)
    frameworks()
    with pytest.raises(TrajWorldError, match="trajworld doctor"):
        Backends().prepare(1, print)
