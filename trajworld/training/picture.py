"""The picture of a run: its losses against its steps."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas
from matplotlib.figure import Figure

from trajworld.charts import Look, lines, save_figure
from trajworld.models.interface import Sizes
from trajworld.models.sizes import EnsembleSizes

NAME = "losses.png"
"""What the picture is called in a run directory."""

# The smoothed training loss is a mean over this share of the log's rows.
_SMOOTHED = 1 / 40


def draw_losses(rows: Sequence[dict[str, Any]], path: Path, sizes: Sizes | None = None) -> None:
    """Draw the training and holdout loss of a run, of a model of ``sizes``, from the rows of its log."""
    save_figure(losses_figure(rows, sizes), path)


def losses_figure(rows: Sequence[dict[str, Any]], sizes: Sizes | None = None) -> Figure:
    """The figure of :func:`draw_losses`; values that are missing or not finite are left out."""
    log = pandas.json_normalize(list(rows)).replace([math.inf, -math.inf], math.nan)
    log = log.reindex(columns=list(dict.fromkeys(["step", "loss", "holdout_loss", *log]))).set_index("step")
    log = log.astype(float)
    training, each = log["loss"].dropna(), log.filter(regex=r"^holdout\.")
    smooth = training.rolling(max(1, int(len(training) * _SMOOTHED)), min_periods=1).mean()
    band = {"loss low": each.min(axis=1), "loss high": each.max(axis=1)}
    tables = (
        pandas.DataFrame({"loss": smooth, "name": "training"}),
        pandas.DataFrame({"loss": log["holdout_loss"], "name": "holdout", **band}),
    )
    ensemble = isinstance(sizes, EnsembleSizes)
    title = (
        "training: nats a variate; holdout: squared error"
        if ensemble
        else "loss of the next row, nats a variate"
    )
    title += " (band: lowest to highest dataset)" * (each.shape[1] > 1)
    titles = {"series": "name", "x_title": "steps", "y_title": title}
    table = pandas.concat(tables).reset_index()
    figure = lines(table, Look(), x="step", y="loss", **titles, log_x=False, log_y=False)
    figure.axes[0].xaxis.set_major_formatter("{x:,.0f}")
    return figure
