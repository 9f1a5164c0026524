"""The quickstart's two charts: what pre-training bought, and how pre-training went."""

import io
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from trajworld.files import atomic_file
from trajworld.quickstart.results import FINE_TUNED, FROM_SCRATCH, Results
from trajworld.wording import number, short_name


@dataclass(frozen=True)
class Look:
    """How a chart is to look: for a light or dark page, wide or for a telephone."""

    dark: bool = False
    narrow: bool = False

    @property
    def size(self) -> tuple[float, float]:
        """Inches."""
        return (4.0, 3.9) if self.narrow else (7.6, 4.1)

    def colour(self, what: str) -> str:
        """The colour of a series or of the paper; the pairs stay apart for the colour-blind."""
        return _COLOURS[what][self.dark]


# What: on a light page, on a dark page.
_COLOURS = {
    FINE_TUNED: ("#0068a8", "#5bb8f0"),
    FROM_SCRATCH: ("#c8500a", "#ff9d5c"),
    "zero-shot": ("#8a3c86", "#d795d3"),
    "copy": ("#5b6470", "#aab2bd"),
    "text": ("#1d2530", "#e4e8ee"),
    "faint text": ("#5b6470", "#aab2bd"),
    "grid": ("#e2e6eb", "#343c47"),
    "paper": ("#ffffff", "#171b21"),
}
_MARKERS = {FINE_TUNED: "o", FROM_SCRATCH: "s"}


@dataclass(frozen=True)
class _Label:
    """A series' name beside its end."""

    y: float
    text: str
    colour: str


def draw_comparison(results: Results, path: str | os.PathLike[str], look: Look | None = None) -> None:
    """Draw the error on the unseen environment against the fine-tuning data, one line a side.

    The chosen runs are lines with points, the other learning rates faint points; copy-the-last-row and the zero-shot
    model are horizontal lines. Values that are not finite are left out.
    """
    _save(comparison_figure(results, look or Look()), path)


def draw_pretraining(results: Results, path: str | os.PathLike[str], look: Look | None = None) -> None:
    """Draw the training and holdout loss of pre-training against its steps."""
    _save(pretraining_figure(results, look or Look()), path)


def comparison_figure(results: Results, look: Look) -> Figure:
    """The figure of ``draw_comparison``."""
    figure, axes = _figure(look)
    labels, seen = [], []
    for side in (FROM_SCRATCH, FINE_TUNED):
        colour, marker = look.colour(side), _MARKERS[side]
        others = [
            (row.transitions, row.errors.normalised_mae)
            for row in results.trials
            if row.side == side and not row.chosen and math.isfinite(row.errors.normalised_mae)
        ]
        best = [
            (row.transitions, row.errors.normalised_mae)
            for row in results.chosen(side)
            if math.isfinite(row.errors.normalised_mae)
        ]
        seen += others + best
        axes.plot(*_columns(others), marker, color=colour, alpha=0.3, markersize=5, markeredgewidth=0)
        axes.plot(
            *_columns(best),
            marker=marker,
            color=colour,
            linewidth=2.2,
            markersize=7.5,
            markeredgecolor=look.colour("paper"),
            markeredgewidth=1.2,
            zorder=4,
        )
        if best:
            labels.append(_Label(best[-1][1], _named(side, best[-1][1], look), colour))
    for errors, name, what, dashes in (
        (results.copy_last_row, "copy last row", "copy", (1.5, 2)),
        (results.zero_shot, "zero-shot", "zero-shot", (6, 3)),
    ):
        value, colour = errors.normalised_mae, look.colour(what)
        if math.isfinite(value):
            axes.axhline(value, color=colour, linewidth=1.6, dashes=dashes)
            labels.append(_Label(value, _named(name, value, look), colour))
    if not labels:
        return _nothing(figure, axes, look, "No finite error to draw")
    _transitions_axis(axes, {row.transitions for row in results.trials}, look)
    log = _error_axis(axes, [value for _, value in seen] + [label.y for label in labels])
    of = "" if look.narrow else f" of {short_name(results.plan.target)}"
    axes.set_xlabel(f"transitions{of} to fine-tune on (log scale)")
    _title(axes, look, "mean absolute one-step error, standard deviations" + (" (log scale)" if log else ""))
    _place_labels(figure, axes, labels, look)
    return figure


def pretraining_figure(results: Results, look: Look) -> Figure:
    """The figure of ``draw_pretraining``."""
    figure, axes = _figure(look)
    labels = []
    training = _points(results.pretraining_metrics, "loss")
    if training:
        colour = look.colour("copy")
        steps, losses = _columns(training)
        smooth = _running_mean(losses, max(1, len(losses) // 40))
        axes.plot(steps, losses, color=colour, linewidth=1, alpha=0.3)
        axes.plot(steps, smooth, color=colour, linewidth=2, marker="s" if len(steps) == 1 else None)
        labels.append(_Label(smooth[-1], f"training {number(smooth[-1])}", colour))
    holdout = _points(results.pretraining_metrics, "holdout_loss")
    if holdout:
        colour = look.colour("zero-shot")
        axes.plot(
            *_columns(holdout),
            marker="o",
            color=colour,
            linewidth=2,
            markersize=6.5,
            markeredgecolor=look.colour("paper"),
            zorder=4,
        )
        labels.append(_Label(holdout[-1][1], f"holdout {number(holdout[-1][1])}", colour))
    if not labels:
        return _nothing(figure, axes, look, "Pre-training logged no finite loss")
    axes.margins(x=0.02, y=0.08)
    axes.xaxis.set_major_locator(MaxNLocator(4 if look.narrow else 8, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.set_xlabel("steps of pre-training")
    _title(axes, look, "cross-entropy of the next row, nats a variate")
    _place_labels(figure, axes, labels, look)
    return figure


def svg(figure: Figure) -> bytes:
    """The figure as SVG on a transparent ground, letters as outlines, the same bytes for the same numbers."""
    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.fonttype": "path", "svg.hashsalt": "trajworld"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def _save(figure: Figure, path: str | os.PathLike[str]) -> None:
    with atomic_file(path) as temporary:
        figure.savefig(temporary, dpi=160)


def _figure(look: Look) -> tuple[Figure, Axes]:
    # A figure of its own, not pyplot's: nothing global is changed in a program or notebook that draws reports.
    figure = Figure(figsize=look.size, facecolor=look.colour("paper"))
    axes = figure.add_axes((0.12, 0.14, 0.58, 0.75) if look.narrow else (0.065, 0.125, 0.71, 0.785))
    axes.set_facecolor("none")
    for name, spine in axes.spines.items():
        spine.set_visible(name == "bottom")
        spine.set_color(look.colour("faint text"))
    axes.grid(axis="y", color=look.colour("grid"), linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=look.colour("faint text"), labelsize=9.5, length=0)
    axes.tick_params(axis="x", length=4)
    axes.xaxis.label.set_color(look.colour("faint text"))
    axes.xaxis.label.set_fontsize(9.5)
    return figure, axes


def _named(name: str, value: float, look: Look) -> str:
    return name if look.narrow else f"{name} {number(value)}"


def _title(axes: Axes, look: Look, text: str) -> None:
    """What the vertical axis shows, read from left to right above it."""
    if look.narrow:
        text = text.replace(", ", ",\n", 1)
    box = axes.get_position()
    # The text starts near the figure's edge, above the tick labels.
    axes.text(
        -0.9 * box.x0 / box.width,
        1.03,
        text,
        transform=axes.transAxes,
        fontsize=9.5,
        color=look.colour("faint text"),
        va="bottom",
    )


def _nothing(figure: Figure, axes: Axes, look: Look, text: str) -> Figure:
    axes.set_axis_off()
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", color=look.colour("faint text"))
    return figure


def _transitions_axis(axes: Axes, sizes: set[int], look: Look) -> None:
    ticks = sorted(size for size in sizes if size > 0)
    if not ticks:
        axes.set_xticks([])
        return
    axes.set_xscale("log")
    axes.set_xlim(ticks[0] / 1.25, ticks[-1] * 1.25)
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def _error_axis(axes: Axes, values: list[float]) -> bool:
    """Set the vertical axis: logarithmic where values are positive and far apart, else from zero."""
    low, high = min(values), max(values)
    if low <= 0 or high / low < 3:
        axes.set_ylim(min(0, low), high * 1.1 if high > 0 else 1)
        return False
    axes.set_yscale("log")
    low, high = low / 1.25, high * 1.25
    axes.set_ylim(low, high)
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (1, 2, 5) if high / low < 300 else (1,)
    axes.yaxis.set_major_locator(FixedLocator([step * 10.0**decade for decade in decades for step in steps]))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    return True


def _place_labels(figure: Figure, axes: Axes, labels: list[_Label], look: Look) -> None:
    """Write the names to the right of the axes, at their lines' ends, moved apart where they would overlap."""
    to_axes = axes.transData + axes.transAxes.inverted()
    x = axes.get_xlim()[0]
    height = figure.get_figheight() * axes.get_position().height
    gap = 13.5 / 72 / height
    placed = sorted(labels, key=lambda label: label.y)
    wanted = [min(max(float(to_axes.transform((x, label.y))[1]), 0.0), 1.0) for label in placed]
    for label, y in zip(placed, _apart(wanted, gap), strict=True):
        axes.text(
            1.02,
            y,
            label.text,
            transform=axes.transAxes,
            color=label.colour,
            fontsize=9.5,
            fontweight="bold",
            va="center_baseline",
        )


def _apart(wanted: list[float], gap: float) -> list[float]:
    """Ascending positions in [0, 1], at least ``gap`` apart, near the wanted ones (which ascend)."""
    groups: list[list[float]] = []
    for position in wanted:
        groups.append([position])
        while (
            len(groups) > 1
            and _centre(groups[-1]) - _centre(groups[-2]) < gap * (len(groups[-1]) + len(groups[-2])) / 2
        ):
            last = groups.pop()
            groups[-1] += last
    placed = []
    for group in groups:
        start = _centre(group) - gap * (len(group) - 1) / 2
        placed += [start + gap * index for index in range(len(group))]
    return placed


def _centre(group: list[float]) -> float:
    return sum(group) / len(group)


def _columns(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]


def _points(rows: Iterable[dict[str, Any]], name: str) -> list[tuple[float, float]]:
    """(step, value) where a row of the log has a finite value of that name."""
    return [
        (float(row["step"]), float(row[name]))
        for row in rows
        if row.get("step") is not None and row.get(name) is not None and math.isfinite(float(row[name]))
    ]


def _running_mean(values: list[float], width: int) -> list[float]:
    """The mean of at most ``width`` values up to each one."""
    return [
        sum(part) / len(part) for part in (values[max(0, i + 1 - width) : i + 1] for i in range(len(values)))
    ]
