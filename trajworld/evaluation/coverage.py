"""How far imagined rows lie from a dataset."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import KDTree

from trajworld.data.dataset import Dataset
from trajworld.evaluation.returns import ROWS_KEPT, Returns

_ROWS = 5000
_OTHERS = 1000


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
        """Of 5,000 of a dataset's rows; 1,000 others give the usual distances."""
        size, rng = dataset.observation_size, np.random.default_rng(seed)
        episodes = rng.permutation(dataset.num_episodes)
        # An episode's last row has no action.
        acted = [np.arange(*dataset.episode_offsets[[e, e + 1]])[:-1] for e in episodes]
        places = np.concatenate(acted)
        ends = np.cumsum([len(one) for one in acted])
        # The first episodes that are a fifth together, or half of a single one.
        cut = max(1, ends[-1] // 2)
        if len(acted) > 1:
            cut = ends[min(int(np.searchsorted(ends, ends[-1] / 5)), len(acted) - 2)]
        held, rest = places[:cut], places[cut:] if cut < len(places) else places
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
        the data: those with a state, of at most 2,000 of the policy, further away than any real one.

        If rollouts fade, those that continue stand for the others, too.
        """
        if not len(returns.rows):
            return {}
        # As many of a rollout's states as if none faded: among more, more lie far away.
        count = int(np.ceil(ROWS_KEPT * returns.parts[..., 1].sum() / returns.lengths.sum()))
        rows, (origins, chunks) = returns.rows[:count] / self.scale, returns.places[:, :count]
        drawn, every, size = returns.drawn, np.arange(len(returns.weights)), self.observation_size
        weights, near = 1 / drawn.mean(axis=0)[chunks], self.states.query(rows[:, :size])[0]
        far, first = near > self.furthest, np.full((len(drawn), 1), len(every))
        np.minimum.at(first[:, 0], origins[far], chunks[far])
        # Of those that continue and had not left before (Kaplan-Meier).
        staying = drawn & (first >= every)
        leaving = (staying & (first == every)).sum(axis=0) / np.maximum(staying.sum(axis=0), 1)
        return {
            "state distance": float(np.average(near, weights=weights) / self.usual[0]),
            "state and action": float(np.average(self.pairs.query(rows)[0], weights=weights) / self.usual[1]),
            "left the data": float(1 - np.prod(1 - leaving)),
        }
