"""The window cutter against a plain Python loop, the rows that it cuts from, and the choice of whole episodes."""

import numpy as np
import pytest
from data_fixtures import DatasetMaker
from hypothesis import example, given, settings
from hypothesis import strategies as st

from trajworld.data.dataset import Dataset
from trajworld.data.episode import Episode, check_episode, rows_of_episode
from trajworld.data.split import limit_transitions, split_episodes
from trajworld.data.windows import WindowIndex, gather_windows
from trajworld.errors import TrajWorldError, UsageError

pytestmark = pytest.mark.once


def loop_windows(
    dataset: Dataset, episodes: list[int], length: int
) -> list[tuple[int, np.ndarray, np.ndarray]]:
    """Every window, with its last row's number and its mask, by walking the episodes and keeping the last rows."""
    found = []
    for episode in episodes:
        first, stop = dataset.episode_offsets[episode : episode + 2]
        history: list[np.ndarray] = [dataset.rows[first]][-length:]
        for row in range(first + 1, stop):
            history = [*history, dataset.rows[row]][-length:]
            padding = length - len(history)
            values = np.stack([np.zeros(dataset.num_variates, np.float32)] * padding + history)
            found.append((row, values, np.array([0.0] * padding + [1.0] * len(history), np.float32)))
    return found


@settings(max_examples=80)
@given(
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=6), window=st.integers(1, 25), data=st.data()
)
def test_windows_equal_a_loop(
    memory_dataset: DatasetMaker, lengths: list[int], window: int, data: st.DataObject
) -> None:
    dataset = memory_dataset(lengths)
    episodes = data.draw(st.lists(st.sampled_from(range(len(lengths))), min_size=1, unique=True))
    wanted = loop_windows(dataset, episodes, window)
    index = WindowIndex.of(dataset, episodes)
    assert len(index) == len(wanted) == sum(lengths[e] for e in episodes)
    some = data.draw(st.lists(st.integers(0, len(index) - 1)))
    for ranks in (list(range(len(index))), some):
        ends, first = index.locate(ranks)
        values, mask = gather_windows(dataset, ends, first, window)
        assert values.dtype == mask.dtype == np.float32
        assert values.shape == (len(ranks), window, dataset.num_variates)
        for rank, *found in zip(ranks, ends, values, mask, strict=True):
            np.testing.assert_equal(tuple(found), wanted[rank])


def test_rows_hold_the_reward_of_arrival_and_the_action_of_departure() -> None:
    episode = Episode(
        np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]), np.array([[0.1], [0.2]]), np.array([10.0, 20.0])
    )
    wanted = [[1, 2, 0, 0.1], [3, 4, 10, 0.2], [5, 6, 20, 0]]
    np.testing.assert_array_equal(rows_of_episode(episode), np.array(wanted, np.float32))


def test_arrays_that_make_no_episode_are_refused() -> None:
    for shapes in (((3, 2), (3, 1), 3), ((1, 2), (0, 1), 0), ((3, 2), 2, 2), (3, (2, 1), 2)):
        with pytest.raises(TrajWorldError, match=r"file\.x, episode 7: .* do not make an episode"):
            check_episode(Episode(*map(np.zeros, shapes)), "file.x, episode 7")


@pytest.mark.parametrize("name", ["observations", "actions", "rewards"])
@pytest.mark.parametrize("number", [np.nan, -np.inf])
def test_numbers_that_are_not_finite_are_refused(name: str, number: float) -> None:
    episode = Episode(np.zeros((3, 2)), np.zeros((2, 1)), np.zeros(2))
    assert check_episode(episode, "file.x") is episode
    getattr(episode, name)[1] = number
    with pytest.raises(TrajWorldError, match=f"file.x: {name} hold a NaN or infinite value at step 1"):
        check_episode(episode, "file.x")


@example(count=1, fraction=0, seed=0)
@given(count=st.integers(2, 300), fraction=st.floats(0, 0.999), seed=st.integers(0, 2**32))
def test_a_split_holds_every_episode_once(count: int, fraction: float, seed: int) -> None:
    train, holdout = split_episodes(count, fraction, seed)
    assert sorted([*train, *holdout]) == list(range(count))
    assert (np.diff(train) > 0).all()
    assert (np.diff(holdout) > 0).all()
    assert len(train) >= 1
    assert (len(holdout) == 0) == (fraction == 0)
    if 1 <= fraction * count <= count - 1:
        assert abs(len(holdout) - fraction * count) <= 0.5
    again = split_episodes(count, fraction, seed)
    assert again[0].tolist() == train.tolist()
    assert again[1].tolist() == holdout.tolist()


def test_seeds_split_differently_and_one_episode_cannot_be_split() -> None:
    assert len({tuple(split_episodes(50, 0.2, seed)[1]) for seed in range(20)}) == 20
    with pytest.raises(UsageError):
        split_episodes(1, 0.1, 0)


@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=12),
    limits=st.tuples(st.integers(1, 300), st.integers(1, 300)),
    seed=st.integers(0, 1000),
)
def test_limits_are_kept_and_nested(
    memory_dataset: DatasetMaker, lengths: list[int], limits: tuple[int, int], seed: int
) -> None:
    dataset = memory_dataset(lengths)
    some = np.arange(len(lengths) // 2, len(lengths))
    small, large = (limit_transitions(dataset, some, limit, seed) for limit in sorted(limits))
    assert set(large) <= set(some)
    assert large[: len(small)].tolist() == small.tolist()
    for chosen, limit in ((small, min(limits)), (large, max(limits))):
        total = sum(lengths[e] for e in chosen)
        assert len(set(chosen)) == len(chosen) >= 1
        assert total <= limit or len(chosen) == 1
        rest = [e for e in limit_transitions(dataset, some, None, seed) if e not in chosen]
        if rest:
            assert total + lengths[rest[0]] > limit
    for missing in ([], [len(lengths)], [-1]):
        with pytest.raises(UsageError):
            limit_transitions(dataset, missing, 5, 0)
