"""Which windows, ranges and contexts the zero-shot comparison takes; the bootstrap over episodes."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trajworld.data.dataset import Dataset
from trajworld.data.split import split_episodes
from trajworld.data.windows import gather_windows
from trajworld.errors import TrajWorldError, UsageError
from trajworld.evaluation.predictors import Prediction
from trajworld.zero_shot.bootstrap import average, bootstrap
from trajworld.zero_shot.defaults import CONTEXTS, default_contexts
from trajworld.zero_shot.families import family_of
from trajworld.zero_shot.protocol import check_contexts, set_up, with_context


def episodes_of(dataset: Dataset, ends: np.ndarray) -> set[int]:
    return set((np.searchsorted(dataset.episode_offsets, ends, side="right") - 1).tolist())


@settings(max_examples=30, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 50), min_size=2, max_size=8),
    windows=st.integers(1, 60),
    seed=st.integers(0, 5),
)
def test_windows_are_whole_and_of_other_episodes_than_the_ranges(
    memory_dataset: Callable[..., Dataset], lengths: list[int], windows: int, seed: int
) -> None:
    # Four long ones: either half of the episodes may be without any.
    dataset = memory_dataset([*lengths, 45, 45, 45, 45])
    long = np.flatnonzero(dataset.transitions_per_episode >= 19)
    halves = split_episodes(dataset.num_episodes, 0.5, seed)
    if not all(np.isin(half, long).any() for half in halves):
        with pytest.raises(TrajWorldError, match="whole window"):
            set_up(dataset, 20, windows, seed)
        return
    trial = set_up(dataset, 20, windows, seed)
    tested, other = (episodes_of(dataset, drawn.ends) for drawn in (trial.test, trial.other))
    assert not tested & other
    # Episodes too short for a whole window, or without a drawn one, are not tested.
    assert trial.test_episodes == len(tested)
    assert trial.range_episodes == len(halves[0])
    for drawn in (trial.test, trial.other):
        assert 1 <= len(drawn) <= windows
        assert len(np.unique(drawn.ends)) == len(drawn)
        episode = np.searchsorted(dataset.episode_offsets, drawn.ends, side="right") - 1
        np.testing.assert_array_equal(dataset.episode_offsets[episode], drawn.first)
        assert np.all(drawn.ends - drawn.first >= 19)
        assert np.all(gather_windows(dataset, drawn.ends, drawn.first, 20)[1] == 1)
    again = set_up(dataset, 20, windows, seed)
    np.testing.assert_array_equal(again.test.ends, trial.test.ends)


def test_ranges_do_not_know_the_tested_episodes(memory_dataset: Callable[..., Dataset]) -> None:
    dataset = memory_dataset([40] * 6)
    trial = set_up(dataset, 20, 1000, 0)
    assert len(trial.test) == 3 * 22, "rows 19 to 40 of each of three episodes"
    tested = episodes_of(dataset, trial.test.ends)
    rows = [
        dataset.rows[start:stop]
        for number, (start, stop) in enumerate(
            zip(dataset.episode_offsets[:-1], dataset.episode_offsets[1:], strict=True)
        )
        if number not in tested
    ]
    observations = np.concatenate(rows)[:, :3]
    np.testing.assert_array_equal(trial.support.lower[:3], observations.min(axis=0))
    np.testing.assert_array_equal(trial.support.upper[:3], observations.max(axis=0))
    inside = trial.outside
    for number in tested:
        start, stop = dataset.episode_offsets[number : number + 2]
        dataset.rows[start:stop] += 100
    moved = set_up(dataset, 20, 1000, 0)
    np.testing.assert_array_equal(moved.support.upper, trial.support.upper)
    assert inside < 0.1
    assert moved.outside == 1


def test_too_little_data_is_refused(memory_dataset: Callable[..., Dataset]) -> None:
    with pytest.raises(TrajWorldError, match="none of 2 episodes has the 20 rows"):
        set_up(memory_dataset([18] * 4), 20, 10, 0)
    with pytest.raises(UsageError, match="one episode cannot be split"):
        set_up(memory_dataset([50]), 20, 10, 0)
    with pytest.raises(UsageError, match="at least 1 window"):
        set_up(memory_dataset([50, 50]), 20, 0, 0)


def test_contexts_are_sorted_and_checked() -> None:
    assert check_contexts([19, 1, 5, 5], 20) == (1, 5, 19)
    for wrong in ([], [0, 3], [1, 20]):
        with pytest.raises(UsageError, match="1 to 19 rows"):
            check_contexts(wrong, 20)


def test_default_contexts_end_with_the_whole_context() -> None:
    assert default_contexts(20) == CONTEXTS
    assert default_contexts(10) == (1, 2, 3, 5, 7, 9)
    assert default_contexts(40) == (*CONTEXTS, 39)
    assert default_contexts(2) == (1,)
    for window in range(2, 50):
        assert check_contexts(default_contexts(window), window) == default_contexts(window)


def test_only_the_context_and_the_row_to_predict_are_shown() -> None:
    values = np.arange(2 * 20 * 3, dtype=np.float32).reshape(2, 20, 3) + 1
    seen = []

    def predict(values: np.ndarray, mask: np.ndarray) -> Prediction:
        seen.append((values, mask))
        return Prediction(values[:, -2])

    for context, length in ((1, 8), (7, 8), (7, 20), (19, 20)):
        before = values.copy()
        with_context(predict, context, length)(values, np.ones((2, 20), np.float32))
        np.testing.assert_array_equal(values, before)
        shown, mask = seen.pop()
        hidden = length - 1 - context
        assert shown.shape == (2, length, 3)
        assert not shown[:, :hidden].any()
        assert mask.tolist() == [[0.0] * hidden + [1.0] * (context + 1)] * 2
        np.testing.assert_array_equal(shown[:, hidden:], values[:, 19 - context :])


def test_families_are_told_by_name_else_by_source() -> None:
    assert family_of("gymnasium/Pendulum-v1?g=2.0", "classic") == "pendulum, unseen gravity"
    assert family_of("dm_control/cartpole-three_poles", "dm_control") == "cart with three poles"
    assert (
        family_of("robot/snake-1000", "snake") == family_of("robot/legged-1000", "legged") == "unseen robots"
    )
    assert family_of("gymnasium/Walker2d-v5", "gymnasium") == "hopper, walker2d, half-cheetah"
    assert family_of("gymnasium/Swimmer-v5", "gymnasium") == "gymnasium"


def made_errors(episodes: int = 30, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Errors ``[2, 2, N]`` that differ between episodes of different lengths, and the episode of each window."""
    rng = np.random.default_rng(seed)
    episode = np.repeat(np.arange(episodes) * 7, rng.integers(1, 9, size=episodes))
    level = rng.uniform(0.5, 2, size=episodes)[np.unique(episode, return_inverse=True)[1]]
    base = level * rng.uniform(0.9, 1.1, size=len(episode))
    return np.stack([[base, base], [0.5 * base, 0.25 * base]]), episode


def test_replicates_are_means_over_drawn_episodes_with_all_their_windows() -> None:
    errors, episode = made_errors(6)
    found = bootstrap(errors, episode, ("a", "b"), (1, 19), (3, 4), replicates=5)
    draws = np.random.default_rng([3, 4]).multinomial(6, np.full(6, 1 / 6), size=5)
    for counts, replicate in zip(draws, found.replicates, strict=True):
        names = np.repeat(np.unique(episode), counts)
        windows = np.concatenate([np.flatnonzero(episode == name) for name in names])
        np.testing.assert_allclose(replicate, errors[..., windows].mean(axis=-1))
    np.testing.assert_allclose(found.mean, errors.mean(axis=-1))
    assert found.of("b", 19) == pytest.approx(errors[1, 1].mean())


def test_ratios_are_paired_and_their_verdicts_need_the_whole_interval() -> None:
    errors, episode = made_errors()
    found = bootstrap(errors, episode, ("a", "b"), (1, 19), (0,))
    ratio = found.ratio(("b", 1), ("a", 1))
    # Each error is exactly half of the other's: no doubt, although each mean alone is uncertain.
    assert [ratio.value, ratio.low, ratio.high] == pytest.approx([0.5] * 3)
    assert ratio.sign == -1
    assert found.ratio(("a", 1), ("b", 19)).sign == 1
    assert found.ratio(("a", 1), ("a", 19)).sign == 0
    mean, low, high = found.curve("a")
    assert np.all(low < mean * 0.97)
    assert np.all(high > mean * 1.03)
    nothing = bootstrap(np.zeros((2, 2, len(episode))), episode, ("a", "b"), (1, 19), (0,))
    assert nothing.ratio(("a", 1), ("b", 1)).sign == 0, "0 over 0"


def test_windows_of_one_episode_are_not_independent() -> None:
    errors, episode = made_errors(40)
    together = bootstrap(errors, episode, ("a", "b"), (1, 19), (0,))
    alone = bootstrap(errors, np.arange(len(episode)), ("a", "b"), (1, 19), (0,))
    width = [float(np.diff(found.curve("a")[1:, 0], axis=0)[0]) for found in (together, alone)]
    assert width[0] > 1.5 * width[1]
    # A standard error computed otherwise: of a ratio of sums over episodes.
    sums = np.array([errors[0, 0][episode == name].sum() for name in np.unique(episode)])
    counts = np.unique(episode, return_counts=True)[1]
    residual = sums - counts * errors[0, 0].mean()
    expected = np.sqrt(np.square(residual).sum()) / counts.sum()
    assert together.replicates[:, 0, 0].std() == pytest.approx(expected, rel=0.1)


def test_a_family_is_the_mean_of_its_environments() -> None:
    first, second = (bootstrap(*made_errors(20, seed), ("a", "b"), (1, 19), (seed,)) for seed in (0, 1))
    family = average([first, second])
    np.testing.assert_allclose(family.mean, (first.mean + second.mean) / 2)
    variance = [each.replicates[:, 0, 0].var() for each in (first, second, family)]
    assert variance[2] == pytest.approx((variance[0] + variance[1]) / 4, rel=0.25)
