"""Metrics of off-policy evaluation beside plain computations."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import rankdata

from trajworld.errors import UsageError
from trajworld.evaluation.ope_metrics import metrics_table, ope_metrics


def test_metrics_by_hand() -> None:
    truth, estimate = [10.0, 20.0, 30.0, 50.0], [12.0, 35.0, 33.0, 30.0]
    found = ope_metrics(estimate, truth)
    assert found["absolute error"] == pytest.approx((2 + 15 + 3 + 20) / 4)
    assert found["error / range"] == pytest.approx(10 / 40)
    # Ranks 1 2 3 4 against 1 4 3 2: 1 - 6 (0 + 4 + 0 + 4) / (4 * 15).
    assert found["Spearman"] == pytest.approx(0.2)
    assert found["Pearson"] == pytest.approx(np.corrcoef(truth, estimate)[0, 1])
    assert found["regret@1"] == pytest.approx((50 - 20) / 40)
    # Of four policies the five best are all.
    assert np.isnan(found["regret@5"])


values = arrays(np.float64, 7, elements=st.integers(-50, 50).map(float), unique=True)


@pytest.mark.once
@given(values)
def test_the_truth_itself_is_perfect(truth: np.ndarray) -> None:
    found = ope_metrics(truth, truth)
    assert [round(value, 9) for value in found.values()] == [0, 0, 1, 1, 0, 0]
    worst = ope_metrics(-truth, truth)
    assert worst["Spearman"] == pytest.approx(-1)
    assert worst["regret@1"] == pytest.approx(1)


@pytest.mark.once
@given(values, values, st.floats(0.1, 10), st.floats(-5, 5))
def test_metrics_follow_scale_and_shift(truth: np.ndarray, estimate: np.ndarray, a: float, b: float) -> None:
    found, moved = ope_metrics(estimate, truth), ope_metrics(a * estimate + b, a * truth + b)
    assert moved.pop("absolute error") == pytest.approx(a * found.pop("absolute error"))
    assert list(moved.values()) == pytest.approx(list(found.values()), abs=1e-6)


def test_what_is_not_defined_is_nan_and_lengths_must_agree() -> None:
    assert np.isnan(ope_metrics([1.0, 2.0], [3.0, 3.0])["Spearman"])
    assert np.isnan(ope_metrics([1.0, 1.0], [3.0, 4.0])["Pearson"])
    # Equal estimates tell nothing: the worst of them is what one may pick.
    assert ope_metrics([1.0, 1.0], [3.0, 4.0])["regret@1"] == 1
    single = metrics_table([10.0], [12.0]).set_index("metric")
    assert single["value"].dropna().to_dict() == {"absolute error": 2}
    assert single[["value low", "value high"]].isna().all(axis=None)
    with pytest.raises(UsageError, match="must be of one length"):
        ope_metrics([1.0], [1.0, 2.0])


@pytest.mark.once
def test_intervals_hold_their_values_and_narrow_with_policies() -> None:
    rng = np.random.default_rng(0)
    widths = []
    for count in (8, 200):
        truth = rng.normal(size=count)
        table = metrics_table(truth + rng.normal(size=count), truth).set_index("metric")
        low, value, high = (table.loc["Spearman", name] for name in ("value low", "value", "value high"))
        assert low <= value <= high
        widths.append(high - low)
    assert widths[1] < 0.5 * widths[0]


def metrics(estimate: np.ndarray, truth: np.ndarray, spread: float) -> list[float]:
    pairs = sorted((-e, t) for e, t in zip(estimate, truth, strict=True) if np.isfinite(e))
    if not pairs:
        return [np.nan] * 6
    e, t = -np.array(pairs)[:, 0], np.array(pairs)[:, 1]
    error, varied = np.abs(e - t).mean(), len(set(e)) > 1 and len(set(t)) > 1
    pearson = np.corrcoef(e, t)[0, 1] if varied else np.nan
    spearman = np.corrcoef(rankdata(e), rankdata(t))[0, 1] if varied else np.nan
    regrets = [(max(truth) - max(t[:k])) / spread if k < len(t) else np.nan for k in (1, 5)]
    return [error, error / spread, spearman, pearson, *regrets]


@pytest.mark.once
def test_intervals_are_quantiles_over_draws_with_the_spread_of_all_policies() -> None:
    chance = np.random.default_rng(3)
    truth = chance.normal(size=7)
    estimate = truth + chance.normal(size=7)
    estimate[2] = np.nan
    found = metrics_table(estimate, truth, seed=5, replicates=200)
    draws, spread = np.random.default_rng(5).integers(7, size=(200, 7)), max(truth) - min(truth)
    every = [metrics(estimate[draw], truth[draw], spread) for draw in draws]
    low, high = np.nanpercentile(every, [2.5, 97.5], axis=0)
    np.testing.assert_allclose(found["value"], metrics(estimate, truth, spread))
    np.testing.assert_allclose(found["value low"], low)
    np.testing.assert_allclose(found["value high"], high)
