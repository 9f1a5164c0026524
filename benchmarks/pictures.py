"""The report as one picture: speed in training and rollouts, compiling, start-up, memory, and accuracy."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter, NullLocator

from trajworld.files import atomic_file

from .accuracy import LOSSES_TARGET
from .cases import DTYPES
from .findings import display_name
from .report import Report, Row
from .results import Result
from .tables import machine_line

# They stay apart for the colour-blind.
_COLOURS = {"jax": "#0068a8", "tensorflow": "#e08a00", "torch": "#8a3c86"}
_OTHER, _FAINT = "#5b6470", "#5b6470"
_MOST_CASES = 4


def draw_report(path: Path, report: Report) -> None:
    """Draw the picture; panels without results say so."""
    figure = Figure(figsize=(14.5, 8.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, 3, width_ratios=(1.45, 1, 1))
    _speed(axes[0, 0], report, "training", "Training: rows per second (in %: share of the float32 peak)")
    _speed(axes[0, 1], report, "rollout", "Rollouts: rows per second (in %: share of peak)")
    _losses(axes[0, 2], report)
    chosen = _cases(report, "training")
    _bars(
        axes[1, 0],
        report,
        [
            (_name(row), {name: found.compile_seconds for name, found in row.results.items()})
            for row in chosen
        ],
        "First training step: seconds more than the next",
        _plain,
    )
    starts = [
        (
            _START_NAMES.get(row.first.measure, row.first.measure),
            {n: found.seconds for n, found in row.results.items()},
        )
        for row in report.of("startup")
    ]
    _bars(axes[1, 1], report, starts, "Start-up: seconds in a fresh process", _plain)
    memory: list[tuple[str, dict[str, float | None]]] = [
        (
            f"{_MEMORY_NAMES[row.first.suite]}\n{row.first.size}\nM = {row.first.variates}",
            {n: held / 1e6 for n, held in row.memory.items()},
        )
        for suite in _MEMORY_NAMES
        for row in report.of(suite)
        if row.memory and row.first.dtype == DTYPES[0]
    ]
    # Rollouts of several lengths share one measurement.
    _bars(
        axes[1, 2], report, list(dict(memory).items()), "Memory at most: MB above weights and batch", _plain
    )
    handles = [Patch(color=_colour(name), label=display_name(name)) for name in report.backends]
    handles.append(Patch(facecolor="0.75", hatch="////", edgecolor="white", label="in bfloat16"))
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=11)
    figure.suptitle(f"Backends compared\n{machine_line(report)}", fontsize=12)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, dpi=110)


_START_NAMES = {"--help": "trajworld\n--help", "first prediction": "load and\nfirst prediction"}
_MEMORY_NAMES = {"training": "training", "rollout": "rollout"}


def _cases(report: Report, suite: str, dtype: str = DTYPES[0]) -> list[Row]:
    """One row for each size: the M that most backends have, and of several the middle one."""
    found: list[Row] = []
    rows = [row for row in report.of(suite) if row.first.dtype == dtype]
    for size in dict.fromkeys(row.first.size for row in rows):
        same = [row for row in rows if row.first.size == size]
        most = max(len(row.results) for row in same)
        counts = sorted({row.first.variates for row in same if len(row.results) == most})
        middle = counts[len(counts) // 2]
        found.append(next(row for row in same if row.first.variates == middle and len(row.results) == most))
    return found[:_MOST_CASES]


def _speed(axes: Axes, report: Report, suite: str, title: str) -> None:
    """Rows per second on a logarithmic axis; the share of the peak above each bar; bfloat16 beside it, hatched."""
    rows = _cases(report, suite)
    pairs = []
    for row in rows:
        narrow = [
            other
            for other in report.of(suite)
            if other.first.dtype == DTYPES[1]
            and (other.first.size, other.first.variates, other.first.measure)
            == (row.first.size, row.first.variates, row.first.measure)
        ]
        pairs.append((row, narrow[0] if narrow else None))
    series = [(name, hatched) for name in report.backends for hatched in (False, True)]
    series = [
        (name, hatched)
        for name, hatched in series
        if any(name in one.results for pair in pairs if (one := pair[hatched]) is not None)
    ]
    if not series:
        return _nothing(axes, title)
    width = 0.84 / len(series)
    for place, (row, half) in enumerate(pairs):
        # Bars that are not there leave no gap: a case without bfloat16 has half of them.
        present = []
        for name, hatched in series:
            measured = half if hatched else row
            if measured is not None and name in measured.results:
                present.append((name, hatched, measured.results[name]))
        for number, (name, hatched, result) in enumerate(present):
            x = place + (number - (len(present) - 1) / 2) * width
            _bar(axes, x, width, result.rows_per_second or 0.0, name, hatched, _share(result))
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.yaxis.set_minor_locator(NullLocator())
    low, high = axes.get_ylim()
    axes.set_ylim(low / 1.5, high * 1.8)
    _finish(axes, [_name(row) for row, _ in pairs], title)
    return None


def _share(result: Result) -> str:
    return "" if result.share_of_peak is None else f"{result.share_of_peak:.0%}"


def _bars(
    axes: Axes,
    report: Report,
    groups: Sequence[tuple[str, dict[str, float | None]]],
    title: str,
    label: Callable[[float], str],
) -> None:
    """A group of bars for each case, one bar a backend, with its value above."""
    if not any(value is not None for _, values in groups for value in values.values()):
        return _nothing(axes, title)
    width = 0.84 / len(report.backends)
    for place, (_, values) in enumerate(groups):
        for number, name in enumerate(report.backends):
            value = values.get(name)
            if value is not None:
                x = place + (number - (len(report.backends) - 1) / 2) * width
                _bar(axes, x, width, value, name, False, label(value))
    axes.margins(y=0.12)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    _finish(axes, [name for name, _ in groups], title)
    return None


def _bar(axes: Axes, x: float, width: float, value: float, name: str, hatched: bool, label: str) -> None:
    axes.bar(
        x,
        value,
        0.92 * width,
        color=_colour(name),
        alpha=0.75 if hatched else 1.0,
        hatch="////" if hatched else None,
        edgecolor="white",
        linewidth=0,
    )
    axes.annotate(
        label,
        (x, value),
        (0, 2),
        textcoords="offset points",
        ha="center",
        va="bottom",
        fontsize=7.5,
        color="0.2",
        # A neighbour's bar may stand behind the text.
        path_effects=[withStroke(linewidth=2, foreground="white")],
        zorder=5,
    )


def _losses(axes: Axes, report: Report) -> None:
    """How far each backend's losses are from the reference's, step by step, and the largest difference of logits."""
    reference = report.references[0] if report.references else ""
    title = f"Losses of tiny: relative difference from {display_name(reference)}"
    lines = [one for one in report.accuracy if one.losses is not None]
    if not lines:
        return _nothing(axes, "Losses: difference between backends")
    for one in lines:
        assert one.losses is not None
        # Equal losses have no logarithm: they are drawn at the smallest difference that float32 knows.
        axes.plot(
            np.arange(1, len(one.losses) + 1),
            np.maximum(one.losses, 1e-8),
            color=_colour(one.backend),
            linewidth=1.3,
        )
    axes.axhline(LOSSES_TARGET, color=_FAINT, linestyle="--", linewidth=1.2)
    axes.annotate(
        f"target {LOSSES_TARGET:g}", (1.0, LOSSES_TARGET), (-2, 3), xycoords=("axes fraction", "data"),
        textcoords="offset points", ha="right", fontsize=8.5, color=_FAINT,
    )  # fmt: skip
    texts = [
        f"{display_name(one.backend)}: logits within {one.largest_logits:.0e}, holdout error within {one.holdout:.0e}"
        for one in lines
        if one.largest_logits is not None and one.holdout is not None
    ]
    axes.text(0.03, 0.97, "\n".join(texts), transform=axes.transAxes, va="top", fontsize=8.5)
    axes.set_yscale("log")
    axes.set_ylim(1e-8, 1e-1)
    axes.set_xlabel("training step", fontsize=9)
    axes.grid(axis="y", alpha=0.3)
    axes.tick_params(labelsize=8.5)
    axes.set_title(title, fontsize=10, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    return None


def _finish(axes: Axes, names: Sequence[str], title: str) -> None:
    axes.set_xticks(range(len(names)), names, fontsize=8.5)
    axes.set_xlim(-0.6, len(names) - 0.4)
    axes.tick_params(axis="y", labelsize=8.5)
    axes.tick_params(axis="x", length=0)
    axes.grid(axis="y", alpha=0.3)
    axes.set_axisbelow(True)
    axes.set_title(title, fontsize=10, loc="left")
    axes.spines[["top", "right"]].set_visible(False)


def _nothing(axes: Axes, title: str) -> None:
    axes.set_axis_off()
    axes.set_title(title, fontsize=10, loc="left")
    axes.text(0.5, 0.5, "not measured", ha="center", va="center", color=_FAINT, transform=axes.transAxes)


def _name(row: Row) -> str:
    steps = f"\n{row.first.measure}" if row.first.suite == "rollout" else ""
    return f"{row.first.size}\nM = {row.first.variates}{steps}"


def _colour(backend: str) -> str:
    return _COLOURS.get(backend, _OTHER)


def _plain(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}"
