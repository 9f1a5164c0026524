"""The tokenizer against SciPy and NumPy in float64."""

import numpy as np
import pytest
import scipy.special
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops
from numpy.typing import NDArray
from numpy_reference import histogram

from trajworld.models import bins as binning

BINS = 256
LOWER = np.array([-1.0, 0.0, -100.0], np.float32)
UPPER = np.array([2.0, 1e-3, 300.0], np.float32)

Floats = NDArray[np.float64]


def numbers(tensor: object) -> Floats:
    return np.asarray(ops.convert_to_numpy(tensor), np.float64)


def random_values(shape: tuple[int, ...], seed: int = 0) -> NDArray[np.float32]:
    """Values inside, on, and beyond the ends."""
    rng = np.random.default_rng(seed)
    values = (LOWER + rng.uniform(-0.3, 1.3, (*shape, 3)) * (UPPER - LOWER)).astype(np.float32)
    values[0], values[1], values[2], values[3] = LOWER, UPPER, LOWER - 1e6, UPPER + 1e6
    return values


def random_logits(shape: tuple[int, ...], seed: int = 0, scale: float = 3.0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(0, scale, shape).astype(np.float32)


def softmax(logits: NDArray[np.float32]) -> Floats:
    return scipy.special.softmax(logits.astype(np.float64), axis=-1)


def test_encoding_is_the_gauss_histogram_of_the_clipped_value() -> None:
    values = random_values((40,))
    encoded = numbers(binning.encode(values, LOWER, UPPER, BINS))
    assert encoded.shape == (40, 3, BINS)
    np.testing.assert_allclose(encoded, histogram(values, LOWER, UPPER, BINS), atol=5e-5)
    shared = numbers(binning.encode(values, LOWER[0], UPPER[0], BINS))
    np.testing.assert_array_equal(shared[:, 0], encoded[:, 0])


def test_target_bins_are_the_floor_and_the_ends_beyond() -> None:
    values = random_values((300,), seed=3)
    found = numbers(binning.target_bins(values, LOWER, UPPER, BINS))
    lower, upper = LOWER.astype(np.float64), UPPER.astype(np.float64)
    scaled = (values.astype(np.float64) - lower) / (upper - lower) * BINS
    expected = np.clip(np.floor(scaled), 0, BINS - 1)
    # Rounding may put a value on either side of an edge that it all but touches.
    near = np.abs(scaled - np.round(scaled)) < 1e-3
    np.testing.assert_array_equal(found[~near], expected[~near])
    assert (~near).mean() > 0.9
    assert np.all(np.abs(found - expected) <= 1)
    np.testing.assert_array_equal(found[:4, 0], [0, BINS - 1, 0, BINS - 1])


def test_expectation_and_moments_are_those_of_the_bin_centres() -> None:
    logits = random_logits((9, 3, BINS))
    width = (UPPER.astype(np.float64) - LOWER) / BINS
    centres = LOWER[:, None] + width[:, None] * (np.arange(BINS) + 0.5)
    mean = np.sum(softmax(logits) * centres, axis=-1)
    spread = np.sqrt(np.sum(softmax(logits) * (centres - mean[..., None]) ** 2, axis=-1))
    found_mean, found_spread = (numbers(part) for part in binning.moments(logits, LOWER, UPPER))
    scale = UPPER - LOWER
    np.testing.assert_allclose(found_mean / scale, mean / scale, atol=1e-6)
    np.testing.assert_allclose(found_spread / scale, spread / scale, atol=1e-6)


@pytest.mark.parametrize("targets", ["onehot", "gauss"])
def test_cross_entropies(targets: str) -> None:
    values, logits = random_values((30,), seed=4), random_logits((30, 3, BINS), seed=4)
    log_probabilities = scipy.special.log_softmax(logits.astype(np.float64), axis=-1)
    probabilities = histogram(values, LOWER, UPPER, BINS)
    if targets == "onehot":
        probabilities = np.eye(BINS)[numbers(binning.target_bins(values, LOWER, UPPER, BINS)).astype(int)]
    found = numbers(binning.CROSS_ENTROPIES[targets](logits, values, LOWER, UPPER))
    np.testing.assert_allclose(found, -np.sum(probabilities * log_probabilities, axis=-1), rtol=1e-4)


def draws(logits: NDArray[np.float32], count: int, bins: int) -> Floats:
    """``count`` samples of one variate's prediction on the range [-2, 3]."""
    uniforms = np.random.default_rng(5).uniform(size=(2, count, 1)).astype(np.float32)
    repeated = np.broadcast_to(logits, (count, 1, bins))
    return numbers(binning.sample(repeated, np.float32(-2), np.float32(3), uniforms))[:, 0]


def test_samples_follow_the_predicted_distribution() -> None:
    bins, count = 12, 40_000
    logits = random_logits((bins,), seed=6, scale=1.0)
    values = draws(logits, count, bins)
    assert values.min() >= -2
    assert values.max() <= 3
    observed = np.histogram(values, bins=bins, range=(-2, 3))[0]
    assert scipy.stats.chisquare(observed, softmax(logits) * count).pvalue > 1e-3
    # Within a bin the draws are uniform: so is where in its bin each one lies.
    inside = (values + 2) / 5 * bins % 1.0
    assert scipy.stats.kstest(inside, "uniform").pvalue > 1e-3


def test_no_sample_falls_in_a_bin_of_no_mass_or_outside() -> None:
    logits = np.full(12, -1e4, np.float32)
    logits[[3, 7]] = 0.0
    values = draws(logits, 2000, 12)
    assert set(np.floor((values + 2) / 5 * 12).astype(int)) == {3, 7}
    last = np.nextafter(np.float32(1), np.float32(0))
    uniforms = np.array([[0, 0, last, last], [0, last, 0, last]], np.float32)[:, :, None]
    extreme = numbers(binning.sample(np.tile(logits, (4, 1, 1)), np.float32(-2), np.float32(3), uniforms))
    assert np.all((extreme >= -2) & (extreme <= 3))


SUPPORTS = st.tuples(
    st.floats(-1e6, 1e6, width=32, allow_subnormal=False),
    st.floats(np.float32(1e-3).item(), 1e6, width=32, allow_subnormal=False),
).filter(lambda pair: np.float32(pair[0]) + np.float32(pair[1]) > np.float32(pair[0]))
FRACTIONS = st.floats(-0.5, 1.5, width=32, allow_subnormal=False)


@settings(max_examples=40)
@given(support=SUPPORTS, fractions=st.lists(FRACTIONS, min_size=8, max_size=8))
def test_probabilities_sum_to_one_and_centre_on_the_value(
    support: tuple[float, float], fractions: list[float]
) -> None:
    lower = np.float32(support[0])
    upper = np.float32(lower + np.float32(support[1]))
    values = (lower + np.sort(np.array(fractions, np.float32)) * (upper - lower)).astype(np.float32)
    probabilities = numbers(binning.encode(values, lower, upper, BINS))
    assert np.all(probabilities >= -2e-7)  # Beyond four deviations float32's erf is flat but for rounding.
    np.testing.assert_allclose(probabilities.sum(axis=-1), 1.0, atol=1e-5)
    # The expected bin rises with the value, and is the value's own to about a bin.
    positions = probabilities @ (np.arange(BINS) + 0.5)
    assert np.all(np.diff(positions) >= -1e-3)
    scaled = (np.clip(values, lower, upper).astype(np.float64) - lower) / (np.float64(upper) - lower) * BINS
    assert np.all(np.abs(positions - scaled) < 1.0)
