"""Planning beside plain loops, in models whose best actions are known, and in the simulator."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keras import ops
from linear_model import Linear, LinearSizes, motion

from trajworld.collect.episodes import run_episode, run_episodes
from trajworld.data.batch import Variates
from trajworld.data.dataset import Dataset
from trajworld.data.episode import Episode, no_rewards
from trajworld.data.store import write_store
from trajworld.environments.open import open_environment
from trajworld.errors import TrajWorldError, UsageError
from trajworld.models.identity import Identity
from trajworld.models.interface import Step, kind_of, new_model
from trajworld.models.ranges import Support
from trajworld.models.rollout import Rollout
from trajworld.planning.planner import Planner, candidate_values, refined
from trajworld.planning.settings import PlannerSettings
from trajworld.policies.behaviour import Uniform
from trajworld.policies.files import save_policy
from trajworld.policies.policy import Layer, Policy

METHODS = ("shooting", "cem", "mppi")
LOW, HIGH = np.array([-1.0, -0.5], np.float32), np.array([1.0, 1.5], np.float32)
PENDULUM = "gymnasium/Pendulum-v1"


class Pendulum(keras.Model):
    """Gymnasium's pendulum itself, as a world model."""

    context, chunk = 3, None

    def start(self, history: Any, mask: Any, variates: Variates) -> tuple[Any, Variates]:
        return history[:, -1], variates

    def step(self, state: Any, action: Any, draws: Any = None) -> tuple[Any, Step]:
        row, variates = state
        angle, speed, push = ops.arctan2(row[:, 1], row[:, 0]), row[:, 2], ops.clip(action[:, 4], -2, 2)
        cost = angle**2 + 0.1 * speed**2 + 0.001 * push**2
        speed = ops.clip(speed + 0.05 * (15 * ops.sin(angle) + 3 * push), -8, 8)
        angle = angle + 0.05 * speed
        value = ops.stack([ops.cos(angle), ops.sin(angle), speed, -cost, 0 * cost], axis=-1)
        return (value, variates), Step(value, 0 * value, value)


@pytest.fixture
def data(tmp_path: Path) -> Dataset:
    return motion(tmp_path / "data")


@pytest.fixture
def pendulum(tmp_path: Path) -> Dataset:
    episodes = [one.episode for one in run_episodes(PENDULUM, Uniform(), 0, 0, 2)]
    return write_store(tmp_path / "pendulum", episodes, name="pendulum", source="", environment=PENDULUM)


def support(dataset: Dataset, bound: float = 50.0) -> Support:
    ends = np.full(dataset.num_variates, bound, np.float32)
    return Support(-ends, ends)


def linear(turn: np.ndarray, push: np.ndarray, bound: float = 50.0) -> Linear:
    """The system of three observations ``state @ turn + action @ push``, whose reward is its first observation."""
    model = Linear(LinearSizes())
    kernel, count = -np.eye(12), 6
    kernel[:3, :3] += turn
    kernel[4:6, :3] = push
    kernel[:count, 3] = 0
    kernel[:3, 3], kernel[4:6, 3] = turn[:, 0], push[:, 0]
    kernel[3, 3] = -1
    # Scaled to [0, 1] around the middle.
    middle = np.full(count, 0.5)
    bias = np.zeros(12)
    bias[:4] = (middle - middle @ (np.eye(count) + kernel[:count, :count]))[:4]
    model.set_weights([kernel, bias, np.full(12, -3.0)])
    return model


def system(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return 0.9 * np.linalg.qr(rng.normal(size=(3, 3)))[0], rng.normal(size=(2, 3))


@pytest.mark.parametrize("method", METHODS)
def test_the_best_actions_of_a_linear_system_are_found(data: Dataset, method: Any) -> None:
    """Rewards are linear in the actions: the best lie at the bounds, on the side of each one's sum of effects."""
    turn, push = system(1)
    horizon = 6
    # On the rewards of all further steps, of an action in step k.
    effects = np.array(
        [
            sum((push @ np.linalg.matrix_power(turn, later))[:, 0] for later in range(horizon - k))
            for k in range(horizon)
        ]
    )
    best = np.where(effects > 0, HIGH, LOW)
    settings = PlannerSettings(method=method, horizon=horizon, candidates=300, rounds=8, temperature=0.1)
    planner = Planner(linear(turn, push), support(data), data, settings)
    act = planner.controller(LOW, HIGH, np.random.default_rng(0))
    first = act(np.array([0.3, -0.2, 0.5], np.float32), 0.0)
    if method == "shooting":
        # Each candidate is at the bounds or between them: the best has the greatest effects right.
        strongest = np.abs(effects[0]).argmax()
        assert abs(first[strongest] - best[0, strongest]) < 0.7
    else:
        np.testing.assert_allclose(first, best[0], atol=0.1)


def test_planned_actions_are_those_of_a_plain_loop(data: Dataset) -> None:
    """Shooting by hand, from the same draws: rewards until the rule ends it, in float64."""
    turn, push = system(2)
    settings = PlannerSettings(horizon=13, candidates=40, discount=0.9)
    planner = Planner(linear(turn, push), support(data), data, settings)
    act, generator = planner.controller(LOW, HIGH, np.random.default_rng(5)), np.random.default_rng(5)
    state, reward = np.array([0.3, -0.2, 0.5]), 0.0
    for _ in range(3):
        noise = math.sqrt(2) * generator.standard_normal((40, 13, 2))
        noise[0] = 0
        actions = np.clip((LOW + HIGH) / 2 + (HIGH - LOW) / 2 * noise, LOW, HIGH)
        values = []
        for candidate in actions:
            seen, total = state, 0.0
            for step, action in enumerate(candidate):
                seen = seen @ turn + action @ push
                total += 0.9**step * seen[0]
            values.append(total)
        best = actions[int(np.argmax(values)), 0]
        found = act(state.astype(np.float32), reward)
        np.testing.assert_allclose(found, best, atol=1e-5)
        state = state @ turn + best @ push
        reward = float(state[0])


@pytest.mark.parametrize("method", METHODS)
def test_a_seed_repeats(data: Dataset, method: Any) -> None:
    planner = Planner(linear(*system(3)), support(data), data, PlannerSettings(method, 5, 20))
    found = []
    for seed in (0, 0, 1):
        act = planner.controller(LOW, HIGH, np.random.default_rng(seed))
        found.append([act(np.full(3, 0.1 * step, np.float32), 0.0) for step in range(3)])
    np.testing.assert_array_equal(found[0], found[1])
    assert np.abs(np.subtract(found[0], found[2])).max() > 0
    assert (np.array(found) >= LOW).all()
    assert (np.array(found) <= HIGH).all()


def test_a_proposal_acts_in_the_model_and_noise_is_around_it(data: Dataset) -> None:
    """With hardly any noise a deterministic proposal's action is done; the first candidate has none at all."""
    turn, push = system(4)
    gain = np.random.default_rng(0).normal(size=(3, 2)).astype(np.float32)
    policy = Policy((), Layer(gain, np.zeros(2, np.float32)), low=LOW, high=HIGH)
    state = np.array([0.3, -0.2, 0.5], np.float32)

    def planned(proposal: Policy, **settings: Any) -> np.ndarray:
        given = PlannerSettings(horizon=11, **settings)
        planner = Planner(linear(turn, push), support(data), data, given, proposal)
        return planner.controller(LOW, HIGH, np.random.default_rng(0))(state, 0.0)

    mean = policy.act(state[None])[0]
    np.testing.assert_allclose(planned(policy, candidates=32, noise=1e-6), mean, atol=1e-4)
    np.testing.assert_allclose(planned(policy, candidates=1, noise=0.3), mean, atol=1e-5)
    assert np.abs(planned(policy, candidates=32, noise=0.3) - mean).max() > 1e-3
    # A stochastic one draws its own: of one candidate these decide alone.
    spread = Layer(np.zeros((3, 2), np.float32), np.full(2, -1.0, np.float32))
    drawn = planned(replace(policy, log_std=spread), candidates=1)
    generator = np.random.default_rng(0)
    generator.standard_normal((1, 11, 2))
    noisy = replace(policy, log_std=spread)
    own = noisy.draws(11, 1, generator)
    np.testing.assert_allclose(drawn, noisy.function(noisy.weights, state[None], own[0], np)[0], atol=1e-5)


def test_a_proposal_and_its_noise_stay_within_the_bounds(data: Dataset) -> None:
    far = Policy(
        (),
        Layer(np.zeros((3, 2), np.float32), np.full(2, 9.0, np.float32)),
        low=np.full(2, -9.0),
        high=np.full(2, 9.0),
    )
    planner = Planner(linear(*system(5)), support(data), data, PlannerSettings(horizon=3), far)
    act = planner.controller(LOW, HIGH, np.random.default_rng(0))
    run, seen = planner._run, []
    planner.__dict__["_run"] = lambda *given: seen.append(run(*given)) or seen[-1]
    act(np.zeros(3, np.float32), 0.0)
    np.testing.assert_allclose(seen[0].actions[0], np.tile(HIGH, (3, 1)))
    assert (seen[0].actions >= LOW).all()
    assert (seen[0].actions <= HIGH).all()


def test_an_action_of_one_value_is_that_value(data: Dataset) -> None:
    high = np.array([1.0, -0.5], np.float32)
    for method in METHODS:
        planner = Planner(linear(*system(6)), support(data), data, PlannerSettings(method, 5, 20))
        act = planner.controller(LOW, high, np.random.default_rng(0))
        found = [act(np.full(3, 0.1, np.float32), 0.0) for _ in range(2)]
        np.testing.assert_array_equal(np.array(found)[:, 1], -0.5)
        assert np.isfinite(found).all()


def test_a_pre_trained_transformer_plans(data: Dataset) -> None:
    """Chunks of a rollout, real rows and a proposal together: the first candidate is the proposal's."""
    model = new_model(kind_of("trajworld").preset("tiny"), Identity())
    policy = Policy((), Layer(np.ones((3, 2), np.float32), np.zeros(2, np.float32)), low=LOW, high=HIGH)
    given = PlannerSettings(horizon=(model.chunk or 0) + 2, candidates=1)
    act = Planner(model, support(data), data, given, policy).controller(LOW, HIGH, np.random.default_rng(0))
    for step in range(3):
        seen = np.full(3, 0.1 * step, np.float32)
        np.testing.assert_allclose(act(seen, 0.0), policy.act(seen[None])[0], atol=1e-5)


@given(st.integers(0, 10**6), st.integers(1, 6), st.integers(1, 9), st.floats(0.5, 1.0))
def test_values_are_those_of_a_loop(seed: int, count: int, horizon: int, discount: float) -> None:
    rng = np.random.default_rng(seed)
    observations, rewards = rng.normal(size=(count, horizon, 2)), rng.normal(size=(count, horizon))
    observations[rng.random(observations.shape) < 0.03] = np.nan
    # What ends a rollout is said by the predictions as they are, its value by the clipped ones.
    unclipped = np.concatenate([observations, 3 + rewards[..., None]], axis=-1)
    clipped = np.clip(observations, -0.5, 0.5)
    found = Rollout(clipped, rewards, clipped, rewards, rewards[..., None], unclipped)

    def ends(seen: np.ndarray) -> np.ndarray:
        return ~(seen[..., 0] < 1.0)

    expected = []
    for one in range(count):
        total = 0.0
        for step in range(horizon):
            if not np.isfinite(observations[one, step]).all():
                total = -np.inf
                break
            total += discount**step * rewards[one, step]
            if observations[one, step, 0] >= 1.0:
                break
        expected.append(total)
    np.testing.assert_allclose(candidate_values(found, ends, discount, 2), expected, rtol=1e-9, atol=1e-12)


@given(st.integers(0, 10**6))
def test_plans_from_candidates_by_hand(seed: int) -> None:
    rng = np.random.default_rng(seed)
    candidates, values = rng.normal(size=(7, 2, 3)), rng.normal(size=7)
    values[2] = -np.inf
    std, given_ = np.full((2, 3), 0.7), {name: PlannerSettings(name, elites=3) for name in METHODS}
    plan, kept = refined(candidates, values, std, given_["shooting"])
    np.testing.assert_array_equal(plan, candidates[max(range(7), key=values.__getitem__)])
    plan, spread = refined(candidates, values, std, given_["cem"])
    best = candidates[sorted(range(7), key=lambda one: -values[one])[:3]]
    np.testing.assert_allclose(plan, sum(best) / 3)
    np.testing.assert_allclose(spread, np.sqrt(sum((one - plan) ** 2 for one in best) / 3))
    plan, kept = refined(candidates, values, std, given_["mppi"])
    scale = 0.5 * np.std([value for value in values if np.isfinite(value)])
    weights = [math.exp((value - max(values)) / scale) for value in values]
    np.testing.assert_allclose(
        plan, sum(w * c for w, c in zip(weights, candidates, strict=True)) / sum(weights)
    )
    assert kept is std
    few = np.where(np.arange(7) < 2, values, -np.inf)
    plan, _ = refined(candidates, few, std, given_["cem"])
    np.testing.assert_allclose(plan, candidates[:2].mean(axis=0))
    # Of equal values all count alike, but for those that are not finite.
    plan, _ = refined(candidates, np.where(np.isfinite(values), 1.0, -np.inf), std, given_["mppi"])
    np.testing.assert_allclose(plan, np.delete(candidates, 2, axis=0).mean(axis=0))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["cem", "mppi"])
def test_a_pendulum_is_swung_up_and_held(pendulum: Dataset, method: Any) -> None:
    """In the simulator, planned in a model that is right: the last forty rows stand upright."""
    settings = PlannerSettings(method=method, horizon=20, candidates=100, rounds=3, temperature=0.2)
    planner = Planner(Pendulum(), support(pendulum), pendulum, settings)
    episode = run_episode(open_environment(PENDULUM), planner, 0, 0, 160).episode
    assert episode is not None
    assert episode.observations[-40:, 0].min() > 0.95
    weak = run_episode(open_environment(PENDULUM), Uniform(), 0, 0, 160).episode
    assert episode.rewards.sum() > weak.rewards.sum() / 2


def test_what_cannot_be_planned_is_refused(data: Dataset, tmp_path: Path) -> None:
    model = linear(*system(1))
    for wrong in (
        {"method": "best"},
        {"horizon": 0},
        {"horizon": 2.5},
        {"candidates": "5"},
        {"method": "cem", "candidates": 4},
        {"noise": 0.0},
        {"temperature": math.nan},
        {"discount": 1.1},
        {"rounds": 0},
    ):
        with pytest.raises(UsageError):
            PlannerSettings(**wrong)
    model.set_weights([weight * np.nan for weight in model.get_weights()])
    act = Planner(model, support(data), data).controller(LOW, HIGH, np.random.default_rng(0))
    with pytest.raises(TrajWorldError, match="not finite"):
        act(np.zeros(3, np.float32), 0.0)
    with pytest.raises(UsageError, match="4 observation values, but data 3"):
        act(np.zeros(4, np.float32), 0.0)
    with pytest.raises(UsageError, match="observation or reward to act on is NaN"):
        act(np.full(3, np.nan, np.float32), 0.0)
    for low, high, problem in (
        (LOW, HIGH[:1], "2 actions, but data 2"),
        ([0, 0, 0], [1, 1, 1], "3 actions, but data 2"),
        ([0, -np.inf], [1, 1], "no finite ranges"),
        ([0, 2], [1, 1], "no finite ranges"),
    ):
        with pytest.raises(UsageError, match=problem):
            Planner(model, support(data), data).controller(low, high, np.random.default_rng(0))
    episode = Episode(np.zeros((3, 3)), np.zeros((2, 2)), no_rewards(2))
    silent = write_store(tmp_path / "silent", [episode], name="silent", source="", environment="")
    with pytest.raises(TrajWorldError, match="no rewards"):
        Planner(model, support(silent), silent)


@pytest.mark.once
@pytest.mark.slow
def test_from_the_command_line(
    pendulum: Dataset, tmp_path: Path, command: Callable[..., tuple[int, str, str]]
) -> None:
    sizes = ["--model", "mlp-ensemble", "--preset", "tiny", "--steps", "20"]
    assert command("train", pendulum.path, *sizes, "-o", tmp_path / "run")[0] == 0
    gain = np.array([[0.0], [-8.0], [-1.0]], np.float32)
    policy = Policy((), Layer(gain, np.zeros(1, np.float32)), environment=PENDULUM)
    save_policy(replace(policy, low=np.full(1, -2.0), high=np.full(1, 2.0)), tmp_path / "it.npz")
    best, out = tmp_path / "run" / "best.keras", tmp_path / "plan"
    words = ["plan", best, pendulum.path, "--proposal", tmp_path / "it.npz", "--steps", 12, "--episodes", 2]
    words += ["--baseline-episodes", 5]
    code, printed, err = command(*words, "--horizon", 5, "--candidates", 16, "-o", out)
    assert code == 0, err
    assert "seconds for each planned action" in printed
    found = json.loads((out / "results.json").read_text())
    rows = {row["acting"]: row for row in found["returns"]}
    assert set(rows) == {"planner", "proposal", "random actions"}
    assert [(row["episodes"], row["steps"]) for row in rows.values()] == [(2, 12), (5, 12), (5, 12)]
    for row in rows.values():
        np.testing.assert_allclose(row["return"], np.mean(row["returns"]))
    assert (out / "returns.csv").read_text().startswith("acting,return,")
    code, _, err = command(*words, "-o", out)
    assert (code, "exists already" in err) == (1, True)
    code, _, err = command("plan", best, pendulum.path, "--environment", "Hoper-v5")
    assert (code, "did you mean gymnasium/Hopper-v5" in err) == (2, True)
    code, _, err = command("plan", best, pendulum.path, "--environment", "Hopper-v5")
    assert code == 2
    assert "11 observation values and 3 actions, but pendulum 3 and 1" in err
