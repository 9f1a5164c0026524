"""``trajworld data``: what it prints, its exit codes, and what it does not import."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_fixtures import d4rl_file

from trajworld.data.episode import Episode
from trajworld.data.home import stores_folder
from trajworld.data.resolve import open_dataset
from trajworld.data.statistics import real_values
from trajworld.data.store import write_store

pytestmark = pytest.mark.once


def spread(values: Any) -> Any:
    """Approximately what is printed of some numbers."""
    numbers = {"minimum": np.min, "mean": np.mean, "maximum": np.max, "std": np.std}
    return pytest.approx({name: compute(values) for name, compute in numbers.items()}, rel=1e-4)


def test_import_list_and_inspect(command: Any, make_episodes: Any, tmp_path: Path) -> None:
    episodes = make_episodes([30, 20])
    file = d4rl_file(tmp_path / "walker2d_tiny-v2.hdf5", episodes)
    assert "No Minari datasets yet" in command("data", "list")[1]
    code, out, _ = command("data", "import", str(file), "--id", "d4rl/walker/tiny-v2")
    assert code == 0
    assert out.splitlines()[0].endswith("d4rl/walker/tiny-v2")
    assert "50 of 50 transitions kept, in 2 episodes" in out
    picture = tmp_path / "picture.png"
    code, out, _ = command("data", "inspect", "d4rl/walker/tiny-v2", "--json", "-o", str(picture))
    assert code == 0
    assert picture.read_bytes().startswith(b"\x89PNG")
    found = json.loads(out)
    assert (found["episodes"], found["transitions"], found["num_variates"]) == (2, 50, 6)
    assert found["environment"] == "d4rl/walker2d_tiny-v2"
    assert found["terminated_episodes"] == sum(episode.terminated for episode in episodes)
    assert found["episode_length"] == spread([30, 20])
    assert found["episode_return"] == spread([episode.rewards.sum() for episode in episodes])
    observations, rewards, actions = (
        np.concatenate([getattr(episode, part) for episode in episodes])
        for part in ("observations", "rewards", "actions")
    )
    # The zeros that stand for an episode's first reward and its last action do not count.
    dataset = open_dataset("d4rl/walker/tiny-v2")
    for number, values in enumerate((*observations.T, rewards, *actions.T)):
        np.testing.assert_allclose(real_values(dataset, number), values, rtol=1e-6)
        assert list(found["variates"].values())[number] == spread(values)
    code, out, _ = command("data", "inspect", "minari:d4rl/walker/tiny-v2")
    assert code == 0
    for text in ("d4rl/walker2d_tiny-v2", "terminated episodes", *found["variates"], "episode return"):
        assert text in out
    listed = json.loads(command("data", "list", "--json")[1])
    assert [entry["id"] for entry in listed["minari"]] == ["d4rl/walker/tiny-v2"]
    assert [store["name"] for store in listed["stores"]] == ["d4rl/walker/tiny-v2"]
    assert "d4rl/walker/tiny-v2" in command("data", "list")[1]


def test_odd_names_and_constant_variates_are_shown(command: Any, tmp_path: Path) -> None:
    """A name that looks like the table library's own markup is neither obeyed nor an error."""
    episode, picture = Episode(np.ones((4, 1)), np.zeros((3, 1)), np.full(3, 1e17)), tmp_path / "constant.png"
    path = write_store(tmp_path / "x", [episode], name="[/red] [bold]x", source="", environment="").path
    code, out, _ = command("data", "inspect", path, "-o", picture)
    assert code == 0
    assert "[/red] [bold]x" in out
    assert picture.read_bytes().startswith(b"\x89PNG")
    stores_folder().mkdir(parents=True)
    shutil.move(path, stores_folder() / "moved")
    assert "[/red]" in command("data", "list")[1]
    (stores_folder() / "moved" / "dataset.json").write_text("[/red]")
    assert command("data", "list")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ("inspect nothing", 2),
        ("inspect broken.hdf5", 1),
        ("inspect whole.hdf5 -o picture.nothing", 2),
        ("import nothing --id a-v0", 2),
        ("import whole.hdf5", 2),
    ],
)
def test_mistakes_end_in_one_line(
    command: Any, monkeypatch: Any, tmp_path: Path, make_episodes: Any, arguments: str, code: int
) -> None:
    monkeypatch.chdir(tmp_path)
    whole = d4rl_file(Path("whole.hdf5"), make_episodes([9]))
    Path("broken.hdf5").write_bytes(whole.read_bytes()[:200])
    found, out, err = command("data", *arguments.split())
    assert (found, out) == (code, "")
    assert len([line for line in err.splitlines() if line.startswith("Error: ")]) == 1
    assert "Traceback" not in err
    assert {path.name for path in Path().iterdir()} == {"broken.hdf5", "whole.hdf5"}
