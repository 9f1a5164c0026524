"""The report as tables and text: the same cells for the terminal, Markdown and JSON."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .accuracy import LOGITS_TARGET, LOSSES_TARGET
from .cases import DTYPES
from .findings import display_name, findings
from .report import Report, Row
from .results import Result
from .suites import SUITES

_HEADER = (
    *("", "backend", "median", "best", "GFLOP/s", "of peak", "per second", "compile", "memory", "bf16 gain"),
)

NOTES = (
    "Median and best of the rounds after warming up; the fastest backend's median is in bold. GFLOP/s counts nominal "
    "work: 48 d² for each block and row's variate forward, three times that for a training step; for tokenizing, the "
    "projection alone. Of peak: of a 2048³ float32 matrix product by the same framework in the same process just "
    "before, also where the model computes in bfloat16. Compile: what the first call took beyond a usual one, nothing "
    "kept from earlier runs. Memory: the most above libraries, weights and batch, compiling included. Rows are "
    "predicted rows."
)


@dataclass(frozen=True)
class Table:
    """Text cells under headings.

    Attributes:
        title: Its question.
        header: A heading for each column.
        rows: Cells.
        strong: Row and column of cells that stand out.
        ends: Numbers of the rows that end a group.
    """

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    strong: frozenset[tuple[int, int]] = frozenset()
    ends: frozenset[int] = frozenset()

    def without_empty_columns(self) -> "Table":
        """The same without columns in which no row says anything."""
        return self._with_columns(
            [
                place
                for place, _ in enumerate(self.header)
                if place < 2 or any(row[place] not in ("", "–") for row in self.rows)
            ]
        )

    def without_column(self, name: str) -> "Table":
        """The same without one column."""
        return self._with_columns([place for place, heading in enumerate(self.header) if heading != name])

    def _with_columns(self, keep: list[int]) -> "Table":
        return Table(
            self.title,
            tuple(self.header[place] for place in keep),
            tuple(tuple(row[place] for place in keep) for row in self.rows),
            frozenset((row, keep.index(place)) for row, place in self.strong if place in keep),
            self.ends,
        )


DISPENSABLE = ("best", "GFLOP/s", "memory", "compile", "of peak")
"""Columns that a narrow terminal does without, the first of them first."""


def tables(report: Report) -> list[Table]:
    """Peak and accuracy first, then a table for each suite."""
    made = [_peak_table(report), _accuracy_table(report)]
    made += [_suite_table(suite, report.of(suite)) for suite in SUITES if suite != "accuracy"]
    return [table for table in made if table.rows]


def machine_line(report: Report) -> str:
    """The machine and the libraries in a line."""
    machine = report.machine
    words = [
        str(machine.get("processor") or ""),
        f"{machine.get('cores')} cores" if machine.get("cores") else "",
    ]
    if features := machine.get("features"):
        words.append(", ".join(str(name) for name in features))
    names = ("keras", *report.backends)
    versions = [
        f"{display_name(name)} {found}"
        for name in names
        if (found := report.versions.get(name) or report.versions.get(f"{name}-cpu"))
    ]
    return "; ".join(word for word in [*words, ", ".join(versions)] if word)


def as_markdown(report: Report, picture: str | None = None) -> str:
    """The whole report as Markdown."""
    lines = ["# Backends compared", "", machine_line(report), ""]
    lines += [f"- {line}" for line in findings(report)]
    if picture:
        lines += ["", f"![Training, rollouts, compiling, memory and accuracy by backend]({picture})"]
    for table in tables(report):
        lines += ["", f"## {table.title}", "", *markdown_table(table)]
    return "\n".join([*lines, "", NOTES, ""])


def markdown_table(table: Table) -> list[str]:
    """A table's lines in Markdown."""
    lines = [_line(table.header), _line(["---", "---", *("---:" for _ in table.header[2:])])]
    for number, row in enumerate(table.rows):
        cells = [f"**{cell}**" if (number, place) in table.strong else cell for place, cell in enumerate(row)]
        lines.append(_line(cells))
    return lines


def as_json(report: Report) -> dict[str, Any]:
    """The whole report as plain values, in seconds, bytes and operations per second."""
    return {
        "machine": dict(report.machine),
        "versions": dict(report.versions),
        "backends": list(report.backends),
        "findings": findings(report),
        "failures": list(report.failures),
        "peak_flops_per_second": {
            name: {"float32": float32, "bfloat16": bfloat16}
            for name, (float32, bfloat16) in report.peaks.items()
        },
        "rows": [_row_json(row) for row in report.rows],
        "accuracy": [
            {
                "backend": one.backend,
                "reference": one.reference,
                "equal": one.equal,
                "logits": one.logits,
                "largest_logits_difference": one.largest_logits,
                "largest_relative_loss_difference": one.largest_loss,
                "relative_loss_differences": None if one.losses is None else one.losses.tolist(),
                "relative_holdout_error_difference": one.holdout,
            }
            for one in report.accuracy
        ],
    }


def _row_json(row: Row) -> dict[str, Any]:
    first = row.first
    return {
        "suite": first.suite,
        "measure": first.measure,
        "size": first.size,
        "variates": first.variates,
        "dtype": first.dtype,
        "batch": first.batch,
        "fastest": row.fastest,
        "backends": {
            name: {
                "seconds": result.seconds,
                "minimum": result.minimum,
                "rounds": result.rounds,
                "compile_seconds": result.compile_seconds,
                "flops_per_second": result.flops_per_second,
                "share_of_peak": result.share_of_peak,
                "per_second": result.rows_per_second,
                "unit": result.unit,
                "memory": row.memory.get(name),
                "bfloat16_gain": row.bfloat16_gain(name),
                "facts": dict(result.facts),
            }
            for name, result in row.results.items()
        },
    }


def _suite_table(suite: str, rows: Sequence[Row]) -> Table:
    cells: list[tuple[str, ...]] = []
    strong, ends = set(), set()
    units = {result.unit for row in rows for result in row.results.values() if result.rows_per_second}
    unit = units.pop() if len(units) == 1 else ""
    same = len({row.first.measure for row in rows}) == 1
    for row in rows:
        for number, (backend, result) in enumerate(row.results.items()):
            if backend == row.fastest:
                strong.add((len(cells), 2))
            rate = _number(result.rows_per_second)
            cells.append(
                (
                    "" if number else case_name(result, with_measure=not same),
                    display_name(backend),
                    duration(result.seconds),
                    duration(result.minimum),
                    _number(result.flops_per_second, 1e-9),
                    "–" if result.share_of_peak is None else f"{result.share_of_peak:.0%}",
                    rate if unit or rate == "–" else f"{rate} {result.unit}",
                    duration(result.compile_seconds),
                    memory_size(row.memory.get(backend)),
                    "–" if (gain := row.bfloat16_gain(backend)) is None else f"{gain:.2f} ×",
                )
            )
        ends.add(len(cells) - 1)
    header = tuple(f"{unit}/s" if unit and name == "per second" else name for name in _HEADER)
    table = Table(SUITES[suite].question, header, tuple(cells), frozenset(strong), frozenset(ends))
    return table.without_empty_columns()


def _peak_table(report: Report) -> Table:
    rows = tuple(
        ("2048³ matrix product", display_name(name), *(f"{_number(rate, 1e-9)} GFLOP/s" for rate in rates))
        for name, rates in report.peaks.items()
    )
    return Table("What is the most this machine computes?", ("", "backend", "float32", "bfloat16"), rows)


def _accuracy_table(report: Report) -> Table:
    sizes = list(dict.fromkeys(size for one in report.accuracy for size in one.logits))
    header = (
        *("", "backend"),
        *(f"logits, {size}" for size in sizes),
        "losses, rel.",
        "holdout error, rel.",
        "same?",
    )
    rows = [
        (
            f"against {display_name(one.reference)}",
            display_name(one.backend),
            *(_tiny(one.logits.get(size)) for size in sizes),
            _tiny(one.largest_loss),
            _tiny(one.holdout),
            "yes" if one.equal else "NO",
        )
        for one in report.accuracy
    ]
    if rows:
        targets = [f"{LOGITS_TARGET:g}"] * len(sizes)
        rows.append(("target", "", *targets, f"{LOSSES_TARGET:g}", "–", ""))
    return Table(SUITES["accuracy"].question, header, tuple(rows))


def case_name(result: Result, with_measure: bool = True) -> str:
    """What a row is of, such as ``100 steps, small M=15 float32``."""
    dtype = {DTYPES[0]: "float32", DTYPES[1]: "bfloat16"}.get(result.dtype, result.dtype)
    case = " ".join(
        word for word in (result.size, f"M={result.variates}" if result.size else "", dtype) if word
    )
    return ", ".join(word for word in (result.measure if with_measure or not case else "", case) if word)


def duration(seconds: float | None) -> str:
    """Three significant digits in seconds, milli- or microseconds."""
    if seconds is None:
        return "–"
    if seconds == 0:
        return "0 s"
    for factor, unit in ((1.0, "s"), (1e3, "ms")):
        if seconds * factor >= 1:
            return f"{_number(seconds, factor)} {unit}"
    return f"{_number(seconds, 1e6)} µs"


def memory_size(count: int | None) -> str:
    """Megabytes, or gigabytes with two decimals."""
    if count is None:
        return "–"
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"


def _number(value: float | None, factor: float = 1.0) -> str:
    """Three significant digits, never in powers of ten."""
    if value is None:
        return "–"
    value *= factor
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _tiny(value: float | None) -> str:
    return "–" if value is None else f"{value:.1e}"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
