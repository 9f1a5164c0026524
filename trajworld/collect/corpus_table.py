"""The table that says which environments a corpus holds, for what, and how each is collected."""

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib import resources
from pathlib import Path
from typing import Protocol, TypeVar

from trajworld.environments.names import parse_name
from trajworld.errors import TrajWorldError, UsageError
from trajworld.policies.behaviour import BEHAVIOURS

PRETRAIN, UNSEEN = "pre-train", "unseen"
ROLES = (PRETRAIN, UNSEEN)
_COLUMNS = ("environment", "source", "M", "role", "weight", "size", "behaviour", "search", "variants")


@dataclass(frozen=True)
class Row:
    """One environment of a corpus, and the dataset that is collected of it.

    Attributes:
        environment: Its canonical name, see ``trajworld.environments.names``.
        source: The group it belongs to.
        num_variates: M of its rows.
        role: ``pre-train``, or ``unseen``: kept for tests, never trained on.
        weight: Its share of pre-training's batches, relative to the other rows.
        size: Its share of the transitions that are asked for of each environment.
        behaviour: What acts where no policy does; one of ``BEHAVIOURS``.
        search: Transitions that a search for policies may use, in thousands; 0 for none.
        variants: Changes under which further episodes are run, each like a name's part after the question mark.
    """

    environment: str
    source: str
    num_variates: int
    role: str
    weight: float
    size: float
    behaviour: str
    search: float
    variants: tuple[str, ...] = ()

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


def read_table(path: str | Path | None = None) -> list[Row]:
    """Read a table (CSV; lines that begin with # are comments), by default the one that ships with the library.

    Raises:
        TrajWorldError: The file is missing, or a line of it is wrong; the message names both.
    """
    if path is None:
        where, text = (
            "the built-in table",
            (resources.files("trajworld.collect") / "corpus.csv").read_text("utf-8"),
        )
    else:
        where = str(path)
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or error
            raise TrajWorldError(f"cannot read the table {path}: {reason}") from None
    lines = [
        (number, line)
        for number, line in enumerate(text.splitlines(), start=1)
        if line.strip() and not line.lstrip().startswith("#")
    ]
    if not lines:
        raise TrajWorldError(f"{where} holds no line: its first names the columns {', '.join(_COLUMNS)}")
    cells = [[cell.strip() for cell in record] for record in csv.reader(line for _, line in lines)]
    if tuple(cells[0]) != _COLUMNS:
        raise TrajWorldError(f"{where}, line {lines[0][0]}: its columns must be {', '.join(_COLUMNS)}")
    rows: list[Row] = []
    slugs: dict[str, str] = {}
    for (number, _), values in zip(lines[1:], cells[1:], strict=True):
        try:
            row = _row(values)
        except (ValueError, UsageError) as error:
            raise TrajWorldError(f"{where}, line {number}: {error}") from None
        if row.slug in slugs:
            raise TrajWorldError(f"{where}, line {number}: {row.environment} is there twice")
        slugs[row.slug] = row.environment
        rows.append(row)
    if not rows:
        raise TrajWorldError(f"{where} names no environment")
    return rows


class Listed(Protocol):
    """What stands for an environment of a corpus: a row of its table, or a dataset that was made of it."""

    @property
    def environment(self) -> str:
        """Its name."""
        ...

    @property
    def source(self) -> str:
        """The group it belongs to."""
        ...

    @property
    def role(self) -> str:
        """``pre-train`` or ``unseen``."""
        ...


_L = TypeVar("_L", bound=Listed)


def select(rows: Sequence[_L], patterns: Sequence[str] = (), role: str | None = None) -> list[_L]:
    """The rows of a role whose environment or source one of the patterns (``robot/*``) fits; all without patterns.

    Raises:
        UsageError: A pattern fits no row.
    """
    of_role = [row for row in rows if role in (None, row.role)]
    if not patterns:
        return of_role
    fits = {
        pattern: {
            row.environment
            for row in of_role
            if fnmatchcase(row.environment, pattern) or fnmatchcase(row.source, pattern)
        }
        for pattern in patterns
    }
    if nothing := [pattern for pattern, found in fits.items() if not found]:
        kind = "environment or source" if role is None else f"{role} environment or source"
        raise UsageError(
            f"{nothing[0]!r} fits no {kind} of the table: `trajworld data collect-corpus --list` shows it"
        )
    chosen = set().union(*fits.values())
    return [row for row in of_role if row.environment in chosen]


def _row(values: Sequence[str]) -> Row:
    if len(values) != len(_COLUMNS):
        raise ValueError(f"{len(values)} values for the {len(_COLUMNS)} columns {', '.join(_COLUMNS)}")
    given = dict(zip(_COLUMNS, values, strict=True))
    name = str(parse_name(given["environment"]))
    if not given["source"]:
        raise ValueError(f"{name} needs a source")
    if given["role"] not in ROLES:
        raise ValueError(f"the role is {' or '.join(ROLES)}, not {given['role']!r}")
    if given["behaviour"] not in BEHAVIOURS:
        raise ValueError(f"the behaviour is one of {', '.join(BEHAVIOURS)}, not {given['behaviour']!r}")
    row = Row(
        environment=name,
        source=given["source"],
        num_variates=int(_number(given, "M", 1.0, whole=True)),
        role=given["role"],
        weight=_number(given, "weight", 0.0, above=True),
        size=_number(given, "size", 0.0, above=True),
        behaviour=given["behaviour"],
        search=_number(given, "search", 0.0),
        variants=tuple(given["variants"].split()),
    )
    _ = row.environments
    return row


def _number(
    given: dict[str, str], column: str, least: float, *, above: bool = False, whole: bool = False
) -> float:
    try:
        value = float(given[column])
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= least and not (above and value == least)) or (
        whole and value != int(value)
    ):
        kind = "whole number" if whole else "number"
        raise ValueError(
            f"{column} must be a {kind} {'above' if above else 'of at least'} {least:g}, not {given[column]!r}"
        )
    return value
