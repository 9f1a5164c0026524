"""The study of backends: the reader, differences, tables, a run through the command line, failures and Ctrl-C."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner
from numpy_reference import Reference, weights_of_model

from trajworld.benchmarks import study, suite_run
from trajworld.benchmarks.accuracy import ARRAYS, difference
from trajworld.benchmarks.cases import FOLDER, Case, Suite
from trajworld.benchmarks.draws import draw_uneven_batch, make_model
from trajworld.benchmarks.results import read_rows
from trajworld.benchmarks.study import Backends
from trajworld.benchmarks.suite_run import benchmark
from trajworld.charts import Look
from trajworld.cli.main import cli
from trajworld.doctor import Framework
from trajworld.errors import TrajWorldError, UsageError
from trajworld.study.cells import Result, Store
from trajworld.study.run import LocalEngine, known_cells, run_study

ACTIVE = keras.backend.backend()
OTHER = "torch" if ACTIVE == "tensorflow" else "tensorflow"
GOOD = """
from trajworld.benchmarks.cases import Case
from trajworld.benchmarks.measure import Peak, keep, rates
def test_good(benchmark):
    benchmark.pedantic(lambda: sum(range(1000)), rounds=3)
    found = rates(benchmark, Peak(2e11, 3e11), 10**9, 608)
    keep(benchmark, "training", "good", Case("tiny", 15, "float32"), first=100.0, **found)
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
FILES = {
    "training": GOOD,
    "rollout": GOOD + "\ndef test_bad(benchmark):\n    raise ValueError('no memory')\n",
    "forward": "import os\ndef test_crash():\n    os._exit(9)\n",
    "memory": LONG,
}
SUITES = {name: Suite(f"test_{name}.py", f"{name}?") for name in FILES}


@pytest.fixture
def suites(tmp_path, monkeypatch):
    """A folder of suites that take no time."""
    folder = tmp_path / "suites"
    folder.mkdir()
    for name in ("conftest.py", "pytest.ini"):
        (folder / name).write_text((FOLDER / name).read_text())
    for name, source in FILES.items():
        (folder / f"test_{name}.py").write_text(source)
    for module in (study, suite_run):
        monkeypatch.setattr(module, "SUITES", SUITES)
    monkeypatch.setattr(suite_run, "FOLDER", folder)
    return folder


@pytest.fixture
def frameworks(monkeypatch):
    """The active backend and JAX work, without being tried; the others are not installed."""

    def tried(name, timeout):
        return Framework(name, "1.0", name in (ACTIVE, "jax"), "cpu", problem="not installed")

    monkeypatch.setattr(study, "try_framework", tried)
    study._frameworks.cache_clear()
    yield
    study._frameworks.cache_clear()


def settings(suite="training"):
    return {"suite": suite, "backend": ACTIVE, "device": "cpu", "quick": True}


def test_the_reader_gives_what_was_kept_beside_its_times(suites, tmp_path):
    path = tmp_path / "found.json"
    command = [sys.executable, "-P", "-m", "pytest", "-q", "-c", str(suites / "pytest.ini")]
    arguments = [*command, "--benchmark-json", str(path), str(suites / "test_training.py")]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    subprocess.run(arguments, check=True, capture_output=True, env=environment, cwd=tmp_path)
    (row,) = read_rows(path)
    stats = json.loads(path.read_text())["benchmarks"][0]["stats"]
    assert (row["seconds"], row["best_seconds"], row["rounds"]) == (stats["median"], stats["min"], 3)
    assert row["per_second"] * row["seconds"] == pytest.approx(608)
    assert row["share_of_peak"] == pytest.approx(1e9 / row["seconds"] / 2e11)
    assert row["compile_seconds"] == pytest.approx(100 - row["seconds"])
    assert (row["backend"], row["suite"], row["size"], row["variates"]) == (ACTIVE, "training", "tiny", 15)
    assert row["case"] == "good, tiny, M = 15, float32"
    assert row["cores"] == len(os.sched_getaffinity(0))
    for text in (path.read_text()[:-100], '{"benchmarks": [7]}', "[]"):
        path.write_text(text)
        with pytest.raises(TrajWorldError, match=r"found\.json"):
            read_rows(path)


def test_differences_from_jax_are_cells_of_their_own(tmp_path, monkeypatch, frameworks):
    works = lambda name, timeout: Framework(name, "1.0", True, "cpu")  # noqa: E731
    monkeypatch.setattr(study, "try_framework", works)
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
        pairs = {
            name: zip(arrays["jax"][name].flat, arrays[backend][name].flat, strict=True) for name in shapes
        }
        expected = [max(abs(x - y) for x, y in pairs["logits/tiny"])]
        expected += [abs(y - x) / x for name in ("losses", "holdout_error") for x, y in pairs[name]]
        np.testing.assert_allclose(one["difference"], expected, rtol=1e-9)
        assert one["measure"].tolist() == ["logits", *["loss"] * 20, "holdout error"]
        assert one["step"].tolist()[1:21] == list(range(1, 21))

    np.savez(tmp_path / f"a{ARRAYS}", **arrays["jax"])
    np.savez(tmp_path / f"b{ARRAYS}", **arrays["jax"] | {"losses": np.ones(7)})
    given, places = settings() | {"cells": ["a", "b"]}, {"store": str(tmp_path)}
    with pytest.raises(TrajWorldError, match="the same options"):
        difference(given, places)
    (tmp_path / f"b{ARRAYS}").write_bytes(b"PK no archive")
    with pytest.raises(TrajWorldError, match=r"b\.npz"):
        difference(given, places)


@pytest.mark.slow
def test_the_accuracy_suite_computes_the_model(tmp_path):
    """Its logits against NumPy's in double precision, and losses that fall."""
    found = benchmark(settings("accuracy"), {})
    path = tmp_path / f"a{ARRAYS}"
    path.write_bytes(found.files[ARRAYS])
    arrays = np.load(path)
    model = make_model(Case("tiny", 15, "float32"))
    values, mask, variates = draw_uneven_batch(Case("tiny", 15, "float32", batch=8))
    reference = Reference(model.sizes, weights_of_model(model))
    expected = reference(values[5:6], mask[5:6], variates)[mask[5:6] > 0]
    first = int(mask[:5].sum())
    np.testing.assert_allclose(arrays["logits/tiny"][first : first + len(expected)], expected, atol=2e-4)
    assert set(arrays) == {"logits/tiny", "logits/small", "losses", "holdout_error"}
    (row,) = [row for row in found.rows if row["measure"] == "losses"]
    assert (row["first_loss"], row["last_loss"]) == (arrays["losses"][0], arrays["losses"][-1])


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
    options = ["--quick", "--backends", f"{ACTIVE},{OTHER}", "--store", str(tmp_path / "store")]
    arguments = ["study", "run", "backends", *options]
    outcome = CliRunner().invoke(
        cli, [*arguments, "--suites", "forward,rollout,training", "-o", str(tmp_path / "report")]
    )
    assert isinstance(outcome.exception, TrajWorldError)
    assert "2 cells failed; the others are kept" in str(outcome.exception)
    assert "test_bad - ValueError: no memory" in outcome.stderr
    assert f"KERAS_BACKEND={ACTIVE} pytest -s {suites / 'test_rollout.py'}" in outcome.stderr
    assert "forward" in str(outcome.exception)
    assert f"{study.NAMES[OTHER]} is left out: not installed" in outcome.stderr
    rows = pd.read_csv(tmp_path / "report" / "table.csv")
    assert rows[["suite", "measure", "backend"]].values.tolist() == [["training", "good", ACTIVE]]
    origin = json.loads((tmp_path / "report" / "study.json").read_text())["origin"]
    assert (origin["backend"], origin["device"]) == (ACTIVE, "cpu")

    # Mended, only that suite is run again; the report says the same from its folder.
    (suites / "test_rollout.py").write_text(GOOD.replace("training", "rollout").replace('"good"', '"other"'))
    arguments += ["--suites", "rollout,training", "-o", str(tmp_path / "report")]
    outcome = CliRunner().invoke(cli, arguments)
    assert outcome.exit_code == 0, outcome.output
    assert "2 of 2: benchmark: suite rollout" in outcome.stderr
    assert "suite training" not in outcome.stderr
    report = (tmp_path / "report" / "report.md").read_text()
    assert (
        f"`trajworld study run backends --suites rollout,training --backends {ACTIVE},{OTHER} --quick`"
        in report
    )


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").is_file(), reason="needs Linux's list of processes")
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_run_keeps_what_is_finished_and_leaves_no_process(suites, tmp_path, sent):
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from trajworld.benchmarks import study, suite_run\n"
        "from trajworld.benchmarks.cases import Suite\n"
        "suite_run.FOLDER = Path(sys.argv[1])\n"
        "found = {name: Suite(f'test_{name}.py', '?') for name in ('training', 'memory')}\n"
        "study.SUITES = suite_run.SUITES = found\n"
        "from trajworld.cli.main import main\n"
        "sys.exit(main(sys.argv[2:]))\n"
    )
    store, started = tmp_path / "store", suites / "started"
    options = ["--backends", ACTIVE, "--suites", "training,memory", "--store", str(store)]
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", program, str(suites), "study", "run", "backends", *options],
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
    )
    try:
        until(lambda: started.is_file() or process.poll() is not None, 240)
        assert process.poll() is None, process.communicate()
        process.send_signal(sent)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == (130 if sent == signal.SIGINT else -sent)
    assert "Traceback" not in errors
    assert "1 of 2: benchmark: suite training" in errors
    (kept,) = store.glob("*.json")
    assert json.loads(kept.read_text())["settings"]["suite"] == "training"
    until(lambda: not any(lives(int(child)) for child in started.read_text().split()), 30)


def until(condition, seconds):
    """Wait for something to become true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not so within {seconds} s"
        time.sleep(0.05)


def lives(pid):
    """Whether a process is there and has not ended: one that nobody asked after yet stays in the list."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_wrong_options_are_refused_in_one_line(frameworks, monkeypatch):
    for options, words in ({"suites": ("flying",)}, "flying"), ({"backends": ("abacus",)}, "abacus"):
        with pytest.raises(UsageError, match=f"'{words}' is none of"):
            Backends(**options)
    run = ["study", "run", "backends"]
    for arguments in (["--workers", "2"], ["--engine", "ray"]):
        assert isinstance(CliRunner().invoke(cli, [*run, *arguments]).exception, UsageError)
    broken = lambda name, timeout: Framework(name, None, False, problem="gone")  # noqa: E731
    monkeypatch.setattr(study, "try_framework", broken)
    study._frameworks.cache_clear()
    with pytest.raises(TrajWorldError, match="trajworld doctor"):
        Backends().prepare(1, print)


def test_the_core_does_not_import_benchmarks():
    import trajworld

    core = Path(trajworld.__file__).resolve().parent
    # Installed, these are inside the core's folder.
    above = {core / "backends", core / "benchmarks", core / "cli"}
    files = [path for path in core.rglob("*.py") if not above.intersection(path.parents)]
    assert len(files) > 50
    assert not [
        path for path in files if re.search(r"(from|import) trajworld\.benchmarks", path.read_text("utf-8"))
    ]
