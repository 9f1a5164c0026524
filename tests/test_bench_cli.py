"""``trajworld bench``: errors in one line, suites that fail, Ctrl-C, and one real run."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import keras
import pytest
from click.testing import CliRunner, Result

from trajworld.benchmarks import runner
from trajworld.benchmarks.suites import FOLDER, SUITES, Suite
from trajworld.cli.main import cli
from trajworld.errors import TrajWorldError, UsageError

ACTIVE = keras.backend.backend()
RESULT = """
from trajworld.benchmarks.measure import keep
from trajworld.benchmarks.results import Result
def test_{name}(benchmark):
    benchmark.pedantic(lambda: None, rounds=2)
    keep(benchmark, Result({backend!r}, "training", "{name}", seconds=1.0))
"""


def invoke(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, ["bench", *(str(argument) for argument in arguments)])


@pytest.fixture
def suites(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of suites that take no time: ``training`` passes, ``rollout`` fails half, ``forward`` crashes."""
    folder = tmp_path / "suites"
    folder.mkdir()
    for name in ("conftest.py", "pytest.ini"):
        (folder / name).write_text((FOLDER / name).read_text())
    good = RESULT.format(name="good", backend=ACTIVE)
    (folder / "test_good.py").write_text(good)
    (folder / "test_half.py").write_text(
        good + "\ndef test_bad(benchmark):\n    raise ValueError('out of memory')\n"
    )
    (folder / "test_crash.py").write_text("import os\ndef test_crash():\n    os._exit(9)\n")
    (folder / "test_long.py").write_text("import time\ndef test_long():\n    time.sleep(600)\n")
    files = {
        "training": "test_good.py",
        "rollout": "test_half.py",
        "forward": "test_crash.py",
        "memory": "test_long.py",
    }
    monkeypatch.setattr(runner, "SUITES", {name: Suite(file, "?") for name, file in files.items()})
    monkeypatch.setattr(runner, "FOLDER", folder)
    return folder


@pytest.mark.slow
def test_a_failing_suite_is_named_and_the_others_still_run(suites: Path, tmp_path: Path) -> None:
    found = tmp_path / "found"
    arguments = ["--backend", ACTIVE, "--suite", "forward", "--suite", "rollout", "--suite", "training"]
    outcome = invoke("run", "--quick", *arguments, "-o", found)
    assert outcome.exit_code == 1
    assert "1 of 3 suites passed" in outcome.output
    assert f"Failed: {ACTIVE} rollout: test_bad - ValueError: out of memory" in outcome.stderr
    assert f"Failed: {ACTIVE} forward:" in outcome.stderr
    assert "[2/3]" in outcome.stderr
    names = {path.name for path in found.iterdir()}
    kept = {
        f"{ACTIVE}-training.json",
        f"{ACTIVE}-rollout.json",
        f"{ACTIVE}-rollout.log",
        f"{ACTIVE}-forward.log",
    }
    assert names == kept | {"run.json"}
    report = json.loads(invoke("report", found, "--json").stdout)
    assert len(report["failures"]) == 2
    assert {row["measure"] for row in report["rows"]} == {"good"}

    # Mended and run again, it is as if it had never failed.
    (suites / "test_half.py").write_text((suites / "test_good.py").read_text())
    assert invoke("run", "--backend", ACTIVE, "--suite", "rollout", "-o", found).exit_code == 0
    assert not (found / f"{ACTIVE}-rollout.log").exists()
    assert json.loads(invoke("report", found, "--json").stdout)["failures"] == report["failures"][:1]


@pytest.mark.slow
def test_ctrl_c_ends_cleanly_and_keeps_what_is_finished(suites: Path, tmp_path: Path) -> None:
    found = tmp_path / "found"
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from trajworld.benchmarks import runner\n"
        "from trajworld.benchmarks.suites import Suite\n"
        "runner.FOLDER = Path(sys.argv[1])\n"
        "runner.SUITES = {'training': Suite('test_good.py', '?'), 'memory': Suite('test_long.py', '?')}\n"
        "from trajworld.cli.main import main\n"
        "sys.exit(main(sys.argv[2:]))\n"
    )
    arguments = [
        "bench",
        "run",
        "--backend",
        ACTIVE,
        "--suite",
        "training",
        "--suite",
        "memory",
        "-o",
        str(found),
    ]
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", program, str(suites), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + 120
        while not list(found.glob(".bench-*/*memory.log")) and time.monotonic() < deadline:
            time.sleep(0.1)
        inner = _children(process.pid)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert "Interrupted." in errors
    assert "kept" in errors
    assert "Traceback" not in errors
    assert {path.name for path in found.iterdir()} == {f"{ACTIVE}-training.json", "run.json"}
    assert not any(Path(f"/proc/{child}").exists() for child in inner)


def _children(parent: int) -> list[int]:
    """The processes that ``parent`` started, where the system tells."""
    path = Path(f"/proc/{parent}/task/{parent}/children")
    return [int(word) for word in path.read_text().split()] if path.is_file() else []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "--backend", "abacus"], "abacus"),
        (["run", "--suite", "flying"], "flying"),
        (["report"], "FOLDER"),
        (["fly"], "fly"),
    ],
)
def test_wrong_calls_exit_with_2(arguments: list[str], message: str) -> None:
    outcome = invoke(*arguments)
    assert outcome.exit_code == 2
    assert message in outcome.stderr


def test_bad_folders_are_refused_in_one_line(tmp_path: Path) -> None:
    outcome = invoke("report", tmp_path / "nowhere")
    assert isinstance(outcome.exception, UsageError)
    outcome = invoke("report", tmp_path)
    assert isinstance(outcome.exception, TrajWorldError)
    (tmp_path / "jax-training.json").write_text('{"benchmarks": [')
    outcome = invoke("report", tmp_path, "-o", tmp_path / "report")
    assert isinstance(outcome.exception, TrajWorldError)
    assert "jax-training.json" in str(outcome.exception)
    assert not (tmp_path / "report").exists()


def test_results_cannot_be_written_into_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    assert invoke("run", "-o", tmp_path / "file").exit_code == 2
    with pytest.raises(TrajWorldError, match="cannot write"):
        runner.run_suites(tmp_path / "file" / "inside", [ACTIVE], ["training"])
    assert (tmp_path / "file").read_text() == "kept"


def test_what_is_not_installed_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(runner, "installed_backends", lambda: ("jax",))
    with pytest.raises(UsageError, match="torch is not installed here: there are jax"):
        runner.run_suites(tmp_path, ["torch"])
    with pytest.raises(UsageError, match="no suite is called 'flying'"):
        runner.run_suites(tmp_path, ["jax"], ["flying"])
    monkeypatch.setattr(runner, "installed_backends", lambda: ())
    with pytest.raises(TrajWorldError, match="none of jax"):
        runner.run_suites(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_command_knows_the_suites_and_imports_no_framework() -> None:
    from trajworld.cli import bench

    assert tuple(SUITES) == bench._SUITES
    code = (
        "import sys\n"
        "import trajworld.cli.bench, trajworld.benchmarks.runner as runner, trajworld.benchmarks.report\n"
        "assert runner.installed_backends()\n"
        "print([name for name in ('keras', 'jax', 'tensorflow', 'torch') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_core_does_not_import_benchmarks() -> None:
    import trajworld

    core = Path(trajworld.__file__).parent
    above = {
        core / "backends",
        core / "benchmarks",
        core / "cli",
    }  # Installed, these are inside the core's folder.
    files = [path for path in core.rglob("*.py") if not above.intersection(path.parents)]
    assert len(files) > 50
    assert not [path for path in files if "trajworld.benchmarks" in path.read_text(encoding="utf-8")]


@pytest.mark.slow
def test_a_real_run_and_its_report(tmp_path: Path) -> None:
    found, place = tmp_path / "found", tmp_path / "report"
    command = [
        sys.executable,
        "-P",
        "-c",
        "import sys; from trajworld.cli.main import main; sys.exit(main(sys.argv[1:]))",
    ]
    arguments = ["bench", "run", "--quick", "--backend", ACTIVE, "--suite", "tokenizing", "-o", str(found)]
    environment = {name: value for name, value in os.environ.items() if name != "KERAS_BACKEND"}
    done = subprocess.run(
        [*command, *arguments], capture_output=True, text=True, env=environment, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert {path.name for path in found.iterdir()} == {f"{ACTIVE}-tokenizing.json", "run.json"}
    outcome = invoke("report", found, "-o", place)
    assert outcome.exit_code == 0, outcome.output
    assert {path.name for path in place.iterdir()} == {"report.md", "report.json", "report.png"}
    rows = json.loads((place / "report.json").read_text())["rows"]
    assert {row["measure"] for row in rows} == {"encode and project", "target bins"}
    for row in rows:
        assert row["backends"][ACTIVE]["seconds"] > 0
        assert row["backends"][ACTIVE]["per_second"] > 0
    assert "How fast are values encoded" in outcome.stdout
