"""From a specification to a dataset: every accepted form, conversion once, imports into Minari."""

import os
import shutil
import threading
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from data_fixtures import DatasetMaker, EpisodeMaker, d4rl_file, minari_dataset

from trajworld.data import resolve
from trajworld.data.dataset import Dataset
from trajworld.data.episode import Episode, rows_of_episode
from trajworld.data.home import home, stores_folder
from trajworld.data.minari_datasets import datasets_folder, local_datasets, read_minari
from trajworld.data.resolve import converted_stores, import_dataset, open_dataset
from trajworld.errors import TrajWorldError, UsageError

pytestmark = pytest.mark.once


def unitraj_folder(path: Path, episodes: list[Episode], dtype: str = "f8") -> Path:
    path.mkdir(parents=True)
    for number, e in enumerate(episodes):
        np.savez(
            path / f"episode_{number}.npz",
            observation=e.observations,
            action=np.concatenate([np.zeros((1, 2), dtype), e.actions]),
            reward=np.concatenate([np.zeros(1, dtype), e.rewards])[:, None],
        )
    return path


def assert_holds(dataset: Dataset, episodes: list[Episode]) -> None:
    np.testing.assert_array_equal(dataset.rows, np.concatenate([rows_of_episode(e) for e in episodes]))
    assert dataset.transitions_per_episode.tolist() == [len(e) for e in episodes]


def test_every_accepted_form_gives_the_same_rows(
    tmp_path: Path, make_episodes: EpisodeMaker, make_store: DatasetMaker
) -> None:
    episodes = make_episodes([5, 9, 2])
    minari_dataset("my/thing-v0", episodes)
    forms = {
        "minari:my/thing-v0": "dm_control/cheetah-run",
        "my/thing-v0": "dm_control/cheetah-run",
        make_store([5, 9, 2]).path: "test/made-up",
        d4rl_file(tmp_path / "tiny-v2.hdf5", episodes): "d4rl/tiny-v2",
        unitraj_folder(tmp_path / "modular-rl/hopper_3-v2", episodes): "unitraj/modular_rl/hopper_3-v2",
    }
    for spec, environment in forms.items():
        dataset = open_dataset(spec)
        assert_holds(dataset, episodes)
        assert dataset.environment == environment
    # A Minari dataset has one store, whichever way it is named, and a store none.
    stores = [Path(store["path"]) for store in converted_stores()]
    assert [store.parent for store in stores] == [home() / "stores"] * 3
    for store in stores:
        (store / "dataset.json").write_text("{")
    assert all("not a readable JSON" in store["error"] for store in converted_stores())


def test_a_source_is_converted_once_and_again_when_it_changes(
    tmp_path: Path, make_episodes: EpisodeMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    episodes, others = make_episodes([5, 9]), make_episodes([4, 4], seed=1)
    minari_dataset("thing-v0", episodes)
    path = d4rl_file(tmp_path / "a.hdf5", episodes)
    folder = unitraj_folder(tmp_path / "env", episodes)
    # Another file of the same name is another source.
    (tmp_path / "b").mkdir()
    other = d4rl_file(tmp_path / "b" / "a.hdf5", others)
    specs, told = ["thing-v0", str(path), folder, other], []
    stores = [open_dataset(spec, progress=lambda *now: told.append(now)).path for spec in specs]
    assert len(set(stores)) == 4
    assert told[:2] == [(5, 14, "thing-v0"), (14, 14, "thing-v0")]
    with monkeypatch.context() as patch:
        patch.setattr(resolve, "write_store", lambda *_, **__: pytest.fail("converted again"))
        patch.chdir(tmp_path)
        assert [open_dataset(spec).path for spec in (*specs, "a.hdf5", Path("env"))] == stores + stores[1:3]
    assert_holds(open_dataset(path), episodes)
    assert_holds(open_dataset(other), others)
    minari_dataset("thing-v0", others, replace=True)
    d4rl_file(path, others)
    file = folder / "episode_1.npz"
    np.savez(file, **{**dict(np.load(file)), "observation": np.ones((10, 3))})
    os.utime(file, ns=(1, 1))
    for spec in specs[:2]:
        assert_holds(open_dataset(spec), others)
    assert (open_dataset(folder).rows[6:, :3] == 1).all()
    # The stores of what the sources held before are gone.
    assert len(list(stores_folder().iterdir())) == 4


def test_a_second_first_use_waits_for_the_first(
    tmp_path: Path, make_episodes: EpisodeMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, tried, opened = d4rl_file(tmp_path / "a.hdf5", make_episodes([5, 9])), threading.Event(), []
    again = lambda *_: pytest.fail("converted again")  # noqa: E731
    second = threading.Thread(target=lambda: opened.append(open_dataset(path, progress=again)))
    write_store = resolve.write_store

    def told(*arguments: Any, **options: Any) -> Dataset:
        if threading.current_thread() is second:
            tried.set()
        return write_store(*arguments, **options)

    def progress(done: int, *_: object) -> None:
        if done == 5:
            second.start()
            assert tried.wait(60)

    monkeypatch.setattr(resolve, "write_store", told)
    first = open_dataset(path, progress=progress)
    second.join(60)
    assert [one.path for one in opened] == [first.path]


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        ("", UsageError, "a store's folder, a D4RL"),
        ("no such thing", UsageError, "names no dataset; give minari:ID"),
        ("text.txt", UsageError, "exists but is of no supported format"),
        ("minari:../up-v0", UsageError, "not a Minari dataset id"),
        ("not-here-v0", TrajWorldError, "minari:not-here-v0 downloads it"),
        ("broken.hdf5", TrajWorldError, "not a readable HDF5 file"),
    ],
)
def test_other_specifications_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec: str, error: type[TrajWorldError], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text.txt").write_text("hello")
    Path("broken.hdf5").write_text("hello")
    with pytest.raises(error, match=message) as raised:
        open_dataset(spec)
    assert raised.type is error
    assert "\n" not in str(raised.value)
    assert converted_stores() == []


def test_imports_become_minari_datasets(tmp_path: Path, make_episodes: EpisodeMaker) -> None:
    episodes = make_episodes([5, 9, 2])
    file = d4rl_file(tmp_path / "tiny-v2.hdf5", episodes)
    folder = unitraj_folder(tmp_path / "env", episodes)
    for source, dataset_id, environment in (
        (file, "d4rl/hopper/tiny-v2", "d4rl/tiny-v2"),
        (folder, "env-v0", "unitraj/env"),
    ):
        (made,) = import_dataset(source, dataset_id, description="From elsewhere.")
        info, found = read_minari(dataset_id)
        assert (info.path, info.environment) == (made.path, environment)
        assert info.metadata["description"] == "From elsewhere."
        assert [len(episode) for episode in found] == [5, 9, 2]
        assert_holds(open_dataset(dataset_id), episodes)
    import_dataset(folder, "named-v0", environment="dm_control/fish-swim")
    assert read_minari("named-v0")[0].environment == "dm_control/fish-swim"
    import_dataset(folder, "named-v1", environment="Hopper-v5")
    assert read_minari("named-v1")[0].environment == "gymnasium/Hopper-v5"
    with pytest.raises(UsageError, match="is not key=value"):
        import_dataset(folder, "named-v2", environment="Hopper-v5?gravity")
    with pytest.raises(TrajWorldError, match="already"):
        import_dataset(folder, "env-v0")
    import_dataset(folder, "env-v0", replace=True)
    # An old file without ends is cut where it is told to be.
    with h5py.File(file, "a") as old:
        del old["timeouts"], old["next_observations"]
        old["terminals"][:] = False
    (made,) = import_dataset(file, "old-v0", max_episode_steps=8)
    assert [len(e) for e in read_minari("old-v0")[1]] == [7, 7]
    assert made.account is not None
    assert (made.account.transitions, made.account.kept) == (16, 14)
    for steps in (0, -1):
        with pytest.raises(UsageError, match=f"at least 1 step, not {steps}"):
            import_dataset(file, "older-v0", max_episode_steps=steps)


def test_a_unitraj_root_makes_a_dataset_an_environment(
    tmp_path: Path, make_episodes: EpisodeMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "unitraj"
    unitraj_folder(root / "modular-rl" / "hopper_3-v2", make_episodes([5]))
    unitraj_folder(root / "db1" / "dmc-finger.spin", make_episodes([6, 7]))
    unitraj_folder(root / "db1" / "point_mass", make_episodes([6]))
    made = import_dataset(root, "unitraj-v1")
    ids = ["unitraj/db1/dmc-finger_spin-v1", "unitraj/modular_rl/hopper_3-v2-v1"]
    assert [entry["id"] for entry in local_datasets()] == ids
    assert sorted(one.path for one in made) == sorted(Path(entry["path"]) for entry in local_datasets())
    assert read_minari(ids[0])[0].environment == "unitraj/db1/dmc-finger.spin"
    # A second import finds all of them done.
    monkeypatch.setattr(resolve, "write_minari", lambda *_, **__: pytest.fail("imported again"))
    assert [one.path for one in import_dataset(root, "unitraj-v1")] == [one.path for one in made]
    with pytest.raises(UsageError, match="2 environments"):
        import_dataset(root, "unitraj-v2", environment="one/name")
    with pytest.raises(UsageError, match="2 environments: `trajworld data import` makes a dataset of each"):
        open_dataset(root)


def test_imports_of_nothing_are_refused(tmp_path: Path, make_episodes: EpisodeMaker) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        import_dataset(tmp_path / "nothing", "a-v0")
    with pytest.raises(UsageError, match="not a Minari dataset id"):
        import_dataset(unitraj_folder(tmp_path / "env", make_episodes([5])), "../a-v0")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="empty is of no supported format: a D4RL"):
        import_dataset(tmp_path / "empty", "a-v0")
    (tmp_path / "log.txt").write_text("a,u\n1,2\n")
    with pytest.raises(UsageError, match="of no supported format: a D4RL"):
        import_dataset(tmp_path / "log.txt", "a-v0")
    zeros = Episode(np.zeros((4, 3)), np.zeros((3, 2)), np.zeros(3))
    with pytest.raises(TrajWorldError, match="no whole transition"):
        import_dataset(unitraj_folder(tmp_path / "zeros", [zeros]), "a-v0")
    assert local_datasets() == []


def test_a_minari_dataset_is_found_by_id_folder_and_link(
    tmp_path: Path, make_episodes: EpisodeMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    episodes = make_episodes([5, 9])
    folder = minari_dataset("my/thing-v0", episodes)
    root = datasets_folder()
    (root / "linked-v0").symlink_to(folder)
    (root / "my" / "round").symlink_to(root)
    minari_dataset("my/data/thing-v0", episodes)
    assert [entry["id"] for entry in local_datasets()] == ["linked-v0", "my/data/thing-v0", "my/thing-v0"]
    assert_holds(open_dataset(folder), episodes)
    monkeypatch.chdir(root)
    for spec in ("my/thing-v0", "linked-v0", "./my/thing-v0"):
        assert_holds(open_dataset(spec), episodes)
    elsewhere = shutil.copytree(folder, tmp_path / "copy-v0")
    with pytest.raises(UsageError, match="MINARI_DATASETS_PATH"):
        open_dataset(elsewhere)


@pytest.mark.parametrize("dtype", ["?", "u1", "i8", "u8", "f2", "f4", ">f8", "f8", ">i2", "g"])
def test_every_type_of_number_is_read_from_every_form(tmp_path: Path, dtype: str) -> None:
    observations = np.random.default_rng(0).integers(0, 2 if dtype == "?" else 100, (6, 3)).astype(dtype)
    observations[:, 2] = 1  # not all zero, which would be padding
    episode = Episode(observations, observations[1:, :2], observations[1:, 0])
    folder = unitraj_folder(tmp_path / "env", [episode], dtype)
    import_dataset(folder, "types-v0")
    for spec in (folder, d4rl_file(tmp_path / "a.hdf5", [episode]), "types-v0"):
        np.testing.assert_array_equal(open_dataset(spec).rows, rows_of_episode(episode))
