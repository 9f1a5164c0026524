"""Charts: one look, and functions that draw tidy tables."""

import io
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator
from numpy.typing import NDArray

from trajworld.errors import UsageError
from trajworld.files import atomic_file
from trajworld.text import number


@dataclass(frozen=True)
class Look:
    """The look of a chart: for a light or dark page, wide or for a phone."""

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
    **dict.fromkeys(("fine-tuned", "JAX"), ("#0068a8", "#5bb8f0")),
    **dict.fromkeys(("from scratch", "ridge"), ("#c8500a", "#ff9d5c")),
    **dict.fromkeys(("zero-shot", "model", "PyTorch"), ("#8a3c86", "#d795d3")),
    **dict.fromkeys(("copy", "¼ bin", "faint text"), ("#5b6470", "#aab2bd")),
    **dict.fromkeys(("least squares", "any other"), ("#2a8f83", "#6fd0c3")),
    "TensorFlow": ("#d98200", "#f2b450"),
    "text": ("#1d2530", "#e4e8ee"),
    "grid": ("#e2e6eb", "#343c47"),
    "paper": ("#ffffff", "#171b21"),
}
MARKERS = {"fine-tuned": "o", "from scratch": "s", "model": "o", "ridge": "s"}
_DASHES = {"copy": (1.5, 2), "¼ bin": (12, 2), "zero-shot": (6, 3), "least squares": (4, 2)}
_DPI = 160
# Series of other names take these in turn.
_OTHERS = ("fine-tuned", "from scratch", "any other", "zero-shot", "copy")


def lines(
    table: pd.DataFrame,
    look: Look,
    *,
    x: str,
    y: str,
    series: str,
    x_title: str,
    y_title: str,
    panel: str | None = None,
    log_x: bool = True,
    log_y: bool = True,
) -> Figure:
    """Draw ``y`` against ``x``, a line for each of ``series``, a panel for each value of ``panel``.

    Columns ``Y low`` and ``Y high``, if present, are bands around the lines. Rows without an ``x`` become horizontal
    lines; rows without a finite ``y`` are left out. On a logarithmic axis an ``x`` of 0 is drawn left of the others.
    Series of :data:`COLOURS` (``copy``, ``copy of the last row``) have their own colours. The vertical axis is
    logarithmic if allowed (``log_y``) and the values are positive and far apart.
    """
    table = table[np.isfinite(table[y].astype(float))]
    titles = [""] if panel is None else list(dict.fromkeys(table[panel]))
    styles = _styles(table[series])
    if not len(table):
        return nothing(blank(look, *look.size), look)
    figure, panels = _new_panels(look, titles)
    columns = {x: "x", y: "y", f"{y} low": "low", f"{y} high": "high"}
    shown = []
    for axes, title in zip(panels, titles, strict=True):
        part = table if panel is None else table[table[panel] == title]
        places = _amounts_axis(axes, part[x].dropna(), log_x)
        drawn = [
            _draw_series(axes, look, str(name), styles[str(name)], rows.rename(columns=columns), places)
            for name, rows in part.groupby(series, sort=False)
        ]
        shown.append((axes, np.concatenate(drawn)))
    y_title += " (log scale)" if _error_axes(shown, log_y) else ""
    if len(titles) > 1:
        figure.supxlabel(x_title, x=0.02, ha="left", fontsize=9.5, color=look.colour("faint text"))
        _legend(figure, look, y_title)
        return figure
    panels[0].set_xlabel(x_title)
    faint = look.colour("faint text")
    figure.suptitle(_wrapped(y_title, look), x=0.01, ha="left", fontsize=9.5, color=faint)
    last = table.sort_values(x, kind="stable").groupby(series, sort=False)[y].last()
    ends = {name: name if look.narrow else f"{name} {number(value)}" for name, value in last.items()}
    labels = [(value, ends[name], look.colour(styles[name])) for name, value in last.items()]
    _place_labels(figure, panels[0], labels)
    return figure


def bars(table: pd.DataFrame, look: Look, *, label: str, value: str, series: str, title: str) -> Figure:
    """Draw horizontal bars: a group for each ``label``, a bar in it for each of ``series``.

    Rows without a finite ``value`` leave a gap.
    """
    styles = _styles(table[series])
    wide = table.pivot(index=label, columns=series, values=value)
    wide = wide.loc[list(dict.fromkeys(table[label])), list(styles)]
    figure = blank(look, look.size[0], 1.1 + len(wide) * (0.1 + 0.14 * len(styles)))
    if not len(wide):
        return nothing(figure, look)
    axes = figure.add_subplot()
    style_axes(axes, look)
    axes.grid(visible=False)
    axes.spines["bottom"].set_visible(False)
    thickness = 0.8 / len(styles)
    for place, (name, style) in enumerate(styles.items()):
        where = np.arange(len(wide)) + (place - (len(styles) - 1) / 2) * thickness
        drawn = axes.barh(where, wide[name].fillna(0), thickness * 0.92, color=look.colour(style), label=name)
        texts = [number(length) if math.isfinite(length) else "" for length in wide[name]]
        axes.bar_label(drawn, texts, padding=3, fontsize=8, color=look.colour("faint text"))
    axes.set_yticks(range(len(wide)), wide.index)
    axes.set_ylim(len(wide) - 0.5, -0.5)
    axes.set_xticks([])
    _legend(figure, look, title)
    return figure


def scatter(
    table: pd.DataFrame, look: Look, *, x: str, y: str, series: str, panel: str | None = None
) -> Figure:
    """Draw points of ``y`` against ``x``, of one unit, a colour for each of ``series``, and the identity line.

    Columns ``Y low`` and ``Y high``, if present, are bars; so is ``X error``, a standard error, twice to either side.
    There is a panel for each value of ``panel``, all of one scale.
    """
    table = table[np.isfinite(table[[x, y]].astype(float)).all(axis=1)]
    if not len(table):
        return nothing(blank(look, *look.size), look)
    titles = [""] if panel is None else list(dict.fromkeys(table[panel]))
    figure, panels = _new_panels(look, titles)
    styles = _styles(table[series])
    ends = [np.min(table[[x, y]].to_numpy(float)), np.max(table[[x, y]].to_numpy(float))]
    for axes, title in zip(panels, titles, strict=True):
        axes.plot(ends, ends, color=look.colour("faint text"), linewidth=1, dashes=(4, 3), zorder=1)
        part = table if panel is None else table[table[panel] == title]
        for name, rows in part.groupby(series, sort=False):
            bars: dict[str, Any] = {}
            if f"{y} low" in rows:
                bars["yerr"] = [rows[y] - rows[f"{y} low"], rows[f"{y} high"] - rows[y]]
            if f"{x} error" in rows:
                bars["xerr"] = 2 * rows[f"{x} error"]
            points: dict[str, Any] = {"fmt": "o", "markersize": 5, "linewidth": 1, "label": name}
            axes.errorbar(rows[x], rows[y], color=look.colour(styles[str(name)]), **points, **bars)
    figure.supxlabel(x, fontsize=9.5, color=look.colour("faint text"))
    figure.supylabel(y, fontsize=9.5, color=look.colour("faint text"))
    if len(styles) > 1:
        _legend(figure, look, "")
    return figure


def heatmap(table: pd.DataFrame, look: Look, *, x: str, y: str, value: str, panel: str) -> Figure:
    """Draw positive ratios ``value`` as squares, ``y`` down and ``x`` across, a panel for each value of ``panel``.

    Ratios below 1 have one colour, those above another, full at 1/4 and 4; a pair without a value is a gap.
    """
    table = table[np.isfinite(table[value].astype(float))]
    if not len(table):
        return nothing(blank(look, *look.size), look)
    figure, panels = _new_panels(look, list(dict.fromkeys(table[panel])))
    ends = [look.colour(name) for name in ("fine-tuned", "paper", "from scratch")]
    shades = LinearSegmentedColormap.from_list("ratio", ends)
    rows, columns = (list(dict.fromkeys(table[name])) for name in (y, x))
    for axes, (_, part) in zip(panels, table.groupby(panel, sort=False), strict=True):
        wide = part.pivot(index=y, columns=x, values=value).reindex(index=rows, columns=columns)
        axes.imshow(np.log2(wide.to_numpy(float)), cmap=shades, vmin=-2, vmax=2, aspect="auto")
        axes.grid(visible=False)
        axes.spines["bottom"].set_visible(False)
        for (row, column), ratio in np.ndenumerate(wide.to_numpy(float)):
            shown = f"{ratio:.2f}" if ratio < 10 else f"{ratio:.0f}"
            text = shown if np.isfinite(ratio) else "–"
            axes.text(column, row, text, ha="center", va="center", fontsize=8, color=look.colour("text"))
        axes.set_xticks(range(len(columns)), columns, rotation=30, ha="right", fontsize=8)
        spec = axes.get_subplotspec()
        first = look.narrow or spec is None or spec.is_first_col()
        axes.set_yticks(range(len(rows)), rows if first else [""] * len(rows), fontsize=8)
        axes.tick_params(length=0)
    figure.supxlabel(x, fontsize=9.5, color=look.colour("faint text"))
    figure.supylabel(y, fontsize=9.5, color=look.colour("faint text"))
    return figure


def blank(look: Look, width: float, height: float) -> Figure:
    """An empty figure, ``width`` by ``height`` inches."""
    # Not a figure of pyplot: the calling program's or notebook's global state does not change.
    return Figure(figsize=(width, height), facecolor=look.colour("paper"), layout="constrained")


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
    axes.xaxis.label.set(color=look.colour("faint text"), fontsize=9.5)


def nothing(figure: Figure, look: Look) -> Figure:
    """The figure of a chart without values, with a note that says so."""
    axes = figure.add_subplot()
    axes.set_axis_off()
    faint = look.colour("faint text")
    axes.text(0.5, 0.5, "No finite value to draw", transform=axes.transAxes, ha="center", color=faint)
    return figure


def _place_labels(figure: Figure, axes: Axes, labels: Sequence[tuple[float, str, str]]) -> None:
    """Write names in their colours to the right of the axes, at their lines' ends, moved apart where they overlap."""
    to_axes = axes.transData + axes.transAxes.inverted()
    placed = sorted(labels, key=lambda label: label[0])
    wanted = [to_axes.transform((axes.get_xlim()[0], y))[1] for y, _, _ in placed]
    # A line of text, as a share of the axes.
    gap = 13.5 / 72 / (0.75 * figure.get_figheight())
    bold: dict[str, Any] = {"fontsize": 9.5, "fontweight": "bold", "va": "center_baseline"}
    for (_, text, colour), y in zip(placed, _apart(np.clip(wanted, 0, 1), gap), strict=True):
        axes.text(1.02, y, text, transform=axes.transAxes, color=colour, **bold)


def svg(figure: Figure) -> bytes:
    """The figure as SVG on a transparent ground, letters as outlines, the same bytes for the same numbers."""
    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.fonttype": "path", "svg.hashsalt": "trajworld"}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def save_figure(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Write a picture, whole or not at all; a ``UsageError`` if the suffix is no picture format."""
    formats = figure.canvas.get_supported_filetypes()
    if Path(path).suffix.removeprefix(".").lower() not in formats:
        raise UsageError(f"{path}: a picture's name ends in one of .{', .'.join(sorted(formats))}")
    with atomic_file(path) as temporary:
        figure.savefig(temporary, dpi=_DPI)


def png(figure: Figure) -> bytes:
    """The figure as PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI)
    return buffer.getvalue()


def _styles(names: Iterable[str]) -> dict[str, str]:
    """Each name's key in ``COLOURS``: the name, its part before " of ", or the next unused one."""
    styles = {}
    for place, name in enumerate(dict.fromkeys(names)):
        known = name.split(" of ")[0]
        styles[name] = known if known in COLOURS else _OTHERS[place % len(_OTHERS)]
    return styles


def _new_panels(look: Look, titles: Sequence[str]) -> tuple[Figure, list[Axes]]:
    """Up to three panels side by side, more in two columns; on a narrow page below each other."""
    columns = 1 if look.narrow else len(titles) if len(titles) <= 3 else 2
    rows = -(-len(titles) // columns)
    width = 4.0 if look.narrow else 2.9 * columns if columns == 3 else 3.7 * columns
    size = look.size if len(titles) == 1 else (width, 1.0 + rows * (3.0 if rows == 1 else 2.4))
    figure = blank(look, *size)
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for left_over in panels[len(titles) :]:
        left_over.remove()
    for axes, title in zip(panels, titles, strict=False):
        style_axes(axes, look)
        axes.set_title(title, loc="left", fontsize=11, fontweight="bold", color=look.colour("text"))
    return figure, panels[: len(titles)]


def _amounts_axis(axes: Axes, found: "pd.Series[float]", log: bool) -> dict[float, float]:
    """Set up the horizontal axis, if logarithmic with a tick at each amount; returns each amount's position."""
    amounts = sorted({float(amount) for amount in found})
    if not amounts:
        axes.set_xticks([])
        return {}
    if not log:
        axes.margins(x=0.03)
        return {amount: amount for amount in amounts}
    first = min((amount for amount in amounts if amount > 0), default=1.0)
    places = {amount: amount or first / 2.5 for amount in amounts}
    axes.set_xscale("log")
    axes.set_xlim(min(places.values()) / 1.25, max(places.values()) * 1.25)
    texts = [f"{amount / 1000:g}k" if amount >= 1000 else f"{amount:g}" for amount in amounts]
    axes.set_xticks(list(places.values()), texts)
    axes.xaxis.set_minor_locator(NullLocator())
    return places


def _draw_series(
    axes: Axes, look: Look, name: str, style: str, rows: pd.DataFrame, places: dict[float, float]
) -> NDArray[np.floating]:
    """Draw the rows of one series; returns the panel's values."""
    colour, dashes = look.colour(style), _DASHES.get(style)
    flat, rows = rows[rows["x"].isna()], rows[rows["x"].notna()].sort_values("x")
    for value in flat["y"]:
        axes.axhline(value, color=colour, linewidth=1.6, dashes=dashes or (6, 3), label=name)
    where = [places[float(amount)] for amount in rows["x"]]
    values = [flat["y"], rows["y"]]
    if "low" in rows and rows["low"].notna().any():
        low, high = (rows[end].fillna(rows["y"]) for end in ("low", "high"))
        axes.fill_between(where, low, high, color=colour, alpha=0.18, linewidth=0)
        values += [low, high]
    plain = len(rows) > 30 or (dashes is not None and len(rows) != 1)
    marker = "" if plain else MARKERS.get(style, "o")
    marks: dict[str, Any] = {"marker": marker, "markersize": 6.5, "markeredgecolor": look.colour("paper")}
    line: dict[str, Any] = {"linestyle": (0, dashes), "linewidth": 1.6} if dashes else {"linewidth": 2.2}
    axes.plot(where, rows["y"], color=colour, zorder=4, label=name, **marks, **line)
    return np.concatenate(values)


def _error_axes(panels: Sequence[tuple[Axes, NDArray[np.floating]]], may_be_log: bool) -> bool:
    """Set the vertical axes of panels that are read side by side, each given with its values.

    All are logarithmic if values are positive and in one panel far apart; else all begin at 0. Returns which.
    """
    ends = [(float(values.min()), float(values.max())) for _, values in panels]
    log = may_be_log and all(low > 0 for low, _ in ends) and any(high / low >= 3 for low, high in ends)
    for (axes, _), (low, high) in zip(panels, ends, strict=True):
        if not log:
            axes.set_ylim(min(0, low), high * 1.1 if high > 0 else 1)
            continue
        axes.set_yscale("log")
        axes.set_ylim(low / 1.25, high * 1.25)
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high / low < 200 else (1,), numticks=99))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter("{x:g}")
    return log


def _legend(figure: Figure, look: Look, title: str) -> None:
    """What the figure shows, and below that the names of its series in their colours."""
    entries: dict[str, Any] = {}
    for axes in figure.axes:
        entries |= dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    letters: dict[str, Any] = {"labelcolor": "linecolor", "prop": {"size": 9.5, "weight": "bold"}}
    heading = {"title": _wrapped(title, look), "title_fontsize": 9.5, "alignment": "left"}
    more: dict[str, Any] = {**letters, **heading, "handlelength": 2.4, "frameon": False}
    columns = 2 if look.narrow else len(entries)
    legend = figure.legend(
        list(entries.values()), list(entries), loc="outside upper left", ncols=columns, **more
    )
    legend.get_title().set_color(look.colour("faint text"))


def _wrapped(text: str, look: Look) -> str:
    return text.replace(", ", ",\n", 1) if look.narrow else text


def _apart(wanted: Sequence[float], gap: float) -> NDArray[np.floating]:
    """Positions at least ``gap`` apart, near the wanted ones, which ascend."""
    # Minus the gaps before them they must only ascend: midway between raising the later and lowering the earlier ones.
    shifts = gap * np.arange(len(wanted))
    free = np.asarray(wanted) - shifts
    return (np.maximum.accumulate(free) + np.minimum.accumulate(free[::-1])[::-1]) / 2 + shifts
