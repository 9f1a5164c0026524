"""How long until the first answer: of ``--help``, of importing the library, of a model's first prediction?

Each in fresh processes, from the interpreter's start to its end.
"""

from pathlib import Path
from typing import Any

import pytest

from trajworld.backend import active_backend
from trajworld.benchmarks.cases import Case
from trajworld.benchmarks.draws import make_model
from trajworld.benchmarks.fresh import run_fresh
from trajworld.benchmarks.measure import keep, seconds_of
from trajworld.benchmarks.results import Result
from trajworld.models.files import save_model

SUITE = "startup"
CASE = Case("small", 15, "float32", batch=1)


def _keep(benchmark: Any, measure: str, first: float | None = None, case: Case | None = None) -> None:
    stats = benchmark.stats.stats
    keep(
        benchmark,
        Result(
            active_backend().name,
            SUITE,
            measure,
            size=case.size if case else "",
            variates=case.variates if case else 0,
            dtype=case.dtype if case else "",
            batch=case.batch if case else 0,
            seconds=stats.median,
            minimum=stats.min,
            rounds=stats.rounds,
            first_seconds=first,
        ),
    )


def test_help(benchmark: Any, quick: bool) -> None:
    """``trajworld --help``, which imports no framework."""
    arguments = ["-c", "from trajworld.cli.main import main; main(['--help'])"]
    benchmark.pedantic(
        run_fresh, args=(arguments,), rounds=2 if quick else 10, warmup_rounds=0 if quick else 1
    )
    _keep(benchmark, "--help")


def test_import(benchmark: Any, quick: bool) -> None:
    """Importing the model under the backend."""
    arguments = ["-c", "import trajworld.models.trajworld"]
    benchmark.pedantic(
        run_fresh, args=(arguments,), rounds=2 if quick else 5, warmup_rounds=0 if quick else 1
    )
    _keep(benchmark, "import")


def test_first_prediction(
    benchmark: Any, quick: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loading a model and predicting one row: the first process compiles; the others may find that kept on the disk."""
    monkeypatch.setenv("TRAJWORLD_HOME", str(tmp_path / "home"))
    save_model(make_model(CASE), tmp_path / "model.keras")
    arguments = [
        "-m",
        "trajworld.benchmarks.first_prediction",
        str(tmp_path / "model.keras"),
        str(CASE.variates),
    ]
    first = seconds_of(lambda: run_fresh(arguments))
    benchmark.pedantic(run_fresh, args=(arguments,), rounds=1 if quick else 5)
    _keep(benchmark, "first prediction", first, CASE)
