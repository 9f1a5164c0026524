"""The picture of a zero-shot study: the error against the length of context, a panel a family."""

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from trajworld.files import atomic_file
from trajworld.zero_shot.results import Group, Results
from trajworld.zero_shot.study import COPY, MINIMUM_NORM, MODEL, RIDGE


class _Style(NamedTuple):
    """How a predictor's line is drawn; lines differ by more than colour."""

    label: str
    colour: str
    marker: str
    width: float
    dashes: tuple[float, ...]


# Drawn in this order, the model last and on top. The colours stay apart for the colour-blind.
_STYLES = {
    MINIMUM_NORM: _Style("least squares, minimum norm", "#b98cc4", "", 1.3, (4, 2)),
    COPY: _Style("copy the last row", "#5b6470", "", 1.8, (1.5, 2)),
    RIDGE: _Style("least squares, ridge", "#c8500a", "s", 2.0, ()),
    MODEL: _Style("model, zero-shot", "#0068a8", "o", 2.2, ()),
}
_TEXT, _FAINT, _GRID = "#1d2530", "#5b6470", "#e2e6eb"
_COLUMNS = 2
_MOST_BAND = 1.6


def draw(results: Results, path: str | Path) -> None:
    """Draw the error of every predictor against the length of context, with intervals, a panel a family.

    Where it is within a panel, the error that a quarter of a bin makes is marked: that of a model which knows the
    right bin and no more.

    Raises:
        TrajWorldError: The picture cannot be written there.
    """
    figure = figure_of(results)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, dpi=160)


def figure_of(results: Results) -> Figure:
    """The figure of :func:`draw`."""
    groups = results.family_groups
    columns = min(_COLUMNS, len(groups))
    rows = math.ceil(len(groups) / columns)
    # Apart from the panels, inches for the title, the legend and the lowest axis' label.
    height = 2.75 * rows + 0.95
    figure = Figure(figsize=(4.3 * columns + 0.2, height), facecolor="white")
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
    for place, group in enumerate(groups):
        axes = figure.add_subplot(grid[place // columns, place % columns])
        _panel(axes, group, float(np.mean([each.bin_error for each in group.members])))
        if place + columns >= len(groups):
            axes.set_xlabel("rows of context", color=_FAINT, fontsize=9.5)
    figure.text(
        0.012,
        1 - 0.13 / height,
        _title(results, columns > 1),
        fontsize=10.5 if columns > 1 else 9,
        color=_TEXT,
        va="top",
    )
    figure.legend(
        handles=[_handle(style) for style in reversed(_STYLES.values())],
        loc="upper left",
        bbox_to_anchor=(0.0, 1 - 0.33 / height),
        ncols=4 if columns > 1 else 2,
        frameon=False,
        fontsize=9.5 if columns > 1 else 7.5,
        labelcolor=_TEXT,
        handlelength=2.2,
        columnspacing=1.6,
    )
    return figure


def _title(results: Results, wide: bool) -> str:
    if not results.model.training_known:
        return f"One-step error{', standard deviations (log scale)' * wide}; what this model saw is not known"
    unseen = " in environments that pre-training never saw" * wide
    return f"One-step error{unseen}, standard deviations (log scale)"


def _panel(axes: Axes, group: Group, bin_error: float) -> None:
    contexts = group.errors.contexts
    values = []
    for predictor, style in _STYLES.items():
        mean, low, high = group.errors.curve(predictor)
        # From too few episodes, a band would be too narrow to be true.
        if group.errors.enough:
            axes.fill_between(contexts, low, high, color=style.colour, alpha=0.16, linewidth=0)
        axes.plot(
            contexts,
            mean,
            color=style.colour,
            linewidth=style.width,
            dashes=style.dashes or (None, None),
            marker=style.marker,
            markersize=5.5,
            markeredgecolor="white",
            markeredgewidth=0.8,
        )
        # A band's end may be far off, a line's must be seen.
        values += [*mean, *np.clip([low, high], mean / _MOST_BAND, mean * _MOST_BAND).ravel()]
    drawn = np.array(values)[np.isfinite(values) & (np.array(values) > 0)]
    if len(drawn):
        _error_axis(axes, float(drawn.min()), float(drawn.max()))
    bottom, top = axes.get_ylim()
    if len(drawn) and bottom < bin_error < top:
        axes.axhline(bin_error, color=_FAINT, linewidth=0.9, zorder=1)
        # Named on the axis: within, some line would be in the way.
        axes.yaxis.set_minor_locator(FixedLocator([bin_error]))
        axes.yaxis.set_minor_formatter(FuncFormatter(lambda value, _: "¼ bin"))
        ticks = [
            tick
            for tick in axes.get_yticks()
            if abs(math.log(tick / bin_error)) > 0.045 * math.log(top / bottom)
        ]
        axes.yaxis.set_major_locator(FixedLocator(ticks))
    count = f" (mean of {len(group.members)})" if len(group.members) > 1 else ""
    axes.set_title(f"{group.name}{count}", loc="left", fontsize=10, color=_TEXT, fontweight="bold", pad=7)
    for name, spine in axes.spines.items():
        spine.set_visible(name == "bottom")
        spine.set_color(_FAINT)
    axes.grid(axis="y", color=_GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=_FAINT, labelsize=9, length=0)
    axes.tick_params(axis="y", which="minor", colors=_FAINT, labelsize=8, length=0)
    axes.tick_params(axis="x", length=4)
    axes.set_xlim(contexts[0] - 0.6, contexts[-1] + 0.6)
    axes.xaxis.set_major_locator(FixedLocator(_ticks(contexts)))


def _ticks(contexts: tuple[int, ...]) -> list[int]:
    """The lengths to name: the ends, and those between that leave room."""
    ticks = [contexts[0]]
    for context in contexts[1:-1]:
        if context - ticks[-1] >= 2 and contexts[-1] - context >= 2:
            ticks.append(context)
    return sorted({*ticks, contexts[-1]})


def _error_axis(axes: Axes, low: float, high: float) -> None:
    """A logarithmic axis with a few round numbers."""
    axes.set_yscale("log")
    low, high = low / 1.1, high * 1.1
    axes.set_ylim(low, high)
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    wide = high / low
    steps: tuple[float, ...] = (1, 1.5, 2, 3, 5, 7) if wide < 12 else (1, 2, 5) if wide < 300 else (1,)
    axes.yaxis.set_major_locator(FixedLocator([step * 10.0**decade for decade in decades for step in steps]))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _handle(style: _Style) -> Line2D:
    return Line2D(
        [],
        [],
        color=style.colour,
        linewidth=style.width,
        dashes=style.dashes or (None, None),
        marker=style.marker,
        markersize=5.5,
        label=style.label,
    )
