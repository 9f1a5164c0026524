"""Off-policy evaluation: returns of a policy that acts inside a world model (Yin et al. 2025, algorithm 1)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trajworld.data.batch import variates_of
from trajworld.data.dataset import Dataset
from trajworld.data.summary import variate_names
from trajworld.environments.termination import Rule
from trajworld.evaluation.ope_settings import OpeSettings
from trajworld.models.interface import WorldModel
from trajworld.models.ranges import Support
from trajworld.models.rollout import Controller, Rollout

Floats = NDArray[np.float32]

_STEPS = 10
_LEAST_BATCH = 8
_ROWS_KEPT = 2000


@dataclass(frozen=True)
class Returns:
    """Returns of N rollouts of one policy from N initial states.

    Attributes:
        discounted: ``[N]``: the sum of γ^t r_t until the episode ends, or the horizon.
        lengths: ``[N]``: steps.
        ended: ``[N]``: whether the termination rule ended them.
        rows: ``[S, O + A]``: some of the imagined observations and the actions taken in them.
        origins: ``[S]``: of which rollout each of ``rows`` is.
        problem: What went wrong in rollouts that have no part in ``discounted``; empty where nothing did.
    """

    discounted: NDArray[np.float64]
    lengths: NDArray[np.int64]
    ended: NDArray[np.bool_]
    rows: NDArray[np.float32]
    origins: NDArray[np.int64]
    problem: str = ""

    @classmethod
    def together(cls, parts: "Sequence[Returns]") -> "Returns":
        """Those of several groups of initial states."""
        if len(parts) == 1:
            return parts[0]
        before = np.cumsum([0, *(int(part.origins.max(initial=-1)) + 1 for part in parts[:-1])])
        origins = [part.origins + offset for part, offset in zip(parts, before, strict=True)]
        problem = "; ".join(part.problem for part in parts if part.problem)
        discounted, lengths, ended, rows = (
            np.concatenate([getattr(part, name) for part in parts])
            for name in ("discounted", "lengths", "ended", "rows")
        )
        return cls(discounted, lengths, ended, rows, np.concatenate(origins), problem)


def standard_error(values: NDArray[np.floating]) -> float:
    """Of the mean of ``[N]`` independent values; NaN for fewer than two."""
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan")


def initial_states(dataset: Dataset, count: int | None = None, seed: int = 0) -> NDArray[np.float32]:
    """First observations ``[N, O]`` of a dataset's episodes: of ``count`` drawn without replacement, or of all."""
    first = dataset.episode_offsets[:-1]
    if count is not None and count < len(first):
        first = np.random.default_rng(seed).choice(first, count, replace=False)
    return np.asarray(dataset.rows[first, : dataset.observation_size])


def imagined_returns(
    model: WorldModel,
    run: Callable[..., Rollout],
    dataset: Dataset,
    support: Support,
    starts: NDArray[np.float32],
    controller: Callable[[Floats], Controller],
    ends: Rule,
    settings: OpeSettings,
) -> Returns:
    """Roll a policy out inside a model, from one real row each.

    Whether a rollout ends is decided on the prediction as it is, and that step's reward still counts; observations and
    rewards are clipped to ``support``. Each rollout has its own draws, whatever becomes of the others.

    Args:
        model: The model.
        run: Its compiled rollouts, of :func:`trajworld.models.rollout.compile_rollout`.
        dataset: The behaviour dataset.
        support: The range over which the model reads it.
        starts: ``[N, O]`` initial observations.
        controller: The policy that acts for K steps, from its noise ``[K, B, A]``.
        ends: The termination rule.
        settings: How.
    """
    size, count, steps = dataset.observation_size, len(starts), model.chunk or _STEPS
    variates = variates_of(dataset, support.lower, support.upper)
    largest = float(max(abs(support.lower[size]), abs(support.upper[size])))
    policy_draws, model_draws = (np.random.default_rng([settings.seed, which]) for which in (0, 1))
    history = np.zeros((count, model.context, dataset.num_variates), np.float32)
    mask = np.zeros((count, model.context), np.float32)
    history[:, -1, :size], mask[:, -1] = starts, 1.0
    tally = _Tally(variate_names(dataset), size, count, ends, settings)
    batch = count
    while tally.goes_on(largest):
        alive = tally.alive
        while settings.compact and batch // 2 >= max(len(alive), _LEAST_BATCH):
            batch //= 2
        # Those that are left fill the batch again: few sizes are compiled.
        places = np.resize(alive, batch)
        noise = policy_draws.standard_normal((steps, count, dataset.action_size), np.float32)[:, places]
        draws = None
        if settings.sample:
            draws = model_draws.random((steps, 2, count, dataset.num_variates), np.float32)[:, :, places]
        found = run(history[places], mask[places], variates, controller(noise), draws)
        found = Rollout(*(array[: len(alive)] for array in found))
        rows = np.pad(history[alive], [(0, 0), (0, steps), (0, 0)])
        newest = model.context - 1
        rows[:, newest:-1, size + 1 :] = found.actions
        rows[:, newest + 1 :, :size], rows[:, newest + 1 :, size] = found.observations, found.rewards
        tally.add(rows[:, newest:-1], found)
        history[alive] = rows[:, steps:]
        mask[alive] = np.pad(mask[alive], [(0, 0), (0, steps)], constant_values=1.0)[:, steps:]
    return tally.returns()


class _Tally:
    """What became of N rollouts so far."""

    def __init__(self, names: list[str], size: int, count: int, ends: Rule, settings: OpeSettings) -> None:
        self._names, self._size, self._ends, self._settings = names, size, ends, settings
        self._step, self.alive = 0, np.arange(count)
        self._sums, self._lengths = np.zeros(count), np.zeros(count, np.int64)
        self._ended, self._broken, self._problem = np.zeros(count, bool), np.zeros(count, bool), ""
        self._imagined: list[NDArray[np.float32]] = []
        self._owners: list[NDArray[np.int64]] = []

    def goes_on(self, largest: float) -> bool:
        """Whether further steps, of rewards of at most ``largest``, are to be imagined."""
        left, discount = self._settings.horizon - self._step, self._settings.discount
        if not left or not len(self.alive):
            return False
        ahead = left if discount == 1 else (1 - discount**left) / (1 - discount)
        sums = self._sums[~self._broken]
        half_width = 1.96 * sums.std(ddof=1) / np.sqrt(len(sums)) if len(sums) > 1 else 0.0
        return bool(largest * discount**self._step * ahead > self._settings.negligible * half_width)

    def add(self, rows: NDArray[np.float32], found: Rollout) -> None:
        """Count K steps of the rollouts that were alive: the rows ``[n, K, M]`` acted in, and what followed."""
        steps = min(rows.shape[1], self._settings.horizon - self._step)
        predicted, size = found.unclipped[:, :steps], self._size
        values = np.concatenate([predicted, found.actions[:, :steps]], axis=-1)
        finite = np.isfinite(values).all(axis=-1)
        with np.errstate(invalid="ignore"):
            over = self._ends(predicted[..., :size]) | ~finite
        last = np.where(over.any(axis=1), over.argmax(axis=1), steps - 1)
        counted = np.arange(steps) <= last[:, None]
        discounts = self._settings.discount ** np.arange(self._step, self._step + steps)
        rewards = np.where(counted, np.asarray(found.rewards[:, :steps], np.float64), 0.0)
        self._sums[self.alive] += rewards @ discounts
        self._lengths[self.alive] += last + 1
        broken = ~finite[np.arange(len(last)), last]
        self._broken[self.alive] = broken
        self._ended[self.alive] = over.any(axis=1) & ~broken
        if broken.any() and not self._problem:
            which = int(np.argmax(broken))
            bad = values[which, last[which]]
            place = int(np.argmin(np.isfinite(bad)))
            self._problem = f"{self._names[place]} is {bad[place]} at step {self._step + last[which] + 1}"
        self._imagined.append(np.delete(rows[:, :steps][counted], size, axis=-1))
        self._owners.append(np.repeat(self.alive, last + 1))
        self.alive = self.alive[~over.any(axis=1)]
        self._step += steps

    def returns(self) -> Returns:
        """Of the rollouts that stayed finite."""
        good, problem = ~self._broken, self._problem
        if problem:
            problem = f"{self._broken.sum()} of {len(good)} rollouts are left out: {problem}"
        rows, owners = np.concatenate(self._imagined), np.concatenate(self._owners)
        chosen = np.random.default_rng(self._settings.seed).permutation(len(rows))[:_ROWS_KEPT]
        return Returns(
            self._sums[good],
            self._lengths[good],
            self._ended[good],
            rows[chosen],
            owners[chosen],
            problem,
        )
