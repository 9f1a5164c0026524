"""Running the suites: each backend and suite in a process of its own, one after another, into one folder."""

import contextlib
import importlib.util
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from trajworld.doctor import FRAMEWORKS
from trajworld.errors import TrajWorldError, UsageError
from trajworld.files import read_json, write_json
from trajworld.versions import versions

from .suites import FOLDER, SUITES

RUN_FILE = "run.json"

# Compilations that an earlier run kept would make compiling look free.
_KEPT_COMPILATIONS = ("JAX_COMPILATION_CACHE_DIR", "JAX_ENABLE_COMPILATION_CACHE", "TORCHINDUCTOR_CACHE_DIR")
_SECONDS_TO_END = 5.0


@dataclass(frozen=True)
class Outcome:
    """How one suite under one backend ended.

    Attributes:
        backend: Its name.
        suite: Its name.
        passed: Whether every benchmark in it passed.
        seconds: It took.
        problem: Why not, in a line; empty where it passed.
    """

    backend: str
    suite: str
    passed: bool
    seconds: float
    problem: str = ""


class Observer:
    """What is told of a run as it goes; does nothing by itself."""

    def begins(self, number: int, total: int, backend: str, suite: str) -> None:
        """Suite ``number`` of ``total`` begins, counted from 1."""

    def ended(self, outcome: Outcome) -> None:
        """It ended."""


def installed_backends() -> tuple[str, ...]:
    """The frameworks that are installed, JAX first; imports none of them."""
    return tuple(name for name in FRAMEWORKS if importlib.util.find_spec(name) is not None)


def result_path(folder: Path, backend: str, suite: str) -> Path:
    """Where pytest-benchmark's JSON of a suite is kept."""
    return folder / f"{backend}-{suite}.json"


def run_suites(
    folder: Path,
    backends: Sequence[str] = (),
    suites: Sequence[str] = (),
    *,
    quick: bool = False,
    observer: Observer | None = None,
) -> list[Outcome]:
    """Run suites under backends, suite by suite, so that the backends of one comparison run close together.

    Each leaves its JSON (and ``accuracy`` its arrays) in the folder, in the place of an earlier run's. One that fails
    leaves its output as a ``.log`` and does not stop the others.

    Args:
        folder: Made where it is missing.
        backends: Of those installed; none for all of them.
        suites: Names of :data:`trajworld.benchmarks.suites.SUITES`; none for all.
        quick: Few cases and rounds.
        observer: Told of every suite.

    Returns:
        How each ended.

    Raises:
        UsageError: A backend is not installed, or a suite is unknown.
        TrajWorldError: pytest-benchmark or every framework is missing, or the folder cannot be written.
        KeyboardInterrupt: Ctrl-C or SIGTERM: what was finished is kept, the suite that ran is ended.
    """
    chosen, names = _chosen_backends(backends), list(dict.fromkeys(suites)) or list(SUITES)
    if unknown := [name for name in names if name not in SUITES]:
        raise UsageError(f"no suite is called {unknown[0]!r}: there are {', '.join(SUITES)}")
    if importlib.util.find_spec("pytest_benchmark") is None:
        raise TrajWorldError("the benchmarks need pytest-benchmark: install the extra, trajworld[bench]")
    observer, outcomes = observer or Observer(), list[Outcome]()
    jobs = [
        (backend, suite)
        for suite in names
        for backend in (chosen if SUITES[suite].every_backend or not quick else chosen[:1])
    ]
    with _terminated_like_interrupted():
        _remember(folder, quick, [])
        for number, (backend, suite) in enumerate(jobs, start=1):
            observer.begins(number, len(jobs), backend, suite)
            try:
                outcome = _run_one(folder, backend, suite, quick)
            except OSError as error:
                raise TrajWorldError(f"cannot write into {folder}: {error.strerror or error}") from error
            outcomes.append(outcome)
            _remember(folder, quick, outcomes)
            observer.ended(outcome)
    return outcomes


def _chosen_backends(asked: Sequence[str]) -> list[str]:
    installed = installed_backends()
    if not installed:
        raise TrajWorldError(f"none of {', '.join(FRAMEWORKS)} is installed: `trajworld doctor` says how")
    if missing := [name for name in asked if name not in installed]:
        raise UsageError(f"{missing[0]} is not installed here: there are {', '.join(installed)}")
    return [name for name in installed if name in asked] if asked else list(installed)


def _run_one(folder: Path, backend: str, suite: str, quick: bool) -> Outcome:
    """Run a suite in a process of its own, and move what it wrote to its place when it has ended."""
    began, place = time.monotonic(), result_path(folder, backend, suite)
    log = place.with_suffix(".log")
    with tempfile.TemporaryDirectory(prefix=".bench-", dir=folder) as name:
        temporary = Path(name)
        command = [
            *(sys.executable, "-P", "-m", "pytest", "-p", "pytest_benchmark.plugin", "-s", "-q"),
            *("-c", str(FOLDER / "pytest.ini"), "--rootdir", str(FOLDER), "--color", "no"),
            *("--basetemp", str(temporary / "tests"), "--results", str(temporary)),
            *("--benchmark-json", str(temporary / place.name), *(["--quick"] if quick else [])),
            str(FOLDER / SUITES[suite].file),
        ]
        with open(temporary / log.name, "w+", encoding="utf-8", errors="replace") as output:
            code = _wait(command, _environment(backend, temporary), output)
            output.seek(0)
            problem = _problem(output.read(), code)
        # Only whole files: a suite that crashed may have left half of one.
        written = temporary / place.name
        if written.is_file() and not _is_json(written):
            written.unlink()
            problem = problem or "its results are not JSON"
        if not written.is_file():
            problem = problem or "it left no results"
        for path in (place, log):
            path.unlink(missing_ok=True)
        for path in [
            *temporary.glob("*.json"),
            *temporary.glob("*.npz"),
            *([] if not problem else temporary.glob("*.log")),
        ]:
            os.replace(path, folder / path.name)
    return Outcome(backend, suite, not problem, time.monotonic() - began, problem)


def _environment(backend: str, home: Path) -> dict[str, str]:
    kept = {
        name: value
        for name, value in os.environ.items()
        # What a pytest around this one says of itself is not for the suites: a parallel worker's times nothing.
        if name not in _KEPT_COMPILATIONS and not name.startswith("PYTEST_")
    }
    return {
        **kept,
        "KERAS_BACKEND": backend,
        "TRAJWORLD_HOME": str(home / "home"),
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "PYTHONUNBUFFERED": "1",
        # pytest's summary cuts a failure's message to the width of the terminal.
        "COLUMNS": "250",
        "TF_CPP_MIN_LOG_LEVEL": kept.get("TF_CPP_MIN_LOG_LEVEL", "3"),
    }


def _wait(command: list[str], environment: dict[str, str], output: Any) -> int:
    """The exit code of a command; a Ctrl-C ends it, and the processes that it started, before it goes on."""
    # In a session of its own, so that Ctrl-C comes to this process alone and the end is orderly.
    process = subprocess.Popen(
        command,
        env=environment,
        stdout=output,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        return process.wait()
    finally:
        if process.poll() is None:
            _end(process)


def _end(process: "subprocess.Popen[Any]") -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_SECONDS_TO_END)
            return


def _problem(output: str, code: int) -> str:
    """Why a suite failed, from pytest's summary; empty where it passed."""
    if code == 0:
        return ""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    summary = [line for line in lines if line.startswith(("FAILED ", "ERROR "))]
    if summary:
        more = f" (and {len(summary) - 1} more)" if len(summary) > 1 else ""
        return summary[0].partition("::")[2][:200] + more if "::" in summary[0] else summary[0][:200] + more
    if code < 0:
        return f"its process was ended by signal {-code}"
    return lines[-1][:200] if lines else f"its process ended with the code {code}"


def _is_json(path: Path) -> bool:
    try:
        read_json(path)
    except TrajWorldError:
        return False
    return True


def _remember(folder: Path, quick: bool, outcomes: Sequence[Outcome]) -> None:
    """Write what was run into the folder's ``run.json``, beside what earlier runs left there."""
    path = folder / RUN_FILE
    before = read_json(path) if path.is_file() else {}
    known = before.get("outcomes", []) if isinstance(before, dict) else []
    new = {(outcome.backend, outcome.suite): asdict(outcome) | {"quick": quick} for outcome in outcomes}
    kept = [
        one for one in known if isinstance(one, dict) and (one.get("backend"), one.get("suite")) not in new
    ]
    write_json(path, {"versions": versions(), "outcomes": [*kept, *new.values()]})


@contextlib.contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """Within the block SIGTERM acts as Ctrl-C does: what runs is ended and what is finished kept."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before: Callable[[int, FrameType | None], Any] | int | None = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
