"""The window cutter against a plain Python loop, and the row layout it cuts from."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trajworld.data.dataset import Dataset
from trajworld.data.episode import Episode, check_episode, rows_of_episode
from trajworld.data.windows import WindowIndex, gather_windows
from trajworld.errors import TrajWorldError

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


@settings(max_examples=80, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=6), window=st.integers(1, 25), data=st.data()
)
def test_windows_equal_a_loop(
    memory_dataset: Callable[..., Dataset], lengths: list[int], window: int, data: st.DataObject
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


@pytest.mark.parametrize("shapes", [((3, 2), (3, 1), 3), ((1, 2), (0, 1), 0), ((3, 2), 2, 2), (3, (2, 1), 2)])
def test_arrays_that_make_no_episode_are_refused(shapes: tuple[tuple[int, ...], ...]) -> None:
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
