"""The picture of a run: its losses against its steps, with each dataset's holdout loss apart."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from trajworld.charts import Label, Look, axis_title, new_figure, nothing, place_labels, save_figure
from trajworld.text import number

NAME = "losses.png"
"""What the picture is called in a run directory."""

# The smoothed training loss is a mean over this share of the log's rows.
_SMOOTHED = 1 / 40


def draw_losses(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw the training and holdout loss of a run from the rows of its log.

    Raises:
        TrajWorldError: The file cannot be written.
    """
    save_figure(losses_figure(rows, Look()), path)


def losses_figure(rows: Sequence[dict[str, Any]], look: Look) -> Figure:
    """The figure of :func:`draw_losses`; values that are missing or not finite are left out."""
    figure, axes = new_figure(look)
    table = pandas.json_normalize(list(rows)).replace([math.inf, -math.inf], math.nan)
    labels = []
    grey, colour, edge = (look.colour(name) for name in ("copy", "zero-shot", "paper"))

    def curve(name: str) -> "pandas.Series[float]":
        return table.set_index("step")[name].dropna().astype(float) if name in table else pandas.Series()

    loss = curve("loss")
    if len(loss):
        smooth = loss.rolling(max(1, int(len(loss) * _SMOOTHED)), min_periods=1).mean()
        axes.plot(loss, color=grey, linewidth=1, alpha=0.3)
        axes.plot(smooth, color=grey, linewidth=2, marker="s" if len(loss) == 1 else None)
        labels.append(Label(smooth.iloc[-1], f"training {number(smooth.iloc[-1])}", grey))
    curves = (curve(name) for name in table if name.startswith("holdout."))
    each = [losses for losses in curves if len(losses)]
    if len(each) > 1:
        for losses in each:
            axes.plot(losses, color=colour, linewidth=0.7, alpha=0.25)
        last = [float(losses.iloc[-1]) for losses in each]
        for name, value in (("lowest", min(last)), ("highest", max(last))):
            labels.append(Label(value, f"{name} {number(value)}", look.colour("faint text")))
    loss = curve("holdout_loss")
    if len(loss):
        axes.plot(loss, "o-", color=colour, lw=2, ms=6.5, markeredgecolor=edge, zorder=4)
        labels.append(Label(loss.iloc[-1], f"holdout {number(loss.iloc[-1])}", colour))
    if not labels:
        return nothing(figure, axes, look, "The run has logged no finite loss")
    axes.margins(x=0.02, y=0.08)
    axes.xaxis.set_major_locator(MaxNLocator(4 if look.narrow else 8, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.set_xlabel("steps")
    thin = f" (thin: each of {len(each)} datasets)" if len(each) > 1 else ""
    axis_title(figure, look, f"loss of the next row, nats a variate{thin}")
    place_labels(figure, axes, labels)
    return figure
