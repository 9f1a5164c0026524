"""How long until the first answer: of ``--help``, of importing the library, of a model's first prediction?

Each in fresh processes, from the interpreter's start to its end.
"""

from pathlib import Path
from typing import Any

import pytest

from trajworld.benchmarks.cases import Case
from trajworld.benchmarks.draws import make_model
from trajworld.benchmarks.measure import keep, run_fresh, seconds_of
from trajworld.models.files import save_model

CASE = Case("small", batch=1)
HELP = "from trajworld.cli.main import main; main(['--help'])"
IMPORT = "import trajworld.models.trajworld"
PREDICT = """
import sys
import numpy as np
from trajworld.backend import active_backend
from trajworld.data.batch import Batch, Variates
from trajworld.models.files import load_model
model, backend, count = load_model(sys.argv[1]), active_backend(), int(sys.argv[2])
values, zeros = np.full((1, model.sizes.window, count), 0.5, np.float32), np.zeros(count, np.float32)
batch = Batch(values, np.ones(values.shape[:2], np.float32), Variates(zeros.astype(int), zeros, zeros + 1))
backend.wait(backend.compile(model.predict, model)(batch))
"""


@pytest.mark.parametrize(("measure", "program", "rounds"), [("--help", HELP, 10), ("import", IMPORT, 5)])
def test_process(benchmark: Any, quick: bool, measure: str, program: str, rounds: int) -> None:
    """``trajworld --help``, which imports no framework; and importing the model under the backend."""
    rounds, warm = (2, 0) if quick else (rounds, 1)
    benchmark.pedantic(run_fresh, args=("-c", program), rounds=rounds, warmup_rounds=warm)
    keep(benchmark, measure)


def test_first_prediction(
    benchmark: Any, quick: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loading a model and predicting one row: the first process compiles; the others may find that kept on the disk."""
    monkeypatch.setenv("TRAJWORLD_HOME", str(tmp_path / "home"))
    path = tmp_path / "model.keras"
    save_model(make_model(CASE), path)
    arguments = ("-c", PREDICT, str(path), str(CASE.variates))
    first = seconds_of(lambda: run_fresh(*arguments))
    benchmark.pedantic(run_fresh, args=arguments, rounds=1 if quick else 5)
    keep(benchmark, "first prediction", CASE, first=first)
