"""``trajworld data``: what it prints, its exit codes, and what it does not import."""

import functools
import itertools
import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

from trajworld.data.episode import Episode
from trajworld.data.home import stores_folder
from trajworld.data.store import write_store
from trajworld.data.summary import episode_returns, summarise, variate_histograms


@pytest.fixture
def run(command):
    return functools.partial(command, "data")


@pytest.fixture
def d4rl_file(tmp_path):
    path, rng = tmp_path / "walker2d_tiny-v2.hdf5", np.random.default_rng(0)
    states = rng.normal(size=(51, 3))
    arrays = {"observations": states[:-1], "next_observations": states[1:], "terminals": np.arange(50) == 29}
    with h5py.File(path, "w") as file:
        file.update(arrays | {"actions": rng.normal(size=(50, 2)), "rewards": rng.normal(size=50)})
    return path


def test_import_list_and_inspect(run, d4rl_file, tmp_path):
    assert "No Minari datasets yet" in run("list")[1]
    code, out, _ = run("import", d4rl_file, "--id", "d4rl/walker/tiny-v2")
    assert code == 0
    assert out.splitlines()[0].endswith("d4rl/walker/tiny-v2")
    assert "50 of 50 transitions kept, in 2 episodes" in out
    picture = tmp_path / "picture.png"
    code, out, _ = run("inspect", "d4rl/walker/tiny-v2", "--json", "-o", picture)
    assert code == 0
    found = json.loads(out)
    assert (found["episodes"], found["transitions"], found["num_variates"]) == (2, 50, 6)
    assert (found["environment"], found["terminated_episodes"]) == ("d4rl/walker2d_tiny-v2", 1)
    with h5py.File(d4rl_file) as file:
        rewards = file["rewards"][:]
    reward, returns = found["variates"]["reward"], (rewards[:30].sum(), rewards[30:].sum())
    assert (reward["mean"], reward["std"]) == pytest.approx((rewards.mean(), rewards.std()), rel=1e-5)
    assert found["episode_length"] == {"minimum": 20, "mean": 25, "maximum": 30, "std": 5}
    assert found["episode_return"]["maximum"] == pytest.approx(max(returns), rel=1e-5)
    assert picture.read_bytes().startswith(b"\x89PNG")
    code, out, _ = run("inspect", "minari:d4rl/walker/tiny-v2")
    assert code == 0
    for text in (
        "d4rl/walker2d_tiny-v2",
        "terminated episodes",
        "observation 2",
        "action 1",
        "episode return",
    ):
        assert text in out
    listed = json.loads(run("list", "--json")[1])
    assert [entry["id"] for entry in listed["minari"]] == ["d4rl/walker/tiny-v2"]
    assert [store["name"] for store in listed["stores"]] == ["d4rl/walker/tiny-v2"]
    assert "d4rl/walker/tiny-v2" in run("list")[1]


def test_names_are_printed_as_they_are(run, make_store):
    """A name that looks like the table library's own markup is neither obeyed nor an error."""
    dataset = make_store([5])
    file = dataset.path / "dataset.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "name": "[/red] [bold]x"}))
    code, out, _ = run("inspect", dataset.path)
    assert code == 0
    assert "[/red] [bold]x" in out
    stores_folder().mkdir(parents=True)
    shutil.move(dataset.path, stores_folder() / "moved")
    code, out, _ = run("list")
    assert code == 0
    assert "[/red]" in out
    (stores_folder() / "moved" / "dataset.json").write_text("[/red]")
    assert run("list")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["inspect", "nothing"], 2),
        (["inspect", "not-here-v0"], 1),
        (["inspect", "minari:../x-v0"], 2),
        (["inspect", "broken.hdf5"], 1),
        (["inspect", "walker2d_tiny-v2.hdf5", "-o", "picture.nothing"], 2),
        (["inspect", "walker2d_tiny-v2.hdf5", "-o", "picture"], 2),
        (["import", "nothing", "--id", "a-v0"], 2),
        (["import", "walker2d_tiny-v2.hdf5", "--id", "/tmp/a-v0"], 2),
        (["import", "walker2d_tiny-v2.hdf5"], 2),
        (["import", ".", "--id", "a-v0"], 1),
    ],
)
def test_mistakes_end_in_one_line(run, monkeypatch, d4rl_file, arguments, code):
    monkeypatch.chdir(d4rl_file.parent)
    Path("broken.hdf5").write_bytes(d4rl_file.read_bytes()[:200])
    found, out, err = run(*arguments)
    assert found == code
    assert out == ""
    assert len([line for line in err.splitlines() if line.startswith("Error: ")]) == 1
    assert "Traceback" not in err
    assert {path.name for path in Path().iterdir()} == {"broken.hdf5", d4rl_file.name}


def test_the_summary_counts_real_values_only(make_store):
    dataset = make_store([5, 9, 2])
    offsets, reward = dataset.episode_offsets, dataset.observation_size
    rows = np.array(dataset.rows)
    sums = [rows[begin + 1 : end, reward].sum() for begin, end in itertools.pairwise(offsets)]
    np.testing.assert_allclose(episode_returns(dataset), sums, rtol=1e-5)
    variates = summarise(dataset)["variates"]
    observations, actions = (f"observation {i}" for i in range(3)), (f"action {i}" for i in range(2))
    assert list(variates) == [*observations, "reward", *actions]
    counts, edges = variate_histograms(dataset, bins=7)
    first, last = offsets[:-1], offsets[1:] - 1
    for variate, spread in enumerate(variates.values()):
        left_out = [] if variate < 3 else first if variate == 3 else last
        values = np.delete(rows[:, variate], left_out).astype(np.float64)
        assert (spread["minimum"], spread["maximum"]) == (values.min(), values.max())
        wanted, bins = np.histogram(values, 7, (values.min(), values.max()))
        np.testing.assert_allclose(edges[variate], bins)
        assert counts[variate].tolist() == wanted.tolist()


def test_constant_variates_have_a_histogram(tmp_path):
    episode = Episode(np.ones((4, 1)), np.zeros((3, 1)), np.full(3, 1e6))
    dataset = write_store(tmp_path / "constant", [episode], name="constant", source="", environment="")
    counts, edges = variate_histograms(dataset)
    assert counts.sum(axis=1).tolist() == [4, 3, 3]
    assert (np.diff(edges, axis=1) > 0).all()
