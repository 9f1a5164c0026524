"""Clocked policies against their definition, and the search: what it improves, and that it repeats."""

import math

import numpy as np
from gymnasium import spaces

from trajworld.collect.collector import run_episode
from trajworld.environments.interface import Description, Step
from trajworld.policies.search import ClockedPolicy, search_policies


def policy(noise=0.0):
    generator = np.random.default_rng(3)
    return ClockedPolicy(
        generator.normal(size=(2, 3 + 4)), generator.normal(size=4), np.array([0.5, 1, 2, 1e-3]), 12.0, noise
    )


LOW, HIGH = np.array([-1.0, 0.0], np.float32), np.array([1.0, 4.0], np.float32)


def test_actions_are_the_tanh_of_clock_and_standardised_observation():
    one = policy()
    generator = np.random.default_rng(5)
    start = np.random.default_rng(5).uniform(0, 12.0)
    act = one.controller(LOW, HIGH, generator)
    observations = np.random.default_rng(1).normal(size=(30, 4)).astype(np.float32)
    for step, observation in enumerate(observations):
        angle = 2 * math.pi * (start + step) / 12.0
        seen = np.clip((observation - one.mean) / one.scale, -5, 5)
        unit = np.tanh(one.weights @ np.array([1.0, math.sin(angle), math.cos(angle), *seen]))
        expected = [unit[0], 2 + 2 * unit[1]]
        action = act(observation)
        assert action.dtype == np.float32
        np.testing.assert_allclose(action, expected, atol=1e-5)


def test_noise_is_added_within_the_box_and_repeats_with_the_seed():
    observation = np.zeros(4, np.float32)

    def actions(noise, seed):
        act = policy(noise).controller(LOW, HIGH, np.random.default_rng(seed))
        return np.array([act(observation) for _ in range(200)])

    noisy = actions(0.5, 1)
    assert np.all((noisy >= LOW) & (noisy <= HIGH))
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


def search(environment, transitions, seed=0):
    def run(one, trial):
        return run_episode(environment, one, seed, trial, 100).episode

    size = environment.description.observation_size, environment.description.action_size
    return search_policies(run, *size, transitions, np.random.default_rng(seed))


def test_the_search_finds_what_is_to_be_found_and_keeps_to_its_budget():
    environment = Follows()
    stages = search(environment, 60_000)
    # 16 first tries, then whole generations of 16 episodes.
    assert 60_000 <= environment.steps < 60_000 + 16 * 100
    first, _, last = (
        np.mean([run_episode(environment, one, 99, index).episode.rewards.sum() for index in range(5)])
        for one in stages
    )
    assert first < last
    assert last > -40, "acting at random gives -100"


def test_the_search_is_a_function_of_its_seed():
    one, again, other = (search(Follows(), 3000, seed)[-1].weights for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, other)


def test_no_budget_or_a_broken_environment_finds_nothing():
    assert search_policies(lambda *_: None, 2, 1, 0, np.random.default_rng(0)) == []
    assert search_policies(lambda *_: None, 2, 1, 1000, np.random.default_rng(0)) == []
