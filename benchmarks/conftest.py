"""Options and fixtures of the suites."""

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from trajworld.backend import active_backend
from trajworld.benchmarks.cases import Case, cases
from trajworld.benchmarks.measure import Measured, keep, peaks, timed


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("trajworld")
    group.addoption("--quick", action="store_true", help="Few cases and rounds, as in the study's --quick.")
    group.addoption("--arrays", type=Path, help="Where the accuracy suite leaves its arrays (.npz).")
    for name in ("model", "dataset"):
        group.addoption(f"--{name}", help=f"Of off-policy evaluation: the {name}.")
    group.addoption("--policies", action="append", help="Of off-policy evaluation: policies.")
    group.addoption("--horizon", type=int, default=1000, help="Of off-policy evaluation.")
    group.addoption(
        "--states", type=int, default=64, help="Of off-policy evaluation: the most initial states."
    )
    group.addoption("--sample", action="store_true", help="Of off-policy evaluation: sample predictions.")
    group.addoption("--end-with-parent", action="store_true", help="End, with all that was started, at EOF.")


def pytest_configure(config: pytest.Config) -> None:
    """Watch standard input if asked to: it ends with the process that started this one, even a killed one."""
    if config.getoption("--end-with-parent"):
        threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    os.read(0, 1)
    os.killpg(0, signal.SIGKILL)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give a test that takes a ``case``, and is named like its suite, each of that suite's."""
    if "case" in metafunc.fixturenames:
        suite = metafunc.function.__name__.removeprefix("test_")
        metafunc.parametrize("case", cases(suite, metafunc.config.getoption("--quick")), ids=str)


@pytest.fixture(scope="session")
def quick(request: pytest.FixtureRequest) -> bool:
    return bool(request.config.getoption("--quick"))


@pytest.fixture
def measured(benchmark: Any, case: Case, quick: bool) -> Iterator[Measured]:
    """Times a call and keeps the results, and the peak: on a shared machine that changes by the minute."""
    peak = peaks()

    def measure(name: str, run: Any, **facts: Any) -> None:
        keep(benchmark, name, case, first=timed(benchmark, run, quick), **peak, **facts)

    yield measure
    # The next case meets the memory that it would meet alone. Not in a quick run: making the next model would compile
    # again what all models share.
    if not quick:
        active_backend().free_memory()


def pytest_benchmark_generate_machine_info() -> dict[str, Any]:
    """Nothing: pytest-benchmark's own way takes seconds each time, and the installed package has no repository."""
    return {}


pytest_benchmark_generate_commit_info = pytest_benchmark_generate_machine_info
