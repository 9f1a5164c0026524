"""Reading tables, CSV or Parquet: one row a time step, cut into episodes by a column or by gaps in time."""

import contextlib
import re
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from trajworld.data.account import UNRECORDED, Account
from trajworld.data.episode import Episode, check_episode, no_rewards
from trajworld.data.source import Source
from trajworld.data.table_columns import Columns, read_columns
from trajworld.errors import TrajWorldError, UsageError, one_line
from trajworld.files import kind_of_file

if TYPE_CHECKING:
    import pandas

Floats = NDArray[np.float64]

SUFFIXES = (".csv", ".tsv", ".parquet")
# A table is uneven if more than this share of its steps is more than half a period off; long gaps do not count.
_UNEVEN, _LONG_GAP = 0.2, 10


def read_table(path: Path, toml: Path) -> Source:
    """Open a table whose columns a TOML describes; see :class:`trajworld.data.table_columns.Columns`.

    Two rows that follow each other in an episode are a transition; where a value is missing in one, it is left out and
    the episode ends. The account's notes have the sampling period, gaps and held values.

    Raises:
        UsageError: The TOML is missing or wrong, or names a column that is not there.
        TrajWorldError: The table cannot be read; while reading, that a column holds no numbers, the steps are uneven,
            or the rows of an episode are not together.
    """
    columns = read_columns(toml, path)
    there = list(read_frame(path, columns.separator, rows=1))
    if lacking := [name for name in columns.used if name not in there]:
        raise UsageError(
            f"{toml} names the column {lacking[0]!r}, which {path.name} has not: it has {', '.join(there)}"
        )
    read = partial(_read_episodes, path, toml, columns)
    given = path.stem, f"table/{path.stem}", path, [path, toml], read
    return Source(*given, names=(*columns.observation, *columns.action))


def read_frame(
    path: Path, separator: str = ",", names: list[str] | None = None, rows: int | None = None
) -> "pandas.DataFrame":
    """The named columns of a table (all where None), or of its first rows; an error where there is no row."""
    import pandas as pd

    kind = kind_of_file(path)
    if kind and "Parquet" not in kind:
        raise TrajWorldError(f"{path} is not a readable table: {kind}")
    try:
        if path.suffix.lower() == ".parquet":
            from pyarrow import parquet

            with parquet.ParquetFile(path) as file:
                none = file.schema_arrow.empty_table()
                table = next(file.iter_batches(rows, columns=names), none) if rows else file.read(names)
            # Without pandas' own metadata, the index of a data frame is a column like the others.
            frame = table.to_pandas(ignore_metadata=True)
        else:
            # All columns are read: of named ones pandas does not say that rows have values beyond the last column.
            with warnings.catch_warnings(action="error", category=pd.errors.ParserWarning):
                frame = pd.read_csv(path, sep=separator, index_col=False, nrows=rows, low_memory=False)
            frame = frame[names or list(frame)]
    except pd.errors.ParserWarning:
        raise TrajWorldError(
            f"{path}: a row has more values than the first line has names: give each column a name there"
        ) from None
    except (OSError, ValueError) as error:
        raise TrajWorldError(f"{path} is not a readable table: {one_line(error)}") from None
    if len(twice := frame.columns[frame.columns.duplicated()]):
        raise TrajWorldError(f"{path} has two columns called {twice[0]!r}: rename one")
    if frame.empty:
        raise TrajWorldError(f"{path} has no row")
    return frame


def separator_of(path: Path) -> str:
    """The separator of a CSV file, by its first line; a comma if that has none."""
    if path.suffix.lower() != ".parquet":
        with contextlib.suppress(OSError, UnicodeError), open(path, encoding="utf-8") as file:
            line = file.readline(1 << 16)
            return max(",;\t", key=line.count)
    return ","


def date_format(column: "pandas.Series[Any]", dayfirst: bool = False) -> str:
    """The one format, for pandas, that most of a column's dates have; empty where it holds numbers or nothing.

    ISO 8601, or the first date's, with the day before the month if ``dayfirst`` is set or more dates fit so.
    """
    from pandas.tseries.api import guess_datetime_format

    texts = column.dropna()
    if column.dtype.kind in "iufb" or texts.empty:
        return ""
    # The guess knows two digits and early hours AM alone; the format then reads all.
    first = re.sub(r"\b(\d)\b", r"0\1", str(texts.iloc[0]))
    first = re.sub(r"\b\d\d(:.*)[AaPp][Mm]$", r"01\1AM", first)
    with warnings.catch_warnings(action="ignore"):  # That a day comes first.
        guesses = [guess_datetime_format(first, dayfirst=one) or "mixed" for one in (dayfirst, True)]
    return max("ISO8601", *guesses, key=lambda one: _seconds(texts, one).notna().sum())


def _seconds(dates: "pandas.Series[Any]", form: str) -> "pandas.Series[Any]":
    """Dates of a format, or lengths of time, as seconds; missing where one is of another format."""
    import pandas as pd

    if dates.dtype.kind == "m":
        return dates.dt.total_seconds()
    found: Any = pd.to_datetime(dates, errors="coerce", utc=True, format=form)
    return (found - pd.Timestamp(0, tz="UTC")) / pd.Timedelta(seconds=1)


def numbers_of(column: "pandas.Series[Any]", path: Path, dates: str = "") -> Floats:
    """A column as numbers, NaN where one is missing; ``dates`` of a format become seconds."""
    import pandas as pd

    found: Any = column
    if column.dtype.kind not in "iufb":
        found = _seconds(column, dates) if dates else pd.to_numeric(column, errors="coerce")
        if (wrong := found.isna() & column.notna()).any():
            row = int(np.flatnonzero(wrong)[0])
            raise TrajWorldError(
                f"{path}: the column {column.name!r} holds {column.iloc[row]!r} in row {int(column.index[row]) + 1}, "
                f"which is no {f'date ({dates})' if dates else 'number'}: leave the column out of its TOML, or write "
                f"numbers first{', or set `dayfirst` there' if '%m' in dates else ''}"
            )
    values = found.to_numpy(np.float64, na_value=np.nan)
    return np.where(np.isinf(values), np.nan, values)


def _read_episodes(path: Path, toml: Path, columns: Columns, account: Account) -> Iterator[Episode]:
    frame = read_frame(path, columns.separator, columns.used)
    values = np.stack([numbers_of(frame[name], path) for name in columns.values], axis=1)
    # A missing value does not end an episode.
    done = np.nan_to_num(numbers_of(frame[columns.done], path)) != 0 if columns.done else np.zeros(len(frame))
    natural = _follows(frame, done[:-1] == 0, path, toml, columns, account)
    size, actions = len(columns.observation), len(columns.action)
    if columns.missing == "hold":
        _hold(values[:, : size + actions], natural, columns, account)
    finite = np.isfinite(values)
    parts = np.split(finite, [size, size + actions], axis=1)
    seen, acted, paid = (np.logical_and.reduce(part, axis=1) for part in parts)
    acted, paid = _of(acted, columns.action_row), _of(paid, columns.reward_row)
    whole = natural & seen[1:] & seen[:-1] & acted & paid
    act = _of(values[:, size : size + actions], columns.action_row)
    rewards = _of(values[:, -1], columns.reward_row) if columns.reward else no_rewards(len(whole))
    if (left := natural & ~whole).any():
        account.leave_out("a value is missing", rewards[left])
        for name, column in zip(columns.values, finite.T, strict=True):
            account.note(f"values missing in {name}", int((~column).sum()))
    # The step after an episode's last row is not in the table.
    known = columns.reward and columns.reward_row == "before"
    if known or (columns.action and columns.action_row == "before"):
        ends = np.append(~natural, True)
        account.leave_out(UNRECORDED, values[ends, -1] if known else no_rewards(ends.sum()))
    edges = np.flatnonzero(np.diff(whole, prepend=False, append=False))
    for first, last in edges.reshape(-1, 2):
        account.note("an episode was cut at the longest length", int(last - first - 1) // columns.longest)
        for begin in range(first, last, columns.longest):
            end = min(begin + columns.longest, last)
            # Like the reward, `done` refers to the state after the action.
            over = bool(done[end]) and columns.reward_row == "after"
            made = Episode(values[begin : end + 1, :size], act[begin:end], rewards[begin:end], over, not over)
            account.keep(made.rewards)
            yield check_episode(made, f"{path}, episode {account.episodes - 1}")


def _follows(
    frame: "pandas.DataFrame", natural: Any, path: Path, toml: Path, columns: Columns, account: Account
) -> NDArray[np.bool_]:
    """For each two rows, whether the second follows the first in one episode; notes how even the times are."""
    note = account.note
    if columns.episode:
        try:
            changed = np.diff(frame[columns.episode].factorize(use_na_sentinel=False)[0])
        except TypeError:
            raise TrajWorldError(
                f"{path}: the column {columns.episode!r} holds lists: name another `episode`"
            ) from None
        if (changed < 0).any():
            raise TrajWorldError(
                f"{path}: the rows of an episode are not together: sort the table by {columns.episode!r} and time"
            )
        natural = natural & (changed == 0)
    if not columns.time:
        return natural
    times = numbers_of(frame[columns.time], path, date_format(frame[columns.time], columns.dayfirst))
    steps = np.diff(times)
    period = columns.period or (float(np.median(steps[steps > 0])) if (steps > 0).any() else 1.0)
    steps = steps / period
    gap, close, inside = steps > columns.gap, ~(steps >= 0.5), natural & np.isfinite(steps)
    even, counted = inside & (np.abs(steps - 1) <= 0.5), inside & (steps < _LONG_GAP)
    if (off := (counted & ~even).sum()) > _UNEVEN * counted.sum():
        raise TrajWorldError(
            f"{path}: {off / counted.sum():.0%} of the steps are not within half a period of "
            f"{period:g}: give the right `period` in {toml}, resample the table evenly first, or leave "
            "out `time` to take each row as a step"
        )
    note(f"values missing in {columns.time}", int(np.isnan(times).sum()))
    note(f"rows one period of {period:g} apart", int(even.sum()))
    note("rows 10 to 50 % off the period", int((even & (np.abs(steps - 1) > 0.1)).sum()))
    note("a gap in time ends an episode", int((inside & gap).sum()))
    note("rows missing in gaps", int((np.round(steps[inside & gap]) - 1).sum()))
    note("the time stands still or goes back, which ends an episode", int((inside & close).sum()))
    return natural & ~gap & ~close


def _hold(values: Floats, natural: NDArray[np.bool_], columns: Columns, account: Account) -> None:
    """Fill missing values with the one before in the episode."""
    import pandas as pd

    segment = np.concatenate([[0], np.cumsum(~natural)])
    held = pd.DataFrame(values).groupby(segment).ffill().to_numpy()
    filled = (np.isfinite(held) & np.isnan(values)).sum(axis=0)
    for name, count in zip(columns.values, filled, strict=False):
        account.note(f"values held in {name}", int(count))
    values[:] = held


def _of(values: NDArray[Any], row: str) -> NDArray[Any]:
    """For each transition ``[n - 1]``, the value in the row before or after it."""
    return values[:-1] if row == "before" else values[1:]
