"""A run's log: JSON lines and TensorBoard agree, cut back to what a checkpoint knows; the picture of its losses."""

import json
import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tensorboardX.proto.event_pb2 import Event

from trajworld.training.picture import draw_losses, losses_figure
from trajworld.training.record import MetricsLog, read_metrics

pytestmark = pytest.mark.once


def row(step: int, **more: Any) -> dict[str, Any]:
    return {"step": step, "loss": 1 / step, "learning_rate": 1e-3, "seconds": 2.0 * step, **more}


def events(run: Path) -> Iterator[Event]:
    """The events of a TensorBoard file, read by its framing: length, checksum, message, checksum."""
    (path,) = (run / "tensorboard").iterdir()
    data = path.read_bytes()
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        yield Event.FromString(data[12 : 12 + length])
        data = data[16 + length :]


def scalars(run: Path) -> dict[str, list[tuple[int, float]]]:
    found: dict[str, list[tuple[int, float]]] = {}
    for event in events(run):
        for value in event.summary.value:
            found.setdefault(value.tag, []).append((event.step, value.simple_value))
    return found


def test_both_logs_say_the_same(tmp_path: Path) -> None:
    rows = [row(1), row(2, holdout_loss=0.25, holdout={"a": 0.2, "b/c": 0.3})]
    with MetricsLog(tmp_path) as log:
        for count, one in enumerate(rows, start=1):
            log.write(one)
            # On disk before the log is closed.
            assert len(read_metrics(tmp_path)) == count
    assert [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == rows
    assert read_metrics(tmp_path) == rows
    found = scalars(tmp_path)
    assert found["loss"] == [(1, 1.0), (2, 0.5)]
    assert found["holdout_loss"] == [(2, 0.25)]
    assert found["holdout/a"] == [(2, pytest.approx(0.2))]
    assert found["holdout/b/c"] == [(2, pytest.approx(0.3))]
    assert "step" not in found


def test_rows_after_the_checkpoint_are_forgotten_everywhere(tmp_path: Path) -> None:
    with MetricsLog(tmp_path) as log:
        for step in range(1, 7):
            log.write(row(step))
    with MetricsLog(tmp_path, 4) as log:
        log.write(row(5, loss=77.0))
        log.write(row(9))
    with MetricsLog(tmp_path, 5):
        pass
    assert read_metrics(tmp_path) == [*[row(step) for step in range(1, 5)], row(5, loss=77.0)]
    expected = [*[(step, pytest.approx(1 / step)) for step in range(1, 5)], (5, 77.0)]
    assert scalars(tmp_path)["loss"] == expected
    # Events that are written anew keep their distances in time.
    times = [event.wall_time for event in events(tmp_path) if event.summary.value][::3]
    assert [time - times[0] for time in times] == pytest.approx([0.0, 2.0, 4.0, 6.0, 8.0])


@pytest.mark.parametrize(
    "torn", ['{"step": 3, "lo', '{"step": 3', "{", "\x00\x00\x00", "[3]", "3", '{"loss": 1}', '{"step": "3"}']
)
def test_a_last_line_that_was_cut_short_is_left_out(tmp_path: Path, torn: str) -> None:
    whole = "".join(json.dumps(row(step)) + "\n" for step in (1, 2))
    (tmp_path / "metrics.jsonl").write_text(whole + torn)
    assert read_metrics(tmp_path) == [row(1), row(2)]
    with MetricsLog(tmp_path, 2) as log:
        log.write(row(3))
    assert read_metrics(tmp_path) == [row(1), row(2), row(3)]


ROWS: list[dict[str, Any]] = [
    {"step": 1, "loss": 5.0},
    {"step": 2, "loss": math.nan, "holdout_loss": None},
    {"step": 3, "holdout_loss": 4.0, "holdout": {"a": 3.0, "b": 5.0}},
    {"step": 4, "loss": 3.0, "holdout_loss": 3.5, "holdout": {"a": 2.5, "b": 4.5}},
]


def test_each_curve_is_drawn_without_what_was_not_measured() -> None:
    (axes,) = losses_figure(ROWS).axes
    assert [line.get_xydata().tolist() for line in axes.lines] == [[[1, 5], [4, 3]], [[3, 4], [4, 3.5]]]
    (band,) = axes.collections
    assert {(3, 3), (4, 2.5), (3, 5), (4, 4.5)} <= {(x, y) for x, y in band.get_paths()[0].vertices}
    assert {"training 3.00", "holdout 3.50"} <= {text.get_text() for text in axes.texts}
    rows = [{"step": step, "holdout_loss": 2.0, "holdout": {"a": 2.0}} for step in (1, 2)]
    (axes,) = losses_figure(rows).axes
    assert [line.get_xydata().tolist() for line in axes.lines] == [[[1, 2], [2, 2]]]


@pytest.mark.parametrize("rows", [ROWS, ROWS[:1], [], [{"step": 1, "loss": math.inf}]])
def test_a_picture_of_anything_is_written(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    draw_losses(rows, tmp_path / "losses.png")
    assert (tmp_path / "losses.png").read_bytes().startswith(b"\x89PNG")
