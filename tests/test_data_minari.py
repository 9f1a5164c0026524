"""Minari datasets: Minari reads what is written, what Minari writes is read, bad ones are refused."""

import json
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium
import minari
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st
from minari.data_collector import EpisodeBuffer

from trajworld.data import minari_datasets
from trajworld.data.episode import Episode
from trajworld.data.minari_datasets import (
    dataset_path,
    datasets_folder,
    local_datasets,
    read_minari,
    write_minari,
)
from trajworld.errors import TrajWorldError, UsageError

EpisodeMaker = Callable[..., list[Episode]]


def box(size: int, bound: float = np.inf) -> spaces.Box:
    return spaces.Box(-bound, bound, (size,), np.float32)


def write(
    dataset_id: str, episodes: Any, environment: str = "dm_control/cheetah-run", **options: Any
) -> Path:
    return write_minari(
        dataset_id,
        episodes,
        environment=environment,
        observation_space=options.pop("observation_space", box(3)),
        action_space=options.pop("action_space", box(2, 1)),
        **options,
    )


def everything_under(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*")) if folder.exists() else []


def assert_same(found: Episode, wanted: Episode) -> None:
    np.testing.assert_array_equal(found.observations, wanted.observations)
    np.testing.assert_array_equal(found.actions, wanted.actions)
    np.testing.assert_array_equal(found.rewards, wanted.rewards)
    assert (found.terminated, found.truncated) == (wanted.terminated, wanted.truncated)


def test_minari_reads_what_is_written(make_episodes: EpisodeMaker) -> None:
    episodes = make_episodes([7, 1, 30])
    path = write("mine/cheetah/random-v3", iter(episodes), description="A line.", metadata={"seed": 5})
    assert path == datasets_folder() / "mine" / "cheetah" / "random-v3"
    dataset = minari.load_dataset("mine/cheetah/random-v3")
    assert (dataset.total_episodes, dataset.total_steps) == (3, 38)
    assert dataset.observation_space == box(3)
    assert dataset.action_space == box(2, 1)
    metadata = dataset.storage.metadata
    assert (metadata["environment"], metadata["description"], metadata["seed"]) == (
        "dm_control/cheetah-run",
        "A line.",
        5,
    )
    for found, wanted in zip(dataset.iterate_episodes(), episodes, strict=True):
        np.testing.assert_array_equal(found.observations, wanted.observations)
        np.testing.assert_array_equal(found.actions, wanted.actions)
        np.testing.assert_array_equal(found.rewards, wanted.rewards)
        last = len(wanted) - 1
        assert np.flatnonzero(found.terminations).tolist() == [last] * wanted.terminated
        assert np.flatnonzero(found.truncations).tolist() == [last] * wanted.truncated
    assert list(minari.list_local_datasets()) == ["mine/cheetah/random-v3"]
    assert "mine/cheetah" in minari.namespace.list_local_namespaces()


def test_what_is_written_comes_back(make_episodes: EpisodeMaker) -> None:
    episodes = make_episodes([7, 1, 30])
    path = write("plain-v0", episodes)
    info, read = read_minari("plain-v0")
    for found, wanted in zip(read, episodes, strict=True):
        assert_same(found, wanted)
    assert (info.dataset_id, info.environment, info.path) == ("plain-v0", "dm_control/cheetah-run", path)
    assert (info.observation_size, info.action_size, info.episodes, info.transitions) == (3, 2, 3, 38)


def test_minari_can_make_a_gymnasium_environment_again(make_episodes: EpisodeMaker) -> None:
    write("pendulum-v0", make_episodes([4], 3, 1), "gymnasium/Pendulum-v1", action_space=box(1, 2))
    spec = minari.load_dataset("pendulum-v0").env_spec
    assert spec.id == "Pendulum-v1"
    changed = gymnasium.spec("Pendulum-v1")
    changed.kwargs["g"] = 3.0
    write(
        "heavy-v0",
        make_episodes([4], 3, 1),
        "gymnasium/Pendulum-v1",
        action_space=box(1, 2),
        env_spec=changed,
    )
    environment = minari.load_dataset("heavy-v0").recover_environment()
    assert environment.unwrapped.g == 3.0
    environment.close()
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
    observation_space.seed(0)
    values = [observation_space.sample() for _ in range(5)]
    stacked = {
        "z": np.stack([v["z"] for v in values]),
        "a": np.stack([v["a"] for v in values]),
        "pair": (
            np.stack([v["pair"][0] for v in values]),
            {key: np.stack([v["pair"][1][key] for v in values]) for key in ("k", "b")},
        ),
    }
    action_space = spaces.Box(-1, 1, (2,), np.float32)
    flags = np.array([False, False, False, True])
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
            "nested-v0", [buffer], observation_space=observation_space, action_space=action_space
        )
    info, episodes = read_minari("nested-v0")
    (episode,) = episodes
    assert info.observation_size == spaces.utils.flatdim(observation_space)
    assert info.environment == ""
    wanted = np.stack([spaces.utils.flatten(observation_space, value) for value in values])
    np.testing.assert_array_equal(episode.observations, wanted)
    assert (episode.terminated, episode.truncated) == (True, False)


@pytest.mark.slow
def test_a_dataset_collected_by_minari_is_read() -> None:
    pytest.importorskip("jax", reason="Minari's own collector needs JAX; reading what it wrote does not")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        environment = minari.DataCollector(gymnasium.make("Pendulum-v1"), record_infos=True)
        for seed in range(2):
            environment.reset(seed=seed)
            done = False
            while not done:
                *_, terminated, truncated, _ = environment.step(environment.action_space.sample())
                done = terminated or truncated
        dataset = environment.create_dataset("collected/pendulum-v0")
        environment.close()
    info, episodes = read_minari("collected/pendulum-v0")
    assert (info.environment, info.transitions) == ("gymnasium/Pendulum-v1", 400)
    for found, wanted in zip(episodes, dataset.iterate_episodes(), strict=True):
        np.testing.assert_array_equal(found.observations, wanted.observations)
        assert (found.terminated, found.truncated) == (False, True)


@pytest.mark.parametrize(
    "action_space", [spaces.Discrete(3), spaces.MultiBinary(2), spaces.Dict(x=spaces.Discrete(2))]
)
def test_other_spaces_are_refused(make_episodes: EpisodeMaker, action_space: spaces.Space) -> None:
    from minari.serialization import serialize_space

    path = write("discrete-v0", make_episodes([4]))
    file = path / "data" / "metadata.json"
    file.write_text(
        json.dumps({**json.loads(file.read_text()), "action_space": serialize_space(action_space)})
    )
    with pytest.raises(TrajWorldError, match=r"its action space holds a (Discrete|MultiBinary); only Box"):
        read_minari("discrete-v0")


ESCAPES = [
    "../x-v0",
    "a/../../x-v0",
    "/etc/x-v0",
    "a//b-v0",
    "x-v0/..",
    "x",
    "",
    "x-v",
    "x.y-v0",
    "a\\b-v0",
    "x-v0\n",
    "a/x-v0",
]


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


def test_an_existing_dataset_is_kept(make_episodes: EpisodeMaker) -> None:
    first, second = make_episodes([5]), make_episodes([9])
    path = write("taken-v0", first)
    with pytest.raises(TrajWorldError, match="has a dataset taken-v0 already"):
        write("taken-v0", second)
    assert read_minari("taken-v0")[0].transitions == 5
    write("taken-v0", second, replace=True)
    assert read_minari("taken-v0")[0].transitions == 9
    assert [p.name for p in path.parent.iterdir()] == ["taken-v0"]


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_an_interrupted_dataset_leaves_nothing(
    make_episodes: EpisodeMaker, error: type[BaseException]
) -> None:
    def episodes() -> Iterator[Episode]:
        yield from make_episodes([5, 5])
        raise error

    with pytest.raises(error):
        write("deep/er/stopped-v0", episodes())
    assert everything_under(datasets_folder()) == []
    # What was there stays when its replacement fails.
    write("kept-v0", make_episodes([4]))
    with pytest.raises(error):
        write("kept-v0", episodes(), replace=True)
    assert read_minari("kept-v0")[0].transitions == 4
    assert [p.name for p in datasets_folder().iterdir()] == ["kept-v0"]


def test_refused_episodes_leave_nothing(make_episodes: EpisodeMaker) -> None:
    good = make_episodes([4])[0]
    bad = Episode(good.observations, good.actions * np.nan, good.rewards)
    for episodes, message in (
        ([good, bad], "episode 1: actions hold a NaN"),
        ([good, *make_episodes([4], 4)], "4 observation and 2 action values"),
        ([], "no episode"),
    ):
        with pytest.raises(TrajWorldError, match=message):
            write("bad-v0", episodes)
    with pytest.raises(UsageError, match="one dimension"):
        write("bad-v0", [good], observation_space=spaces.Box(-1, 1, (3, 1)))
    assert everything_under(datasets_folder()) == []


def test_a_missing_dataset_says_how_to_get_it() -> None:
    with pytest.raises(
        TrajWorldError, match=r"no Minari dataset not/here-v0 .* minari:not/here-v0 downloads it"
    ):
        read_minari("not/here-v0")


def test_a_failed_download_is_one_line_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(dataset_id: str) -> None:
        (datasets_folder() / dataset_id / "data").mkdir(parents=True)
        raise ConnectionError("no\nnetwork")

    monkeypatch.setattr(minari, "download_dataset", fail)
    folder = datasets_folder()
    with pytest.raises(TrajWorldError, match="could not be downloaded") as error:
        read_minari("far/away-v0", download=True)
    assert "\n" not in str(error.value)
    assert datasets_folder() == folder
    assert everything_under(folder) == []


def test_a_download_is_used(make_episodes: EpisodeMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(minari, "download_dataset", lambda dataset_id: write(dataset_id, make_episodes([6])))
    info, episodes = read_minari("far/away-v0", download=True)
    assert [len(episode) for episode in episodes] == [6]
    assert info.path == datasets_folder() / "far" / "away-v0"
    assert not [p for p in everything_under(datasets_folder()) if p.name.startswith(".download")]


def damaged(path: Path, name: str, data: bytes) -> None:
    (path / "data" / name).write_bytes(data)


def test_damaged_datasets_are_refused_in_one_line(make_episodes: EpisodeMaker) -> None:
    path = write("hurt-v0", make_episodes([50, 50]))
    whole = {name: (path / "data" / name).read_bytes() for name in ("metadata.json", "main_data.hdf5")}
    metadata = json.loads(whole["metadata.json"])

    def without(key: str) -> bytes:
        return json.dumps({k: v for k, v in metadata.items() if k != key}).encode()

    cases = [
        ("metadata.json", data) for data in (b"", b"[]", b"{", b"\xff\xfe", whole["metadata.json"][:-20])
    ]
    cases += [
        ("metadata.json", without(key)) for key in ("total_episodes", "observation_space", "action_space")
    ]
    cases += [("metadata.json", json.dumps({**metadata, "total_episodes": 3}).encode())]
    cases += [("metadata.json", json.dumps({**metadata, "data_format": "pickle"}).encode())]
    cases += [("metadata.json", json.dumps({**metadata, "observation_space": '{"type": "Odd"}'}).encode())]
    cases += [("main_data.hdf5", whole["main_data.hdf5"][:size]) for size in (0, 5, 100, 3000)]
    for name, data in cases:
        damaged(path, name, data)
        with pytest.raises(TrajWorldError) as error:
            list(read_minari("hurt-v0")[1])
        assert "\n" not in str(error.value)
        damaged(path, name, whole[name])
    assert len(list(read_minari("hurt-v0")[1])) == 2


def test_nothing_that_a_dataset_names_is_run(make_episodes: EpisodeMaker, tmp_path: Path) -> None:
    """Minari makes the environment of a dataset without spaces, by an entry point that the dataset names."""
    path = write("hostile-v0", make_episodes([4]), "gymnasium/Pendulum-v1")
    file = path / "data" / "metadata.json"
    metadata = json.loads(file.read_text())
    mark = tmp_path / "ran"
    spec = json.loads(metadata["env_spec"])
    spec |= {"entry_point": "pathlib:Path.touch", "kwargs": {"self": str(mark)}}
    file.write_text(
        json.dumps(
            {k: v for k, v in metadata.items() if k != "observation_space"} | {"env_spec": json.dumps(spec)}
        )
    )
    with pytest.raises(TrajWorldError, match="no readable observation_space"):
        list(read_minari("hostile-v0")[1])
    assert not mark.exists()


def test_a_nan_in_a_dataset_is_named(make_episodes: EpisodeMaker) -> None:
    import h5py

    path = write("nan-v0", make_episodes([4, 6]))
    with h5py.File(path / "data" / "main_data.hdf5", "a") as file:
        file["episode_1/rewards"][3] = np.nan
    with pytest.raises(
        TrajWorldError, match=r"nan-v0, episode 1: rewards hold a NaN or infinite value at step 3"
    ):
        list(read_minari("nan-v0")[1])


def test_local_datasets_are_listed_with_their_faults(make_episodes: EpisodeMaker) -> None:
    assert local_datasets() == []
    write("bb/two-v0", make_episodes([4, 6]))
    write("a-v1", make_episodes([3]), "gymnasium/Hopper-v5")
    damaged(write("c-v0", make_episodes([3])), "metadata.json", b"{")
    first, second, third = local_datasets()
    assert first == {
        "id": "a-v1",
        "path": str(datasets_folder() / "a-v1"),
        "environment": "gymnasium/Hopper-v5",
        "episodes": 1,
        "transitions": 3,
    }
    assert (second["id"], second["episodes"], second["transitions"]) == ("bb/two-v0", 2, 10)
    assert third["id"] == "c-v0"
    assert "not a readable JSON file" in third["error"]


def test_the_datasets_folder_is_minaris_own(monkeypatch: pytest.MonkeyPatch) -> None:
    from minari.storage.datasets_root_dir import get_dataset_path

    assert Path(get_dataset_path("x-v0")) == minari_datasets.dataset_path("x-v0")
    monkeypatch.delenv("MINARI_DATASETS_PATH")
    assert datasets_folder() == Path.home() / ".minari" / "datasets"
