"""Which columns of a table are what: a short TOML beside it, and a first version of that from the table itself."""

import json
import re
import tomllib
import types
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from trajworld.errors import TrajWorldError, UsageError, one_line
from trajworld.files import atomic_file

if TYPE_CHECKING:
    import pandas

_Row = Literal["before", "after"]
_LOOKED_AT = 200_000

# What columns of that use are usually called.
_TIMES = r"(time|timestamp|date|datetime|t|seconds|stamp)([_ (\[].*)?"
_EPISODES = r"(episode|run|trial|rollout|trajectory|session)([_ ]?(id|index|number|no))?"
_REWARDS = r"(reward|return)s?"
_DONES = r"(done|terminal|terminated)s?"
_ACTIONS = r"(.*[_ .])?(action|act|command|cmd|control|ctrl|input|setpoint|target|u)([_ .\d(\[].*)?"
_NUMBERS = r"(index|frame|step|row|unnamed: 0|frame_index|task_index)s?"


@dataclass(frozen=True)
class Columns:
    """What the columns of a table are, and where its episodes end.

    Attributes:
        observation: Columns that are measured.
        action: Columns that are set.
        reward: The reward's column; empty where there is none.
        time: The column of times, numbers or dates; empty where the rows follow each other evenly.
        period: What lies between two rows, in the unit of ``time`` (dates: seconds); 0 for the median step.
        episode: The column whose change begins an episode; empty for none.
        done: The column that is not 0 in the last row of an episode, which is terminal where ``reward_row`` is
            ``after`` (else what its action led to is, which is not in the table); empty for none.
        gap: A step of more periods than this begins an episode.
        longest: The most transitions of an episode; a longer one is cut, and both pieces have the row at the cut.
        missing: What becomes of missing values: ``cut`` ends the episode there, ``hold`` repeats the last value of an
            observation or action.
        action_row: Whether a row's action leads to the row after it (it stands ``before`` its result) or led to it.
        reward_row: The same for the reward.
        separator: What stands between two columns of a CSV file.
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
    """Read the TOML of a table.

    Raises:
        UsageError: It is not there, is no TOML, or a key is unknown, missing or of a wrong type.
    """
    try:
        given = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(
            f"{path} is not there, which says what {table.name}'s columns are: `trajworld data columns {table}` writes "
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
    if found.gap < 1 or found.longest < 1 or found.period < 0 or len(found.separator) != 1:
        raise UsageError(
            f"{path}: gap and longest are at least 1, period at least 0, and separator is one character"
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
        right, wanted = isinstance(value, types_) and not isinstance(value, bool), kind.__name__
    if not right:
        raise UsageError(f"{where} must be {wanted}, not {value!r}")
    return value


def write_columns(table: Path, path: Path, overwrite: bool = False) -> Path:
    """Write a first version of a table's TOML from its first 200,000 rows, with what was seen as comments.

    Raises:
        UsageError: There is a file already, or the table is none.
        TrajWorldError: The table cannot be read, or no column holds numbers.
    """
    from trajworld.data.tables import separator_of, table_blocks

    if path.exists() and not overwrite:
        raise UsageError(
            f"{path} is there already: name another file with -o, or replace it with --overwrite"
        )
    separator = separator_of(table)
    frame = next(table_blocks(table, None, separator, _LOOKED_AT), None)
    if frame is None:
        raise TrajWorldError(f"{table} has no row")
    text = "\n".join(_lines(frame, table, separator)) + "\n"
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path


def _lines(frame: "pandas.DataFrame", table: Path, separator: str) -> list[str]:
    from trajworld.data.tables import numbers_of

    names = [str(name) for name in frame.columns]
    kinds = {name: frame[name].dtype for name in names}
    plain = {name for name in names if kinds[name].kind in "iufb"}
    time, episode = _named(names, _TIMES), _named(names, _EPISODES)
    reward, done = (_named([n for n in names if n in plain], pattern) for pattern in (_REWARDS, _DONES))
    rest = [n for n in names if n not in (time, episode, reward, done) and not _is(n, _NUMBERS)]
    numbers = [name for name in rest if name in plain]
    action = [name for name in numbers if _is(name, _ACTIONS)]
    observation = [name for name in numbers if name not in action]
    if not observation:
        raise TrajWorldError(
            f"{table}: no column of numbers is left for the observation among {', '.join(names)}"
        )
    lines = [
        f"# What the columns of {table.name} are, one row a time step; guessed from their names: check it."
    ]
    said = {
        "hold no numbers: leave them out, or code them as numbers first": [n for n in rest if n not in plain],
        "do not vary in the rows that were read: of no use": [
            n for n in numbers if frame[n].nunique(dropna=True) < 2
        ],
        "have missing values": [n for n in numbers if frame[n].isna().any()],
        "number the rows: left out": [n for n in names if _is(n, _NUMBERS) and n not in (time, episode)],
    }
    lines += [f"# {what}: {', '.join(some)}" for what, some in said.items() if some]
    lines += [f"observation = {_text(observation)}  # measured", f"action = {_text(action)}  # set by you"]
    if reward:
        lines += [
            f"reward = {_text(reward)}",
            'reward_row = "before"  # "after": it came with the observation',
        ]
    else:
        lines.append('# reward = "COLUMN"  # none: the model is trained and measured on observations alone')
    lines.append(
        'action_row = "before"  # a row\'s action leads to the next row; "after": it led to this one'
    )
    if time:
        steps = np.diff(numbers_of(frame[time], table, times=True))
        steps = steps[np.isfinite(steps) & (steps > 0)]
        period = float(f"{np.median(steps):.6g}") if len(steps) else 0.0
        lines += [f"time = {_text(time)}", f"period = {period}  # between two rows; dates: in seconds"]
        lines.append("gap = 1.5  # a longer step, in periods, begins an episode")
    for key, name in (("episode", episode), ("done", done)):
        lines.append(f"{key} = {_text(name)}" if name else f'# {key} = "COLUMN"')
    lines.append("longest = 1000  # transitions of an episode; a longer one is cut, without loss")
    lines.append('missing = "cut"  # missing values end an episode; "hold" repeats the last value')
    return lines + ([f"separator = {_text(separator)}"] if separator != "," else [])


def _is(name: str, pattern: str) -> bool:
    return re.fullmatch(pattern, name.strip().lower()) is not None


def _named(names: list[str], pattern: str) -> str:
    return next((name for name in names if _is(name, pattern)), "")


def _text(value: str | list[str]) -> str:
    return json.dumps(value, ensure_ascii=False)
