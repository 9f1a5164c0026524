"""The study of backends: every suite under every backend, each in its own process."""

import functools
import importlib.util
import os
import platform
from dataclasses import dataclass
from typing import ClassVar

import pandas as pd
from matplotlib.figure import Figure

from trajworld.backends.processor import processor_lines
from trajworld.charts import Look, bars, lines
from trajworld.doctor import FRAMEWORKS, Framework, try_frameworks
from trajworld.errors import TrajWorldError, UsageError
from trajworld.processes import available_cores
from trajworld.study.cells import Cell
from trajworld.study.run import Say
from trajworld.versions import pip_command, versions

from .cases import DTYPES, SUITES, cases
from .tasks import benchmark, difference

NAMES = {"jax": "JAX", "tensorflow": "TensorFlow", "torch": "PyTorch"}
TARGETS = {"logits": 1e-4, "loss": 1e-3}
"""The largest allowed difference of two backends: absolute for logits, relative for losses."""

QUIET = 0.7
"""A machine is busy where matrix products run at less than this share of the backend's best."""

# Column of the tidy table: how a table for people names it, and by what it is multiplied there.
_QUANTITIES = {
    "seconds": ("median, ms", 1e3),
    "best_seconds": ("best, ms", 1e3),
    "share_of_peak": ("of the peak, %", 100.0),
    "flops_per_second": ("GFLOP/s", 1e-9),
    "per_second": ("per second", 1.0),
    "compile_seconds": ("compiling, s", 1.0),
    "bfloat16_gain": ("times float32's speed", 1.0),
    "times_the_loop": ("times a Python loop's speed", 1.0),
    "memory": ("memory, MB", 1e-6),
    "first_loss": ("first loss", 1.0),
    "last_loss": ("last loss", 1.0),
    "holdout_error": ("holdout error", 1.0),
}
_VERSIONS = ("trajworld", "python", "keras", "numpy", "grain")
_UNTIMED = ("accuracy", "memory")
_MODEL = ("training", "rollout")
_CHARTS = (
    ("Speed", _MODEL, "relative_speed", 100.0, "Speed, in % of the fastest backend's"),
    ("Share of the peak", _MODEL, "share_of_peak", 100.0, "FLOP/s, in % of its own matrix products"),
    ("Compiling", _MODEL, "compile_seconds", 1.0, "Seconds that the first call takes longer than the next"),
    ("Start-up", ("startup",), "seconds", 1.0, "Seconds in a fresh process"),
    ("Memory", ("memory",), "memory", 1e-6, "MB at most, above libraries, weights and batch"),
)
_SAME = ["suite", "backend", "measure", "size", "variates"]


@dataclass(frozen=True)
class Backends:
    """Backends compared on this machine.

    Each suite of benchmarks runs under each installed backend, with the same weights and batches, in its own process,
    one after another: run nothing else meanwhile. In the tables a busy backend is one whose matrix products were slow
    just before: measure again, with another ``--repeat``.

    Times are the median and the best of the rounds after warming up. GFLOP/s count nominal work: 48 d² for each block
    and each row's variate forward, three times that for a training step; for tokenizing only the projection. The peak
    is a 2048³ float32 matrix product by the same framework in the same process just before, also where the model
    computes in bfloat16. Memory is the most above libraries, weights and batch, compiling included. Rows are predicted
    rows. Differences are those from JAX, with the same weights and batches: the largest of the logits, and the largest
    relative one of the loss along 200 training steps and of the holdout error after them.

    Attributes:
        suites: Which to run.
        backends: Which to compare; by default all that are installed.
        quick: Few cases and rounds: minutes, not hours.
        repeat: A number: another one measures again what was measured already.
    """

    name: ClassVar[str] = "backends"
    example: ClassVar[str] = "--suites step --quick"
    workers: ClassVar[int] = 1

    suites: tuple[str, ...] = tuple(SUITES)
    backends: tuple[str, ...] = ()
    quick: bool = False
    repeat: int = 1

    def __post_init__(self) -> None:
        for name, known in ((self.suites, SUITES), (self.backends, FRAMEWORKS)):
            if unknown := [one for one in name if one not in known]:
                raise UsageError(f"{unknown[0]!r} is none of {', '.join(known)}")

    def prepare(self, workers: int, say: Say) -> None:
        """Find out which backends work here."""
        if importlib.util.find_spec("pytest_benchmark") is None:
            raise TrajWorldError(f"pytest-benchmark is not installed: {pip_command('bench')}")
        tried = _tried(self.backends)
        for one in tried:
            if not one.works:
                say(f"{NAMES[one.name]} is left out: {one.problem}")
        if not any(one.works for one in tried):
            raise TrajWorldError("none of these backends works: `trajworld doctor` says how to fix that")

    def cells(self, table: pd.DataFrame) -> list[Cell]:
        """Suite by suite, so that the backends of one comparison run close together; then the differences."""
        working = [one for one in _tried(self.backends) if one.works]
        cells = [
            self._cell(suite, one)
            for suite in self.suites
            # Windows are made without the backend: in a quick run, once.
            for one in (working[:1] if suite == "windows" and self.quick else working)
        ]
        finished = set(table.get("cell", ()))
        accuracy = [cell for cell in cells if cell.settings["suite"] == "accuracy" and cell.key in finished]
        for other in accuracy[1:]:
            settings = {name: other.settings[name] for name in ("suite", "backend", "device")}
            both = {"reference": accuracy[0].settings["backend"], "cells": [accuracy[0].key, other.key]}
            cells.append(Cell(difference, settings | both))
        return cells

    def _cell(self, suite: str, framework: Framework) -> Cell:
        found, (named, *_) = versions(), processor_lines("model name") or [""]
        processor = named.partition(":")[2].strip() or platform.processor() or platform.machine()
        settings = {
            "suite": suite,
            "backend": framework.name,
            "quick": self.quick,
            "repeat": self.repeat,
            "device": framework.device,
            "version": framework.version,
            "processor": processor,
            "cores": len(available_cores()),
            "threads": os.environ.get("OMP_NUM_THREADS"),
            "cases": [str(case) for case in cases(suite, self.quick)],
            "versions": {name: found.get(name) for name in _VERSIONS},
        }
        return Cell(benchmark, settings)

    def tables(self, table: pd.DataFrame) -> dict[str, pd.DataFrame]:
        """The machine, then what each suite found: a row for each quantity, a column for each backend."""
        table = _completed(table)
        found = {"What was compared, with the GFLOP/s of 2048³ matrix products": _machine(table)}
        for suite in self.suites:
            rows = table[table["suite"] == suite]
            if len(rows):
                found[SUITES[suite]] = _accuracy(rows) if suite == "accuracy" else _quantities(rows, suite)
        return found

    def charts(self, table: pd.DataFrame, look: Look) -> dict[str, Figure]:
        """Speed and share of the peak, compiling, start-up, memory, and how the losses differ."""
        table = _completed(table)
        counts = table[table["suite"].isin(_MODEL)]["variates"].mode()
        table = table[~table["suite"].isin(_MODEL) | table["variates"].isin(counts[len(counts) // 2 :][:1])]
        charts = {}
        for title, suites, value, factor, words in _CHARTS:
            rows = table[table["suite"].isin(suites)]
            rows = rows[rows[value].notna()] if value in rows else rows.head(0)
            if len(rows) and (rows["name"].nunique() > 1 or value != "relative_speed"):
                shown = rows.assign(value=rows[value] * factor)
                charts[title] = bars(shown, look, label="label", value="value", series="name", title=words)
        if "step" in table:
            # The largest until each step: single ones jump over decades, and may be nothing.
            steps = table[table["step"].notna()].copy()
            steps["largest"] = steps.groupby("name")["difference"].cummax().clip(lower=1e-8) * 1e6
            steps = steps[steps["step"].isin([1, 2, 5, 10, 20, 50, 100, 200])]
            x, y = "training step", "Loss: largest difference until then, parts per million"
            charts["Losses"] = lines(steps, look, x="step", y="largest", series="name", x_title=x, y_title=y)
        return charts


@functools.cache
def _tried(names: tuple[str, ...]) -> list[Framework]:
    return try_frameworks([name for name in FRAMEWORKS if name in (names or FRAMEWORKS)])


def _completed(table: pd.DataFrame) -> pd.DataFrame:
    """The table with what follows from several of its rows, and with names for people."""
    # Columns that the suites which ran may not have filled.
    needed = [*_SAME, "dtype", "seconds", "peak_float32", "peak_bfloat16", "unit"]
    table = table.reindex(columns=list(dict.fromkeys([*table.columns, *needed])))
    table["name"] = table["backend"].map(NAMES)
    best = table.groupby("backend")["peak_float32"].transform("max")
    table["busy"] = table["peak_float32"] < QUIET * best
    table["relative_speed"] = table.groupby(["suite", "case"])["seconds"].transform("min") / table["seconds"]
    float32 = table[table["dtype"] == DTYPES[0]].drop_duplicates(_SAME).set_index(_SAME)["seconds"]
    gain = float32.reindex(pd.MultiIndex.from_frame(table[_SAME])).to_numpy() / table["seconds"]
    table["bfloat16_gain"] = gain.where(table["dtype"] == DTYPES[1])
    table["label"] = table["case"].str.replace(", ", ",\n", n=1)
    return table


def _machine(table: pd.DataFrame) -> pd.DataFrame:
    """A column for each backend, as in the other tables."""
    groups = table.groupby("name", sort=False)
    found = groups[["device", "version", "processor", "cores"]].first().astype({"cores": int})
    for dtype in ("float32", "bfloat16"):
        found[f"{dtype} GFLOP/s"] = groups[f"peak_{dtype}"].max() / 1e9
    return found.T.rename_axis(columns=None).reset_index(names="quantity")


def _quantities(rows: pd.DataFrame, suite: str) -> pd.DataFrame:
    """A row for each quantity and case, a column for each backend, and which of them were timed on a busy machine."""
    found, same_measure = [], rows["measure"].nunique() == 1
    for column, (what, factor) in _QUANTITIES.items():
        if column not in rows or (suite in _UNTIMED and "seconds" in column):
            continue
        for case, same in rows[rows[column].notna()].groupby("case", sort=False):
            values = same.set_index("name")[column] * factor
            found.append({
                "quantity": f"{same['unit'].iloc[0]} {what}" if column == "per_second" else what,
                "of": case.partition(", ")[2] if same_measure and ", " in case else case,
                **{name: values.get(name) for name in rows["name"].unique()},
                "busy": ", ".join(same.loc[same["busy"], "name"]),
            })  # fmt: skip
    return pd.DataFrame(found)


def _accuracy(rows: pd.DataFrame) -> pd.DataFrame:
    """The largest differences beside the allowed ones."""
    found = _quantities(rows, "accuracy").drop(columns="busy", errors="ignore")
    if "difference" not in rows:
        return found
    apart = rows[rows["difference"].notna()]
    reference = NAMES[apart["reference"].iloc[0]]
    apart = apart.pivot_table("difference", ["measure", "case"], "name", "max", sort=False).reset_index()
    apart["target"] = apart.pop("measure").map(TARGETS)
    worst = apart.drop(columns=["case", "target"]).max(axis=1)
    apart["within"] = (worst <= apart["target"]).astype(object).where(apart["target"].notna(), None)
    apart.insert(0, "quantity", f"difference from {reference}")
    return pd.concat([found, apart.rename(columns={"case": "of"})], ignore_index=True)
