"""Reading tables, CSV or Parquet: one row a time step, in blocks, cut into episodes by a column or by gaps in time."""

import contextlib
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
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
_ROWS_AT_ONCE = 65536
# A table is uneven where more than that share of its steps is more than half a period off; long gaps do not count.
_UNEVEN, _LONG_GAP = 0.2, 10
# Columns of rows that are read, after the values.
_TIME, _KEY, _DONE = -3, -2, -1


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
    first = next(table_blocks(path, None, columns.separator, 1), None)
    if first is None:
        raise TrajWorldError(f"{path} has no row")
    there = [str(name) for name in first.columns]
    if lacking := [name for name in columns.used if name not in there]:
        raise UsageError(
            f"{toml} names the column {lacking[0]!r}, which {path.name} has not: it has {', '.join(there)}"
        )
    read = lambda account: _Reader(path, toml, columns, account, columns.period).episodes()  # noqa: E731
    return Source(f"table/{path.stem}", [path, toml], read, names=(*columns.observation, *columns.action))


def table_blocks(
    path: Path, names: list[str] | None, separator: str = ",", rows: int | None = None
) -> Iterator["pandas.DataFrame"]:
    """The named columns of a table (all where None), a block of rows at a time."""
    import pandas as pd

    rows, kind = rows or _ROWS_AT_ONCE, kind_of_file(path)
    if kind and "Parquet" not in kind:
        raise TrajWorldError(f"{path} is not a readable table: {kind}")
    try:
        if path.suffix.lower() == ".parquet":
            from pyarrow import parquet

            for batch in parquet.ParquetFile(path).iter_batches(rows, columns=names):
                yield batch.to_pandas()
        else:
            # All columns are read: of named ones pandas does not say that rows have values beyond the last column.
            options: Any = {"sep": separator, "index_col": False, "chunksize": rows, "low_memory": False}
            with pd.read_csv(path, **options) as blocks:
                while True:
                    with warnings.catch_warnings(action="error", category=pd.errors.ParserWarning):
                        block = next(blocks, None)
                    if block is None:
                        return
                    if len(block):
                        yield block[names or list(block)]
    except pd.errors.ParserWarning:
        raise TrajWorldError(
            f"{path}: a row has more values than the first line has names: give each column a name there"
        ) from None
    except (OSError, ValueError) as error:
        raise TrajWorldError(f"{path} is not a readable table: {one_line(error)}") from None


def separator_of(path: Path) -> str:
    """What stands between the columns of a CSV file by its first line; a comma where nothing does."""
    if path.suffix.lower() != ".parquet":
        with contextlib.suppress(OSError, UnicodeError), open(path, encoding="utf-8") as file:
            line = file.readline(1 << 16)
            return max(",;\t", key=line.count)
    return ","


def date_format(column: "pandas.Series[Any]", dayfirst: bool = False) -> str:
    """The one format, for pandas, that most of a column's dates have; empty where it holds numbers or nothing.

    ISO 8601, or like the first date, of which the day comes before the month where ``dayfirst`` is set or more fit so.
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
    """Dates of a format as seconds; missing where one is of another."""
    import pandas as pd

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


@dataclass
class _Reader:
    path: Path
    toml: Path
    columns: Columns
    account: Account
    period: float
    steps: int = 0
    off: int = 0
    dates: str = ""
    keys: dict[Any, int] = field(default_factory=dict)

    def episodes(self) -> Iterator[Episode]:
        """Read block after block; the rows of an episode that goes on are kept for the next one."""
        kept, read = np.empty((0, len(self.columns.values) + 3)), 0
        for frame in table_blocks(self.path, self.columns.used, self.columns.separator):
            frame.index = np.arange(read, read + len(frame))
            read, old = read + len(frame), len(kept)
            kept = yield from self._cut(np.concatenate([kept, self._rows(frame)]), old, False)
        yield from self._cut(kept, len(kept), True)
        if self.off > _UNEVEN * self.steps:
            raise TrajWorldError(
                f"{self.path}: {self.off / self.steps:.0%} of the steps are not within half a period of "
                f"{self.period:g}: give the right `period` in {self.toml}, resample the table evenly first, or leave "
                "out `time` to take each row as a step"
            )

    def _rows(self, frame: "pandas.DataFrame") -> Floats:
        """``[n, K + 3]``: the values, the time, the number of the episode and whether it is done."""
        columns, rows = self.columns, np.zeros((len(frame), len(self.columns.values) + 3))
        for place, name in enumerate(columns.values):
            rows[:, place] = numbers_of(frame[name], self.path)
        if columns.time:
            # Settled once: guessed of each block, 3/2 could be of March in one and of February in the next.
            self.dates = self.dates or date_format(frame[columns.time], columns.dayfirst)
            rows[:, _TIME] = numbers_of(frame[columns.time], self.path, self.dates)
        if columns.done:
            rows[:, _DONE] = numbers_of(frame[columns.done], self.path) > 0
        if columns.episode:
            codes, found = frame[columns.episode].factorize(use_na_sentinel=False)
            rows[:, _KEY] = np.array([self.keys.setdefault(key, len(self.keys)) for key in found])[codes]
        return rows

    def _cut(self, rows: Floats, old: int, last: bool) -> Any:
        """Give the episodes that end in these rows, of which the first ``old`` were looked at; return what goes on."""
        columns, account = self.columns, self.account
        new = np.arange(len(rows) - 1) >= old - 1
        natural = self._follows(rows, new, old)
        size, actions = len(columns.observation), len(columns.action)
        if columns.missing == "hold":
            self._hold(rows[:, : size + actions], natural, old)
        finite = np.isfinite(rows[:, :_TIME])
        parts = np.split(finite, [size, size + actions], axis=1)
        seen, acted, paid = (np.logical_and.reduce(part, axis=1) for part in parts)
        acted, paid = _of(acted, columns.action_row), _of(paid, columns.reward_row)
        whole = natural & seen[1:] & seen[:-1] & acted & paid
        rewards = _of(rows[:, size + actions], columns.reward_row) if columns.reward else no_rewards(len(new))
        if (left := new & natural & ~whole).any():
            account.leave_out("a value is missing", rewards[left])
            for name, column in zip(columns.values, finite.T, strict=True):
                account.note(f"values missing in {name}", int((~column[old:]).sum()))
        # What a row says of the step that follows it is lost with the row after an episode's last.
        known = columns.reward and columns.reward_row == "before"
        forward = known or (columns.action and columns.action_row == "before")
        if forward and (ends := np.append(new & ~natural, last)).any():
            account.leave_out(UNRECORDED, rows[ends, size + actions] if known else no_rewards(ends.sum()))
        edges = np.flatnonzero(np.diff(np.concatenate([[False], whole, [False]]).astype(np.int8)))
        for begin, end in edges.reshape(-1, 2):
            while end - begin > columns.longest:
                yield self._episode(rows, rewards, begin, begin + columns.longest)
                begin += columns.longest
                account.note("an episode was cut at the longest length")
            if end == len(rows) - 1 and not last:
                return rows[begin:]
            yield self._episode(rows, rewards, begin, end)
        return rows[-1:]

    def _follows(self, rows: Floats, new: NDArray[np.bool_], old: int) -> NDArray[np.bool_]:
        """Of each two rows, whether the second follows the first in one episode; notes what the times are like."""
        columns, note, changed = self.columns, self.account.note, np.diff(rows[:, _KEY])
        if (changed < 0).any():
            raise TrajWorldError(
                f"{self.path}: the rows of an episode are not together: sort the table by {columns.episode!r} and time"
            )
        natural = (changed == 0) & (rows[:-1, _DONE] == 0)
        if not columns.time:
            return natural
        steps = np.diff(rows[:, _TIME])
        if not self.period:
            self.period = float(np.median(steps[steps > 0])) if (steps > 0).any() else 1.0
        steps = steps / self.period
        gap, close, inside = steps > columns.gap, ~(steps >= 0.5), natural & new & np.isfinite(steps)
        even, counted = inside & (np.abs(steps - 1) <= 0.5), inside & (steps < _LONG_GAP)
        self.steps, self.off = self.steps + int(counted.sum()), self.off + int((counted & ~even).sum())
        note(f"values missing in {columns.time}", int(np.isnan(rows[old:, _TIME]).sum()))
        note(f"rows one period of {self.period:g} apart", int(even.sum()))
        note("rows 10 to 50 % off the period", int((even & (np.abs(steps - 1) > 0.1)).sum()))
        note("a gap in time ends an episode", int((inside & gap).sum()))
        note("rows missing in gaps", int((np.round(steps[inside & gap]) - 1).sum()))
        note("the time stands still or goes back, which ends an episode", int((inside & close).sum()))
        return natural & ~gap & ~close

    def _hold(self, values: Floats, natural: NDArray[np.bool_], old: int) -> None:
        """Fill what is missing with the value before it in the episode."""
        import pandas as pd

        segment = np.concatenate([[0], np.cumsum(~natural)])
        held = pd.DataFrame(values).groupby(segment).ffill().to_numpy()
        filled = (np.isfinite(held) & np.isnan(values))[old:].sum(axis=0)
        for name, count in zip(self.columns.values, filled, strict=False):
            self.account.note(f"values held in {name}", int(count))
        values[:] = held

    def _episode(self, rows: Floats, rewards: NDArray[Any], begin: int, end: int) -> Episode:
        """The episode of the transitions ``begin`` to ``end - 1``, of which one leads from a row to the next."""
        size, actions = len(self.columns.observation), len(self.columns.action)
        shift = self.columns.action_row == "after"
        # Like the reward, the end is said of the action's result.
        done = bool(rows[end, _DONE]) and self.columns.reward_row == "after"
        acted = rows[begin + shift : end + shift, size : size + actions]
        made = Episode(rows[begin : end + 1, :size], acted, rewards[begin:end], done, not done)
        self.account.keep(made.rewards)
        return check_episode(made, f"{self.path}, episode {self.account.episodes - 1}")


def _of(values: NDArray[Any], row: str) -> NDArray[Any]:
    """Of each transition ``[n - 1]``, the value in the row before it or after it."""
    return values[:-1] if row == "before" else values[1:]
