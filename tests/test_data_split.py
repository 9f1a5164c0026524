"""Splitting and limiting by whole episodes."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from trajworld.data.dataset import Dataset
from trajworld.data.split import limit_transitions, split_episodes
from trajworld.errors import UsageError

pytestmark = pytest.mark.once


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


def test_seeds_split_differently() -> None:
    assert len({tuple(split_episodes(50, 0.2, seed)[1]) for seed in range(20)}) == 20


def test_one_episode_cannot_be_split() -> None:
    with pytest.raises(UsageError):
        split_episodes(1, 0.1, 0)


@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=12),
    limits=st.tuples(st.integers(1, 300), st.integers(1, 300)),
    seed=st.integers(0, 1000),
)
def test_limits_are_kept_and_nested(
    memory_dataset: Callable[..., Dataset], lengths: list[int], limits: tuple[int, int], seed: int
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


@pytest.mark.parametrize("episodes", [[], [4], [-1]])
def test_episodes_that_are_not_there_are_refused(
    memory_dataset: Callable[..., Dataset], episodes: list[int]
) -> None:
    with pytest.raises(UsageError):
        limit_transitions(memory_dataset([5, 3]), episodes, 5, 0)
