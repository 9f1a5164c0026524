"""A run's metrics as JSON lines, CSV and TensorBoard, cut back on resumption to what the checkpoint knows."""

import csv
import json
import os
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from tensorboardX import SummaryWriter

from trajworld.files import atomic_file

COLUMNS = ("step", "loss", "holdout_loss", "learning_rate", "steps_per_second", "seconds")
"""The columns of ``metrics.csv``; JSON lines and TensorBoard have each dataset's holdout loss beside."""


class MetricsLog:
    """Appends rows of metrics; use as a context manager."""

    def __init__(self, run: Path, step: int = 0) -> None:
        """Open the logs of a run, forgetting rows after ``step``: they will be written again."""
        self._json_path, self._csv_path = run / "metrics.jsonl", run / "metrics.csv"
        kept = [row for row in read_metrics(run) if row["step"] <= step]
        with atomic_file(self._json_path) as temporary:
            temporary.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
        with (
            atomic_file(self._csv_path) as temporary,
            open(temporary, "w", newline="", encoding="utf-8") as file,
        ):
            writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore")
            writer.writeheader()
            writer.writerows(kept)
        self._json: TextIO = open(self._json_path, "a", encoding="utf-8")  # noqa: SIM115
        self._csv: TextIO = open(self._csv_path, "a", newline="", encoding="utf-8")  # noqa: SIM115
        self._board = SummaryWriter(os.fspath(run / "tensorboard"), purge_step=step + 1 if step else None)

    def write(self, row: dict[str, Any]) -> None:
        """Append one row: ``step`` and any numbers; a nested mapping becomes one TensorBoard group."""
        self._json.write(json.dumps(row) + "\n")
        self._json.flush()
        csv.DictWriter(self._csv, COLUMNS, extrasaction="ignore").writerow(row)
        self._csv.flush()
        for name, value in row.items():
            if isinstance(value, dict):
                for part, number in value.items():
                    self._board.add_scalar(f"{name}/{part}", number, row["step"])
            elif name != "step":
                self._board.add_scalar(name, value, row["step"])

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._json.close()
        self._csv.close()
        self._board.close()


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """The rows of a run's ``metrics.jsonl``; a last line that a crash cut short is left out."""
    path = run / "metrics.jsonl"
    if not path.is_file():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            break
        rows.append(row)
    return rows
