"""The picture of a run's losses: what is drawn, and what is left out."""

import math
from pathlib import Path
from typing import Any

import pytest

from trajworld.training.picture import draw_losses, losses_figure

pytestmark = pytest.mark.once

ROWS: list[dict[str, Any]] = [
    {"step": 1, "loss": 5.0},
    {"step": 2, "loss": math.nan, "holdout_loss": None},
    {"step": 3, "holdout_loss": 4.0, "holdout": {"a": 3.0, "b": 5.0}},
    {"step": 4, "loss": 3.0, "holdout_loss": 3.5, "holdout": {"a": 2.5, "b": 4.5}},
]


def lines(rows: list[dict[str, Any]]) -> list[list[tuple[float, float]]]:
    (axes,) = losses_figure(rows).axes
    return [[(float(x), float(y)) for x, y in zip(*line.get_data(), strict=True)] for line in axes.lines]


def texts(rows: list[dict[str, Any]]) -> set[str]:
    figure = losses_figure(rows)
    return {text.get_text() for text in figure.axes[0].texts} | {figure.get_suptitle()}


def test_each_curve_is_drawn_without_what_was_not_measured() -> None:
    assert lines(ROWS) == [[(1, 5), (4, 3)], [(3, 4), (4, 3.5)]]
    (band,) = losses_figure(ROWS).axes[0].collections
    assert {(3, 3), (4, 2.5), (3, 5), (4, 4.5)} <= {(x, y) for x, y in band.get_paths()[0].vertices}
    assert {"training 3.00", "holdout 3.50"} <= texts(ROWS)
    assert any("lowest to highest dataset" in text for text in texts(ROWS))
    rows = [{"step": step, "holdout_loss": 2.0, "holdout": {"a": 2.0}} for step in (1, 2)]
    assert lines(rows) == [[(1, 2), (2, 2)]]
    assert not any("dataset" in text for text in texts(rows))


@pytest.mark.parametrize("rows", [ROWS, ROWS[:1], [], [{"step": 1, "loss": math.inf}]])
def test_a_picture_of_anything_is_written(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    draw_losses(rows, tmp_path / "losses.png")
    assert (tmp_path / "losses.png").read_bytes().startswith(b"\x89PNG")
