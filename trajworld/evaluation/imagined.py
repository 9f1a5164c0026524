"""Off-policy evaluation: returns of a policy that acts inside a world model (Yin et al. 2025, algorithm 1)."""

import functools
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trajworld.data.batch import variates_of
from trajworld.data.dataset import Dataset
from trajworld.data.summary import variate_names
from trajworld.environments.termination import Rule
from trajworld.evaluation.ope_settings import OpeSettings
from trajworld.evaluation.returns import ROWS_KEPT, Returns
from trajworld.models.interface import WorldModel
from trajworld.models.ranges import Support
from trajworld.models.rollout import PolicyController, Rollout, steps_at_once
from trajworld.policies.policy import Policy, stacked_weights
from trajworld.processes import Progress
from trajworld.study.tables import half_width, standard_error

Floats = NDArray[np.float32]

_LEAST_BATCH = 8
# How many rounds of rollouts fit in a batch.
_ROUNDS = 8
# If rollouts fade: the least share that continues, and how many of a policy's first always do, so that late steps too
# have a spread to estimate the error. On walker2d a smaller share, or γ^0.75t or γ^1.5t, gained no more.
_LEAST_SHARE, _ALWAYS = 1 / 16, 4


def initial_states(dataset: Dataset, count: int | None = None, seed: int = 0) -> NDArray[np.float32]:
    """First observations ``[N, O]`` of a dataset's episodes: of at most ``count`` drawn without replacement, or of all
    in their order.
    """
    first = dataset.episode_offsets[:-1]
    if count is not None:
        first = np.random.default_rng(seed).choice(first, min(count, len(first)), replace=False)
    return np.asarray(dataset.rows[first, : dataset.observation_size])


def imagined_returns(
    model: WorldModel,
    run: Callable[..., Rollout],
    dataset: Dataset,
    support: Support,
    starts: NDArray[np.float32],
    policies: Mapping[str, Policy],
    ends: Rule,
    settings: OpeSettings,
    progress: Progress | None = None,
) -> dict[str, Returns]:
    """Roll policies out inside a model, from one real row each, until each interval is as narrow as asked.

    Whether a rollout ends is decided on the prediction as it is, and that step's reward still counts; observations and
    rewards are clipped to ``support``. A rollout's draws depend only on the seed and its initial state: all policies
    have the same, and none depends on the others.

    Rollouts go in rounds of one policy. Policies of one form share the batch: where rollouts end, a further round takes
    their places. Without ``compact`` each is carried along to the horizon, one policy at a time. If they fade, a share
    γ^t of a policy's continues beyond step t, at least a sixteenth and four: the estimate stays unbiased, its interval
    accounts for it, and equal intervals take fewer steps.

    Args:
        model: The model.
        run: Its compiled rollouts, of :func:`trajworld.models.rollout.compile_rollout`.
        dataset: The behaviour dataset.
        support: The range over which the model reads it.
        starts: ``[N, O]`` initial observations, in the order in which they are used.
        policies: The policies.
        ends: The termination rule.
        settings: The settings.
        progress: Called after each round.
    """
    plan, steps = _Plan(list(policies), len(starts), settings), steps_at_once(model)
    begun = functools.partial(_Round, dataset, support, starts, ends, settings, (model.context, steps))
    variates = variates_of(dataset, support.lower, support.upper)
    forms: dict[Any, dict[str, Policy]] = {}
    for name, policy in policies.items():
        forms.setdefault(policy.form, {})[name] = policy
    for same in forms.values():
        names = list(same)
        together, weights, last = settings.compact and len(same) > 1, None, None
        waiting = deque((name, *states) for name in names for states in plan.more(name))
        active: list[tuple[str, _Round]] = []
        while active or waiting:
            while waiting and _fits(active, waiting[0][2] - waiting[0][1], settings):
                name, *states = waiting.popleft()
                active.append((name, begun(same[name], *states)))
            rounds, counts = [one for _, one in active], [len(one.places) for _, one in active]
            # The remaining ones fill the batch again: few sizes are compiled.
            places = np.resize(np.arange(sum(counts)), _size(sum(counts), settings.batch_size))
            owners = np.repeat(np.arange(len(rounds)), counts)[places]
            history, mask, noise, draws = _joined([one.given() for one in rounds], places)
            acting = [rounds[owner].policy for owner in owners]
            if acting != last:
                weights, last = stacked_weights(acting) if together else acting[0].weights, acting
            function = acting[0].each_function if together else acting[0].function
            control = PolicyController(function, weights, steps, noise)
            found = run(history, mask, variates, control, draws)
            for one, end in zip(rounds, np.cumsum(counts), strict=True):
                one.add(Rollout(*(array[end - len(one.places) : end] for array in found)))
            for name, one in [(name, one) for name, one in active if not one.goes_on()]:
                active.remove((name, one))
                more = plan.finish(name, one)
                waiting.extendleft((name, *states) for states in reversed(more))
                if progress is not None:
                    progress(*plan.counts(), "policies in the model")
    return {name: plan.returns(name) for name in policies}


def _fits(active: "list[tuple[str, _Round]]", count: int, settings: OpeSettings) -> bool:
    taken = sum(len(one.places) for _, one in active)
    return not active or (settings.compact and taken + count <= settings.batch_size)


def _size(count: int, batch: int) -> int:
    """The least size for ``count`` rollouts: a batch, or half of it, or of that; never a small one."""
    while batch // 2 >= max(count, _LEAST_BATCH):
        batch //= 2
    return max(batch, count)


def _joined(parts: Sequence[tuple[Floats | None, ...]], places: NDArray[np.int64]) -> list[Floats | None]:
    """Arrays of several rounds, whose rollouts are the axes 0, 0, 1 and 2, at these places; None for None."""
    return [
        None if arrays[0] is None else np.take(np.concatenate(arrays, axis), places, axis)
        for arrays, axis in zip(zip(*parts, strict=True), (0, 0, 1, 2), strict=True)
    ]


def _spread(number: int) -> float:
    """The van der Corput sequence (binary digits mirrored at the point): its first n fill [0, 1) evenly."""
    return int(f"{number:032b}"[::-1], 2) / 2**32


class _Plan:
    """Which initial states each policy still needs, and the results of the finished ones."""

    def __init__(self, policies: list[str], states: int, settings: OpeSettings) -> None:
        self._found: dict[str, dict[int, Returns]] = {name: {} for name in policies}
        self._states, self._half_width = states, settings.half_width
        self._planned, self._over, self._running = (dict.fromkeys(policies, 0) for _ in range(3))
        size = settings.batch_size
        self._round = min(size, max(_LEAST_BATCH, size // _ROUNDS) if settings.compact else size)

    def more(self, policy: str) -> list[tuple[int, int]]:
        """The rounds that a policy without a running one still needs: first states, and those after the last."""
        planned, wanted = self._planned[policy], self._states
        if self._half_width and not planned:
            wanted = min(self._round, wanted)
        elif self._half_width:
            width = half_width(self.returns(policy).discounted)
            if width <= self._half_width:
                wanted = planned
            elif np.isfinite(width):
                # A few more than the interval so far asks for: each further round waits for its longest rollout.
                enough = 1.05 * planned * (width / self._half_width) ** 2
                wanted = min(max(int(np.ceil(enough)), planned + 4), wanted)
        self._planned[policy] = wanted
        rounds = [(begin, min(begin + self._round, wanted)) for begin in range(planned, wanted, self._round)]
        self._running[policy] += len(rounds)
        return rounds

    def finish(self, policy: str, one: "_Round") -> list[tuple[int, int]]:
        """Keep a round's results; returns the rounds that its policy then needs."""
        self._found[policy][one.begin] = one.returns()
        self._over[policy] += one.count
        self._running[policy] -= 1
        return [] if self._running[policy] else self.more(policy)

    def returns(self, policy: str) -> Returns:
        """Of all that are finished, in the order of the initial states."""
        return Returns.together([one for _, one in sorted(self._found[policy].items(), key=itemgetter(0))])

    def counts(self) -> tuple[int, int]:
        """The number of rollouts finished or not needed, and the total."""
        done = [self._over[name] if running else self._states for name, running in self._running.items()]
        return sum(done), self._states * len(done)


class _Round:
    """Rollouts of a policy from some of the initial states, and their results so far.

    ``places`` are those that continue, or without ``compact`` all.
    """

    def __init__(
        self,
        dataset: Dataset,
        support: Support,
        starts: NDArray[np.float32],
        ends: Rule,
        settings: OpeSettings,
        rows: tuple[int, int],
        policy: Policy,
        begin: int,
        end: int,
    ) -> None:
        context, self._steps = rows
        size, count = dataset.observation_size, end - begin
        self.policy, self.begin, self.count = policy, begin, count
        self._names, self._size, self._ends, self._settings = variate_names(dataset), size, ends, settings
        self._most = float(max(abs(support.lower[size]), abs(support.upper[size])))
        # Negligible compared with the interval of all rounds together.
        self._share = np.sqrt(count / len(starts))
        self._history = np.zeros((count, context, dataset.num_variates), np.float32)
        self._mask = np.zeros((count, context), np.float32)
        self._history[:, -1, :size], self._mask[:, -1] = starts[begin:end], 1.0
        self._noise, self._draws = (
            [np.random.default_rng([settings.seed, which, state]) for state in range(begin, end)]
            for which in (0, 1)
        )
        self._step, self._alive, self.places = 0, np.arange(count), np.arange(count)
        chunks = -(-settings.horizon // self._steps)
        discounts = settings.discount ** np.arange(settings.horizon)
        self._weights = np.add.reduceat(discounts, np.arange(0, settings.horizon, self._steps))
        self._parts, self._broken, self._problem = np.zeros((count, chunks, 3)), np.zeros(count, bool), ""
        # Later chunks count less: fewer rollouts enter them, in an order that spreads them over the states.
        share = np.maximum(settings.discount ** (self._steps * np.arange(chunks)), _LEAST_SHARE)
        order = np.array([0.0 if state < _ALWAYS else _spread(state) for state in range(begin, end)])
        self._drawn = order[:, None] < (share if settings.fading else np.ones(chunks))
        self._imagined: list[NDArray[np.float32]] = []
        self._origins: list[NDArray[np.int64]] = []

    def given(self) -> tuple[Floats | None, ...]:
        """Rows and mask of those that continue, their noise ``[K, n, A]``, and draws ``[K, 2, n, M]`` for the model."""
        noise = draws = None
        steps, actions = self._steps, self.policy.action_size
        if self.policy.log_std is not None:
            noise = np.stack(
                [self._noise[one].standard_normal((steps, actions), np.float32) for one in self.places],
                axis=1,
            )
        if self._settings.sample:
            count = self._history.shape[-1]
            draws = np.stack(
                [self._draws[one].random((steps, 2, count), np.float32) for one in self.places], axis=2
            )
        return self._history[self.places], self._mask[self.places], noise, draws

    def goes_on(self) -> bool:
        """Whether to imagine further steps: not if they could hardly change the estimate."""
        left, discount = self._settings.horizon - self._step, self._settings.discount
        if not left or not len(self.places):
            return False
        if not self._settings.negligible:
            return True
        ahead = left if discount == 1 else (1 - discount**left) / (1 - discount)
        sums = self._parts[~self._broken, :, 0].sum(axis=1)
        width = self._settings.half_width or 1.96 * self._share * np.nan_to_num(standard_error(sums))
        share = len(self._alive) / max(self._drawn[:, self._step // self._steps].sum(), 1)
        reachable = self._most * discount**self._step * ahead * share
        return bool(reachable > self._settings.negligible * width)

    def add(self, found: Rollout) -> None:
        """Count K steps that were taken."""
        size, steps, newest = self._size, self._steps, self._history.shape[1] - 1
        rows = np.pad(self._history[self.places], [(0, 0), (0, steps), (0, 0)])
        rows[:, newest:-1, size + 1 :] = found.actions
        rows[:, newest + 1 :, :size], rows[:, newest + 1 :, size] = found.observations, found.rewards
        self._history[self.places] = rows[:, steps:]
        self._mask = np.pad(self._mask, [(0, 0), (0, steps)], constant_values=1.0)[:, steps:]
        going = np.isin(self.places, self._alive)
        self._count(rows[going, newest:-1], Rollout(*(array[going] for array in found)))
        self.places = self._alive if self._settings.compact else self.places

    def _count(self, rows: Floats, found: Rollout) -> None:
        """Count K steps of those that had not ended: the rows ``[n, K, M]`` acted in, and what followed."""
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
        broken = ~finite[np.arange(len(last)), last]
        self._broken[self._alive] = broken
        chunk = self._step // self._steps
        self._parts[self._alive, chunk] = np.stack([rewards @ discounts, last + 1, over.any(axis=1)], axis=-1)
        if broken.any() and not self._problem:
            which = int(np.argmax(broken))
            bad = values[which, last[which]]
            place = int(np.argmin(np.isfinite(bad)))
            self._problem = f"{self._names[place]} is {bad[place]} at step {self._step + last[which] + 1}"
        self._imagined.append(np.delete(rows[:, :steps][counted], size, axis=-1))
        places = np.stack([self._alive, np.full_like(self._alive, chunk)])
        self._origins.append(places.repeat(last + 1, axis=1))
        self._step += steps
        going = ~over.any(axis=1)
        if self._step < self._settings.horizon:
            going &= self._drawn[self._alive, chunk + 1]
        self._alive = self._alive[going]

    def returns(self) -> Returns:
        """Of the rollouts that stayed finite."""
        good, problem = ~self._broken, self._problem
        if problem:
            problem = f"{self._broken.sum()} of {len(good)} rollouts are left out: {problem}"
        rows, places = np.concatenate(self._imagined), np.concatenate(self._origins, axis=1)
        whole = good[places[0]]
        rows, places = rows[whole], np.stack([(good.cumsum() - 1)[places[0, whole]], places[1, whole]])
        order = np.random.default_rng([self._settings.seed, 2, self.begin]).random(len(rows))
        kept, found = np.argsort(order)[:ROWS_KEPT], (self._parts[good], self._drawn[good], self._weights)
        return Returns(*found, rows[kept], places[:, kept], order[kept], problem)
