"""The window cutter against a plain Python loop, and the row layout it cuts from."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trajworld.data.dataset import Dataset
from trajworld.data.episode import Episode, check_episode, rows_of_episode
from trajworld.data.windows import WindowIndex, gather_windows
from trajworld.errors import TrajWorldError, UsageError

LENGTHS = st.lists(st.integers(1, 30), min_size=1, max_size=6)


def loop_windows(dataset: Dataset, length: int) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """Every window by its last row, by walking each episode and keeping the last rows."""
    found = {}
    for episode in range(dataset.num_episodes):
        history: list[np.ndarray] = []
        for row in range(dataset.episode_offsets[episode], dataset.episode_offsets[episode + 1]):
            history = [*history, dataset.rows[row]][-length:]
            if row == dataset.episode_offsets[episode]:
                continue
            padding = length - len(history)
            values = np.stack([np.zeros(dataset.num_variates, np.float32)] * padding + history)
            found[row] = values, np.array([0.0] * padding + [1.0] * len(history), np.float32)
    return found


@settings(max_examples=60, deadline=None)
@given(lengths=LENGTHS, window=st.integers(1, 25))
def test_windows_equal_a_loop(
    memory_dataset: Callable[..., Dataset], lengths: list[int], window: int
) -> None:
    dataset = memory_dataset(lengths)
    wanted = loop_windows(dataset, window)
    index = WindowIndex.of(dataset)
    for nothing in gather_windows(dataset, *index.locate([]), window):
        assert nothing.shape[:2] == (0, window)
    ends, first = index.locate(np.arange(len(index)))
    assert ends.tolist() == sorted(wanted)
    values, mask = gather_windows(dataset, ends, first, window)
    assert values.dtype == mask.dtype == np.float32
    assert values.shape == (len(ends), window, dataset.num_variates)
    for i, end in enumerate(ends):
        np.testing.assert_array_equal(values[i], wanted[end][0])
        np.testing.assert_array_equal(mask[i], wanted[end][1])


@settings(max_examples=40, deadline=None)
@given(lengths=LENGTHS, data=st.data())
def test_ends_of_chosen_episodes(
    memory_dataset: Callable[..., Dataset], lengths: list[int], data: st.DataObject
) -> None:
    dataset = memory_dataset(lengths)
    episodes = data.draw(st.lists(st.sampled_from(range(len(lengths))), min_size=1, unique=True))
    offsets = dataset.episode_offsets
    wanted = [row for e in episodes for row in range(offsets[e] + 1, offsets[e + 1])]
    index = WindowIndex.of(dataset, episodes)
    assert len(index) == len(wanted) == sum(lengths[e] for e in episodes)
    some = data.draw(st.lists(st.integers(0, len(index) - 1), min_size=1))
    for ranks in (range(len(index)), some):
        assert index.locate(list(ranks))[0].tolist() == [wanted[i] for i in ranks]


def test_rows_hold_the_reward_of_arrival_and_the_action_of_departure() -> None:
    episode = Episode(
        np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]), np.array([[0.1], [0.2]]), np.array([10.0, 20.0])
    )
    wanted = [[1, 2, 0, 0.1], [3, 4, 10, 0.2], [5, 6, 20, 0]]
    np.testing.assert_array_equal(rows_of_episode(episode), np.array(wanted, np.float32))


@pytest.mark.parametrize("episodes", [[], [4], [-1]])
def test_episodes_that_are_not_there_are_refused(
    memory_dataset: Callable[..., Dataset], episodes: list[int]
) -> None:
    with pytest.raises(UsageError):
        WindowIndex.of(memory_dataset([3, 4]), episodes)


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
