"""The store: what is written comes back, statistics equal a direct computation, damage is refused."""

import dataclasses
import json
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_fixtures import DatasetMaker, EpisodeMaker
from hypothesis import given, settings
from hypothesis import strategies as st

from trajworld.data.dataset import Dataset
from trajworld.data.episode import Episode, rows_of_episode
from trajworld.data.statistics import statistics, value_range
from trajworld.data.store import open_store, write_store
from trajworld.errors import TrajWorldError

pytestmark = pytest.mark.once

NAMES = {"name": "n", "source": "s", "environment": "e/v"}


def test_a_store_holds_its_episodes(tmp_path: Path, make_episodes: EpisodeMaker) -> None:
    episodes = make_episodes([4, 1, 9])
    written = write_store(tmp_path / "store", iter(episodes), **NAMES)
    for dataset in (written, open_store(tmp_path / "store")):
        assert isinstance(dataset.rows, np.memmap)
        assert dataset.rows.dtype == np.float32
        np.testing.assert_array_equal(dataset.rows, np.concatenate([rows_of_episode(e) for e in episodes]))
        assert dataset.episode_offsets.tolist() == [0, 5, 7, 17]
        assert dataset.terminated.tolist() == [e.terminated for e in episodes]
        assert (dataset.num_variates, dataset.num_episodes, dataset.num_transitions) == (6, 3, 14)
        assert dataset.transitions_per_episode.tolist() == [4, 1, 9]
        assert dataset.is_action.tolist() == [0, 0, 0, 0, 1, 1]
        assert (dataset.name, dataset.source, dataset.environment) == ("n", "s", "e/v")


def test_writing_holds_one_episode_at_a_time(tmp_path: Path, make_episodes: EpisodeMaker) -> None:
    (one,) = make_episodes([1000], 30, 5)
    peaks = []
    for count in (20, 200):
        tracemalloc.start()
        dataset = write_store(tmp_path / str(count), (one for _ in range(count)), **NAMES)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert dataset.num_transitions == 1000 * count
    assert peaks[1] < 1.1 * peaks[0]
    assert peaks[1] < dataset.rows.nbytes


def real_values(dataset: Dataset, episodes: list[int]) -> list[np.ndarray]:
    """The real values of each variate, gathered episode by episode."""
    offsets, reward = dataset.episode_offsets, dataset.observation_size
    rows = [np.array(dataset.rows[offsets[e] : offsets[e + 1]], np.float64) for e in episodes]

    def real(variate: int) -> slice:
        return slice(None) if variate < reward else slice(1, None) if variate == reward else slice(-1)

    return [np.concatenate([r[real(v), v] for r in rows]) for v in range(dataset.num_variates)]


@settings(max_examples=40)
@given(lengths=st.lists(st.integers(1, 12), min_size=1, max_size=6), data=st.data())
def test_statistics_equal_a_direct_computation(
    memory_dataset: DatasetMaker, lengths: list[int], data: st.DataObject
) -> None:
    dataset = memory_dataset(lengths)
    dataset.rows[:, 1] += 1e4  # a mean far from 0 must not cost the deviation its digits
    episodes = data.draw(st.lists(st.sampled_from(range(len(lengths))), min_size=1, unique=True))
    found = statistics(dataset, episodes)
    wanted = real_values(dataset, episodes)
    np.testing.assert_array_equal(found.minimum, [v.min() for v in wanted])
    np.testing.assert_array_equal(found.maximum, [v.max() for v in wanted])
    np.testing.assert_allclose(found.mean, [v.mean() for v in wanted], rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(found.std, [v.std() for v in wanted], rtol=1e-6, atol=1e-9)
    ends = value_range(dataset, episodes)
    np.testing.assert_array_equal(ends, [found.minimum, found.maximum])
    assert {end.dtype for end in ends} == {np.dtype(np.float32)}


def test_refused_or_interrupted_episodes_leave_nothing(tmp_path: Path, make_episodes: EpisodeMaker) -> None:
    good, other = make_episodes([4])[0], make_episodes([4], 5)[0]
    bad = dataclasses.replace(good, observations=good.observations * np.nan)
    huge = dataclasses.replace(good, observations=good.observations.astype(np.float64) * 1e300)

    def stopped() -> Iterator[Episode]:
        yield good
        raise KeyboardInterrupt

    for episodes, error, message in (
        ([good, other], TrajWorldError, "5 observation and 2 action values"),
        ([good, bad], TrajWorldError, "episode 1: observations hold a NaN"),
        ([huge], TrajWorldError, "too large"),
        ([], TrajWorldError, "no episode"),
        (stopped(), KeyboardInterrupt, None),
    ):
        with pytest.raises(error, match=message), np.errstate(over="ignore"):
            write_store(tmp_path / "store", episodes, **NAMES)
        assert list(tmp_path.iterdir()) == []


def test_an_existing_store_is_kept(make_store: DatasetMaker, make_episodes: EpisodeMaker) -> None:
    dataset = make_store([5])
    with pytest.raises(TrajWorldError, match="exists already"):
        write_store(dataset.path, make_episodes([9]), **NAMES)
    assert open_store(dataset.path).num_transitions == 5
    assert write_store(dataset.path, make_episodes([9]), **NAMES, reuse=True).num_transitions == 5
    assert list(dataset.path.parent.iterdir()) == [dataset.path]


def test_a_truncated_store_is_refused_at_any_byte(make_store: DatasetMaker) -> None:
    dataset = make_store([5, 6])
    for name in ("rows.npy", "episode_offsets.npy", "terminated.npy", "dataset.json"):
        file = dataset.path / name
        whole = file.read_bytes()
        for size in {0, 1, 7, 60, min(130, len(whole) - 1), len(whole) // 2, len(whole) - 2}:
            file.write_bytes(whole[:size])
            with pytest.raises(TrajWorldError, match=name) as error:
                open_store(dataset.path)
            assert "\n" not in str(error.value)
        file.write_bytes(whole)
    assert open_store(dataset.path).num_transitions == 11


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("dataset.json", {"version": 1}, "version 1"),
        ("dataset.json", {"format": "zip"}, "does not describe"),
        ("dataset.json", {"observation_size": 4}, "wants 7 variates"),
        ("dataset.json", {"rows": "13"}, "'rows' must be a whole number"),
        ("dataset.json", {"episodes": 3}, "disagree"),
        ("dataset.json", {"episodes": True}, "episodes"),
        ("dataset.json", {"name": None}, "'name' must be a text"),
        ("dataset.json", {"account": {"kept": 3}}, "its account is damaged"),
        ("dataset.json", None, r"dataset\.json does not exist"),
        ("episode_offsets.npy", np.array([0, 6, 5, 13]), "rise by at least 2"),
        ("episode_offsets.npy", np.array([1, 6, 13]), "start at 0"),
        ("episode_offsets.npy", np.array([0, 6, 12]), "disagree"),
        ("episode_offsets.npy", np.array([0, 6, None]), "damaged"),
        ("terminated.npy", np.array([True]), "disagree"),
        ("rows.npy", None, r"lacks rows\.npy"),
        ("rows.npy", np.zeros((13, 6)), "float32"),
        ("rows.npy", np.asfortranarray(np.zeros((13, 6), np.float32)), "C order"),
    ],
)
def test_files_that_do_not_fit(make_store: DatasetMaker, name: str, content: Any, message: str) -> None:
    file = make_store([5, 6]).path / name
    described = file.read_bytes()
    file.unlink()
    if isinstance(content, dict):
        file.write_text(json.dumps({**json.loads(described), **content}))
    elif content is not None:
        np.save(file, content, allow_pickle=True)
    with pytest.raises(TrajWorldError, match=message):
        open_store(file.parent)


def test_equal_data_have_equal_contents(tmp_path: Path, make_episodes: EpisodeMaker) -> None:
    episodes = make_episodes([4, 1, 9])
    here = write_store(tmp_path / "here", episodes, **NAMES)
    there = write_store(tmp_path / "there", episodes, **{**NAMES, "source": "elsewhere"})
    assert here.content == there.content == open_store(tmp_path / "there").content
    episodes[1].rewards[0] += 1
    assert write_store(tmp_path / "reward", episodes, **NAMES).content != here.content
    ended = make_episodes([4, 1, 9])
    ended[0] = dataclasses.replace(ended[0], terminated=not ended[0].terminated)
    assert write_store(tmp_path / "ended", ended, **NAMES).content != here.content
