"""Augmentation of pre-training batches: what it may change, against the unchanged batch; that it can be repeated."""

from collections.abc import Callable

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from trajworld.data.augmentation import draw_change
from trajworld.data.dataset import Dataset
from trajworld.data.mixture import Mixture, Source
from trajworld.data.statistics import value_range

LOWER = np.array([-2, 0, 5, 0], np.float32)
UPPER = np.array([2, 1e-3, 9, 1], np.float32)
REAL = np.array([1, 1, 1, 0], np.float32)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 10**6))
def test_a_change_is_affine_within_the_unit_range(seed: int, step: int) -> None:
    change = draw_change(LOWER, UPPER, REAL, 1.0, seed, step)
    assert change is not None
    again = draw_change(LOWER, UPPER, REAL, 1.0, seed, step)
    assert again is not None
    width = UPPER - LOWER
    assert set(np.abs(change.sign)) == {1}
    for one, other in zip(change, again, strict=True):
        np.testing.assert_array_equal(one, other)
        assert one.dtype == np.float32
    values = LOWER + np.linspace(0, 1, 9)[:, None] * width
    scaled = (change.sign * values - change.lower) / (change.upper - change.lower)
    assert scaled.min() > -1e-3
    assert scaled.max() < 1 + 1e-3
    # Straight lines whose slope says by how much the range was widened: by none to one of its widths.
    slope = np.diff(scaled, axis=0) * 8
    np.testing.assert_allclose(slope, np.broadcast_to(slope[:1], slope.shape), atol=2e-3)
    assert np.all((np.abs(slope) <= 1.002) & (np.abs(slope) >= 0.499))
    # Padding stays.
    assert (change.sign[3], change.lower[3], change.upper[3]) == (1, 0, 1)


def test_every_kind_of_change_occurs() -> None:
    changes = [draw_change(LOWER, UPPER, REAL, 0.5, 3, step) for step in range(400)]
    drawn = [change for change in changes if change is not None]
    assert 150 < len(drawn) < 250
    signs = np.array([change.sign[:3] for change in drawn])
    widths = np.array([change.upper - change.lower for change in drawn])[:, :3] / (UPPER - LOWER)[:3]
    assert abs((signs < 0).mean() - 0.5) < 0.1
    assert (np.isclose(widths, 1, atol=1e-3)).any()
    assert widths.max() > 1.7
    assert draw_change(LOWER, UPPER, REAL, 0.0, 3, 0) is None


def test_batches_are_the_same_windows_changed(memory_dataset: Callable[..., Dataset]) -> None:
    sources = []
    for observations in (3, 5):
        lower, upper = value_range(dataset := memory_dataset([30, 12, 25], observations))
        # A range that leaves some of the rows out.
        sources.append(Source(dataset, lower, np.maximum((lower + upper) / 2, lower + 1e-3)))
    plain, changed = (Mixture(sources, 4, 5, seed=3, most_sizes=1, augment=share) for share in (0, 1))
    for step in range(20):
        one, other = plain.batch(step), changed.batch(step)
        np.testing.assert_array_equal(one.time_mask, other.time_mask)
        np.testing.assert_array_equal(one.variates.is_action, other.variates.is_action)
        change = draw_change(one.variates.lower, one.variates.upper, one.variates.mask, 1, 3, step)
        assert change is not None
        # What is outside the dataset's own range is clipped to that, before it is mirrored.
        clipped = np.minimum(np.maximum(one.values, one.variates.lower), one.variates.upper)
        np.testing.assert_array_equal(other.values, change.sign * clipped)
        np.testing.assert_array_equal(other.variates.lower, change.lower)
        np.testing.assert_array_equal(other.variates.upper, change.upper)
