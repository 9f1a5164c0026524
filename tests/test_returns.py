"""Returns of a policy inside a model, beside a plain loop; termination rules beside Gymnasium's own."""

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from linear_model import Linear, LinearSizes, motion

from trajworld.data.dataset import Dataset
from trajworld.environments.termination import termination_rule
from trajworld.errors import UsageError
from trajworld.evaluation.imagined import imagined_returns, initial_states
from trajworld.evaluation.ope_settings import OpeSettings
from trajworld.evaluation.returns import Returns
from trajworld.models.ranges import Support
from trajworld.models.rollout import compile_rollout
from trajworld.policies.policy import Layer, Policy
from trajworld.study.tables import standard_error

GAIN = np.random.default_rng(0).normal(size=(3, 2)).astype(np.float32)


def policy(gain: np.ndarray) -> Policy:
    """``tanh(seen @ gain + 0.3 noise)``."""
    spread = Layer(np.zeros((3, 2), np.float32), np.full(2, np.log(0.3), np.float32))
    return Policy((), Layer(gain, np.zeros(2, np.float32)), spread)


@pytest.fixture
def data(tmp_path: Path) -> Dataset:
    return motion(tmp_path / "data")


@pytest.fixture
def model() -> Linear:
    model = Linear(LinearSizes())
    rng = np.random.default_rng(1)
    # Around the middle of the support it neither settles nor leaves at once.
    kernel = 0.12 * rng.normal(size=(12, 12)) - 0.1 * np.eye(12)
    model.set_weights([kernel, -0.5 * kernel[:6].sum(axis=0), np.full(12, -3.0)])
    return model


# No imagined rows.
NOTHING = (np.zeros((0, 5), np.float32), np.zeros((2, 0), np.int64), np.zeros(0))
SUPPORT = Support(np.full(6, -3, np.float32), np.full(6, 3, np.float32))


def falls(observations: np.ndarray) -> np.ndarray:
    return np.abs(observations[..., 0]) > 2.0


def returns(model: Linear, data: Dataset, starts: np.ndarray, **settings: Any) -> Returns:
    run = compile_rollout(model, data.observation_size)
    options = OpeSettings(**{"horizon": 47, "negligible": 0.0, "fading": False, **settings})
    return imagined_returns(model, run, data, SUPPORT, starts, {"it": policy(GAIN)}, falls, options)["it"]


def by_hand(model: Linear, starts: np.ndarray, seed: int, horizon: int) -> tuple[np.ndarray, np.ndarray]:
    """Each rollout for itself, a step at a time, in float64."""
    kernel, bias = (np.asarray(w, np.float64) for w in model.get_weights()[:2])
    noise = [
        np.random.default_rng([seed, 0, which]).standard_normal((50, 2), np.float32)
        for which in range(len(starts))
    ]
    values, lengths = [], []
    for which, state in enumerate(np.asarray(starts, np.float64)):
        total, reward = 0.0, 0.0
        for step in range(horizon):
            action = np.tanh(state @ GAIN + 0.3 * noise[which][step])
            row = (np.concatenate([state, [reward], action]) + 3) / 6
            predicted = -3 + 6 * (row + row @ kernel[:6, :6] + bias[:6])
            state, reward = np.clip(predicted[:3], -3, 3), float(np.clip(predicted[3], -3, 3))
            total += 0.95**step * reward
            if abs(predicted[0]) > 2:
                break
        values.append(total)
        lengths.append(step + 1)
    return np.array(values), np.array(lengths)


def test_returns_are_those_of_a_plain_loop(model: Linear, data: Dataset) -> None:
    starts = np.random.default_rng(2).uniform(-1.9, 1.9, (40, 3)).astype(np.float32)
    found = returns(model, data, starts, discount=0.95, seed=3)
    values, lengths = by_hand(model, starts, 3, 47)
    # Rollouts of very different lengths, some over at once and some never: the batch shrinks on the way.
    assert lengths.min() < 5
    assert lengths.max() == 47
    np.testing.assert_array_equal(found.lengths, lengths)
    np.testing.assert_array_equal(found.ended, lengths < 47)
    np.testing.assert_allclose(found.discounted, values, atol=2e-4)
    for other in ({"compact": False}, {"compact": False, "batch_size": 64}, {"batch_size": 16}):
        carried = returns(model, data, starts, discount=0.95, seed=3, **other)
        np.testing.assert_allclose(np.sort(carried.discounted), np.sort(found.discounted), atol=1e-5)
    assert standard_error(values) == pytest.approx(values.std(ddof=1) / np.sqrt(40))


def test_the_discount_stops_the_horizon_where_nothing_is_left_to_change(model: Linear, data: Dataset) -> None:
    starts = np.random.default_rng(2).uniform(-0.5, 0.5, (16, 3)).astype(np.float32)
    whole = returns(model, data, starts, discount=0.8, horizon=200)
    short = returns(model, data, starts, discount=0.8, horizon=200, negligible=0.1)
    assert short.lengths.max() < whole.lengths.max()
    half_width = 1.96 * standard_error(short.discounted)
    assert np.abs(short.discounted - whole.discounted).max() <= 0.1 * half_width


@pytest.mark.once
def test_where_rollouts_fade_estimates_and_errors_stay_right(model: Linear, data: Dataset) -> None:
    starts = np.random.default_rng(2).uniform(-1.9, 1.9, (512, 3)).astype(np.float32)
    given = {"discount": 0.95, "horizon": 100, "batch_size": 512}
    whole = returns(model, data, starts, **given)
    faded = [returns(model, data, starts, **given, seed=seed, fading=True) for seed in range(12)]
    assert faded[0].drawn.sum() < 0.45 * whole.drawn.sum()
    for name in ("discounted", "lengths", "ended"):
        means = np.array([getattr(one, name).mean() for one in faded])
        errors = [standard_error(getattr(one, name)) for one in faded]
        assert abs(means.mean() - getattr(whole, name).mean()) < 2.5 * np.mean(errors)
    # Seeds differ by the policy's noise alone, so the error that counts initial states too is not less.
    assert np.std([one.discounted.mean() for one in faded], ddof=1) < 1.3 * np.mean(
        [standard_error(one.discounted) for one in faded]
    )
    assert (
        standard_error(whole.discounted)
        < standard_error(faded[0].discounted)
        < 2 * standard_error(whole.discounted)
    )


@pytest.mark.once
def test_a_forecast_of_what_is_missing_cancels_and_narrows_the_interval() -> None:
    """Rollouts of lasting paces and sudden ends, of which fewer go into each of 20 chunks."""
    rng, count, chunks, repeats = np.random.default_rng(0), 24, 20, 1500
    weights = 0.9 ** np.arange(chunks)
    drawn = rng.permuted(np.arange(count))[:, None] < np.maximum(count * weights, 4)
    found: dict[str, list[float]] = {"whole": [], "faded": [], "plain": [], "error": []}
    for _ in range(repeats):
        end = rng.geometric(0.04, count)[:, None]
        rewards = rng.normal(1.0, 0.4, (count, 1)) + rng.normal(0, 0.2, (count, chunks))
        steps = np.arange(1, chunks + 1) <= end
        parts = np.stack([rewards * weights * steps, steps, np.arange(1, chunks + 1) == end], axis=-1)
        everything = Returns(parts, np.ones_like(drawn), weights, *NOTHING)
        np.testing.assert_allclose(everything.discounted, parts[..., 0].sum(axis=1), rtol=1e-9)
        faded = Returns(parts * drawn[..., None], drawn, weights, *NOTHING)
        found["whole"].append(everything.discounted.mean())
        found["faded"].append(faded.discounted.mean())
        found["error"].append(standard_error(faded.discounted))
        found["plain"].append((faded.parts[..., 0].sum(axis=0) / drawn.sum(axis=0)).sum())
    bias = np.subtract(found["faded"], found["whole"])
    assert abs(bias.mean()) < 3 * bias.std() / np.sqrt(repeats)
    whole, faded, plain = (np.std(found[name]) for name in ("whole", "faded", "plain"))
    assert np.mean(found["error"]) == pytest.approx(faded, rel=0.1)
    assert faded - whole < 0.6 * (plain - whole), (whole, faded, plain)


def test_a_seed_repeats_and_sampling_differs(model: Linear, data: Dataset) -> None:
    starts = initial_states(data)
    np.testing.assert_array_equal(starts, data.rows[data.episode_offsets[:-1], :3])
    assert len(initial_states(data, 2)) == 2
    first, again = (returns(model, data, starts, sample=True, seed=5) for _ in range(2))
    np.testing.assert_array_equal(first.discounted, again.discounted)
    assert np.abs(first.discounted - returns(model, data, starts, seed=5).discounted).max() > 1e-3


def test_what_is_not_finite_is_named_and_the_others_go_on(model: Linear, data: Dataset) -> None:
    starts = np.array([[0.1, 0.2, 0.3], [np.nan, 0.0, 0.0], [0.3, 0.1, 0.2]], np.float32)
    found = returns(model, data, starts)
    assert found.problem == "1 of 3 rollouts are left out: observation 0 is nan at step 1"
    alone = returns(model, data, starts[:1])
    assert len(found.discounted) == 2
    assert np.isfinite(found.discounted).all()
    assert alone.problem == ""


@pytest.mark.once
def test_settings_out_of_range_are_refused() -> None:
    wrong = [{"discount": 0.0}, {"discount": 1.1}, {"discount": np.nan}, {"horizon": 0}, {"negligible": -1.0}]
    wrong += [{name: value} for name in ("negligible", "half_width") for value in (np.nan, np.inf)]
    for one in wrong:
        with pytest.raises(UsageError, match=r"above 0|at least"):
            OpeSettings(**one)


@pytest.mark.once
@pytest.mark.parametrize("name", ["Hopper-v5", "Walker2d-v5", "HalfCheetah-v5", "Ant-v5", "Humanoid-v5"])
def test_termination_rules_are_those_of_gymnasium(name: str) -> None:
    # Real episodes of strong random actions, up to and past the end that the simulator itself says.
    environment = gymnasium.make(name).unwrapped
    rule = termination_rule(f"gymnasium/{name}")
    rng, told, real = np.random.default_rng(0), [], []
    for episode in range(6):
        environment.reset(seed=episode)
        for _ in range(80):
            action = rng.uniform(environment.action_space.low, environment.action_space.high)
            observation, _, terminated, *_ = environment.step(action)
            told.append(bool(rule(observation)))
            real.append(terminated)
    assert told == real
    assert any(real) or name == "HalfCheetah-v5"
    assert rule(np.full((2, observation.size), np.nan)).all()


@pytest.mark.once
def test_an_unknown_environment_never_ends() -> None:
    unhealthy = "gymnasium/Hopper-v5?terminate_when_unhealthy=false"
    table = "table/run?1"
    for name in (
        "",
        "dm_control/humanoid-walk",
        "dm_control/hopper-hop",
        "gymnasium/Pendulum-v1",
        unhealthy,
        table,
    ):
        assert not termination_rule(name)(np.full((4, 3), 1e9)).any()
    default = termination_rule(unhealthy.replace("false", "true"))
    assert default is termination_rule("gymnasium/Hopper-v5")
