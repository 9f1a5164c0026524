"""The log of a run: JSON lines and TensorBoard agree, and are cut back to what a checkpoint knows."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tensorboardX.proto.event_pb2 import Event

from trajworld.errors import TrajWorldError
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
    assert read_metrics(tmp_path) == [*[row(step) for step in range(1, 5)], row(5, loss=77.0)]
    expected = [*[(step, pytest.approx(1 / step)) for step in range(1, 5)], (5, 77.0)]
    assert scalars(tmp_path)["loss"] == expected


def test_events_that_are_written_anew_keep_their_distances_in_time(tmp_path: Path) -> None:
    with MetricsLog(tmp_path) as log:
        for step in (1, 2, 5):
            log.write(row(step))
    with MetricsLog(tmp_path, 5):
        pass
    times = [event.wall_time for event in events(tmp_path) if event.summary.value][::3]
    assert times[1] - times[0] == pytest.approx(2.0)
    assert times[2] - times[1] == pytest.approx(6.0)


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


def test_a_full_disk_is_one_line(tmp_path: Path) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("this system has no /dev/full")
    log = MetricsLog(tmp_path)
    (tmp_path / "metrics.jsonl").unlink()
    (tmp_path / "metrics.jsonl").symlink_to(full)
    with pytest.raises(TrajWorldError, match=r"cannot write the log in .*No space left on device"), log:
        log.write(row(1))
