"""Behaviours and searched policies against their definitions: bounds, distributions, correlation, and seeds."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from trajworld.collect.episodes import run_episode
from trajworld.data.episode import Episode
from trajworld.environments.interface import Description, Step
from trajworld.errors import UsageError
from trajworld.policies.behaviour import (
    BEHAVIOURS,
    Constant,
    Gait,
    OrnsteinUhlenbeck,
    Uniform,
    make_behaviour,
)
from trajworld.policies.search import SHORT, STAGED, ClockedPolicy, search_policies

pytestmark = pytest.mark.once

LOW, HIGH = np.array([-1.0, 0.0, -2.5], np.float32), np.array([1.0, 4.0, -0.5], np.float32)


def take(behaviour, count, seed=0, low=LOW, high=HIGH, observation=None):
    act = behaviour.controller(low, high, np.random.default_rng(seed))
    return np.array([act(observation, 0.0) for _ in range(count)])


@pytest.mark.parametrize("name", BEHAVIOURS)
@given(
    seed=st.integers(0, 2**32),
    low=st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=4),
    width=st.floats(0.125, 50, width=32),
)
@settings(max_examples=15)
def test_actions_lie_in_the_box_and_repeat_with_the_seed(name, seed, low, width):
    low = np.array(low, np.float32)
    high = low + np.float32(width)
    actions = take(make_behaviour(name), 150, seed, low, high)
    assert actions.shape == (150, len(low))
    assert actions.dtype == np.float32
    assert np.all(actions >= low)
    assert np.all(actions <= high)
    np.testing.assert_array_equal(actions[:70], take(make_behaviour(name), 70, seed, low, high))
    assert not np.array_equal(actions, take(make_behaviour(name), 150, seed + 1, low, high))


def test_uniform_fills_its_part_of_the_box_evenly():
    actions = take(Uniform(0.5), 40_000)
    middle, half = (LOW + HIGH) / 2, (HIGH - LOW) / 2
    unit = (actions - middle) / half
    assert np.all(np.abs(unit) <= 0.5 + 1e-6)
    np.testing.assert_allclose(unit.var(0), 0.25 / 3, rtol=0.03)
    assert np.all(np.abs(np.corrcoef(unit[1:].T, unit[:-1].T)[:3, 3:]) < 0.03)


@pytest.mark.parametrize(("theta", "sigma"), [(0.05, 0.1), (0.3, 0.2), (2.0, 0.5)])
def test_ou_has_the_stationary_variance_and_autocorrelation_of_its_equation(theta, sigma):
    process = OrnsteinUhlenbeck(theta, sigma)
    noise = np.concatenate(list(itertools.islice(process.blocks(400, np.random.default_rng(1)), 20)))
    # The equation's: variance sigma²/(2 theta), correlation exp(-theta lag). The first step included.
    variance = sigma**2 / (2 * theta)
    np.testing.assert_allclose((noise**2).mean(), variance, rtol=0.05)
    np.testing.assert_allclose((noise[0] ** 2).mean(), variance, rtol=0.25)
    for lag in (1, 2, 5, 63, 64, 65):
        measured = (noise[lag:] * noise[:-lag]).mean() / variance
        assert measured == pytest.approx(math.exp(-theta * lag), abs=0.04)


def test_ou_actions_are_its_noise_clipped_and_mapped_to_the_box():
    process = OrnsteinUhlenbeck(0.1, 0.6)
    noise = next(process.blocks(3, np.random.default_rng(5)))
    assert (np.abs(noise) > 1).any(), "nothing was clipped: the test shows less than it says"
    expected = (LOW + HIGH) / 2 + (HIGH - LOW) / 2 * np.clip(noise, -1, 1)
    np.testing.assert_allclose(take(process, len(noise), seed=5), expected, atol=1e-6)


def test_constant_holds_each_push_for_a_geometric_span():
    actions = take(Constant(mean_span=10.0), 60_000)
    changes = np.flatnonzero(np.any(actions[1:] != actions[:-1], axis=1))
    spans = np.diff(changes)
    assert spans.mean() == pytest.approx(10.0, rel=0.05)
    # Geometric: the standard deviation is sqrt(1 - p) / p.
    assert spans.std() == pytest.approx(math.sqrt(0.9) * 10, rel=0.08)


def test_a_long_push_is_held_in_pieces_that_change_no_number():
    blocks = Constant(mean_span=1e12).blocks(3, np.random.default_rng(0))
    assert len(np.unique([next(blocks) for _ in range(3)], axis=0)) == 1
    rng, actions = np.random.default_rng(5), []
    while len(actions) < 1000:
        push = rng.uniform(-1, 1, 3)
        actions += [push] * rng.geometric(1 / 100)
    blocks = Constant(mean_span=100.0).blocks(3, np.random.default_rng(5))
    found = list(itertools.islice(itertools.chain.from_iterable(blocks), 1000))
    np.testing.assert_array_equal(found, actions[:1000])


def test_gaits_are_sine_waves_of_one_period():
    gait = Gait(period=20.0, scale=0.8, noise=0.0)
    middle, half = (LOW + HIGH) / 2, (HIGH - LOW) / 2
    travelling = 0
    for seed in range(40):
        unit = (take(gait, 200, seed) - middle) / half
        # Fitted by a wave of that period: nothing is left, and swing and middle stay in the box.
        angle = 2 * math.pi / 20 * np.arange(200)
        waves = np.stack([np.ones(200), np.sin(angle), np.cos(angle)], 1)
        fitted = np.linalg.lstsq(waves, unit, rcond=None)[0]
        np.testing.assert_allclose(waves @ fitted, unit, atol=1e-5)
        swing = np.hypot(fitted[1], fitted[2])
        assert np.all((swing > 0.24 - 1e-5) & (swing < 0.8 + 1e-5) & (np.abs(fitted[0]) + swing <= 1))
        phase = np.unwrap(np.arctan2(fitted[2], fitted[1]))
        travelling += bool(abs(np.remainder(phase[2] - 2 * phase[1] + phase[0], 2 * math.pi)) < 1e-3)
    assert 5 < travelling < 35, "waves that travel along the body, and others, are both drawn"


@pytest.mark.parametrize(
    ("behaviour", "shares"),
    [
        ("mixed", {Uniform: 1 / 3, OrnsteinUhlenbeck: 1 / 3, Constant: 1 / 3}),
        ("varied", {Uniform: 0.15, OrnsteinUhlenbeck: 0.35, Constant: 0.2, Gait: 0.3}),
    ],
)
def test_every_kind_is_drawn_as_often_as_it_should_be_at_many_scales(behaviour, shares):
    drawn = [make_behaviour(behaviour).draw(np.random.default_rng(seed)) for seed in range(2000)]
    for kind, share in shares.items():
        scales = np.array([one.scale for one in drawn if isinstance(one, kind)])
        assert len(scales) / len(drawn) == pytest.approx(share, abs=0.04)
        assert 0.1 <= scales.min() < 0.15
        assert 0.85 < scales.max() <= 1
        assert np.median(scales) == pytest.approx(math.sqrt(0.1), rel=0.2)


def test_scale_and_correlation_mean_what_they_say():
    theta = -math.log(0.8)
    expected = OrnsteinUhlenbeck(pytest.approx(theta), pytest.approx(0.3 * math.sqrt(2 * theta)))
    assert make_behaviour("ou", 0.3, 0.8) == expected
    assert make_behaviour("constant", 0.4, 0.75) == Constant(pytest.approx(4.0), 0.4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("gaussian",), "there is no behaviour 'gaussian'"),
        (("mixed", 0.3), "draws its own scale"),
        (("uniform", None, 0.5), "has no correlation"),
        (("uniform", 1.5), r"must be in \(0, 1\]"),
        (("ou", 0.0), "must be above 0"),
        (("ou", None, 1.0), r"must lie in \(0, 1\)"),
        (("constant", None, -0.1), r"must lie in \(0, 1\)"),
    ],
)
def test_wrong_options_are_refused(arguments, message):
    with pytest.raises(UsageError, match=message):
        make_behaviour(*arguments)


def policy(noise=0.0):
    generator = np.random.default_rng(3)
    return ClockedPolicy(
        generator.normal(size=(2, 3 + 4)), generator.normal(size=4), np.array([0.5, 1, 2, 1e-3]), 12.0, noise
    )


def test_actions_are_the_tanh_of_clock_and_standardised_observation():
    one = policy()
    generator = np.random.default_rng(5)
    start = np.random.default_rng(5).uniform(0, 12.0)
    act = one.controller(LOW[:2], HIGH[:2], generator)
    observations = np.random.default_rng(1).normal(size=(30, 4)).astype(np.float32)
    for step, observation in enumerate(observations):
        angle = 2 * math.pi * (start + step) / 12.0
        seen = np.clip((observation - one.mean) / one.scale, -5, 5)
        unit = np.tanh(one.weights @ np.array([1.0, math.sin(angle), math.cos(angle), *seen]))
        expected = [unit[0], 2 + 2 * unit[1]]
        action = act(observation, 0.0)
        assert action.dtype == np.float32
        np.testing.assert_allclose(action, expected, atol=1e-5)


def test_noise_is_added_within_the_box_and_repeats_with_the_seed():
    observation = np.zeros(4, np.float32)

    def actions(noise, seed):
        return take(policy(noise), 200, seed, LOW[:2], HIGH[:2], observation)

    noisy = actions(0.5, 1)
    assert np.all((noisy >= LOW[:2]) & (noisy <= HIGH[:2]))
    np.testing.assert_array_equal(noisy, actions(0.5, 1))
    assert not np.array_equal(noisy, actions(0.5, 2))
    assert np.abs(noisy - actions(0.0, 1)).max() > 0.2


class Follows:
    """Its reward is high where the action is the observation's second number; the best policy is linear."""

    def __init__(self):
        box = spaces.Box(-1, 1, (2,), np.float32)
        self.description = Description("test/Follows", box, spaces.Box(-1, 1, (1,), np.float32), 100)
        self.steps = 0

    def reset(self, seed):
        self.random, self.count = np.random.default_rng(seed), 0
        return self._observe()

    def _observe(self):
        self.now = self.random.choice([-1.0, 1.0], 2)
        return self.now

    def step(self, action):
        self.steps += 1
        self.count += 1
        reward = -abs(float(action[0]) - self.now[1])
        return Step(self._observe(), reward, False, self.count == 100)


def search(environment, transitions, seed=0, plan=SHORT):
    def run(one, trial):
        return run_episode(environment, one, seed, trial, 100).episode

    size = environment.description.observation_size, environment.description.action_size
    return search_policies(run, *size, transitions, np.random.default_rng(seed), plan)


@pytest.mark.parametrize(("plan", "budget"), [(SHORT, 60_000), (STAGED, 40_000)])
def test_the_search_finds_what_is_to_be_found_and_keeps_to_its_budget(plan, budget):
    environment = Follows()
    stages = search(environment, budget, plan=plan)
    # The first tries, then whole generations of 16 episodes.
    assert budget <= environment.steps < budget + 16 * 100
    assert len(stages) == len(plan.marks)
    assert all(plan.periods[0] <= one.period <= plan.periods[1] for one in stages)
    assert (len({one.period for one in stages}) > 1) == (plan.tempo > 0)
    first, *_, last = (
        np.mean([run_episode(environment, one, 99, index).episode.rewards.sum() for index in range(5)])
        for one in stages
    )
    assert first < last
    assert last > -40, "acting at random gives -100"


def test_the_search_is_a_function_of_its_seed_and_finds_nothing_without_a_budget():
    one, again, other = (search(Follows(), 3000, seed, STAGED)[-1].weights for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, other)
    # Nor in an environment that is broken.
    for transitions in (0, 1000):
        assert search_policies(lambda *_: None, 2, 1, transitions, np.random.default_rng(0)) == []


def test_a_generation_is_the_update_of_augmented_random_search():
    plan = dataclasses.replace(STAGED, starts=3, best=2, step=0.3, marks=(1.0,))
    chance, tried = np.random.default_rng(1), []
    returns, observations = chance.normal(size=19), chance.normal(3, 2, (19, 5, 3))
    observations[..., 2] = 7
    returns[6] = np.inf  # The best, were its pair not broken.

    def run(policy, index):
        tried.append(policy)
        number = len(tried) - 1
        assert index == (number if number < 3 else 3 + (number - 3) // 2)
        if number == 5:
            return None
        return Episode(observations[number], np.zeros((4, 2)), np.full(4, returns[number] / 4))

    (found,) = search_policies(run, 3, 2, 50, np.random.default_rng(5), plan)
    draws = np.random.default_rng(5)
    starts = [(draws.normal(0, 0.7, (2, 3)), np.exp(draws.uniform(*np.log([3.5, 9])))) for _ in range(3)]
    clock, period = starts[returns[:3].argmax()]
    weights, spans = np.pad(clock, [(0, 0), (0, 3)]), np.repeat([0.15, 0.05], 3)
    directions, tempos = draws.standard_normal((8, 2, 6)), draws.standard_normal(8)
    for number, one in enumerate(tried[3:]):
        sign, way = 1 - 2 * (number % 2), number // 2
        np.testing.assert_allclose(one.weights, weights + sign * spans * directions[way])
        assert one.period == pytest.approx(np.clip(period * np.exp(sign * 0.05 * tempos[way]), 3.5, 9))
    ups, downs = returns[3::2], returns[4::2]
    best = [way for way in np.argsort(np.maximum(ups, downs)) if way != 1][-2:]
    strength = (ups - downs)[best] / (2 * np.std([ups[best], downs[best]]))
    moved = np.tensordot(strength, directions[best], 1)
    np.testing.assert_allclose(found.weights, weights + 0.3 * moved * [1, 1, 1, 1 / 3, 1 / 3, 1 / 3])
    assert found.period == pytest.approx(
        np.clip(period * np.exp(0.3 * 0.05 / 0.15 * strength @ tempos[best]), 3.5, 9)
    )
    rows = np.concatenate(observations[:3])
    np.testing.assert_allclose(found.mean, rows.mean(axis=0))
    np.testing.assert_allclose(found.scale, [*rows[:, :2].std(axis=0), 1e-3])
    assert found.noise == 0
