"""Reading tables, CSV or Parquet: one row a time step, in blocks, cut into episodes by a column or by gaps in time."""

import contextlib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from trajworld.data.account import Account
from trajworld.data.episode import Episode, check_episode, no_rewards
from trajworld.data.table_columns import Columns, read_columns
from trajworld.errors import TrajWorldError, UsageError, one_line
from trajworld.files import kind_of_file

if TYPE_CHECKING:
    import pandas

Floats = NDArray[np.float64]

SUFFIXES = (".csv", ".tsv", ".parquet")
_ROWS_AT_ONCE = 65536
# Steps more than this off the period, of all that no gap explains, make a table uneven.
_OFF = 0.5
_UNEVEN = 0.2
_UNRECORDED = "the result of an episode's last action is not in the file"
_MISSING = "a value is missing"
_CUT = "an episode was cut at the longest length"


def read_table(path: Path, toml: Path, account: Account | None = None) -> tuple[Columns, Iterator[Episode]]:
    """Open a table and read its episodes one at a time; see :class:`trajworld.data.table_columns.Columns`.

    Every pair of rows that follow each other in an episode is a transition; where a value is missing in one, it is left
    out and the episode ends. ``account`` is brought up to date as episodes are read; its notes have the sampling
    period, gaps and held values.

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
    return columns, _Reader(path, toml, columns, account or Account()).episodes()


def table_blocks(
    path: Path, names: list[str] | None, separator: str = ",", rows: int = _ROWS_AT_ONCE
) -> Iterator["pandas.DataFrame"]:
    """The named columns of a table (all where None), at most ``rows`` rows at once; a file's fault becomes one line."""
    import pandas as pd

    kind = kind_of_file(path)
    if kind and "Parquet" not in kind:
        raise TrajWorldError(f"{path} is not a readable table: {kind}")
    try:
        if path.suffix == ".parquet":
            from pyarrow import parquet

            for batch in parquet.ParquetFile(path).iter_batches(rows, columns=names):
                yield batch.to_pandas()
        else:
            with pd.read_csv(path, sep=separator, usecols=names, chunksize=rows, low_memory=False) as blocks:
                yield from (block for block in blocks if len(block))
    except (OSError, ValueError, UnicodeError, pd.errors.ParserError) as error:
        raise TrajWorldError(f"{path} is not a readable table: {one_line(error)}") from None


def separator_of(path: Path) -> str:
    """What stands between the columns of a CSV file by its first line; a comma where nothing does."""
    if path.suffix == ".parquet":
        return ","
    with contextlib.suppress(OSError, UnicodeError), open(path, encoding="utf-8-sig") as file:
        line = file.readline(1 << 16)
        return max(",;\t", key=line.count)
    return ","


def seconds_of(column: "pandas.Series[Any]", path: Path) -> Floats:
    """A column of times as numbers: dates as seconds, numbers as they are, NaN where one is missing."""
    import pandas as pd

    if column.dtype.kind in "iuf":
        return column.to_numpy(np.float64, na_value=np.nan)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Of dates that are in no one format.
        dates = pd.to_datetime(column, errors="coerce", utc=True)
    if (wrong := dates.isna() & column.notna()).any():
        _refuse(column, wrong, path, "neither a number nor a date")
    return ((dates - pd.Timestamp(0, tz="UTC")) / pd.Timedelta(seconds=1)).to_numpy(np.float64)


def _refuse(column: "pandas.Series[Any]", wrong: "pandas.Series[Any]", path: Path, what: str) -> None:
    row = int(np.flatnonzero(wrong)[0])
    raise TrajWorldError(
        f"{path}: the column {column.name!r} holds {column.iloc[row]!r} in row {int(column.index[row]) + 1}, {what}: "
        "leave the column out of its TOML, or write numbers there first"
    )


@dataclass
class _Rows:
    """Rows that are read: values ``[n, K]``, times ``[n]``, keys of episodes ``[n]``, and done ``[n]``."""

    values: Floats
    times: Floats
    keys: NDArray[Any]
    done: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.values)

    def since(self, row: int) -> "_Rows":
        return _Rows(self.values[row:], self.times[row:], self.keys[row:], self.done[row:])


@dataclass
class _Reader:
    path: Path
    toml: Path
    columns: Columns
    account: Account
    steps: int = 0
    off: int = 0
    number: int = 0
    seen: set[Any] = field(default_factory=set)

    def episodes(self) -> Iterator[Episode]:
        """Read block after block; the rows of an episode that goes on are kept for the next one."""
        kept: _Rows | None = None
        period = self.columns.period
        blocks, read = table_blocks(self.path, self.columns.used, self.columns.separator), 0
        for frame in blocks:
            frame.index = np.arange(read, read + len(frame))
            read += len(frame)
            rows = self._rows(frame)
            if self.columns.time and not period:
                steps = np.diff(rows.times)
                period = float(np.median(steps[steps > 0])) if (steps > 0).any() else 1.0
            old = 0 if kept is None else len(kept)
            if kept is not None:
                pairs = zip(vars(kept).values(), vars(rows).values(), strict=True)
                rows = _Rows(*(np.concatenate(two) for two in pairs))
            kept = yield from self._cut(rows, old, period)
        if kept is not None:
            yield from self._last(kept)
        if self.steps and self.off > _UNEVEN * self.steps:
            raise TrajWorldError(
                f"{self.path}: {self.off / self.steps:.0%} of the steps are not within half a period of {period:g}: "
                f"give the right `period` in {self.toml}, resample the table evenly first, or leave out `time` to take "
                "each row as a step"
            )

    def _rows(self, frame: "pandas.DataFrame") -> _Rows:
        import pandas as pd

        columns, nothing = self.columns, np.zeros(len(frame))
        values = np.empty((len(frame), len(columns.values)))
        for place, name in enumerate(columns.values):
            column = frame[name]
            if column.dtype.kind not in "iufb":
                numbers = pd.to_numeric(column, errors="coerce")
                if (wrong := numbers.isna() & column.notna()).any():
                    _refuse(column, wrong, self.path, "which is no number")
                column = numbers
            values[:, place] = column.to_numpy(np.float64, na_value=np.nan)
        values[np.isinf(values)] = np.nan
        return _Rows(
            values,
            seconds_of(frame[columns.time], self.path) if columns.time else nothing,
            frame[columns.episode].to_numpy() if columns.episode else nothing,
            frame[columns.done].fillna(0).to_numpy(np.float64) > 0 if columns.done else nothing > 0,
        )

    def _cut(self, rows: _Rows, old: int, period: float) -> Any:
        """Give the episodes that end in these rows, of which the first ``old`` were looked at; return what goes on."""
        columns, account = self.columns, self.account
        new = np.arange(len(rows) - 1) >= old - 1
        changed = rows.keys[1:] != rows.keys[:-1]
        self._check_keys(rows, changed, old)
        natural = ~changed & ~rows.done[:-1]
        if columns.time:
            steps = np.diff(rows.times) / period
            inside = natural & new & np.isfinite(steps)
            gap, close = steps > columns.gap, ~(steps >= _OFF)
            even = inside & (np.abs(steps - 1) <= _OFF)
            lost = np.round(steps[inside & gap]) - 1
            self.steps += int((inside & ~gap).sum() + (inside & gap & (steps < 10)).sum())
            self.off += int((inside & ~even & (steps < 10)).sum())
            account.note(f"values missing in {columns.time}", int((~np.isfinite(rows.times[old:])).sum()))
            account.note(f"rows one period of {period:g} apart", int(even.sum()))
            account.note("rows 10 to 50 % off the period", int((even & (np.abs(steps - 1) > 0.1)).sum()))
            account.note("a gap in time ends an episode", len(lost))
            account.note("rows missing in gaps", int(lost.sum()))
            account.note(
                "the time stands still or goes back, which ends an episode", int((inside & close).sum())
            )
            natural &= ~gap & ~close
        self._hold(rows, natural, old)
        size, actions = len(columns.observation), len(columns.action)
        finite = np.isfinite(rows.values)
        parts = np.split(finite, [size, size + actions], axis=1)
        seen, acted, paid = (np.logical_and.reduce(part, axis=1) for part in parts)
        acted, paid = _of(acted, columns.action_row), _of(paid, columns.reward_row)
        whole = natural & seen[1:] & seen[:-1] & acted & paid
        rewards = self._rewards(rows)
        if (left := new & natural & ~whole).any():
            account.leave_out(_MISSING, rewards[left])
            for name, column in zip(columns.values, finite.T, strict=True):
                account.note(f"values missing in {name}", int((~column[old:]).sum()))
        if columns.action_row == "before" and (ends := new & ~natural).any():
            account.leave_out(_UNRECORDED, _last_rewards(rows, columns, np.flatnonzero(ends)))
        edges = np.flatnonzero(np.diff(np.concatenate([[False], whole, [False]]).astype(np.int8)))
        for begin, end in edges.reshape(-1, 2):
            while end - begin > columns.longest:
                yield self._episode(rows, rewards, begin, begin + columns.longest)
                begin += columns.longest
                account.note(_CUT)
            if end == len(rows) - 1:
                return rows.since(begin)
            yield self._episode(rows, rewards, begin, end)
        return rows.since(len(rows) - 1)

    def _last(self, rows: _Rows) -> Iterator[Episode]:
        if self.columns.action_row == "before":
            self.account.leave_out(_UNRECORDED, _last_rewards(rows, self.columns, np.array([len(rows) - 1])))
        if len(rows) > 1:
            yield self._episode(rows, self._rewards(rows), 0, len(rows) - 1)

    def _episode(self, rows: _Rows, rewards: NDArray[np.floating], begin: int, end: int) -> Episode:
        """The episode of the transitions ``begin`` to ``end - 1``, of which one leads from a row to the next."""
        size, actions = len(self.columns.observation), len(self.columns.action)
        shift = self.columns.action_row == "after"
        # Like the reward, it is said of the action's result.
        terminated = bool(rows.done[end]) and self.columns.reward_row == "after"
        made = Episode(
            rows.values[begin : end + 1, :size],
            rows.values[begin + shift : end + shift, size : size + actions],
            rewards[begin:end],
            terminated=terminated,
            truncated=not terminated,
        )
        self.account.keep(made.rewards)
        self.number += 1
        return check_episode(made, f"{self.path}, episode {self.number - 1}")

    def _rewards(self, rows: _Rows) -> NDArray[np.floating]:
        """Of each transition, ``[n - 1]``; NaN where there are none."""
        if not self.columns.reward:
            return no_rewards(len(rows) - 1)
        return _of(rows.values[:, -1], self.columns.reward_row)

    def _hold(self, rows: _Rows, natural: NDArray[np.bool_], old: int) -> None:
        """Fill what is missing of observations and actions with the value before it in the episode, if asked to."""
        if self.columns.missing != "hold":
            return
        segment = np.concatenate([[0], np.cumsum(~natural)])
        for place, name in enumerate(self.columns.values[: len(rows.values[0]) - bool(self.columns.reward)]):
            column = rows.values[:, place]
            # The newest row that has a value, if it is of the same episode.
            last = np.maximum.accumulate(np.where(np.isfinite(column), np.arange(len(rows)), 0))
            fill = ~np.isfinite(column) & (segment[last] == segment)
            column[fill] = column[last[fill]]
            held = np.isfinite(column) & fill
            self.account.note(f"values held in {name}", int(held[old:].sum()))

    def _check_keys(self, rows: _Rows, changed: NDArray[np.bool_], old: int) -> None:
        if not self.columns.episode:
            return
        begun = rows.keys[1:][changed].tolist() + ([] if old else rows.keys[:1].tolist())
        again = self.seen.intersection(begun)
        if again or len(set(begun)) < len(begun):
            key = next(iter(again), None) or max(begun, key=begun.count)
            raise TrajWorldError(
                f"{self.path}: the rows of episode {key!r} are not together: sort the table by "
                f"{self.columns.episode!r} and time first"
            )
        self.seen.update(begun)


def _of(values: NDArray[Any], row: str) -> NDArray[Any]:
    """Of each transition ``[n - 1]``, the value in the row before it or after it."""
    return values[:-1] if row == "before" else values[1:]


def _last_rewards(rows: _Rows, columns: Columns, places: NDArray[np.int64]) -> NDArray[np.floating]:
    known = columns.reward and columns.reward_row == "before"
    return rows.values[places, -1] if known else no_rewards(len(places))
