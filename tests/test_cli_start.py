"""How the command line starts: without a framework; and how it ends: one line and the right exit code."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

FRAMEWORKS = {"jax", "tensorflow", "torch", "keras"}


def run(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "TRAJWORLD_HOME": str(folder),
        "MINARI_DATASETS_PATH": str(folder),
        "COLUMNS": "100",
    }
    # -P: the checkout's own trajworld/ must not stand before the installed package.
    return subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, env=environment)


def main_with(arguments: list[str]) -> str:
    return f"import sys; from trajworld.cli.main import main; sys.exit(main({arguments!r}))"


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["data", "list"], ["data", "--help"], ["train", "--help"], ["doctor", "--help"]],
)
def test_no_framework_is_imported(tmp_path: Path, arguments: list[str]) -> None:
    done = run(
        "import json, sys\n"
        "from trajworld.cli.main import main\n"
        "try:\n"
        f"    code = main({arguments!r})\n"
        "except SystemExit as end:\n"
        "    code = end.code\n"
        "print()\n"
        "print(json.dumps([code, sorted(sys.modules)]))\n",
        tmp_path,
    )
    assert done.returncode == 0, done.stderr
    code, modules = json.loads(done.stdout.splitlines()[-1])
    assert code in (0, None), done.stderr
    assert "trajworld.cli.main" in modules
    assert not FRAMEWORKS & {module.split(".")[0] for module in modules}


def test_the_check_above_sees_a_framework(tmp_path: Path) -> None:
    done = run("import keras, sys; print('keras' in sys.modules)", tmp_path)
    assert done.stdout.split()[-1] == "True"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fly"], "No such command 'fly'"),
        (["data", "fly"], "No such command 'fly'"),
        (["--fly"], "No such option"),
        (["doctor", "--timeout", "never"], "--timeout"),
    ],
)
def test_wrong_calls_exit_with_2(tmp_path: Path, arguments: list[str], message: str) -> None:
    done = run(main_with(arguments), tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("error", "code", "shown"),
    [
        (
            "TrajWorldError('the disk is full: remove something')",
            1,
            "Error: the disk is full: remove something\n",
        ),
        ("UsageError('no such preset: choose tiny')", 2, "Error: no such preset: choose tiny\n"),
        ("KeyboardInterrupt", 130, "Interrupted.\n"),
    ],
)
def test_errors_end_in_one_line(tmp_path: Path, error: str, code: int, shown: str) -> None:
    done = run(
        "import sys, click\n"
        "from trajworld.cli import main as module\n"
        "from trajworld.errors import TrajWorldError, UsageError\n"
        "@module.cli.command()\n"
        "def fail():\n"
        f"    raise {error}\n"
        "sys.exit(module.main(['fail']))\n",
        tmp_path,
    )
    assert done.returncode == code, done.stderr
    assert done.stderr.strip() == shown.strip()
    assert done.stdout == ""


def test_a_programming_error_keeps_its_traceback(tmp_path: Path) -> None:
    done = run(
        "import sys\n"
        "from trajworld.cli import main as module\n"
        "@module.cli.command()\n"
        "def fail():\n"
        "    [][1]\n"
        "sys.exit(module.main(['fail']))\n",
        tmp_path,
    )
    assert done.returncode == 1
    assert "IndexError" in done.stderr


def test_version(tmp_path: Path) -> None:
    from trajworld import __version__

    done = run(main_with(["--version"]), tmp_path)
    assert done.returncode == 0
    assert done.stdout == f"trajworld, version {__version__}\n"


def test_a_reader_that_goes_away(tmp_path: Path) -> None:
    command = f'{sys.executable} -P -c "{main_with(["--help"])}" | true'
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=tmp_path)
    assert done.stderr == ""
