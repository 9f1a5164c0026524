"""The task of the study of backends: one suite under one backend, in a process of its own."""

import os
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trajworld.errors import TrajWorldError
from trajworld.study.cells import Result

from .accuracy import ARRAYS
from .cases import FOLDER, SUITES
from .results import read_rows

# Compilations that an earlier run kept would make compiling look free.
_KEPT_COMPILATIONS = ("JAX_COMPILATION_CACHE_DIR", "JAX_ENABLE_COMPILATION_CACHE", "TORCHINDUCTOR_CACHE_DIR")


def benchmark(settings: Mapping[str, Any], places: Mapping[str, str]) -> Result:
    """Run a suite by pytest, in a process of its own under its backend.

    Returns:
        The rows of its JSON, and the arrays that the accuracy suite leaves.

    Raises:
        TrajWorldError: A benchmark failed, or the process died.
        KeyboardInterrupt: Ctrl-C; the process has ended, with those that it started.
    """
    suite = FOLDER / SUITES[settings["suite"]].file
    with tempfile.TemporaryDirectory(prefix="trajworld-") as name:
        folder = Path(name)
        json, arrays, log = folder / "found.json", folder / f"arrays{ARRAYS}", folder / "log"
        command = [
            *(sys.executable, "-P", "-m", "pytest", "-p", "pytest_benchmark.plugin", "-s", "-q"),
            *("-c", str(FOLDER / "pytest.ini"), "--rootdir", str(FOLDER), "--color", "no"),
            *("--basetemp", str(folder / "tests"), "--benchmark-json", str(json), "--arrays", str(arrays)),
            *("--end-with-parent", *(["--quick"] if settings["quick"] else []), str(suite)),
        ]
        with open(log, "w", encoding="utf-8") as output:
            code = _wait(command, _environment(settings["backend"], folder), output)
        if code:
            alone = f"KERAS_BACKEND={settings['backend']} pytest -s {shlex.quote(str(suite))}"
            raise TrajWorldError(f"{_problem(log.read_text('utf-8', 'replace'), code)}; alone: {alone}")
        files = {ARRAYS: arrays.read_bytes()} if arrays.is_file() else {}
        return Result(read_rows(json), files, {name: settings[name] for name in ("backend", "device")})


def _environment(backend: str, folder: Path) -> dict[str, str]:
    kept = {
        name: value
        for name, value in os.environ.items()
        # What a pytest around this one says of itself is not for the suites: a parallel worker's times nothing.
        if name not in _KEPT_COMPILATIONS and not name.startswith("PYTEST_")
    }
    return {
        "TF_CPP_MIN_LOG_LEVEL": "3",
        **kept,
        "KERAS_BACKEND": backend,
        "TRAJWORLD_HOME": str(folder / "home"),
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        # pytest's summary cuts a failure's message to the width of the terminal.
        "COLUMNS": "250",
    }


def _wait(command: list[str], environment: dict[str, str], output: Any) -> int:
    """The exit code of a command; a Ctrl-C ends it and the processes that it started."""
    # In a session of its own, so that Ctrl-C comes to this process alone. Its standard input ends when this process
    # does, however that ends.
    process = subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT,
        start_new_session=True,
    )  # fmt: skip
    try:
        return process.wait()
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        assert process.stdin is not None
        process.stdin.close()


def _problem(output: str, code: int) -> str:
    """Why a suite failed, from pytest's summary."""
    summary = [line for line in output.splitlines() if line.startswith(("FAILED ", "ERROR "))]
    if summary:
        more = f" (and {len(summary) - 1} more)" if len(summary) > 1 else ""
        return (summary[0].partition("::")[2] or summary[0])[:200] + more
    return (
        f"its process was ended by signal {-code}" if code < 0 else f"its process ended with the code {code}"
    )
