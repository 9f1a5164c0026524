"""Dropout: its masks are the integer hash's bits on every backend, and look like chance."""

import numpy as np
import pytest
from keras import ops
from numpy.typing import NDArray
from numpy_reference import expected_mask

from trajworld.models.dropout import dropout

Bools = NDArray[np.bool_]


def kept(shape: tuple[int, int], rate: float, seed: int, site: int) -> Bools:
    ones = ops.ones(shape, dtype="float32")
    return np.asarray(ops.convert_to_numpy(dropout(ones, rate, np.int32(seed), site))) > 0


@pytest.mark.parametrize("seed", [0, 1, -1, 123456789, 2**31 - 1, -(2**31)])
@pytest.mark.parametrize("site", [0, 17, 200])
def test_the_mask_is_the_hash_bit_for_bit(seed: int, site: int) -> None:
    np.testing.assert_array_equal(kept((37, 24), 0.3, seed, site), expected_mask((37, 24), 0.3, seed, site))


def test_kept_values_are_scaled_in_their_dtype_and_the_others_zero() -> None:
    for dtype in ("float32", "bfloat16"):
        inputs = ops.ones((50, 8), dtype=dtype)
        found = dropout(inputs, 0.5, np.int32(5), 3)
        assert dtype in str(found.dtype)
        values = ops.convert_to_numpy(ops.cast(found, "float32"))
        np.testing.assert_array_equal(values, np.where(expected_mask((50, 8), 0.5, 5, 3), 2.0, 0.0))
        assert dropout(inputs, 0.5, None, 0) is dropout(inputs, 0.0, np.int32(1), 0) is inputs


@pytest.mark.once
def test_masks_of_neighbouring_sites_seeds_and_positions_are_unrelated() -> None:
    masks = {(seed, site): kept((256, 64), 0.5, seed, site) for seed in (10, 11) for site in (0, 1, 2)}
    flat = [np.where(mask, 1.0, -1.0).ravel() for mask in masks.values()]
    count = flat[0].size
    assert all(abs(one.mean()) < 5 / np.sqrt(count) for one in flat), "half of all are kept"
    correlations = np.array(flat) @ np.array(flat).T / count
    off_diagonal = correlations[~np.eye(len(flat), dtype=bool)]
    assert np.abs(off_diagonal).max() < 5 / np.sqrt(count)
    for lag in (1, 2, 63, 64, 65, 4096):
        lagged = np.mean(flat[0][lag:] * flat[0][:-lag])
        assert abs(lagged) < 5 / np.sqrt(count - lag)
