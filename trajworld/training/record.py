"""What a run directory says of itself: its record and its log, as JSON lines and for TensorBoard."""

import contextlib
import itertools
import json
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from trajworld.errors import TrajWorldError
from trajworld.files import atomic_file, read_json

CONFIG, RECORD, METRICS, BOARD = "config.toml", "run.json", "metrics.jsonl", "tensorboard"


def is_run(path: Path) -> bool:
    """Whether a directory is a run."""
    return (path / CONFIG).is_file()


def read_record(path: Path) -> dict[str, Any]:
    """A run's ``run.json``: kind, versions, backend, device, datasets, and where it was ``resumed``, on what."""
    record = read_json(path / RECORD)
    if record.get("kind") not in ("pretrain", "train"):
        raise TrajWorldError(f"{path / RECORD} does not say whether the run is pretrain or train")
    found = {"layout": {}, "resumed": [], **record}
    types = {"datasets": list, "resumed": list, "versions": dict, "layout": dict}
    whole = all(isinstance(found.get(name), type_) for name, type_ in types.items())
    if not whole or not all(isinstance(dataset, dict) for dataset in found["datasets"]):
        raise TrajWorldError(f"{path / RECORD} does not say what the run was trained on: restore it")
    return record


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """The rows of a run's ``metrics.jsonl``; a last line that a crash cut short is left out."""
    path, rows = run / METRICS, []
    if not path.is_file():
        return []
    with contextlib.suppress(ValueError, AttributeError, KeyError, RecursionError):
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            row = json.loads(line)
            groups = [one if isinstance(one, dict) else {"": one} for one in row.values()]
            numbers = itertools.chain.from_iterable(group.values() for group in groups)
            if not isinstance(row["step"], int) or not all(isinstance(one, int | float) for one in numbers):
                break
            rows.append(row)
    return rows


def distinct(names: Sequence[str]) -> list[str]:
    """The names under which the log has the datasets' losses: numbered where one occurs twice."""
    return [f"{name}#{number}" if names.count(name) > 1 else name for number, name in enumerate(names)]


class MetricsLog:
    """Appends rows of metrics; use as a context manager."""

    def __init__(self, run: Path, step: int = 0) -> None:
        """Open the logs of a run, forgetting rows after ``step``: they will be written again."""
        from tensorboardX.event_file_writer import EventsWriter

        self._run = run
        kept = [row for row in read_metrics(run) if row["step"] <= step]
        with _file_errors(run):
            with atomic_file(run / METRICS) as temporary:
                temporary.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
            # Written anew from the rows: a killed run had events that it had not written yet.
            shutil.rmtree(run / BOARD, ignore_errors=True)
            (run / BOARD).mkdir()
            # Not a SummaryWriter: it hands events to a thread, and waits forever once a full disk has ended that.
            self._board = EventsWriter(os.fspath(run / BOARD / "events"))
            now = time.time()
            for row in kept:
                self._write_events(row, now - (kept[-1].get("seconds", 0.0) - row.get("seconds", 0.0)))
            self._board.flush()

    def write(self, row: dict[str, Any]) -> None:
        """Append one row: ``step`` and any numbers; a nested mapping becomes one TensorBoard group."""
        with _file_errors(self._run):
            with open(self._run / METRICS, "a", encoding="utf-8") as file:
                file.write(json.dumps(row, allow_nan=False) + "\n")
            self._write_events(row, time.time())
            self._board.flush()

    def _write_events(self, row: dict[str, Any], when: float) -> None:
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.summary import scalar

        numbers: dict[str, Any] = {}
        for name, value in row.items():
            group = value if isinstance(value, dict) else {"": value}
            numbers |= {f"{name}/{part}" if part else name: number for part, number in group.items()}
        step = numbers.pop("step")
        for tag, number in numbers.items():
            self._board.write_event(Event(wall_time=when, step=step, summary=scalar(tag, number)))

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(self, kind: object, *error: object) -> None:
        # On a full disk closing fails too; the first error says why.
        with contextlib.suppress(*[TrajWorldError] * (kind is not None)), _file_errors(self._run):
            self._board.close()


@contextlib.contextmanager
def _file_errors(run: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise TrajWorldError(f"cannot write the log in {run}: {error.strerror or error}") from error
