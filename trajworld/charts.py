"""What the charts of all reports share: their colours, their axes and the names beside their lines."""

import io
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from trajworld.errors import UsageError
from trajworld.files import atomic_file


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
        return COLOURS[what][self.dark]


# What: on a light page, on a dark page.
COLOURS = {
    "fine-tuned": ("#0068a8", "#5bb8f0"),
    "from scratch": ("#c8500a", "#ff9d5c"),
    "zero-shot": ("#8a3c86", "#d795d3"),
    "copy": ("#5b6470", "#aab2bd"),
    "ridge": ("#c8500a", "#ff9d5c"),
    "minimum norm": ("#2a8f83", "#6fd0c3"),
    "text": ("#1d2530", "#e4e8ee"),
    "faint text": ("#5b6470", "#aab2bd"),
    "grid": ("#e2e6eb", "#343c47"),
    "paper": ("#ffffff", "#171b21"),
}
MARKERS = {"fine-tuned": "o", "from scratch": "s"}


@dataclass(frozen=True)
class Label:
    """A series' name beside its end."""

    y: float
    text: str
    colour: str


def new_figure(look: Look) -> tuple[Figure, Axes]:
    """A figure of one chart, with room at its right for the names of lines."""
    # A figure of its own, not pyplot's: nothing global is changed in a program or notebook that draws reports.
    figure = Figure(figsize=look.size, facecolor=look.colour("paper"))
    axes = figure.add_axes((0.12, 0.14, 0.58, 0.75) if look.narrow else (0.065, 0.125, 0.71, 0.785))
    style_axes(axes, look)
    return figure, axes


def style_axes(axes: Axes, look: Look) -> None:
    """No frame but the ground line, faint horizontal lines, faint letters."""
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


def nothing(figure: Figure, axes: Axes, look: Look, text: str) -> Figure:
    """The figure of a chart that has nothing to show, saying so."""
    axes.set_axis_off()
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", color=look.colour("faint text"))
    return figure


def axis_title(axes: Axes, look: Look, text: str) -> None:
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


def amounts_axis(axes: Axes, amounts: Iterable[int]) -> None:
    """Set the horizontal axis: logarithmic, with a tick at each amount."""
    ticks = sorted(amount for amount in amounts if amount > 0)
    if not ticks:
        axes.set_xticks([])
        return
    axes.set_xscale("log")
    axes.set_xlim(ticks[0] / 1.25, ticks[-1] * 1.25)
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def error_axes(panels: Sequence[tuple[Axes, Sequence[float]]]) -> bool:
    """Set the vertical axes of panels that are read side by side, each with the values in it.

    Returns:
        Whether they are logarithmic, which all are where values are positive and in one panel far apart; else all
        begin with zero.
    """
    ends = [(min(values), max(values)) for _, values in panels]
    log = all(low > 0 for low, _ in ends) and any(high / low >= 3 for low, high in ends)
    for (axes, _), (low, high) in zip(panels, ends, strict=True):
        _error_axis(axes, low, high, log)
    return log


def _error_axis(axes: Axes, low: float, high: float, log: bool) -> None:
    if not log:
        axes.set_ylim(min(0, low), high * 1.1 if high > 0 else 1)
        return
    axes.set_yscale("log")
    low, high = low / 1.25, high * 1.25
    axes.set_ylim(low, high)
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (1, 2, 5) if high / low < 300 else (1,)
    axes.yaxis.set_major_locator(FixedLocator([step * 10.0**decade for decade in decades for step in steps]))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def place_labels(figure: Figure, axes: Axes, labels: list[Label]) -> None:
    """Write the names to the right of the axes, at their lines' ends, moved apart where they would overlap."""
    to_axes = axes.transData + axes.transAxes.inverted()
    x = axes.get_xlim()[0]
    height = figure.get_figheight() * axes.get_position().height
    gap = 13.5 / 72 / height
    placed = sorted(labels, key=lambda label: label.y)
    wanted = [min(max(float(to_axes.transform((x, label.y))[1]), 0.0), 1.0) for label in placed]
    for label, y in zip(placed, apart(wanted, gap), strict=True):
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


def apart(wanted: list[float], gap: float) -> list[float]:
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


def svg(figure: Figure) -> bytes:
    """The figure as SVG on a transparent ground, letters as outlines, the same bytes for the same numbers."""
    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.fonttype": "path", "svg.hashsalt": "trajworld"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def save_figure(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Write a picture, whole or not at all.

    Raises:
        UsageError: The name's suffix is of no picture format.
        TrajWorldError: The picture cannot be written there.
    """
    formats = figure.canvas.get_supported_filetypes()
    if Path(path).suffix.removeprefix(".").lower() not in formats:
        raise UsageError(f"{path}: a picture's name ends in one of .{', .'.join(sorted(formats))}")
    with atomic_file(path) as temporary:
        figure.savefig(temporary, dpi=160)
