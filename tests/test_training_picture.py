"""The picture of a run's losses: what is drawn, and what is left out."""

import math
from pathlib import Path
from typing import Any

import pytest

from trajworld.charts import Look
from trajworld.training.picture import draw_losses, losses_figure

pytestmark = pytest.mark.once

ROWS: list[dict[str, Any]] = [
    {"step": 1, "loss": 5.0},
    {"step": 2, "loss": math.nan, "holdout_loss": None},
    {"step": 3, "holdout_loss": 4.0, "holdout": {"a": 3.0, "b": 5.0}},
    {"step": 4, "loss": 3.0, "holdout_loss": 3.5, "holdout": {"a": 2.5, "b": 4.5}},
]


def lines(rows: list[dict[str, Any]]) -> list[list[tuple[float, float]]]:
    (axes,) = losses_figure(rows, Look()).axes
    return [[(float(x), float(y)) for x, y in zip(*line.get_data(), strict=True)] for line in axes.lines]


def texts(rows: list[dict[str, Any]]) -> set[str]:
    figure = losses_figure(rows, Look())
    return {text.get_text() for text in figure.axes[0].texts} | {figure.get_suptitle()}


def test_each_curve_is_drawn_without_what_was_not_measured() -> None:
    training, holdout, each = [(1, 5), (4, 3)], [(3, 4), (4, 3.5)], [[(3, 3), (4, 2.5)], [(3, 5), (4, 4.5)]]
    assert all(line in lines(ROWS) for line in (training, holdout, *each))
    assert {"training 3.00", "holdout 3.50", "lowest 2.50", "highest 4.50"} <= texts(ROWS)
    assert any("each of 2 datasets" in text for text in texts(ROWS))


def test_one_dataset_needs_no_line_beside_the_mean() -> None:
    rows = [{"step": step, "holdout_loss": 2.0, "holdout": {"a": 2.0}} for step in (1, 2)]
    assert lines(rows) == [[(1, 2), (2, 2)]]


@pytest.mark.parametrize("rows", [ROWS, ROWS[:1], [], [{"step": 1, "loss": math.inf}]])
def test_a_picture_of_anything_is_written(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    losses_figure(rows, Look(dark=True, narrow=True))
    draw_losses(rows, tmp_path / "losses.png")
    assert (tmp_path / "losses.png").read_bytes().startswith(b"\x89PNG")
