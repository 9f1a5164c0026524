"""Planning in a world model (model predictive control): act by what the model predicts for many action sequences."""

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from keras import ops
from numpy.typing import NDArray

from trajworld.data.batch import variates_of
from trajworld.data.dataset import Dataset
from trajworld.environments.termination import Rule, termination_rule
from trajworld.errors import TrajWorldError, UsageError
from trajworld.evaluation.ope import check_policies
from trajworld.models.interface import WorldModel
from trajworld.models.ranges import Support
from trajworld.models.rollout import GivenActions, PolicyController, Rollout, compile_rollout
from trajworld.planning.settings import CEM, MPPI, SHOOTING, PlannerSettings
from trajworld.policies.behaviour import Controller, in_box, in_unit
from trajworld.policies.policy import Policy

Floats = NDArray[np.float32]
Tensor = Any


@dataclass(frozen=True, eq=False)
class Planner:
    """Receding-horizon planning: a ``Behaviour`` that imagines candidates, sequences of actions, at each step.

    Candidates are Gaussian around a plan: at first the middle of the action range, then, except in shooting, the last
    step's plan, shifted by a step; or they are the actions of a proposal policy inside the model, as it is defined,
    plus noise. The first candidate has no noise. A candidate's value is the discounted sum of its expected rewards
    until the environment's termination rule ends it, the last one included; a model whose predictions are samples by
    definition is sampled. The model reads the real rows of the episode, the last W of them.

    - shooting: the plan is the best candidate;
    - cem: the mean of the elites; a further round draws Gaussians of their mean and standard deviation;
    - mppi: the mean of all, with weights exp(value / (temperature × standard deviation of the values)); a further round
      draws the same noise around it.

    The first action of the last round's plan is executed.

    Attributes:
        model: The world model.
        support: The range over which it reads the data.
        dataset: Data of the environment, with rewards; they define the variates.
        settings: The settings.
        proposal: The policy to plan around, if any.
        environment: Where it acts, whose termination rule holds; that of the data where it is empty.
        observe: Called after each action.

    Raises:
        TrajWorldError: The data have no rewards, or the proposal cannot act there; or when acting, no candidate's
            predictions are finite.
        UsageError: When acting, the environment's sizes are not the data's, its bounds are none, or the observation is
            not finite.
    """

    model: WorldModel
    support: Support
    dataset: Dataset
    settings: PlannerSettings = field(default_factory=PlannerSettings)
    proposal: Policy | None = None
    environment: str = ""
    observe: Callable[[], None] = lambda: None

    def __post_init__(self) -> None:
        check_policies(
            {} if self.proposal is None else {"proposal": self.proposal}, self.dataset, self._where
        )

    @property
    def _where(self) -> str:
        return self.environment or self.dataset.environment

    def controller(self, low: Floats, high: Floats, generator: np.random.Generator) -> Controller:
        """See ``Behaviour``: plan in each step of one episode, from its real rows."""
        size, plan = self.dataset.observation_size, None
        low, high = np.asarray(low, np.float32), np.asarray(high, np.float32)
        if low.shape != (self.dataset.action_size,) or high.shape != low.shape:
            raise UsageError(
                f"the environment has {low.size} actions, but {self.dataset.name} {self.dataset.action_size}"
            )
        if not (np.isfinite([low, high]).all() and (low <= high).all()):
            raise UsageError(f"the bounds of actions, {low} and {high}, are no finite ranges")
        rows = np.zeros((0, self.dataset.num_variates), np.float32)

        def act(observation: Floats, reward: float) -> Floats:
            nonlocal rows, plan
            if len(observation) != size:
                raise UsageError(
                    f"the environment has {len(observation)} observation values, but {self.dataset.name} {size}"
                )
            if not np.isfinite([*observation, reward]).all():
                raise UsageError("the observation or reward to act on is NaN or infinite")
            newest = np.concatenate([observation, [reward], np.zeros_like(low)]).astype(np.float32)
            rows = np.concatenate([rows, newest[None]])[-self.model.context :]
            plan = self._plan(rows, plan, (low, high), generator)
            rows[-1, size + 1 :] = in_box(plan[0], low, high)
            self.observe()
            return rows[-1, size + 1 :].copy()

        return act

    def _plan(
        self,
        rows: Floats,
        last: NDArray[np.float64] | None,
        bounds: tuple[Floats, Floats],
        generator: np.random.Generator,
    ) -> NDArray[np.float64]:
        """The plan ``[h, A]``, in half boxes, from real rows ``[<= W, M]``."""
        settings, actions = self.settings.resolved(self.proposal is not None), self.dataset.action_size
        low, high = bounds
        mean = np.zeros((settings.horizon, actions))
        if last is not None and settings.method != SHOOTING:
            mean[:-1] = last[1:]
        std = np.full(mean.shape, settings.noise)
        for number in range(settings.rounds or 1):
            drawn = generator.standard_normal((settings.candidates, *mean.shape))
            drawn[0] = 0.0
            if number == 0 and self.proposal is not None:
                scaled = np.swapaxes(std * drawn * (high - low) / 2, 0, 1)
                control: Any = _proposed(self.proposal, scaled, (low, high), generator)
            else:
                control = GivenActions(in_box(mean + std * drawn, low, high))
            found = self._imagine(rows, control, generator)
            candidates = in_unit(found.actions.astype(np.float64), low, high)
            mean, std = refined(candidates, self._values(found), std, settings)
        return mean

    def _imagine(self, rows: Floats, control: Any, generator: np.random.Generator) -> Rollout:
        count, draws = self.settings.candidates, None
        if getattr(self.model, "samples", False):
            shape = self.settings.horizon, 2, count, self.dataset.num_variates
            draws = generator.random(shape, np.float32)
        variates = variates_of(self.dataset, self.support.lower, self.support.upper)
        history, mask = np.repeat(rows[None], count, axis=0), np.ones((count, len(rows)), np.float32)
        return self._run(history, mask, variates, control, draws)

    @functools.cached_property
    def _run(self) -> Callable[..., Rollout]:
        return compile_rollout(self.model, self.dataset.observation_size)

    def _values(self, found: Rollout) -> NDArray[np.float64]:
        rule = termination_rule(self._where)
        values = candidate_values(found, rule, self.settings.discount, self.dataset.observation_size)
        if not np.isfinite(values).any():
            raise TrajWorldError(
                f"the model's predictions of {self._where or self.dataset.name} are not finite: there is "
                "nothing to plan by"
            )
        return values


def candidate_values(
    found: Rollout, ends: Rule, discount: float, observation_size: int
) -> NDArray[np.float64]:
    """The discounted sum of rewards of each rollout until it ends, ``[B]``; −∞ where a number before is not finite."""
    over = ends(found.unclipped[..., :observation_size])
    # The reward of the step that ends a rollout counts.
    alive = over.cumsum(axis=1) - over == 0
    rewards = np.where(alive, found.rewards.astype(np.float64), 0.0)
    values = rewards @ discount ** np.arange(rewards.shape[1])
    good = np.isfinite(found.unclipped).all(axis=-1) | ~alive
    return np.where(good.all(axis=1), values, -np.inf)


def refined(
    candidates: NDArray[np.float64],
    values: NDArray[np.float64],
    std: NDArray[np.float64],
    settings: PlannerSettings,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The plan ``[h, A]`` that candidates ``[N, h, A]`` and their values ``[N]`` give, and the next draw's deviation.

    A value of −∞ is that of a candidate that is never chosen; one at least is finite.
    """
    finite = np.isfinite(values)
    if settings.method == CEM:
        order = np.argsort(-values, kind="stable")
        elites = candidates[order[: min(settings.elites, finite.sum())]]
        return elites.mean(axis=0), elites.std(axis=0)
    if settings.method == MPPI:
        scale = settings.temperature * values[finite].std()
        weights = np.exp((values - values.max()) / scale) if scale > 0 else finite.astype(np.float64)
        return np.tensordot(weights / weights.sum(), candidates, axes=1), std
    return candidates[np.argmax(values)], std


def _proposed(
    policy: Policy,
    noise: NDArray[np.floating],
    bounds: tuple[Floats, Floats],
    generator: np.random.Generator,
) -> PolicyController:
    """A policy's actions, drawn where it is stochastic, plus noise ``[h, N, A]``, clipped to the bounds."""
    horizon, count, _ = noise.shape
    own = policy.draws(horizon, count, generator)
    weights = {"policy": policy.weights, "low": bounds[0], "high": bounds[1]}
    both = np.concatenate([np.zeros_like(noise) if own is None else own, noise], axis=-1)
    return PolicyController(_noisy(policy.function), weights, horizon, both.astype(np.float32))


@functools.cache
def _noisy(policy: Callable[..., Tensor]) -> Callable[..., Tensor]:
    # One function for each policy's, so that compilations are shared.
    def act(weights: Any, observation: Tensor, noise: Tensor | None) -> Tensor:
        own, added = ops.split(noise, 2, axis=-1)
        action = policy(weights["policy"], observation, own) + added
        return ops.minimum(ops.maximum(action, weights["low"]), weights["high"])

    return act
