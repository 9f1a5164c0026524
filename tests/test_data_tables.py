"""Tables: episodes against a walk over the rows one at a time, and what is said of files that are not in order."""

import itertools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from trajworld.data.account import UNRECORDED, Account
from trajworld.data.column_guesses import write_columns
from trajworld.data.resolve import open_dataset
from trajworld.data.table_columns import Columns, read_columns
from trajworld.data.tables import read_table
from trajworld.errors import TrajWorldError

pytestmark = pytest.mark.once

VALUES = ["a", "b", "u", "r"]


def log(rows: int, seed: int) -> pd.DataFrame:
    """Rows a second apart, of several runs, with gaps, missing values, and dones."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(rng.normal(size=(rows, 4)), columns=VALUES)
    frame = frame.mask(rng.random(frame.shape) < 0.03)
    frame["run"] = np.cumsum(rng.random(rows) < 0.05) + 7
    frame["done"] = (rng.random(rows) < 0.03).astype(int)
    steps = rng.choice([1.0, 1.1, 4.0, 30.0], rows, p=[0.8, 0.15, 0.02, 0.03])
    return frame.assign(t=np.cumsum(steps))


def walk(frame: pd.DataFrame, columns: Columns) -> list[tuple[list[int], pd.DataFrame]]:
    """The numbers of the rows of each episode, and the table with its values held, by walking from row to row."""

    def follows(i: int) -> bool:
        before, row = frame.iloc[i - 1], frame.iloc[i]
        near = 0.5 <= row["t"] - before["t"] <= columns.gap
        return bool(near and row["run"] == before["run"] and not before["done"])

    filled = frame.copy()
    for i, name in itertools.product(range(1, len(frame)), VALUES[:3]):
        if columns.missing == "hold" and follows(i) and np.isnan(filled.at[i, name]):
            filled.at[i, name] = filled.at[i - 1, name]
    found, current = [], [0]
    for i in range(1, len(frame)):
        acted = filled.at[i - (columns.action_row == "before"), "u"]
        paid = filled.at[i - (columns.reward_row == "before"), "r"] if columns.reward else 0.0
        values = [acted, paid, *filled.loc[i - 1 : i, ["a", "b"]].to_numpy().ravel()]
        if not (follows(i) and np.isfinite(values).all()):
            found.append(current)
            current = []
        current.append(i)
        if len(current) == columns.longest + 1:
            found.append(current)
            current = [i]
    return [(rows, filled) for rows in [*found, current] if len(rows) > 1]


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
@pytest.mark.parametrize(
    ("seed", "options"),
    [
        (0, {}),
        (1, {"missing": "hold"}),
        (2, {"action_row": "after", "reward_row": "after"}),
        (3, {"longest": 5, "reward": ""}),
        (4, {"longest": 1, "missing": "hold", "reward_row": "after", "gap": 5.0}),
    ],
)
def test_episodes_equal_a_walk_over_the_rows(
    tmp_path: Path, suffix: str, seed: int, options: dict[str, Any]
) -> None:
    frame, path = log(300, seed), tmp_path / f"log{suffix}"
    frame.to_csv(path, index=False) if suffix == ".csv" else frame.to_parquet(path)
    given = {"reward": "r", "time": "t", "period": 1.0, "episode": "run", "done": "done", **options}
    columns = Columns(("a", "b"), ("u",), **given)
    (tmp_path / "log.toml").write_text(
        'observation = ["a", "b"]\naction = ["u"]\n'
        + "".join(f"{name} = {value!r}\n" for name, value in given.items())
    )
    account = Account()
    assert read_columns(tmp_path / "log.toml", path) == columns
    source = read_table(path, tmp_path / "log.toml")
    expected, found = walk(frame, columns), list(source.episodes(account))
    assert len(found) == len(expected) > 5
    for episode, (rows, filled) in zip(found, expected, strict=True):
        part = filled.iloc[rows]
        np.testing.assert_array_equal(episode.observations, part[["a", "b"]])
        after = {"before": slice(None, -1), "after": slice(1, None)}
        np.testing.assert_array_equal(episode.actions, part[["u"]][after[columns.action_row]])
        if columns.reward:
            np.testing.assert_array_equal(episode.rewards, part["r"][after[columns.reward_row]])
            assert episode.terminated == (columns.reward_row == "after" and part["done"].iloc[-1] == 1)
        else:
            assert not episode.rewarded
    assert account.kept == sum(len(rows) - 1 for rows, _ in expected)
    assert account.transitions == account.kept + sum(count for count, _ in account.left_out.values())
    assert account.transitions == len(frame) or columns.action_row == "after"


@pytest.mark.parametrize(
    ("given", "lost"),
    [
        ({}, (2, 0.0)),
        ({"reward": "r", "reward_row": "after"}, (2, 0.0)),
        ({"reward": "r", "reward_row": "before"}, (2, 11.0)),
        ({"reward": "r", "reward_row": "before", "action_row": "after"}, (2, 11.0)),
        ({"reward": "r", "reward_row": "after", "action_row": "after"}, None),
        ({"action": ()}, None),
    ],
)
def test_what_the_last_row_of_an_episode_says_is_accounted(
    tmp_path: Path, given: dict[str, Any], lost: tuple[int, float] | None
) -> None:
    frame = pd.DataFrame({"a": np.arange(6.0), "u": 1.0, "r": [1, 2, 3, 4, 5, 8], "run": [1, 1, 1, 2, 2, 2]})
    frame.to_csv(tmp_path / "log.csv", index=False)
    columns = {"observation": ("a",), "action": ("u",), "episode": "run", **given}
    (tmp_path / "log.toml").write_text(
        "".join(
            f"{name} = {list(value) if isinstance(value, tuple) else repr(value)}\n"
            for name, value in columns.items()
        )
    )
    account = Account()
    episodes = list(read_table(tmp_path / "log.csv", tmp_path / "log.toml").episodes(account))
    assert [len(one) for one in episodes] == [2, 2]
    assert account.left_out == ({} if lost is None else {UNRECORDED: lost})


def test_a_first_version_of_the_toml_is_written_and_read(tmp_path: Path) -> None:
    frame = pd.DataFrame(
        {
            "Date": pd.date_range("2026-03-01", periods=50, freq="30s").astype(str),
            "level [m]": np.linspace(0, 1, 50),
            "pump_cmd": np.arange(50) % 3,
            "mode": "auto",
            "run": np.arange(50) // 25,
            "reward": 1.0,
            'quo"te\u00e9': np.arange(50.0),
        }
    )
    frame.to_csv(tmp_path / "log.csv", index=False, sep=";")
    path = write_columns(tmp_path / "log.csv", tmp_path / "log.toml")
    assert "hold no numbers: leave them out, or code them as numbers first: mode" in path.read_text("utf-8")
    columns = read_columns(path, tmp_path / "log.csv")
    observation = ("level [m]", 'quo"te\u00e9')
    wanted = Columns(observation, ("pump_cmd",), "reward", "Date", 30.0, "run", separator=";")
    assert columns == wanted
    dataset = open_dataset(tmp_path / "log.csv")
    assert dataset.transitions_per_episode.tolist() == [24, 24]
    assert dataset.account is not None
    assert dataset.account.notes["rows one period of 30 apart"] == 48


@pytest.mark.parametrize(
    ("form", "dayfirst"),
    [("%d/%m/%Y %H:%M", "true"), ("%-m/%-d/%Y %-I:%M:%S %p", "false"), ("ISO with fractions", None)],
)
def test_dates_are_of_one_format(tmp_path: Path, form: str, dayfirst: str | None) -> None:
    times = pd.date_range("2026-02-10", periods=60, freq="12h")
    written = times.strftime(form) if dayfirst else [f"{one}{'.00' * (one.day % 2)}" for one in times]
    frame = pd.DataFrame({"time": written, "a": np.arange(60.0), "u": 1.0})
    frame.to_csv(path := tmp_path / "log.csv", index=False)
    toml = write_columns(path, tmp_path / "log.toml")
    assert (f"dayfirst = {dayfirst}" in toml.read_text()) == bool(dayfirst)
    (episode,) = read_table(path, toml).episodes(Account())
    np.testing.assert_array_equal(episode.observations[:, 0], frame["a"])


def test_values_beyond_the_first_line_are_dropped_where_empty_and_refused_else(tmp_path: Path) -> None:
    path, toml = tmp_path / "log.CSV", tmp_path / "log.toml"
    toml.write_text('observation = ["a"]\naction = ["u"]\n')
    path.write_text("a,u,b\n1,2,3,\n4,5,6,\n")
    assert open_dataset(path).rows[:, 0].tolist() == [1, 4]
    for rows in ("0,1,2,3\n1,4,5,6\n", "1,2,3,\n4,5,6,7\n"):
        path.write_text(f"a,u,b\n{rows}")
        with pytest.raises(TrajWorldError, match="a row has more values than the first line has names"):
            list(read_table(path, toml).episodes(Account()))


def with_text(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.astype({"a": object}).assign(a=["off" if i == 3 else 1.0 for i in range(len(frame))])


@pytest.mark.parametrize(
    ("change", "toml", "message"),
    [
        (with_text, "", r"'a' holds 'off' in row 4, which is no number"),
        (
            lambda f: f.assign(t=np.repeat(np.arange(len(f) / 2), 2)),
            "",
            "% of the steps are not within half a per",
        ),
        (lambda f: f.assign(t="soon"), "", "'t' holds 'soon' in row 1, which is no date"),
        (lambda f: f.assign(run=f.index % 2), 'episode = "run"', "the rows of an episode are not together"),
        (lambda f: f.drop(columns="b"), "", "names the column 'b', which log.csv has not: it has a, u"),
        (lambda f: f, "gaps = 2", "no key is called 'gaps'"),
        (lambda f: f, 'longest = "2"', "longest must be int, not '2'"),
        (lambda f: f, 'missing = "drop"', "missing must be 'cut' or 'hold'"),
        *(
            (lambda f: f, f"{key} = {value}", "all finite")
            for key in ("gap", "period")
            for value in ("nan", "inf")
        ),
        (lambda f: f, "= 3", "not readable TOML"),
        (lambda f: f.iloc[:0], "", "log.csv has no row"),
        (None, "", "not a readable table: it is an HTML page"),
    ],
)
def test_what_is_wrong_is_named_in_one_line(
    tmp_path: Path, command: Any, change: Callable[..., pd.DataFrame] | None, toml: str, message: str
) -> None:
    frame = pd.DataFrame({name: np.arange(20.0) for name in ("a", "b", "u", "t")})
    if change is None:
        (tmp_path / "log.csv").write_text("<!DOCTYPE html>\n<html>\n,,\n")
    else:
        change(frame).to_csv(tmp_path / "log.csv", index=False)
    (tmp_path / "log.toml").write_text(f'observation = ["a", "b"]\naction = ["u"]\ntime = "t"\n{toml}\n')
    before = sorted(tmp_path.iterdir())
    code, out, err = command("data", "import", tmp_path / "log.csv", "--id", "bad-v0")
    assert (code in (1, 2), out, len(err.splitlines())) == (True, "", 1)
    assert re.search(message, err)
    assert sorted(tmp_path.iterdir()) == before
    assert command("data", "list", "--json")[1].count('"id"') == 0


@pytest.mark.parametrize("name", ["time", None])
@pytest.mark.parametrize("begin", ["2026-03-01", "0s"])
def test_the_time_of_a_data_frame_may_be_its_index(tmp_path: Path, name: str | None, begin: str) -> None:
    ranged = pd.date_range if "-" in begin else pd.timedelta_range
    frame = pd.DataFrame({"a": np.arange(9.0), "u": np.arange(9)}, ranged(begin, periods=9, freq="30s"))
    frame.index.name = name
    frame.drop(frame.index[6]).to_parquet(path := tmp_path / "log.parquet")
    columns = read_columns(write_columns(path, tmp_path / "log.toml"), path)
    assert (columns.observation, columns.action) == (("a",), ("u",))
    assert (columns.time, columns.period) == (name or "__index_level_0__", 30.0)
    assert [len(one) for one in read_table(path, tmp_path / "log.toml").episodes(Account())] == [5, 1]


def test_text_in_a_column_that_is_called_like_a_time(tmp_path: Path) -> None:
    frame = pd.DataFrame({"t": "soon", "date": "x", "stamp": np.arange(4.0), "a": np.arange(4.0)})
    frame.to_csv(path := tmp_path / "log.csv", index=False)
    toml = write_columns(path, tmp_path / "log.toml")
    assert "code them as numbers first: t, date\n" in toml.read_text()
    assert read_columns(toml, path).time == "stamp"
    frame.drop(columns="stamp").to_csv(path, index=False)
    assert read_columns(write_columns(path, toml, overwrite=True), path).time == ""


def test_an_episode_ends_where_done_is_a_number_other_than_0(tmp_path: Path) -> None:
    frame = pd.DataFrame({"a": np.arange(6.0), "end": [np.nan, 0, -1, 0, 0.5, 0]})
    frame.to_csv(path := tmp_path / "log.csv", index=False)
    (tmp_path / "log.toml").write_text('observation = ["a"]\ndone = "end"\nreward_row = "after"\n')
    episodes = list(read_table(path, tmp_path / "log.toml").episodes(Account()))
    assert [(len(one), one.terminated) for one in episodes] == [(2, True), (1, True)]


def test_lists_in_a_parquet_file_are_named_in_one_line(tmp_path: Path, command: Any) -> None:
    frame = pd.DataFrame({"a": np.arange(3.0), "pair": [[1, 2]] * 3})
    frame.to_parquet(tmp_path / "log.parquet")
    for columns, message in (
        ('observation = ["a"]\nepisode = "pair"\n', "'pair' holds lists: name another `episode`"),
        ('observation = ["a"]\ntime = "pair"\n', "'pair' holds array([1, 2]) in row 1, which is no date"),
    ):
        (tmp_path / "log.toml").write_text(columns)
        code, out, err = command("data", "import", tmp_path / "log.parquet", "--id", "bad-v0")
        assert (code, out, len(err.splitlines())) == (1, "", 1)
        assert message in err


def test_a_line_break_in_a_name_stays_out_of_the_comments(tmp_path: Path) -> None:
    frame = pd.DataFrame({"a\n[m]": np.ones(4), "b\x7f": np.arange(4.0), "the\nmode": "auto"})
    frame.to_csv(path := tmp_path / "log.csv", index=False)
    toml = write_columns(path, tmp_path / "log.toml")
    assert read_columns(toml, path).observation == ("a\n[m]", "b\x7f")
    assert "of no use: a\\n[m]\n" in toml.read_text()


def test_columns_with_gaps_are_guessed_as_the_reader_takes_them(tmp_path: Path) -> None:
    frame = pd.DataFrame({"a": np.arange(4.0), "empty": [None] * 4, "done": [False, None, True, False]})
    frame.to_parquet(path := tmp_path / "log.parquet")
    toml = write_columns(path, tmp_path / "log.toml")
    found = read_columns(toml, path)
    assert (found.observation, found.done) == (("a",), "done")
    assert "code them as numbers first: empty\n" in toml.read_text()
    assert [len(one) for one in read_table(path, toml).episodes(Account())] == [2]


def test_values_that_32_bits_cannot_tell_apart_are_noted(tmp_path: Path) -> None:
    frame = pd.DataFrame({"a": np.linspace(0, 1, 200), "b": 1_700_000_000.0 + np.arange(200)})
    frame["c"], frame["d"], frame["e"] = 0.1, np.linspace(1e6, 1e6 + 2000, 200), 1e9 + np.arange(200) / 10
    frame.to_csv(path := tmp_path / "log.csv", index=False)
    (tmp_path / "log.toml").write_text('observation = ["a", "b", "c", "d"]\naction = ["e"]\n')
    dataset = open_dataset(path)
    assert dataset.account is not None
    assert dataset.account.notes == {f"values of {name} rounded to 32 bits": 200 for name in "be"}


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    columns = [pa.array(np.arange(3.0))] * 3
    pq.write_table(pa.Table.from_arrays(columns, ["a", "b", "a"]), path := tmp_path / "log.parquet")
    (toml := tmp_path / "log.toml").write_text('observation = ["a", "b"]\n')
    for read in (read_table, write_columns):
        with pytest.raises(TrajWorldError, match="has two columns called 'a': rename one"):
            read(path, toml if read is read_table else tmp_path / "new.toml")


def test_a_table_without_its_toml(tmp_path: Path, command: Any) -> None:
    (tmp_path / "log.csv").write_text("a,u\n1,2\n3,4\n")
    code, _, err = command("data", "inspect", tmp_path / "log.csv")
    assert code == 2
    assert "trajworld data columns" in err
    assert command("data", "columns", tmp_path / "log.csv")[0] == 0
    guessed = (toml := tmp_path / "log.toml").read_text()
    toml.write_text("mine")
    assert command("data", "columns", tmp_path / "log.csv")[0] == 2
    assert toml.read_text() == "mine"
    assert command("data", "columns", tmp_path / "log.csv", "--overwrite")[0] == 0
    assert toml.read_text() == guessed
    assert command("data", "inspect", tmp_path / "log.csv")[0] == 0
