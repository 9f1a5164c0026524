"""How well estimates of policies' values agree with the true values."""

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.stats import pearsonr, spearmanr

from trajworld.errors import UsageError
from trajworld.study.tables import HIGH, LOW, interval

METRICS = ("absolute error", "error / range", "Spearman", "Pearson", "regret@1", "regret@5")


def ope_metrics(estimates: ArrayLike, truths: ArrayLike, spread: float | None = None) -> dict[str, float]:
    """How well estimates ``[P]`` of policies' values agree with the true values ``[P]``.

    Mean absolute error, raw and divided by the range of the true values; Spearman's and Pearson's correlation;
    regret@k, how much worse than the best policy is the best of the k that are estimated highest, divided by the range.
    NaN where it is not defined: equal true values, equal estimates, fewer than two policies, k policies or fewer. A
    policy without a finite estimate is never chosen and is left out of errors and correlations, but not of the range,
    which ``spread`` replaces.

    Raises:
        UsageError: The two are not of one length.
    """
    estimate, truth = np.asarray(estimates, np.float64), np.asarray(truths, np.float64)
    if estimate.shape != truth.shape or estimate.ndim != 1 or not len(truth):
        raise UsageError(
            f"estimates {estimate.shape} and true values {truth.shape} must be of one length, [P]"
        )
    spread, best = spread or np.ptp(truth) or np.nan, truth.max()
    known = np.isfinite(estimate)
    if not known.any():
        return dict.fromkeys(METRICS, np.nan)
    estimate, truth = estimate[known], truth[known]
    error = float(np.abs(estimate - truth).mean())
    # Ties go to the worst policy.
    order = np.lexsort((truth, -estimate))
    regrets = [float((best - truth[order[:k]].max()) / spread) if k < len(known) else np.nan for k in (1, 5)]
    varied = np.ptp(estimate) > 0 and np.ptp(truth) > 0
    ranks = [float(of(estimate, truth).statistic) if varied else np.nan for of in (spearmanr, pearsonr)]
    return dict(zip(METRICS, (error, error / spread, *ranks, *regrets), strict=True))


def metrics_table(
    estimates: ArrayLike, truths: ArrayLike, seed: int = 0, replicates: int = 1000
) -> pd.DataFrame:
    """:func:`ope_metrics`, one a row, with 95 % intervals of a bootstrap over policies, where there are several."""
    estimate, truth = np.asarray(estimates, np.float64), np.asarray(truths, np.float64)
    found = ope_metrics(estimate, truth)
    drawn = np.random.default_rng(seed).integers(len(truth), size=(replicates, len(truth)))
    spread = float(np.ptp(truth))
    values = np.array([list(ope_metrics(estimate[one], truth[one], spread).values()) for one in drawn])
    ends, known = np.full((2, len(found)), np.nan), np.isfinite(values).any(axis=0) & (len(truth) > 1)
    if known.any():
        ends[:, known] = interval(values[:, known])
    return pd.DataFrame(
        {"metric": list(found), "value": found.values(), "value" + LOW: ends[0], "value" + HIGH: ends[1]}
    )


def method_metrics(table: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """:func:`metrics_table` of each ``method`` of a table of policies' ``estimate`` and ``truth``.

    ``policies`` says how many have a finite estimate.
    """
    parts = []
    for method, rows in table.groupby("method", sort=False):
        found = metrics_table(rows["estimate"], rows["truth"], seed)
        parts.append(found.assign(method=method, policies=int(np.isfinite(rows["estimate"]).sum())))
    columns = ["method", "policies", "metric", "value", "value" + LOW, "value" + HIGH]
    return pd.concat(parts)[columns] if parts else pd.DataFrame(columns=columns)
