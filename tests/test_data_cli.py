"""``trajworld data``: what it prints, its exit codes, and what it does not import."""

import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from trajworld.data.dataset import Dataset
from trajworld.data.episode import Episode
from trajworld.data.home import stores_folder
from trajworld.data.store import write_store
from trajworld.data.summary import draw_summary, episode_returns, real_values, summarise

pytestmark = pytest.mark.once

StoreMaker = Callable[..., Dataset]


@pytest.fixture
def d4rl_file(tmp_path: Path) -> Path:
    path, rng = tmp_path / "walker2d_tiny-v2.hdf5", np.random.default_rng(0)
    states = rng.normal(size=(51, 3))
    arrays = {"observations": states[:-1], "next_observations": states[1:], "terminals": np.arange(50) == 29}
    with h5py.File(path, "w") as file:
        file.update(arrays | {"actions": rng.normal(size=(50, 2)), "rewards": rng.normal(size=50)})
    return path


def test_import_list_and_inspect(command: Any, d4rl_file: Path, tmp_path: Path) -> None:
    assert "No Minari datasets yet" in command("data", "list")[1]
    code, out, _ = command("data", "import", str(d4rl_file), "--id", "d4rl/walker/tiny-v2")
    assert code == 0
    assert out.splitlines()[0].endswith("d4rl/walker/tiny-v2")
    assert "50 of 50 transitions kept, in 2 episodes" in out
    picture = tmp_path / "picture.png"
    code, out, _ = command("data", "inspect", "d4rl/walker/tiny-v2", "--json", "-o", str(picture))
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
    code, out, _ = command("data", "inspect", "minari:d4rl/walker/tiny-v2")
    assert code == 0
    for text in (
        "d4rl/walker2d_tiny-v2",
        "terminated episodes",
        "observation 2",
        "action 1",
        "episode return",
    ):
        assert text in out
    listed = json.loads(command("data", "list", "--json")[1])
    assert [entry["id"] for entry in listed["minari"]] == ["d4rl/walker/tiny-v2"]
    assert [store["name"] for store in listed["stores"]] == ["d4rl/walker/tiny-v2"]
    assert "d4rl/walker/tiny-v2" in command("data", "list")[1]


def test_names_are_printed_as_they_are(command: Any, make_store: StoreMaker) -> None:
    """A name that looks like the table library's own markup is neither obeyed nor an error."""
    dataset = make_store([5])
    file = dataset.path / "dataset.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "name": "[/red] [bold]x"}))
    code, out, _ = command("data", "inspect", str(dataset.path))
    assert code == 0
    assert "[/red] [bold]x" in out
    stores_folder().mkdir(parents=True)
    shutil.move(dataset.path, stores_folder() / "moved")
    assert "[/red]" in command("data", "list")[1]
    (stores_folder() / "moved" / "dataset.json").write_text("[/red]")
    assert command("data", "list")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["data", "inspect", "nothing"], 2),
        (["data", "inspect", "broken.hdf5"], 1),
        (["data", "inspect", "walker2d_tiny-v2.hdf5", "-o", "picture.nothing"], 2),
        (["data", "import", "nothing", "--id", "a-v0"], 2),
        (["data", "import", "walker2d_tiny-v2.hdf5"], 2),
    ],
)
def test_mistakes_end_in_one_line(
    command: Any, monkeypatch: pytest.MonkeyPatch, d4rl_file: Path, arguments: list[str], code: int
) -> None:
    monkeypatch.chdir(d4rl_file.parent)
    Path("broken.hdf5").write_bytes(d4rl_file.read_bytes()[:200])
    found, out, err = command(*arguments)
    assert (found, out) == (code, "")
    assert len([line for line in err.splitlines() if line.startswith("Error: ")]) == 1
    assert "Traceback" not in err
    assert {path.name for path in Path().iterdir()} == {"broken.hdf5", d4rl_file.name}


def test_the_summary_counts_real_values_only(make_store: StoreMaker) -> None:
    dataset = make_store([5, 9, 2])
    offsets, reward = dataset.episode_offsets, dataset.observation_size
    rows = np.array(dataset.rows)
    sums = [rows[begin + 1 : end, reward].sum() for begin, end in itertools.pairwise(offsets)]
    np.testing.assert_allclose(episode_returns(dataset), sums, rtol=1e-5)
    variates = summarise(dataset)["variates"]
    observations, actions = (f"observation {i}" for i in range(3)), (f"action {i}" for i in range(2))
    assert list(variates) == [*observations, "reward", *actions]
    first, last = offsets[:-1], offsets[1:] - 1
    for variate, spread in enumerate(variates.values()):
        left_out = [] if variate < 3 else first if variate == 3 else last
        values = np.delete(rows[:, variate], left_out).astype(np.float64)
        assert (spread["minimum"], spread["maximum"]) == (values.min(), values.max())
        np.testing.assert_array_equal(real_values(dataset, variate), values)


def test_constant_variates_are_drawn(tmp_path: Path) -> None:
    episode = Episode(np.ones((4, 1)), np.zeros((3, 1)), np.full(3, 1e9))
    dataset = write_store(tmp_path / "constant", [episode], name="constant", source="", environment="")
    draw_summary(dataset, tmp_path / "constant.png")
    assert (tmp_path / "constant.png").read_bytes().startswith(b"\x89PNG")
