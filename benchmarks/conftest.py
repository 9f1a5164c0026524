"""Options and fixtures of the suites."""

import os
import platform
from pathlib import Path
from typing import Any

import pytest

from trajworld.benchmarks.cases import cases


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the suites' options."""
    group = parser.getgroup("trajworld")
    group.addoption("--quick", action="store_true", help="Few cases and rounds, as `bench run --quick` does.")
    group.addoption(
        "--results",
        type=Path,
        default=None,
        metavar="FOLDER",
        help="Where the accuracy suite leaves its arrays.",
    )


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
    model, flags = _processor()
    wanted = ("avx2", "avx512f", "avx512_bf16", "amx_tile", "amx_bf16", "asimd", "bf16")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "system": platform.system(),
        "machine": platform.machine(),
        "python_version": platform.python_version(),
        "processor": model,
        "features": [name for name in wanted if name in flags],
        "cores": cores,
        "cpu": {"brand_raw": model},
    }


def pytest_benchmark_generate_commit_info(config: pytest.Config) -> dict[str, Any]:
    """Nothing: the installed package has no repository."""
    return {}


def _processor() -> tuple[str, set[str]]:
    """The processor's name and the names of what it can do, as far as the system tells."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(errors="replace").splitlines() if path.is_file() else []

    def value(*names: str) -> str:
        return next((line.partition(":")[2].strip() for line in lines if line.startswith(names)), "")

    return value("model name") or platform.processor() or platform.machine(), set(
        value("flags", "Features").split()
    )
