"""What a run directory says of itself, read without a framework."""

import contextlib
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trajworld.errors import TrajWorldError
from trajworld.files import read_json

CONFIG, RECORD, METRICS = "config.toml", "run.json", "metrics.jsonl"


def is_run(path: Path) -> bool:
    """Whether a directory is a run."""
    return (path / CONFIG).is_file()


def read_record(path: Path) -> dict[str, Any]:
    """A run's ``run.json``: kind, versions, backend, device, datasets; ``resumed``, a list of the steps from which it
    went on, each with versions, backend and device, where it did.

    Raises:
        TrajWorldError: It is missing or damaged.
    """
    record = read_json(path / RECORD)
    if not isinstance(record, dict) or record.get("kind") not in ("pretrain", "train"):
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
