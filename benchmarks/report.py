"""Joining what the suites left in a folder into one report: rows that compare backends, accuracy, and findings."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trajworld.errors import TrajWorldError, UsageError
from trajworld.files import read_json

from .accuracy import Difference, differences, read_arrays
from .cases import DTYPES, SIZES
from .results import Result
from .runner import RUN_FILE
from .suites import SUITES

_BACKENDS = ("jax", "tensorflow", "torch")
# What the suite "memory" measured: the suite whose rows it joins.
_MEMORY_OF = {"training step": "training", "rollout": "rollout"}


@dataclass(frozen=True)
class Row:
    """One thing that was measured, under each backend that did.

    Attributes:
        results: By backend.
        memory: Bytes at most, by backend, where the suite ``memory`` measured the same thing.
        float32: The same thing's results in float32, where this is in bfloat16.
    """

    results: Mapping[str, Result]
    memory: Mapping[str, int]
    float32: Mapping[str, Result]

    @property
    def first(self) -> Result:
        """Any of the results: what they share is read from it."""
        return next(iter(self.results.values()))

    @property
    def fastest(self) -> str | None:
        """The backend of the shortest median; None where fewer than two were timed."""
        timed = {name: result.seconds for name, result in self.results.items() if result.seconds is not None}
        return min(timed, key=lambda name: timed[name] or 0.0) if len(timed) > 1 else None

    def bfloat16_gain(self, backend: str) -> float | None:
        """How many times faster a backend is than in float32."""
        ours, theirs = self.results.get(backend), self.float32.get(backend)
        if ours is None or theirs is None or not ours.seconds or not theirs.seconds:
            return None
        return theirs.seconds / ours.seconds


@dataclass(frozen=True)
class Report:
    """Everything in a folder of results.

    Attributes:
        machine: The processor and the like, as the suites' JSON describes it.
        versions: Of the libraries.
        backends: Those with results, JAX first.
        rows: In the order of the suites.
        peaks: Operations per second of the matrix product, float32 and bfloat16, the best seen by backend.
        accuracy: Each backend against the first.
        references: The backends with arrays to compare, the reference first.
        failures: A line for each suite that failed.
    """

    machine: Mapping[str, Any]
    versions: Mapping[str, str]
    backends: tuple[str, ...]
    rows: tuple[Row, ...]
    peaks: Mapping[str, tuple[float, float]]
    accuracy: tuple[Difference, ...]
    references: tuple[str, ...]
    failures: tuple[str, ...]

    def of(self, suite: str) -> list[Row]:
        """The rows of one suite."""
        return [row for row in self.rows if row.first.suite == suite]


def read_report(folder: Path) -> Report:
    """Join the results in a folder.

    Raises:
        UsageError: There is no such folder.
        TrajWorldError: It holds no results, or a file in it is damaged or another program's.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder} is no folder: name one that `trajworld bench run` wrote")
    results: list[Result] = []
    machine: dict[str, Any] = {}
    for path in sorted(folder.glob("*.json")):
        if path.name != RUN_FILE:
            found, described = _read_results(path)
            results += found
            machine = machine or described
    arrays = read_arrays(folder)
    run = _read_run(folder / RUN_FILE)
    if not results and not run["outcomes"]:
        raise TrajWorldError(f"{folder} holds no results: `trajworld bench run -o {folder}` writes them")
    backends = {result.backend for result in results}
    return Report(
        machine=machine,
        versions=run["versions"],
        backends=tuple(sorted(backends, key=_backend_order)),
        rows=tuple(join(results)),
        peaks=_peaks(results),
        accuracy=tuple(differences(arrays)),
        references=tuple(arrays),
        failures=tuple(
            f"{one.get('backend')} {one.get('suite')}: {one.get('problem')}"
            for one in run["outcomes"]
            if not one.get("passed")
        ),
    )


def join(results: Iterable[Result]) -> list[Row]:
    """Bring results of the same thing together, in the order of suites, sizes, M and dtypes.

    What the suite ``memory`` measured is added to the row of the same step or rollout, and makes a row of its own where
    there is none.
    """
    groups: dict[tuple[Any, ...], dict[str, Result]] = defaultdict(dict)
    memory: dict[tuple[Any, ...], dict[str, Result]] = defaultdict(dict)
    for result in results:
        (memory if result.suite == "memory" else groups)[result.what][result.backend] = result
    rows = []
    joined = set()
    for what, group in groups.items():
        suite, measure, size, variates, dtype, batch = what
        held = {}
        for other, found in memory.items():
            # A rollout's memory does not depend on its length.
            if _MEMORY_OF.get(other[1]) == suite and what[2:] == other[2:]:
                held = found
                joined.add(other)
        float32 = (
            {} if dtype != DTYPES[1] else groups.get((suite, measure, size, variates, DTYPES[0], batch), {})
        )
        rows.append(Row(_ordered(group), _bytes(held), float32))
    rows += [Row(_ordered(found), _bytes(found), {}) for what, found in memory.items() if what not in joined]
    return sorted(rows, key=_row_order)


def _bytes(found: Mapping[str, Result]) -> dict[str, int]:
    return {backend: result.memory for backend, result in found.items() if result.memory is not None}


def _ordered(group: Mapping[str, Result]) -> dict[str, Result]:
    return dict(sorted(group.items(), key=lambda item: _backend_order(item[0])))


def _backend_order(name: str) -> tuple[int, str]:
    return (_BACKENDS.index(name) if name in _BACKENDS else len(_BACKENDS), name)


def _row_order(row: Row) -> tuple[Any, ...]:
    first, suites, sizes = row.first, list(SUITES), list(SIZES)
    return (
        suites.index(first.suite) if first.suite in suites else len(suites),
        sizes.index(first.size) if first.size in sizes else -1,
        first.measure if not first.size or first.suite == "tokenizing" else "",
        first.variates,
        first.dtype != DTYPES[0],
        first.measure,
    )


def _peaks(results: Sequence[Result]) -> dict[str, tuple[float, float]]:
    found: dict[str, tuple[float, float]] = {}
    for result in results:
        if result.peak_float32 and result.peak_bfloat16:
            before = found.get(result.backend, (0.0, 0.0))
            found[result.backend] = (
                max(before[0], result.peak_float32),
                max(before[1], result.peak_bfloat16),
            )
    return dict(sorted(found.items(), key=lambda item: _backend_order(item[0])))


def _read_results(path: Path) -> tuple[list[Result], dict[str, Any]]:
    """The results in one of pytest-benchmark's JSON files, and the machine it describes."""
    found = read_json(path)
    if not isinstance(found, dict) or not isinstance(found.get("benchmarks"), list):
        raise TrajWorldError(f"{path} is not pytest-benchmark's: remove it, or name another folder")
    try:
        results = [
            Result.from_extra(one.get("extra_info") if isinstance(one, dict) else None)
            for one in found["benchmarks"]
            # A benchmark that failed before it had a result keeps none.
            if not (isinstance(one, dict) and one.get("extra_info") == {})
        ]
    except (ValueError, TypeError) as error:
        raise TrajWorldError(f"{path} is not of `trajworld bench run`: {error}") from None
    machine = found.get("machine_info")
    return results, machine if isinstance(machine, dict) else {}


def _read_run(path: Path) -> dict[str, Any]:
    """What ``run.json`` says, or nothing where the suites were run by hand."""
    if not path.is_file():
        return {"versions": {}, "outcomes": []}
    run = read_json(path)
    if not (
        isinstance(run, dict)
        and isinstance(run.get("versions"), dict)
        and isinstance(run.get("outcomes"), list)
        and all(isinstance(one, dict) for one in run["outcomes"])
    ):
        raise TrajWorldError(f"{path} is not of `trajworld bench run`: remove it")
    return run
