"""The quickstart's chart: what pre-training bought."""

import math
import os
from collections.abc import Sequence

from matplotlib.figure import Figure

from trajworld.charts import (
    MARKERS,
    Label,
    Look,
    amounts_axis,
    axis_title,
    error_axes,
    new_figure,
    nothing,
    place_labels,
    save_figure,
)
from trajworld.quickstart.results import FINE_TUNED, FROM_SCRATCH, Results
from trajworld.text import number, short_name


def draw_comparison(results: Results, path: str | os.PathLike[str], look: Look | None = None) -> None:
    """Draw the error on the unseen environment against the fine-tuning data, one line a side.

    The chosen runs are lines with points, the other learning rates faint points; copy-the-last-row and the zero-shot
    model are horizontal lines. Values that are not finite are left out.
    """
    save_figure(comparison_figure(results, look or Look()), path)


def comparison_figure(results: Results, look: Look) -> Figure:
    """The figure of ``draw_comparison``."""
    figure, axes = new_figure(look)
    labels, seen = [], []
    for side in (FROM_SCRATCH, FINE_TUNED):
        colour, marker = look.colour(side), MARKERS[side]
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
            labels.append(Label(best[-1][1], _named(side, best[-1][1], look), colour))
    for errors, name, what, dashes in (
        (results.copy_last_row, "copy last row", "copy", (1.5, 2)),
        (results.zero_shot, "zero-shot", "zero-shot", (6, 3)),
    ):
        value, colour = errors.normalised_mae, look.colour(what)
        if math.isfinite(value):
            axes.axhline(value, color=colour, linewidth=1.6, dashes=dashes)
            labels.append(Label(value, _named(name, value, look), colour))
    if not labels:
        return nothing(figure, axes, look, "No finite error to draw")
    amounts_axis(axes, {row.transitions for row in results.trials})
    log = error_axes([(axes, [value for _, value in seen] + [label.y for label in labels])])
    of = "" if look.narrow else f" of {short_name(results.plan.target)}"
    axes.set_xlabel(f"transitions{of} to fine-tune on (log scale)")
    axis_title(
        axes, look, "mean absolute one-step error, standard deviations" + (" (log scale)" if log else "")
    )
    place_labels(figure, axes, labels)
    return figure


def _named(name: str, value: float, look: Look) -> str:
    return name if look.narrow else f"{name} {number(value)}"


def _columns(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]
