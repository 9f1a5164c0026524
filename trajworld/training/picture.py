"""The picture of a run: its losses against its steps, with each dataset's holdout loss apart."""

import math
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from trajworld.charts import Label, Look, axis_title, new_figure, nothing, place_labels, save_figure
from trajworld.text import number

NAME = "losses.png"
"""What the picture is called in a run directory."""

# The smoothed training loss is a mean over this share of the log's rows.
_SMOOTHED = 1 / 40


def draw_losses(
    rows: Sequence[dict[str, Any]], path: str | os.PathLike[str], look: Look | None = None
) -> None:
    """Draw the training and holdout loss of a run; values that are missing or not finite are left out.

    Args:
        rows: Of :func:`trajworld.training.record.read_metrics`.
        path: The picture's file.
        look: Of the chart.

    Raises:
        TrajWorldError: The file cannot be written.
    """
    save_figure(losses_figure(rows, look or Look()), path)


def losses_figure(rows: Sequence[dict[str, Any]], look: Look) -> Figure:
    """The figure of :func:`draw_losses`."""
    figure, axes = new_figure(look)
    labels = []
    grey, colour = look.colour("copy"), look.colour("zero-shot")
    steps, losses = _finite([(row["step"], row.get("loss")) for row in rows])
    if len(steps):
        width = max(1, int(len(losses) * _SMOOTHED))
        smooth = [losses[max(0, end - width) : end].mean() for end in range(1, len(losses) + 1)]
        axes.plot(steps, losses, color=grey, linewidth=1, alpha=0.3)
        axes.plot(steps, smooth, color=grey, linewidth=2, marker="s" if len(steps) == 1 else None)
        labels.append(Label(smooth[-1], f"training {number(smooth[-1])}", grey))
    names = list(dict.fromkeys(name for row in rows for name in row.get("holdout") or {}))
    each = [_finite([(row["step"], (row.get("holdout") or {}).get(name)) for row in rows]) for name in names]
    curves = [curve for curve in each if len(curve[0])]
    if len(curves) > 1:
        for curve in curves:
            axes.plot(*curve, color=colour, linewidth=0.7, alpha=0.25)
        last = [float(curve[1][-1]) for curve in curves]
        for name, value in (("lowest", min(last)), ("highest", max(last))):
            labels.append(Label(value, f"{name} {number(value)}", look.colour("faint text")))
    steps, losses = _finite([(row["step"], row.get("holdout_loss")) for row in rows])
    if len(steps):
        edge = look.colour("paper")
        axes.plot(steps, losses, "o-", color=colour, lw=2, ms=6.5, markeredgecolor=edge, zorder=4)
        labels.append(Label(losses[-1], f"holdout {number(losses[-1])}", colour))
    if not labels:
        return nothing(figure, axes, look, "The run has logged no finite loss")
    axes.margins(x=0.02, y=0.08)
    axes.xaxis.set_major_locator(MaxNLocator(4 if look.narrow else 8, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.set_xlabel("steps")
    thin = f" (thin: each of {len(curves)} datasets)" if len(curves) > 1 else ""
    axis_title(axes, look, f"loss of the next row, nats a variate{thin}")
    place_labels(figure, axes, labels)
    return figure


def _finite(points: Sequence[tuple[Any, Any]]) -> tuple[Any, Any]:
    """The steps and values, as arrays, of points that have a finite value."""
    kept = [(step, value) for step, value in points if value is not None and math.isfinite(value)]
    steps, values = np.array(kept, float).reshape(-1, 2).T
    return steps, values
