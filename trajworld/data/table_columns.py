"""Which columns of a table are what: a short TOML beside it."""

import math
import tomllib
import types
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from trajworld.errors import UsageError, one_line

_Row = Literal["before", "after"]


@dataclass(frozen=True)
class Columns:
    """What the columns of a table are, and where its episodes end.

    Attributes:
        observation: Columns that are measured.
        action: Columns that are set.
        reward: The reward's column; empty where there is none.
        time: The column of times, numbers or dates; empty if the rows are evenly spaced.
        period: The time between two rows, in the unit of ``time`` (dates: seconds); 0 for the median step.
        episode: The column whose change begins an episode; empty for none.
        done: The column that is not 0 in the last row of an episode, which is terminal if ``reward_row`` is ``after``
            (else the state after its action is, which is not in the table); empty for none.
        gap: A step of more periods than this begins an episode.
        longest: The most transitions of an episode; a longer one is cut, and both pieces have the row at the cut.
        missing: What to do about missing values: ``cut`` ends the episode there, ``hold`` repeats the last value of an
            observation or action.
        action_row: Whether a row's action leads to the row after it (it stands ``before`` its result) or led to it.
        reward_row: The same for the reward.
        separator: The character between columns of a CSV file.
        dayfirst: Whether a date such as 3/2/2026 is the third of February, if the dates are ambiguous.
    """

    observation: tuple[str, ...]
    action: tuple[str, ...] = ()
    reward: str = ""
    time: str = ""
    period: float = 0.0
    episode: str = ""
    done: str = ""
    gap: float = 1.5
    longest: int = 1000
    missing: Literal["cut", "hold"] = "cut"
    action_row: _Row = "before"
    reward_row: _Row = "before"
    separator: str = ","
    dayfirst: bool = False

    @property
    def values(self) -> list[str]:
        """The columns of numbers, in the order of a row."""
        return [*self.observation, *self.action, *([self.reward] if self.reward else [])]

    @property
    def used(self) -> list[str]:
        """All columns that are read, each once."""
        return list(dict.fromkeys([*self.values, *filter(None, (self.time, self.episode, self.done))]))


def columns_path(table: Path) -> Path:
    """Where a table's TOML is looked for: beside it, of the same name."""
    return table.with_suffix(".toml")


def read_columns(path: Path, table: Path) -> Columns:
    """Read the TOML of a table."""
    try:
        given = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(
            f"{path}, which says what {table.name}'s columns are, is missing: `trajworld data columns {table}` writes "
            "a first version for you to check"
        ) from None
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} is not readable TOML: {one_line(error)}") from None
    hints = typing.get_type_hints(Columns)
    if unknown := given.keys() - hints.keys():
        raise UsageError(f"{path}: no key is called {min(unknown)!r}: there is {', '.join(hints)}")
    made = {name: _checked(value, hints[name], f"{path}: {name}") for name, value in given.items()}
    if not made.get("observation"):
        raise UsageError(f"{path}: observation must name at least one column")
    found = Columns(**made)
    numbers = 1 <= found.gap < math.inf and 0 <= found.period < math.inf and found.longest >= 1
    if not numbers or len(found.separator) != 1:
        raise UsageError(
            f"{path}: gap and longest are at least 1, period at least 0, all finite, and separator is one character"
        )
    if twice := [name for name in found.values if found.values.count(name) > 1]:
        raise UsageError(f"{path}: the column {twice[0]!r} is named twice")
    return found


def _checked(value: Any, kind: Any, where: str) -> Any:
    if typing.get_origin(kind) is tuple:
        right = isinstance(value, list) and all(isinstance(one, str) and one for one in value)
        value, wanted = tuple(value) if right else value, "a list of columns' names"
    elif typing.get_origin(kind) is Literal:
        right, wanted = value in typing.get_args(kind), " or ".join(map(repr, typing.get_args(kind)))
    else:
        types_: types.UnionType | type = int | float if kind is float else kind
        right, wanted = isinstance(value, types_) and isinstance(value, bool) == (kind is bool), kind.__name__
    if not right:
        raise UsageError(f"{where} must be {wanted}, not {value!r}")
    return value
