"""Cells, the single measurements of studies, and the store that keeps those that are finished."""

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from trajworld.errors import TrajWorldError
from trajworld.files import atomic_file, json_digest, read_json, write_json

Row = dict[str, Any]


@dataclass(frozen=True)
class Result:
    """The result of a task.

    ``rows`` hold JSON values by column; a number that is not finite is kept as null. ``files`` belong to them, such as
    weights: contents by suffix (``.keras``). ``origin`` says ``backend`` and ``device``, where another process than the
    task's computed.
    """

    rows: Sequence[Row]
    files: Mapping[str, bytes] = field(default_factory=dict)
    origin: Mapping[str, str] = field(default_factory=dict)


Task = Callable[[Mapping[str, Any], Mapping[str, str]], Result | Sequence[Row]]
"""A plain function of a module, from a cell's settings and places to its rows."""


@dataclass(frozen=True, eq=False)
class Cell:
    """One measurement.

    Attributes:
        task: The function that measures; its name is part of the key, so a task whose numbers change gets another name.
        settings: All that the numbers depend on, as JSON values; data and weights by the digest of their contents.
        places: Where those lie on this machine; not part of the key. A task also finds the store's folder there.
        labels: What a table calls these, such as a dataset's name; not part of the key either.
    """

    task: Task
    settings: Mapping[str, Any]
    places: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def key(self) -> str:
        """The cell's identity: a SHA-256 of the task's name and the settings."""
        text = json.dumps([self.task.__name__, self.settings], sort_keys=True, allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()[:20]

    def __str__(self) -> str:
        known = {**self.labels, **self.settings}.items()
        shown = [f"{name} {value}" for name, value in known if isinstance(value, str | int | float)]
        return f"{self.task.__name__}: {', '.join(shown)}"


class Store:
    """A folder of finished cells, shared by all studies: ``KEY.json``, and ``KEY.*`` for a cell's files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._read: dict[str, dict[str, Any]] = {}

    def get(self, cell: Cell) -> dict[str, Any] | None:
        """The record of a finished cell, or None: ``task``, ``settings``, ``rows`` and ``origin``, what ran it."""
        path = self.file(cell.key, ".json")
        if cell.key not in self._read and path.is_file():
            record = read_json(path)
            if (
                record.pop("digest", None) != json_digest(record)
                or not {"task", "settings", "rows", "origin"} <= record.keys()
            ):
                raise TrajWorldError(f"{path} is not the record of a finished cell, or is damaged: remove it")
            self._read[cell.key] = record
        return self._read.get(cell.key)

    def put(self, cell: Cell, result: Result, origin: Mapping[str, Any]) -> None:
        """Keep a finished cell, atomically: its files first, its rows last."""
        for suffix, content in result.files.items():
            with atomic_file(self.file(cell.key, suffix)) as temporary:
                temporary.write_bytes(content)
        record = {"task": cell.task.__name__, "settings": cell.settings}
        record |= {"rows": plain(result.rows), "origin": origin}
        write_json(self.file(cell.key, ".json"), {**record, "digest": json_digest(record)})

    def file(self, key: str, suffix: str) -> Path:
        """Where a cell's file is or would be."""
        return self.folder / f"{key}{suffix}"

    def table(self, cells: Iterable[Cell]) -> pd.DataFrame:
        """The tidy table of the finished ones of ``cells``, in their order: labels and settings beside each row.

        Settings that are lists or tables are left out; ``cell`` is the key.
        """
        rows: list[Row] = []
        for cell in cells:
            if record := self.get(cell):
                known = {**cell.labels, **record["settings"]}.items()
                settings = {name: value for name, value in known if not isinstance(value, list | dict)}
                rows += [
                    {"task": record["task"], **settings, **row, "cell": cell.key} for row in record["rows"]
                ]
        return pd.DataFrame(rows)


def plain(value: Any) -> Any:
    """JSON values: NumPy scalars as numbers; numbers that are not finite, and what is missing, as null."""
    if isinstance(value, Mapping):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if hasattr(value, "item"):
        value = value.item()
    return None if value is pd.NA or (isinstance(value, float) and not math.isfinite(value)) else value
