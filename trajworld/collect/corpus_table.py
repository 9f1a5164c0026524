"""The table that says which environments a corpus holds, for what, and how each is collected."""

import csv
import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib import resources
from pathlib import Path
from typing import TypeVar

from trajworld.environments.names import parse_name
from trajworld.errors import TrajWorldError, UsageError
from trajworld.policies.behaviour import BEHAVIOURS

PRETRAIN, UNSEEN = "pre-train", "unseen"
ROLES = (PRETRAIN, UNSEEN)
FIRST_EDITION = "corpus-1"
"""The name of the table that the first ``trajworld-small`` was pre-trained with."""
_COLUMNS = ("environment", "source", "M", "role", "weight", "size", "behaviour", "search", "variants")


@dataclass(frozen=True)
class Row:
    """One environment of a corpus, and the dataset that is collected of it."""

    environment: str  # its canonical name
    source: str  # the group it belongs to
    num_variates: int  # M of its rows
    role: str  # pre-train, or unseen: kept for tests, never trained on
    weight: float  # its share of pre-training's batches, relative to the other rows
    size: float  # its share of the transitions that are asked for of each environment
    behaviour: str  # what acts where no policy does; one of BEHAVIOURS
    search: float  # transitions that a search for policies may use, in thousands; 0 for none
    variants: tuple[str, ...] = ()  # variants with further episodes, each like a name's part after the ?

    @property
    def slug(self) -> str:
        """The environment's name in the letters that a dataset id allows."""
        return parse_name(self.environment).slug

    @property
    def environments(self) -> tuple[str, ...]:
        """The names of the environment itself and of its variants."""
        joint = "&" if "?" in self.environment else "?"
        names = [self.environment, *(f"{self.environment}{joint}{change}" for change in self.variants)]
        return tuple(str(parse_name(name)) for name in names)


@dataclass(frozen=True)
class Member:
    """A dataset of a corpus, whether it is there yet or not: its Minari id, and its row of the table in brief."""

    dataset_id: str
    environment: str
    source: str
    role: str
    weight: float


def read_table(path: str | Path | None = None) -> list[Row]:
    """Read a table (CSV; lines that begin with # are comments), by default the newest that ships with the library;
    ``corpus-1`` is the first edition, which ships too.
    """
    builtin = "corpus" if path is None else FIRST_EDITION if str(path) == FIRST_EDITION else ""
    where = f"the built-in table {builtin}" if builtin else str(path)
    file = resources.files("trajworld.collect") / f"{builtin}.csv" if builtin else Path(str(path))
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise TrajWorldError(f"cannot read the table {path}: {reason}") from None
    lines = [
        (number, [cell.strip() for cell in next(csv.reader([line]))])
        for number, line in enumerate(text.splitlines(), start=1)
        if line.strip() and not line.lstrip().startswith("#")
    ]
    if not lines or tuple(lines[0][1]) != _COLUMNS:
        raise TrajWorldError(f"{where}: its first line must name the columns {', '.join(_COLUMNS)}")
    rows: dict[str, Row] = {}
    for number, values in lines[1:]:
        try:
            row = _row(values)
            if row.slug in rows:
                raise ValueError(f"{row.environment} is there twice")
        except (ValueError, UsageError) as error:
            raise TrajWorldError(f"{where}, line {number}: {error}") from None
        rows[row.slug] = row
    if not rows:
        raise TrajWorldError(f"{where} names no environment")
    return list(rows.values())


_Listed = TypeVar("_Listed", Row, Member)


def select(rows: Sequence[_Listed], patterns: Sequence[str] = (), role: str | None = None) -> list[_Listed]:
    """The rows of a role whose environment or source matches one of the patterns (``robot/*``); all without patterns.

    A ``UsageError`` is raised where a pattern matches no row.
    """

    def fits(row: _Listed, pattern: str) -> bool:
        return fnmatchcase(row.environment, pattern) or fnmatchcase(row.source, pattern)

    of_role = [row for row in rows if role in (None, row.role)]
    for pattern in patterns:
        if not any(fits(row, pattern) for row in of_role):
            kind = "environment or source" if role is None else f"{role} environment or source"
            raise UsageError(
                f"{pattern!r} fits no {kind} of the table: `trajworld data collect-corpus --list` shows it"
            )
    return [row for row in of_role if not patterns or any(fits(row, pattern) for pattern in patterns)]


def source_of(environment: str) -> str:
    """An environment's source in the built-in tables; if in neither, the first part of its name."""
    return _sources().get(environment) or environment.partition("/")[0] or "(not named)"


@functools.cache
def _sources() -> dict[str, str]:
    return {row.environment: row.source for name in (FIRST_EDITION, None) for row in read_table(name)}


def _row(values: Sequence[str]) -> Row:
    if len(values) != len(_COLUMNS):
        raise ValueError(f"{len(values)} values for the {len(_COLUMNS)} columns {', '.join(_COLUMNS)}")
    given = dict(zip(_COLUMNS, values, strict=True))
    name = str(parse_name(given["environment"]))
    if not given["source"]:
        raise ValueError(f"{name} needs a source")
    for column, choices in (("role", ROLES), ("behaviour", BEHAVIOURS)):
        if given[column] not in choices:
            raise ValueError(f"the {column} is one of {', '.join(choices)}, not {given[column]!r}")
    numbers = (_number(column, given[column]) for column in ("M", "weight", "size", "search"))
    num_variates, weight, size, search = numbers
    variants = tuple(given["variants"].split())
    source, role, behaviour = given["source"], given["role"], given["behaviour"]
    row = Row(name, source, int(num_variates), role, weight, size, behaviour, search, variants)
    _ = row.environments  # its variants can be parsed
    return row


def _number(column: str, text: str) -> float:
    if column == "M" and not text.isdecimal():
        raise ValueError(f"M must be a whole number, not {text!r}")
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf or (value == 0 and column != "search"):
        least = "of at least" if column == "search" else "above"
        raise ValueError(f"{column} must be a number {least} 0, not {text!r}")
    return value
