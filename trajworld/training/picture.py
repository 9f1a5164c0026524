"""The picture of a run: its losses against its steps, with each dataset's holdout loss apart."""

import math
import os
from collections.abc import Iterable, Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from trajworld.charts import Label, Look, axis_title, new_figure, nothing, place_labels, save_figure
from trajworld.text import number

NAME = "losses.png"
"""What the picture is called in a run directory."""

# The smoothed training loss is a mean over so many parts of the log.
_PARTS = 40


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
    """The figure of ``draw_losses``."""
    figure, axes = new_figure(look)
    labels = []
    training = _points(rows, "loss")
    if training:
        colour = look.colour("copy")
        steps, losses = _columns(training)
        smooth = _running_mean(losses, max(1, len(losses) // _PARTS))
        axes.plot(steps, losses, color=colour, linewidth=1, alpha=0.3)
        axes.plot(steps, smooth, color=colour, linewidth=2, marker="s" if len(steps) == 1 else None)
        labels.append(Label(smooth[-1], f"training {number(smooth[-1])}", colour))
    curves = _curves(rows)
    if len(curves) > 1:
        for points in curves.values():
            axes.plot(*_columns(points), color=look.colour("zero-shot"), linewidth=0.7, alpha=0.25)
        last = [points[-1][1] for points in curves.values()]
        for name, value in (("lowest", min(last)), ("highest", max(last))):
            labels.append(Label(value, f"{name} {number(value)}", look.colour("faint text")))
    holdout = _points(rows, "holdout_loss")
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
        labels.append(Label(holdout[-1][1], f"holdout {number(holdout[-1][1])}", colour))
    if not labels:
        return nothing(figure, axes, look, "The run has logged no finite loss")
    axes.margins(x=0.02, y=0.08)
    axes.xaxis.set_major_locator(MaxNLocator(4 if look.narrow else 8, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.set_xlabel("steps")
    thin = f" (thin: each of {len(curves)} datasets)" if len(curves) > 1 else ""
    axis_title(axes, look, f"cross-entropy of the next row, nats a variate{thin}")
    place_labels(figure, axes, labels)
    return figure


def _curves(rows: Iterable[dict[str, Any]]) -> dict[str, list[tuple[float, float]]]:
    """Each dataset's holdout losses, by its name."""
    curves: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        for name, value in (row.get("holdout") or {}).items():
            if math.isfinite(value):
                curves.setdefault(name, []).append((float(row["step"]), float(value)))
    return curves


def _points(rows: Iterable[dict[str, Any]], name: str) -> list[tuple[float, float]]:
    """(step, value) where a row of the log has a finite value of that name."""
    return [
        (float(row["step"]), float(row[name]))
        for row in rows
        if row.get("step") is not None and row.get(name) is not None and math.isfinite(float(row[name]))
    ]


def _columns(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]


def _running_mean(values: list[float], width: int) -> list[float]:
    """The mean of at most ``width`` values up to each one."""
    return [
        sum(part) / len(part) for part in (values[max(0, i + 1 - width) : i + 1] for i in range(len(values)))
    ]
