"""A first version of a table's TOML, guessed from the table's own columns."""

import contextlib
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from trajworld.data.tables import Floats, date_format, numbers_of, read_frame, separator_of
from trajworld.errors import TrajWorldError, UsageError
from trajworld.files import atomic_file

if TYPE_CHECKING:
    import pandas

_LOOKED_AT = 200_000

# What columns of that use are usually called.
_TIMES = r"(time|timestamp|date|datetime|t|seconds|stamp)([_ (\[].*)?"
_EPISODES = r"(episode|run|trial|rollout|trajectory|session)([_ ]?(id|index|number|no))?"
_REWARDS = r"(reward|return)s?"
_DONES = r"(done|terminal|terminated)s?"
_ACTIONS = r"(.*[_ .])?(action|act|command|cmd|control|ctrl|input|setpoint|target|u)([_ .\d(\[].*)?"
_NUMBERS = r"(index|frame|step|row|unnamed: 0|__index_level_0__|frame_index|task_index)s?"


def write_columns(table: Path, path: Path, overwrite: bool = False) -> Path:
    """Write a first version of a table's TOML from its first 200,000 rows, with what was found as comments."""
    if path.exists() and not overwrite:
        raise UsageError(f"{path} exists already: name another file with -o, or replace it with --overwrite")
    separator = separator_of(table)
    frame = read_frame(table, separator, rows=_LOOKED_AT)
    text = "\n".join(_lines(frame, table, separator)) + "\n"
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path


def _lines(frame: "pandas.DataFrame", table: Path, separator: str) -> list[str]:
    names = list(frame)
    plain = {name for name in names if _holds_numbers(frame[name], table)}
    (time, dates, steps), episode = _time(frame, table), _named(names, _EPISODES)
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
        f"# What the columns of {_plain(table.name)} are, one row a time step; guessed from their names: check it."
    ]
    said = {
        "hold no numbers: leave them out, or code them as numbers first": [n for n in rest if n not in plain],
        "do not vary in the rows that were read: of no use": [
            n for n in numbers if frame[n].nunique(dropna=True) < 2
        ],
        "have missing values": [n for n in numbers if frame[n].isna().any()],
        "number the rows: left out": [n for n in names if _is(n, _NUMBERS) and n not in (time, episode)],
    }
    lines += [f"# {what}: {', '.join(map(_plain, some))}" for what, some in said.items() if some]
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
        steps = steps[np.isfinite(steps) & (steps > 0)]
        period = float(f"{np.median(steps):.6g}") if len(steps) else 0.0
        lines += [f"time = {_text(time)}", f"period = {period}  # between two rows; dates: in seconds"]
        if "%m" in dates:
            first = json.dumps(dates.find("%d") < dates.find("%m"))
            lines.append(f"dayfirst = {first}  # whether 3/2/2026 is the third of February")
        lines.append("gap = 1.5  # a longer step, in periods, begins an episode")
    for key, name in (("episode", episode), ("done", done)):
        lines.append(f"{key} = {_text(name)}" if name else f'# {key} = "COLUMN"')
    lines.append("longest = 1000  # transitions of an episode; a longer one is cut, without loss")
    lines.append('missing = "cut"  # missing values end an episode; "hold" repeats the last value')
    return lines + ([f"separator = {_text(separator)}"] if separator != "," else [])


def _time(frame: "pandas.DataFrame", table: Path) -> tuple[str, str, Floats]:
    """The first column of times, by its name or else by its type: its name, its dates' format, and its steps.

    Its name is empty where there is none.
    """
    dated = [name for name in frame if frame[name].dtype.kind in "mM"]
    for name in [*(name for name in frame if _is(name, _TIMES)), *dated]:
        with contextlib.suppress(TrajWorldError):  # Text.
            dates = date_format(frame[name])
            return name, dates, np.diff(numbers_of(frame[name], table, dates))
    return "", "", np.empty(0)


def _holds_numbers(column: "pandas.Series[Any]", table: Path) -> bool:
    """Whether the reader takes a column as numbers: a missing one may make it objects for pandas."""
    with contextlib.suppress(TrajWorldError):
        return column.dtype.kind not in "mM" and bool(np.isfinite(numbers_of(column, table)).any())
    return False


def _is(name: str, pattern: str) -> bool:
    return re.fullmatch(pattern, name.strip().lower()) is not None


def _named(names: list[str], pattern: str) -> str:
    return next((name for name in names if _is(name, pattern)), "")


def _text(value: str | list[str]) -> str:
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _plain(name: str) -> str:
    """A name for a comment, which ends at a line break."""
    return _text(name)[1:-1]
