"""Options and fixtures of the suites."""

import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from trajworld.benchmarks.cases import cases
from trajworld.benchmarks.results import machine_info


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the suites' options."""
    group = parser.getgroup("trajworld")
    group.addoption(
        "--quick",
        action="store_true",
        help="Few cases and rounds, as `trajworld study run backends --quick`.",
    )
    group.addoption(
        "--arrays", type=Path, metavar="FILE", help="Where the accuracy suite leaves its arrays (.npz)."
    )
    group.addoption(
        "--end-with-parent",
        action="store_true",
        help="End, with all that was started, at standard input's end.",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Watch standard input where asked to: it ends when the process that started this one does, however that ends."""
    if config.getoption("--end-with-parent"):
        threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    os.read(0, 1)
    os.killpg(0, signal.SIGKILL)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give a test that takes a ``case`` each of its suite's."""
    if "case" in metafunc.fixturenames:
        found = cases(metafunc.module.SUITE, metafunc.config.getoption("--quick"))
        metafunc.parametrize("case", found, ids=str)


@pytest.fixture(scope="session")
def quick(request: pytest.FixtureRequest) -> bool:
    """Whether this is a quick run."""
    return bool(request.config.getoption("--quick"))


@pytest.fixture(scope="session")
def peak_meter() -> Any:
    """What measures the machine's matrix-product peak."""
    from trajworld.benchmarks.measure import PeakMeter

    return PeakMeter()


@pytest.fixture
def peak(peak_meter: Any) -> Any:
    """The peak just before a case: on a shared machine it changes from one minute to the next."""
    return peak_meter()


@pytest.fixture(autouse=True)
def fresh_memory(request: pytest.FixtureRequest) -> Any:
    """Free what a case leaves behind, so that the next one meets the memory that it would meet alone.

    Not in a quick run: making the next model would compile again what all models share.
    """
    yield
    if "peak" in request.fixturenames and not request.config.getoption("--quick"):
        from trajworld.backend import active_backend

        active_backend().free_memory()


def pytest_benchmark_generate_machine_info(config: pytest.Config) -> dict[str, Any]:
    """Describe the machine: pytest-benchmark's own way asks for more, and takes seconds each time."""
    machine = machine_info()
    return {**machine, "cpu": {"brand_raw": machine["processor"]}}


def pytest_benchmark_generate_commit_info(config: pytest.Config) -> dict[str, Any]:
    """Nothing: the installed package has no repository."""
    return {}
