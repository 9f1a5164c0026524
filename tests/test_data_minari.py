"""Minari datasets: Minari reads what is written, what Minari writes is read, bad ones are refused."""

import json
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import minari
import numpy as np
import pytest
from data_fixtures import EpisodeMaker, box
from data_fixtures import minari_dataset as write
from gymnasium import spaces
from gymnasium.vector.utils import batch_space, iterate
from hypothesis import given
from hypothesis import strategies as st
from minari.data_collector import EpisodeBuffer
from minari.serialization import serialize_space

from trajworld.data import minari_datasets
from trajworld.data.episode import Episode
from trajworld.data.minari_datasets import dataset_path, datasets_folder, local_datasets, read_minari
from trajworld.errors import TrajWorldError, UsageError

pytestmark = pytest.mark.once


def everything_under(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*")) if folder.exists() else []


def test_minari_reads_what_is_written(make_episodes: EpisodeMaker) -> None:
    episodes = make_episodes([7, 1, 30])
    path = write("mine/cheetah/random-v3", iter(episodes), description="A line.", metadata={"seed": 5})
    assert path == datasets_folder() / "mine" / "cheetah" / "random-v3"
    dataset = minari.load_dataset("mine/cheetah/random-v3")
    assert (dataset.total_episodes, dataset.total_steps) == (3, 38)
    assert dataset.observation_space == box(3)
    assert dataset.action_space == box(2, 1)
    wanted_metadata = {"environment": "dm_control/cheetah-run", "description": "A line.", "seed": 5}
    assert wanted_metadata.items() <= dataset.storage.metadata.items()
    for found, wanted in zip(dataset.iterate_episodes(), episodes, strict=True):
        for name in ("observations", "actions", "rewards"):
            np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name))
        last = len(wanted) - 1
        assert np.flatnonzero(found.terminations).tolist() == [last] * wanted.terminated
        assert np.flatnonzero(found.truncations).tolist() == [last] * wanted.truncated
    assert list(minari.list_local_datasets()) == ["mine/cheetah/random-v3"]
    assert "mine/cheetah" in minari.namespace.list_local_namespaces()
    info, read = read_minari("mine/cheetah/random-v3")
    assert (info.path, info.environment) == (path, "dm_control/cheetah-run")
    assert (info.episodes, info.transitions) == (3, 38)
    for again, wanted in zip(read, episodes, strict=True):
        np.testing.assert_equal(vars(again), vars(wanted))


def test_minari_can_make_a_gymnasium_environment_again(make_episodes: EpisodeMaker) -> None:
    path = write("pendulum-v0", make_episodes([4], 3, 1), "gymnasium/Pendulum-v1", action_space=box(1, 2))
    assert minari.load_dataset("pendulum-v0").env_spec.id == "Pendulum-v1"
    # Others, who write no name, have it there alone.
    metadata = json.loads((path / "data" / "metadata.json").read_text())
    del metadata["environment"]
    (path / "data" / "metadata.json").write_text(json.dumps(metadata))
    assert read_minari("pendulum-v0")[0].environment == "gymnasium/Pendulum-v1"
    # A name that is not registered is kept as a name only.
    write("unknown-v0", make_episodes([4]), "gymnasium/NoSuchThing-v9")
    assert minari.load_dataset("unknown-v0").env_spec is None
    assert read_minari("unknown-v0")[0].environment == "gymnasium/NoSuchThing-v9"


def test_dict_and_tuple_spaces_are_flattened_as_gymnasium_does() -> None:
    observation_space = spaces.Dict(
        {
            "z": box(2),
            "a": spaces.Box(-1, 1, (2, 2), np.float32),
            "pair": spaces.Tuple((box(1), spaces.Dict({"k": box(3), "b": box(1)}))),
        }
    )
    batch = batch_space(observation_space, 5)
    batch.seed(0)
    stacked = batch.sample()
    flags = np.arange(4) == 3
    buffer = EpisodeBuffer(
        observations=stacked,
        actions=np.zeros((4, 2), np.float32),
        rewards=np.arange(4.0),
        terminations=flags,
        truncations=~flags & False,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        minari.create_dataset_from_buffers(
            "nested-v0", [buffer], observation_space=observation_space, action_space=box(2, 1)
        )
    info, (episode,) = read_minari("nested-v0")
    assert info.environment == ""
    wanted = np.stack([spaces.utils.flatten(observation_space, value) for value in iterate(batch, stacked)])
    np.testing.assert_array_equal(episode.observations, wanted)
    assert (episode.terminated, episode.truncated) == (True, False)


ESCAPES = ["../x-v0", "a/../../x-v0", "/etc/x-v0", "a//b-v0", "x-v0/..", "x", "", "x-v"]
ESCAPES += ["x.y-v0", "a\\b-v0", "x-v0\n", "a/x-v0"]


@given(st.from_regex(minari_datasets._DATASET_ID, fullmatch=True))
def test_every_accepted_id_is_one_of_minaris(dataset_id: str) -> None:
    namespace, name, _ = minari.dataset.minari_dataset.parse_dataset_id(dataset_id)
    assert "/".join([*[namespace] * bool(namespace), f"{name}-v"]) in dataset_id
    assert dataset_path(dataset_id).is_relative_to(datasets_folder())
    assert ".." not in dataset_path(dataset_id).parts


@pytest.mark.parametrize("dataset_id", ESCAPES)
def test_ids_that_are_none_are_refused(make_episodes: EpisodeMaker, dataset_id: str, tmp_path: Path) -> None:
    for call in (dataset_path, read_minari, lambda name: write(name, make_episodes([3]))):
        with pytest.raises(UsageError, match="is not a Minari dataset id"):
            call(dataset_id)
    assert not everything_under(datasets_folder())


def test_an_existing_dataset_is_kept_until_another_is_whole(make_episodes: EpisodeMaker) -> None:
    path = write("taken-v0", make_episodes([5]))
    with pytest.raises(TrajWorldError, match="has a dataset taken-v0 already"):
        write("taken-v0", make_episodes([9]))
    for episodes, message in (([], "no episode"), (make_episodes([4, 4], 4), "4 observation and 2 action")):
        with pytest.raises(TrajWorldError, match=message):
            write("taken-v0", episodes, replace=True)
    assert read_minari("taken-v0")[0].transitions == 5
    write("taken-v0", make_episodes([9]), replace=True)
    assert read_minari("taken-v0")[0].transitions == 9
    assert list(path.parent.iterdir()) == [path]


def test_refused_or_interrupted_episodes_leave_nothing(make_episodes: EpisodeMaker) -> None:
    good = make_episodes([4])[0]
    bad = replace(good, actions=good.actions * np.nan)

    def stopped() -> Iterator[Episode]:
        yield good
        raise KeyboardInterrupt

    for episodes, error, message in (
        ([good, bad], TrajWorldError, "episode 1: actions hold a NaN"),
        (make_episodes([4], 4), TrajWorldError, "4 observation and 2 action values"),
        (stopped(), KeyboardInterrupt, None),
    ):
        with pytest.raises(error, match=message):
            write("deep/er/bad-v0", episodes)
    assert everything_under(datasets_folder()) == []


def test_a_namespace_whose_description_a_kill_left_empty_is_described_again(
    make_episodes: EpisodeMaker,
) -> None:
    write("deep/er/one-v0", make_episodes([4]))
    kept = {name: datasets_folder() / name / "namespace_metadata.json" for name in ("deep", "deep/er")}
    kept["deep"].write_text('{"description": "Somebody\'s words."}')
    kept["deep/er"].write_text("")
    path = write("deep/er/two-v0", make_episodes([4]))
    assert minari.namespace.get_namespace_metadata("deep") == {"description": "Somebody's words."}
    assert minari.namespace.get_namespace_metadata("deep/er") == {}
    assert [one.name for one in path.iterdir()] == ["data"]


def test_a_download_is_there_whole_or_not_at_all(make_episodes: EpisodeMaker, monkeypatch: Any) -> None:
    def fail(dataset_id: str) -> None:
        (datasets_folder() / dataset_id / "data").mkdir(parents=True)
        raise ConnectionError("no\nnetwork")

    monkeypatch.setattr(minari, "download_dataset", fail)
    folder = datasets_folder()
    with pytest.raises(TrajWorldError, match=r"no Minari dataset far/away-v0 .* minari:far/away-v0 down"):
        read_minari("far/away-v0")
    with pytest.raises(TrajWorldError, match="could not be downloaded") as error:
        read_minari("far/away-v0", download=True)
    assert "\n" not in str(error.value)
    assert datasets_folder() == folder
    assert everything_under(folder) == []
    monkeypatch.setattr(minari, "download_dataset", lambda dataset_id: write(dataset_id, make_episodes([6])))
    info, episodes = read_minari("far/away-v0", download=True)
    assert [len(episode) for episode in episodes] == [6]
    assert info.path == folder / "far" / "away-v0"
    assert not [p for p in everything_under(folder) if p.name.startswith(".download")]


def test_damaged_datasets_are_refused_in_one_line(make_episodes: EpisodeMaker) -> None:
    path = write("hurt-v0", make_episodes([50, 50])) / "data"
    text, numbers = (path / name for name in ("metadata.json", "main_data.hdf5"))
    whole = {file: file.read_bytes() for file in (text, numbers)}
    metadata = json.loads(whole[text])
    with h5py.File(numbers, "a") as changed:
        changed["episode_1/rewards"][3] = np.nan
    cases = [
        (numbers, numbers.read_bytes(), "hurt-v0, episode 1: rewards hold a NaN or infinite value at step 3")
    ]
    cases += [(text, data, "metadata.json") for data in (b"", b"[]", b"{", b"\xff", whole[text][:-20])]
    for change in (
        {"total_episodes": None},
        {"total_episodes": 3},
        {"data_format": "pickle"},
        {"observation_space": None},
        {"action_space": '{"type": "Odd"}'},
    ):
        cases.append((text, json.dumps(metadata | change).encode(), "hurt-v0"))
    for space in (spaces.Discrete(3), spaces.MultiBinary(2)):
        change = {"action_space": serialize_space(space)}
        message = f"hurt-v0: .* a {type(space).__name__} space: only Box"
        cases.append((text, json.dumps(metadata | change).encode(), message))
    cases += [(numbers, whole[numbers][:size], "cannot read episode 0") for size in (0, 5, 100, 3000)]
    for file, data, message in cases:
        file.write_bytes(data)
        with pytest.raises(TrajWorldError, match=message) as error:
            list(read_minari("hurt-v0")[1])
        assert "\n" not in str(error.value)
        file.write_bytes(whole[file])
    assert len(list(read_minari("hurt-v0")[1])) == 2


def test_nothing_that_a_dataset_names_is_run(make_episodes: EpisodeMaker, tmp_path: Path) -> None:
    """Minari makes the environment of a dataset without spaces, by an entry point that the dataset names."""
    file = write("hostile-v0", make_episodes([4]), "gymnasium/Pendulum-v1") / "data" / "metadata.json"
    metadata, mark = json.loads(file.read_text()), tmp_path / "ran"
    del metadata["observation_space"]
    hostile = {"entry_point": "pathlib:Path.touch", "kwargs": {"self": str(mark)}}
    metadata["env_spec"] = json.dumps(json.loads(metadata["env_spec"]) | hostile)
    file.write_text(json.dumps(metadata))
    with pytest.raises(TrajWorldError, match="no readable observation_space"):
        list(read_minari("hostile-v0")[1])
    assert not mark.exists()


def test_local_datasets_are_listed_with_their_faults(make_episodes: EpisodeMaker) -> None:
    assert local_datasets() == []
    write("bb/two-v0", make_episodes([4, 6]))
    write("a-v1", make_episodes([3]), "gymnasium/Hopper-v5")
    (write("c-v0", make_episodes([3])) / "data" / "metadata.json").write_text("{")
    first, second, third = local_datasets()
    path = str(datasets_folder() / "a-v1")
    wanted = {"id": "a-v1", "environment": "gymnasium/Hopper-v5", "episodes": 1, "transitions": 3}
    assert first == {**wanted, "path": path}
    assert (second["id"], second["episodes"], second["transitions"]) == ("bb/two-v0", 2, 10)
    assert third["id"] == "c-v0"
    assert "not a readable JSON file" in third["error"]
