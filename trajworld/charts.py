"""Charts: one look, and functions that draw tidy tables."""

import io
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from trajworld.errors import UsageError
from trajworld.files import atomic_file
from trajworld.text import number

if TYPE_CHECKING:
    import pandas as pd


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
    "model": ("#8a3c86", "#d795d3"),
    "ridge": ("#c8500a", "#ff9d5c"),
    "least squares": ("#2a8f83", "#6fd0c3"),
    "minimum norm": ("#2a8f83", "#6fd0c3"),
    "JAX": ("#0068a8", "#5bb8f0"),
    "TensorFlow": ("#d98200", "#f2b450"),
    "PyTorch": ("#8a3c86", "#d795d3"),
    "text": ("#1d2530", "#e4e8ee"),
    "faint text": ("#5b6470", "#aab2bd"),
    "grid": ("#e2e6eb", "#343c47"),
    "paper": ("#ffffff", "#171b21"),
}
MARKERS = {"fine-tuned": "o", "from scratch": "s", "model": "o", "ridge": "s"}
_DASHES = {"copy": (1.5, 2), "zero-shot": (6, 3), "least squares": (4, 2)}
# Series of other names take these in turn.
_OTHERS = ("fine-tuned", "from scratch", "minimum norm", "zero-shot", "copy")


@dataclass(frozen=True)
class Label:
    """A series' name beside its end."""

    y: float
    text: str
    colour: str


def lines(
    table: "pd.DataFrame",
    look: Look,
    *,
    x: str,
    y: str,
    series: str,
    x_title: str,
    y_title: str,
    panel: str | None = None,
    log_x: bool = True,
) -> Figure:
    """Draw ``y`` against ``x``, a line for each of ``series``, a panel for each value of ``panel``.

    Columns ``Y low`` and ``Y high``, where they are there, are bands around the lines. Rows without an ``x`` become
    horizontal lines. On a logarithmic axis an ``x`` of 0 stands left of the others.

    Args:
        table: Tidy; rows without a finite ``y`` are left out.
        look: Of the page.
        x: Column of amounts, 0 or more.
        y: Column of values.
        series: Column of names; ``fine-tuned``, ``from scratch``, ``zero-shot``, ``copy``, ``ridge`` and others have
            their own colours.
        x_title: Of the horizontal axis.
        y_title: Of the vertical one.
        panel: Column of the panels' titles; None for a single panel.
        log_x: Whether the horizontal axis is logarithmic.
    """
    table = table[[math.isfinite(value) for value in table[y].astype(float)]]
    titles = [""] if panel is None else list(dict.fromkeys(table[panel]))
    names = list(dict.fromkeys(table[series]))
    styles = _styles(names)
    figure, panels = new_panels(look, titles)
    if not len(table):
        return nothing(figure, panels[0], look, "No finite value to draw")
    shown: list[tuple[Axes, list[float]]] = []
    for axes, title in zip(panels, titles, strict=True):
        part = table if panel is None else table[table[panel] == title]
        amounts = sorted({float(amount) for amount in part[x].dropna()})
        places = dict(zip(amounts, _places(amounts) if log_x else amounts, strict=True))
        values: list[float] = []
        for name, rows in part.groupby(series, sort=False):
            values += _draw_series(axes, look, styles[str(name)], rows, places, x, y)
        _amounts_axis(axes, places, log_x)
        shown.append((axes, values))
    log = error_axes(shown)
    below = min(axes.get_position().y0 for axes in panels)
    first = next(axes for axes in panels if axes.get_position().y0 == below)
    first.set_xlabel(x_title, loc="left" if len(panels) > 1 else "center")
    y_title += " (log scale)" if log else ""
    if len(panels) == 1:
        axis_title(panels[0], look, y_title)
    else:
        top_title(figure, look, y_title)
    if len(panels) == 1:
        labels = []
        for name in names:
            last = table[table[series] == name].sort_values(x).iloc[-1][y]
            text = name if look.narrow else f"{name} {number(last)}"
            labels.append(Label(float(last), text, look.colour(styles[name])))
        place_labels(figure, panels[0], labels)
    else:
        _legend(figure, look, {name: styles[name] for name in names})
    return figure


def bars(table: "pd.DataFrame", look: Look, *, label: str, value: str, series: str, title: str) -> Figure:
    """Draw horizontal bars: a group for each ``label``, a bar in it for each of ``series``.

    Args:
        table: Tidy; rows without a finite ``value`` leave a gap.
        look: Of the page.
        label: Column of the groups' names.
        value: Column of the lengths, 0 or more.
        series: Column of names.
        title: What the lengths are.
    """
    labels, names = list(dict.fromkeys(table[label])), list(dict.fromkeys(table[series]))
    width, height = look.size
    figure = Figure(
        figsize=(width, max(height * 0.5, 1.1 + len(labels) * (0.12 + 0.2 * len(names)))),
        facecolor=look.colour("paper"),
    )
    # The names of more than two series take a second line on a narrow page.
    top = 0.95 if look.narrow and len(names) > 2 else 0.75
    axes = figure.add_axes(
        (0.4 if look.narrow else 0.3, 0.02, 0.5 if look.narrow else 0.62, 1 - top / figure.get_figheight())
    )
    style_axes(axes, look)
    axes.grid(visible=False)
    axes.spines["bottom"].set_visible(False)
    thickness = 0.8 / len(names)
    most, styles = float(table[value].max()), _styles(names)
    for place, name in enumerate(names):
        rows = table[table[series] == name].set_index(label)[value].reindex(labels)
        where = [group + (place - (len(names) - 1) / 2) * thickness for group in range(len(labels))]
        axes.barh(where, rows.fillna(0), thickness * 0.92, color=look.colour(styles[name]))
        for y, length in zip(where, rows, strict=True):
            if math.isfinite(length):
                axes.text(
                    length + most * 0.01,
                    y,
                    number(length),
                    va="center_baseline",
                    fontsize=8,
                    color=look.colour("faint text"),
                )
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.set_xticks([])
    top_title(figure, look, title)
    _legend(figure, look, styles)
    return figure


def _styles(names: Sequence[str]) -> dict[str, str]:
    """The colour of each series: its own, or the next."""
    return {
        name: name if name in COLOURS else _OTHERS[place % len(_OTHERS)] for place, name in enumerate(names)
    }


def new_panels(look: Look, titles: Sequence[str]) -> tuple[Figure, list[Axes]]:
    """A figure of panels; of a single one, as :func:`new_figure`.

    Up to three are side by side, more in two columns; on a narrow page they are below each other.
    """
    if len(titles) == 1:
        figure, axes = new_figure(look)
        return figure, [axes]
    columns = 1 if look.narrow else len(titles) if len(titles) <= 3 else 2
    rows = -(-len(titles) // columns)
    across, high = (
        (4.0 - 0.2, 1.75) if look.narrow else (2.9 if columns == 3 else 3.7, 2.55 if rows == 1 else 1.9)
    )
    width, height = columns * across + 0.2, (1.2 if look.narrow else 0.9) + (high + 0.65) * rows
    figure = Figure(figsize=(width, height), facecolor=look.colour("paper"))
    panels = []
    for place, title in enumerate(titles):
        row, column = divmod(place, columns)
        left, bottom = 0.5 + column * across, 0.55 + (rows - 1 - row) * (high + 0.65)
        axes = figure.add_axes((left / width, bottom / height, (across - 0.6) / width, high / height))
        style_axes(axes, look)
        axes.set_title(title, loc="left", fontsize=11, fontweight="bold", color=look.colour("text"))
        panels.append(axes)
    return figure, panels


def _places(amounts: Sequence[float]) -> list[float]:
    """Where amounts stand on a logarithmic axis: 0 left of the first of the others."""
    first = min((amount for amount in amounts if amount > 0), default=1.0)
    return [amount or first / 2.5 for amount in amounts]


def _amounts_axis(axes: Axes, places: dict[float, float], log: bool) -> None:
    """An axis with a tick at each amount; on a linear one, at those that leave room."""
    if not places:
        axes.set_xticks([])
        return
    least, most = min(places.values()), max(places.values())
    if log:
        axes.set_xscale("log")
        axes.set_xlim(least / 1.25, most * 1.25)
    else:
        room = 0.08 * (most - least or 1.0)
        axes.set_xlim(least - 0.4 * room, most + 0.4 * room)
        kept = [least]
        for place in sorted(places.values()):
            if place - kept[-1] >= room and most - place >= room:
                kept.append(place)
        places = {amount: place for amount, place in places.items() if place in {*kept, most}}
    shown = {
        place: f"{amount / 1000:g}k" if amount >= 1000 else f"{amount:g}" for amount, place in places.items()
    }
    axes.xaxis.set_major_locator(FixedLocator(list(shown)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(
        FuncFormatter(lambda value, _: shown[min(shown, key=lambda place: abs(place - value))])
    )


def _draw_series(
    axes: Axes, look: Look, style: str, rows: "pd.DataFrame", places: dict[float, float], x: str, y: str
) -> list[float]:
    """Draw the rows of one series; the values that are then in the panel."""
    colour, dashes = look.colour(style), _DASHES.get(style)
    flat, rows = rows[rows[x].isna()], rows[rows[x].notna()].sort_values(x)
    for value in flat[y]:
        axes.axhline(value, color=colour, linewidth=1.6, dashes=dashes or (6, 3))
    if not len(rows):
        return list(flat[y])
    where = [places[float(amount)] for amount in rows[x]]
    values = [*flat[y], *rows[y]]
    if f"{y} low" in rows and rows[f"{y} low"].notna().any():
        low, high = (rows[f"{y} {end}"].fillna(rows[y]) for end in ("low", "high"))
        axes.fill_between(where, low, high, color=colour, alpha=0.18, linewidth=0)
        values += [*low, *high]
    axes.plot(
        where,
        rows[y],
        color=colour,
        marker="" if dashes and len(rows) > 1 else MARKERS.get(style, "o"),
        linestyle=(0, dashes) if dashes else "-",
        linewidth=1.6 if dashes else 2.2,
        markersize=6.5,
        markeredgecolor=look.colour("paper"),
        zorder=4,
    )
    return values


def _legend(figure: Figure, look: Look, styles: dict[str, str]) -> None:
    handles = [
        Line2D(
            [],
            [],
            color=look.colour(style),
            marker=MARKERS.get(style, ""),
            linewidth=1.6 if style in _DASHES else 2.2,
            label=name,
            dashes=_DASHES.get(style, (None, None)),
        )
        for name, style in styles.items()
    ]
    legend = figure.legend(
        handles=handles,
        loc="upper left",
        bbox_to_anchor=(0.0, 1 - (0.45 if look.narrow else 0.28) / figure.get_figheight()),
        ncols=2 if look.narrow else len(handles),
        frameon=False,
        fontsize=9.5,
        labelcolor="linecolor",
        handlelength=2.4,
    )
    for text in legend.get_texts():
        text.set_fontweight("bold")


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


def top_title(figure: Figure, look: Look, text: str) -> None:
    """A line of text at the top of a figure."""
    colour = look.colour("faint text")
    if look.narrow:
        text = text.replace(", ", ",\n", 1)
    figure.text(0.01, 1 - 0.1 / figure.get_figheight(), text, fontsize=9.5, color=colour, va="top")


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
