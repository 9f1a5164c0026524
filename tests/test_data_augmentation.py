"""Augmentation of pre-training batches: what it may change, against the unchanged batch; that it can be repeated."""

from collections.abc import Callable

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from trajworld.data.augmentation import augmented
from trajworld.data.batch import Variates
from trajworld.data.dataset import Dataset
from trajworld.data.mixture import Mixture, Source
from trajworld.data.statistics import value_range

LOWER = np.array([-2, 0, 5, 0], np.float32)
UPPER = np.array([2, 1e-3, 9, 1], np.float32)
VARIATES = Variates(np.zeros(4, np.int32), LOWER, UPPER, np.array([1, 1, 1, 0], np.float32))
# From the lower to the upper ends, and rows beyond them on either side.
VALUES = LOWER + np.linspace(-0.5, 1.5, 9, dtype=np.float32)[:, None] * (UPPER - LOWER)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 10**6))
def test_a_change_is_affine_within_the_unit_range(seed: int, step: int) -> None:
    values, variates = augmented(VALUES, VARIATES, 1.0, seed, step)
    np.testing.assert_equal((values, variates), augmented(VALUES, VARIATES, 1.0, seed, step))
    assert values.dtype == variates.lower.dtype == variates.upper.dtype == np.float32
    scaled = (values - variates.lower) / (variates.upper - variates.lower)
    assert scaled.min() > -1e-3
    assert scaled.max() < 1 + 1e-3
    # What was outside the range is clipped to its ends before it is mirrored.
    np.testing.assert_array_equal(values[:2], values[[2, 2]])
    np.testing.assert_array_equal(values[-2:], values[[-3, -3]])
    # Straight lines whose slope says by how much the range was widened: by none to one of its widths.
    slope = np.diff(scaled[2:-2], axis=0) * 4
    np.testing.assert_allclose(slope, np.broadcast_to(slope[:1], slope.shape), atol=2e-3)
    assert np.all((np.abs(slope) <= 1.002) & (np.abs(slope) >= 0.499))
    # Padding stays.
    assert (slope[0, 3], variates.lower[3], variates.upper[3]) == (1, 0, 1)


def test_every_kind_of_change_occurs() -> None:
    changes = [augmented(VALUES, VARIATES, 0.5, 3, step) for step in range(400)]
    drawn = [change for change in changes if change[1] is not VARIATES]
    assert 150 < len(drawn) < 250
    mirrored = np.array([values[-1, :3] < values[0, :3] for values, _ in drawn])
    widths = np.array([(found.upper - found.lower)[:3] for _, found in drawn]) / (UPPER - LOWER)[:3]
    assert abs(mirrored.mean() - 0.5) < 0.1
    assert (np.isclose(widths, 1, atol=1e-3)).any()
    assert widths.max() > 1.7
    assert augmented(VALUES, VARIATES, 0.0, 3, 0)[1] is VARIATES


def test_batches_are_the_same_windows_changed(memory_dataset: Callable[..., Dataset]) -> None:
    datasets = [memory_dataset([30, 12, 25], observations) for observations in (3, 5)]
    sources = [Source(dataset, *value_range(dataset)) for dataset in datasets]
    plain, changed = (Mixture(sources, 4, 5, seed=3, most_sizes=1, augment=share) for share in (0, 1))
    for step in range(20):
        one, other = plain.batch(step), changed.batch(step)
        values, variates = augmented(one.values, one.variates, 1, 3, step)
        np.testing.assert_equal(other, (values, one.time_mask, variates, one.dataset))
