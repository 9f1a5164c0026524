"""The picture of a zero-shot study: the error against the length of context, a panel a family."""

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter

from trajworld.charts import Look, error_axes, save_figure, style_axes
from trajworld.zero_shot.results import Group, Results
from trajworld.zero_shot.study import COPY, MINIMUM_NORM, MODEL, RIDGE


class _Style(NamedTuple):
    """How a predictor's line is drawn; lines differ by more than colour, of which the name is given."""

    label: str
    colour: str
    marker: str
    width: float
    dashes: tuple[float, ...]


_LOOK = Look()
# Drawn in this order, the model last and on top.
_STYLES = {
    MINIMUM_NORM: _Style("least squares, minimum norm", "minimum norm", "", 1.3, (4, 2)),
    COPY: _Style("copy the last row", "copy", "", 1.8, (1.5, 2)),
    RIDGE: _Style("least squares, ridge", "ridge", "s", 2.0, ()),
    MODEL: _Style("model, zero-shot", "zero-shot", "o", 2.2, ()),
}
_COLUMNS = 2
_MOST_BAND = 1.6
# Between two names on the vertical axis, as a share of its height.
_ROOM = 0.06


def draw(results: Results, path: str | Path) -> None:
    """Draw the error of every predictor against the length of context, with intervals, a panel a family.

    Where it is within a panel, the error that a quarter of a bin makes is marked: that of a model which knows the
    right bin and no more.

    Raises:
        TrajWorldError: The picture cannot be written there.
    """
    save_figure(figure_of(results), path)


def figure_of(results: Results) -> Figure:
    """The figure of :func:`draw`."""
    groups = results.family_groups
    columns = min(_COLUMNS, len(groups))
    rows = math.ceil(len(groups) / columns)
    # Apart from the panels, inches for the title, the legend and the lowest axis' label.
    height = 2.75 * rows + 0.95
    figure = Figure(figsize=(4.3 * columns + 0.2, height), facecolor=_LOOK.colour("paper"))
    grid = figure.add_gridspec(
        rows,
        columns,
        left=0.5 / (4.3 * columns + 0.2),
        right=0.985,
        bottom=0.5 / height,
        top=1 - 1.05 / height,
        hspace=0.42,
        wspace=0.17,
    )
    panels: list[tuple[Axes, list[float]]] = []
    bin_errors: list[float] = []
    for place, group in enumerate(groups):
        axes = figure.add_subplot(grid[place // columns, place % columns])
        drawn = _panel(axes, group)
        if drawn:
            panels.append((axes, drawn))
            bin_errors.append(float(np.mean([each.bin_error for each in group.members])))
        if place + columns >= len(groups):
            axes.set_xlabel("rows of context", fontsize=9.5)
    log = error_axes(panels)
    for (axes, _), bin_error in zip(panels, bin_errors, strict=True):
        _mark(axes, bin_error)
    figure.text(
        0.012,
        1 - 0.13 / height,
        _title(results, columns > 1, log),
        fontsize=10.5 if columns > 1 else 9,
        color=_LOOK.colour("text"),
        va="top",
    )
    figure.legend(
        handles=[_handle(style) for style in reversed(_STYLES.values())],
        loc="upper left",
        bbox_to_anchor=(0.0, 1 - 0.33 / height),
        ncols=4 if columns > 1 else 2,
        frameon=False,
        fontsize=9.5 if columns > 1 else 7.5,
        labelcolor=_LOOK.colour("text"),
        handlelength=2.2,
        columnspacing=1.6,
    )
    return figure


def _title(results: Results, wide: bool, log: bool) -> str:
    unit = f"standard deviations{' (log scale)' * log}"
    if not results.model.training_known:
        return f"One-step error, {unit if wide else 'std'}; what this model saw is not known"
    return f"One-step error{' in environments that pre-training never saw' * wide}, {unit}"


def _panel(axes: Axes, group: Group) -> list[float]:
    """Draw one family; the errors that are to be seen in it."""
    contexts = group.errors.contexts
    style_axes(axes, _LOOK)
    values: list[float] = []
    for predictor, style in _STYLES.items():
        colour = _LOOK.colour(style.colour)
        mean, low, high = group.errors.curve(predictor)
        # From too few episodes, a band would be too narrow to be true.
        if group.errors.enough:
            axes.fill_between(contexts, low, high, color=colour, alpha=0.16, linewidth=0)
        axes.plot(
            contexts,
            mean,
            color=colour,
            linewidth=style.width,
            dashes=style.dashes or (None, None),
            marker=style.marker,
            markersize=5.5,
            markeredgecolor=_LOOK.colour("paper"),
            markeredgewidth=0.8,
        )
        # A band's end may be far off, a line's must be seen.
        values += [*mean, *np.clip([low, high], mean / _MOST_BAND, mean * _MOST_BAND).ravel()]
    count = f" (mean of {len(group.members)})" if len(group.members) > 1 else ""
    axes.set_title(
        f"{group.name}{count}", loc="left", fontsize=10, color=_LOOK.colour("text"), fontweight="bold", pad=7
    )
    axes.set_xlim(contexts[0] - 0.6, contexts[-1] + 0.6)
    axes.xaxis.set_major_locator(FixedLocator(_ticks(contexts)))
    return [value for value in values if np.isfinite(value) and value > 0]


def _mark(axes: Axes, bin_error: float) -> None:
    """Mark the error of a quarter of a bin, where it is within the panel."""
    bottom, top = axes.get_ylim()
    if not bottom < bin_error < top:
        return
    axes.axhline(bin_error, color=_LOOK.colour("faint text"), linewidth=0.9, zorder=1)
    # Named on the axis: within, some line would be in the way.
    to_axes = axes.transData + axes.transAxes.inverted()

    def height(value: float) -> float:
        return float(to_axes.transform((1.0, value))[1])

    ticks = [tick for tick in axes.get_yticks() if abs(height(tick) - height(bin_error)) > _ROOM]
    axes.yaxis.set_major_locator(FixedLocator([tick for tick in ticks if bottom <= tick <= top]))
    axes.yaxis.set_minor_locator(FixedLocator([bin_error]))
    axes.yaxis.set_minor_formatter(FuncFormatter(lambda value, _: "¼ bin"))
    axes.tick_params(axis="y", which="minor", colors=_LOOK.colour("faint text"), labelsize=8, length=0)


def _ticks(contexts: tuple[int, ...]) -> list[int]:
    """The lengths to name: the ends, and those between that leave room."""
    ticks = [contexts[0]]
    for context in contexts[1:-1]:
        if context - ticks[-1] >= 2 and contexts[-1] - context >= 2:
            ticks.append(context)
    return sorted({*ticks, contexts[-1]})


def _handle(style: _Style) -> Line2D:
    return Line2D(
        [],
        [],
        color=_LOOK.colour(style.colour),
        linewidth=style.width,
        dashes=style.dashes or (None, None),
        marker=style.marker,
        markersize=5.5,
        label=style.label,
    )
