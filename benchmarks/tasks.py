"""The tasks of the study of backends: one suite under one backend, and how far two backends are apart."""

import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trajworld.errors import TrajWorldError
from trajworld.files import read_arrays, read_json
from trajworld.study.cells import Result

from .cases import FOLDER

ARRAYS = ".npz"
# Suites that share a file.
_SPEED = ("training", "rollout", "forward", "tokenizing")
# Compilations that an earlier run kept would make compiling look free.
_KEPT_COMPILATIONS = ("JAX_COMPILATION_CACHE_DIR", "JAX_ENABLE_COMPILATION_CACHE", "TORCHINDUCTOR_CACHE_DIR")


def benchmark(settings: Mapping[str, Any], places: Mapping[str, str]) -> Result:
    """Run a suite by pytest, in its own process under its backend.

    Returns a row for each benchmark: what it kept (see ``measure.keep``), the median and shortest of the rounds, and
    their number; and the arrays that the accuracy suite leaves.
    """
    name, backend = settings["suite"], settings["backend"]
    suite = f"{FOLDER}/test_speed.py::test_{name}" if name in _SPEED else f"{FOLDER}/test_{name}.py"
    with tempfile.TemporaryDirectory(prefix="trajworld-") as temporary:
        folder = Path(temporary)
        found, arrays, log = folder / "found.json", folder / f"arrays{ARRAYS}", folder / "log"
        command = [
            *(sys.executable, "-P", "-m", "pytest", "-p", "pytest_benchmark.plugin", "-s", "-q"),
            *("-c", str(FOLDER / "pytest.ini"), "--rootdir", str(FOLDER), "--color", "no"),
            *("--basetemp", str(folder / "tests"), "--benchmark-json", str(found), "--arrays", str(arrays)),
            *("--end-with-parent", *(["--quick"] if settings["quick"] else []), suite),
        ]
        # In its own session, so that Ctrl-C reaches only this process. It ends itself and all that it started when its
        # standard input ends: when this process leaves the block or ends, even by a kill.
        with (
            open(log, "w", encoding="utf-8") as output,
            subprocess.Popen(
                command,
                env=_environment(backend, folder),
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            ) as process,
        ):
            code = process.wait()
        if code:
            alone = f"KERAS_BACKEND={backend} pytest -s {shlex.quote(suite)}"
            raise TrajWorldError(f"{_problem(log.read_text('utf-8', 'replace'), code)}; alone: {alone}")
        kept = {"seconds": "median", "best_seconds": "min", "rounds": "rounds"}
        rows = [
            {**one["extra_info"], **{name: one["stats"][stat] for name, stat in kept.items()}}
            for one in read_json(found)["benchmarks"]
        ]
        files = {ARRAYS: arrays.read_bytes()} if arrays.is_file() else {}
        return Result(rows, files, {"backend": backend, "device": settings["device"]})


def difference(settings: Mapping[str, Any], places: Mapping[str, str]) -> Result:
    """Compare the arrays of the accuracy suite of two cells: the reference's and that of ``backend``.

    Returns the largest absolute difference of the logits of each size; the relative ones of the loss at each step and
    of the holdout error.
    """
    theirs, ours = (_arrays(Path(places["store"]) / f"{key}{ARRAYS}") for key in settings["cells"])

    def row(measure: str, case: str, value: Any, **step: int) -> dict[str, Any]:
        return {"measure": measure, "case": case, "difference": float(value), **step}

    sizes = [name for name in ours if name.startswith("logits/")]
    rows = [row("logits", name.replace("/", ", "), np.abs(ours[name] - theirs[name]).max()) for name in sizes]
    losses, error = (np.abs(ours[name] / theirs[name] - 1) for name in ("losses", "holdout_error"))
    rows += [row("loss", "losses", value, step=step) for step, value in enumerate(losses, start=1)]
    rows.append(row("holdout error", "holdout error", error))
    return Result(rows, origin={"backend": settings["backend"], "device": settings["device"]})


def _arrays(path: Path) -> dict[str, NDArray[np.float64]]:
    return {name: array.astype(np.float64) for name, array in read_arrays(path).items()}


def _environment(backend: str, folder: Path) -> dict[str, str]:
    # The variables of a pytest around this one are not for the suites: a parallel worker's times nothing.
    left_out = (*_KEPT_COMPILATIONS, "PYTEST_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(left_out)}
    return kept | {
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "KERAS_BACKEND": backend,
        "TRAJWORLD_HOME": str(folder / "home"),
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        # pytest's summary cuts a failure's message to the width of the terminal.
        "COLUMNS": "250",
    }


def _problem(output: str, code: int) -> str:
    """Why a suite failed, from pytest's summary."""
    summary = [line for line in output.splitlines() if line.startswith(("FAILED ", "ERROR "))]
    if not summary:
        return f"its process ended with the code {code}"
    more = f" (and {len(summary) - 1} more)" if len(summary) > 1 else ""
    return (summary[0].partition("::")[2] or summary[0])[:200] + more
