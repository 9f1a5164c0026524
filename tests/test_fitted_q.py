"""Fitted Q evaluation beside the values of a linear-quadratic problem, which an equation gives."""

from pathlib import Path

import numpy as np
import pytest
from scipy.linalg import solve_discrete_lyapunov
from scipy.stats import spearmanr

from trajworld.data.episode import Episode
from trajworld.data.store import write_store
from trajworld.evaluation.fitted_q import fitted_q_values
from trajworld.evaluation.ope_settings import FittedQSettings
from trajworld.policies.policy import Layer, Policy

A, B = np.array([[0.9, 0.2], [-0.1, 0.8]]), np.array([[0.0], [0.5]])
DISCOUNT = 0.9


def policy(gain: list[float]) -> Policy:
    """The action ``gain @ s``, clipped at 5."""
    mean = Layer(np.array(gain, np.float32)[:, None], np.zeros(1, np.float32))
    return Policy((), mean, None, np.full(1, -5, np.float32), np.full(1, 5, np.float32), squash=False)


def true_values(gain: list[float], starts: np.ndarray) -> np.ndarray:
    """Of the reward ``-s' s'`` on arriving in ``s'``: V(s) = -s' P s with P = closed' (I + γ P) closed."""
    closed = A + B @ np.array([gain])
    cost = solve_discrete_lyapunov(np.sqrt(DISCOUNT) * closed.T, closed.T @ closed)
    return -np.einsum("ni,ij,nj->n", starts, cost, starts)


def test_values_of_a_linear_system(tmp_path: Path) -> None:
    rng, episodes = np.random.default_rng(0), []
    for _ in range(150):
        states, actions = [rng.uniform(-1.5, 1.5, 2)], rng.uniform(-2, 2, (20, 1))
        for action in actions:
            states.append(A @ states[-1] + B @ action)
        seen = np.stack(states)
        episodes.append(Episode(seen, actions, -(seen[1:] ** 2).sum(axis=1)))
    data = write_store(tmp_path / "data", episodes, name="lq", source="", environment="test/lq")
    gains = [[0.0, 0.0], [-0.2, -0.4], [0.3, 0.2], [0.1, 0.35]]
    starts = rng.uniform(-1, 1, (60, 2)).astype(np.float32)
    settings = FittedQSettings(
        discount=DISCOUNT, iterations=120, steps=25, batch_size=128, width=48, learning_rate=3e-3
    )
    found = fitted_q_values(data, [policy(gain) for gain in gains], starts, settings)
    truth = np.stack([true_values(gain, starts) for gain in gains])
    assert found.shape == (4, 60)
    np.testing.assert_allclose(found.mean(axis=1), truth.mean(axis=1), rtol=0.12, atol=0.05)
    assert spearmanr(found.mean(axis=1), truth.mean(axis=1)).statistic == pytest.approx(1.0)
    # State by state, too, not only on average.
    assert np.corrcoef(found[2], truth[2])[0, 1] > 0.98


def test_far_from_the_mean_of_the_data_few_backups_are_enough(tmp_path: Path) -> None:
    # One state, the reward is the action, and the data's are 0 on average: backups alone came to 1 - 0.99^60 = 45 %.
    episodes = [
        Episode(np.zeros((2, 1)), np.full((1, 1), action), np.full(1, action), truncated=True)
        for action in np.linspace(-1, 1, 64)
    ]
    data = write_store(tmp_path / "data", episodes, name="x", source="", environment="")
    always = [
        Policy(
            (),
            Layer(np.zeros((1, 1), np.float32), np.full(1, action, np.float32)),
            None,
            np.full(1, -4, np.float32),
            np.full(1, 4, np.float32),
            squash=False,
        )
        for action in (-0.5, 0.5, 4.0)
    ]
    settings = FittedQSettings(
        discount=0.99, iterations=60, steps=10, batch_size=64, width=16, learning_rate=3e-3
    )
    found = fitted_q_values(data, always, np.zeros((1, 1), np.float32), settings)[:, 0]
    np.testing.assert_allclose(found[:2], [-50, 50], atol=8)
    # Rewards that nothing in the data has had are not believed: their sum is at most 1 / (1 - γ).
    assert 75 < found[2] <= 100


@pytest.mark.once
def test_nothing_follows_an_end_but_a_time_limit_is_none(tmp_path: Path) -> None:
    # One state, one reward of 1: worth 1 where it ends, and 1 / (1 - γ) where only the recording stopped.
    values = {}
    for ends in (True, False):
        episode = Episode(np.zeros((2, 1)), np.zeros((1, 1)), np.ones(1), terminated=ends, truncated=not ends)
        data = write_store(tmp_path / str(ends), [episode] * 8, name="x", source="", environment="")
        mean = Layer(np.zeros((1, 1), np.float32), np.zeros(1, np.float32))
        still = Policy((), mean, None, np.full(1, -1, np.float32), np.ones(1, np.float32), squash=False)
        settings = FittedQSettings(
            discount=0.8, iterations=60, steps=10, batch_size=16, width=8, learning_rate=2e-2
        )
        values[ends] = fitted_q_values(data, [still], np.zeros((1, 1), np.float32), settings)[0, 0]
    assert values[True] == pytest.approx(1.0, abs=0.1)
    assert values[False] == pytest.approx(5.0, abs=0.3)
