"""Off-policy evaluation of several policies: how good the estimates are, and how far they rest on the data."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import KDTree
from scipy.stats import pearsonr, spearmanr

from trajworld.data.dataset import Dataset
from trajworld.errors import UsageError
from trajworld.evaluation.returns import Returns
from trajworld.study.tables import HIGH, LOW, interval

METRICS = ("absolute error", "error / range", "Spearman", "Pearson", "regret@1", "regret@5")

_ROWS = 5000
_OTHERS = 1000


def ope_metrics(estimates: ArrayLike, truths: ArrayLike) -> dict[str, float]:
    """How well estimates ``[P]`` of policies' values agree with the true values ``[P]``.

    Mean absolute error, raw and divided by the range of the true values; Spearman's and Pearson's correlation;
    regret@k, how much worse than the best policy is the best of the k that are estimated highest, divided by the range.
    NaN where it is not defined: equal true values, equal estimates, fewer than two policies.

    Raises:
        UsageError: The two are not of one length.
    """
    estimate, truth = np.asarray(estimates, np.float64), np.asarray(truths, np.float64)
    if estimate.shape != truth.shape or estimate.ndim != 1 or not len(truth):
        raise UsageError(
            f"estimates {estimate.shape} and true values {truth.shape} must be of one length, [P]"
        )
    spread = np.ptp(truth) or np.nan
    error = float(np.abs(estimate - truth).mean())
    # Of equal estimates the worst is taken.
    order = np.lexsort((truth, -estimate))
    regrets = [float((truth.max() - truth[order[:k]].max()) / spread) for k in (1, 5)]
    varied = np.ptp(estimate) > 0 and spread > 0
    ranks = [float(of(estimate, truth).statistic) if varied else np.nan for of in (spearmanr, pearsonr)]
    return dict(zip(METRICS, (error, error / spread, *ranks, *regrets), strict=True))


def metrics_table(
    estimates: ArrayLike, truths: ArrayLike, seed: int = 0, replicates: int = 1000
) -> pd.DataFrame:
    """:func:`ope_metrics`, one a row, with 95 % intervals of a bootstrap over policies."""
    estimate, truth = np.asarray(estimates, np.float64), np.asarray(truths, np.float64)
    found = ope_metrics(estimate, truth)
    drawn = np.random.default_rng(seed).integers(len(truth), size=(replicates, len(truth)))
    values = np.array([list(ope_metrics(estimate[one], truth[one]).values()) for one in drawn])
    low, high = interval(values[:, np.isfinite(values).any(axis=0)])
    ends = np.full((2, len(found)), np.nan)
    ends[:, np.isfinite(values).any(axis=0)] = low, high
    return pd.DataFrame(
        {"metric": list(found), "value": found.values(), "value" + LOW: ends[0], "value" + HIGH: ends[1]}
    )


@dataclass(frozen=True, eq=False)
class Coverage:
    """How far imagined rows lie from a dataset, measured to the nearest of its rows in standard deviations.

    A distance is divided by the mean distance of real rows, of other episodes where there are several: 1 is like the
    data.
    """

    observation_size: int
    scale: NDArray[np.float64]
    states: KDTree
    pairs: KDTree
    usual: tuple[float, float]
    furthest: float

    @classmethod
    def of(cls, dataset: Dataset, seed: int = 0) -> "Coverage":
        """Of 5,000 of a dataset's rows; 1,000 others say what is usual."""
        size, rng = dataset.observation_size, np.random.default_rng(seed)
        episodes = rng.permutation(dataset.num_episodes)
        # An episode's last row has no action.
        acted = [np.arange(*dataset.episode_offsets[[e, e + 1]])[:-1] for e in episodes]
        places = np.concatenate(acted)
        held = places[: max(len(acted[0]), len(places) // 5)] if len(acted) > 1 else places
        rest = places[len(held) :] if len(acted) > 1 else places
        chosen, others = (
            np.sort(rng.permutation(part)[:most]) for part, most in ((rest, _ROWS), (held, _OTHERS))
        )
        rows = np.delete(np.asarray(dataset.rows[chosen], np.float64), size, axis=1)
        real = np.delete(np.asarray(dataset.rows[others], np.float64), size, axis=1)
        scale = rows.std(axis=0)
        scale[scale < 1e-6] = 1.0
        states, pairs = KDTree(rows[:, :size] / scale[:size]), KDTree(rows / scale)
        near = states.query(real[:, :size] / scale[:size])[0]
        both = pairs.query(real / scale)[0]
        usual = (float(near.mean()) or 1.0, float(both.mean()) or 1.0)
        return cls(size, scale, states, pairs, usual, float(near.max()))

    def measure(self, returns: Returns) -> dict[str, float]:
        """Distances of a policy's imagined states, and of these with its actions; and the share of rollouts that leave
        the data: those of which a state lies further than any real one.
        """
        rows, size = returns.rows / self.scale, self.observation_size
        near = self.states.query(rows[:, :size])[0]
        left = np.unique(returns.origins[near > self.furthest])
        return {
            "state distance": float(near.mean() / self.usual[0]),
            "state and action": float(self.pairs.query(rows)[0].mean() / self.usual[1]),
            "left the data": len(left) / len(np.unique(returns.origins)),
        }
