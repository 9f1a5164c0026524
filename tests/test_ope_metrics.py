"""Intervals of off-policy evaluation's metrics, against a loop over draws of policies."""

import numpy as np
import pytest
from scipy.stats import rankdata

from trajworld.evaluation.ope import metrics_table

pytestmark = pytest.mark.once


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
