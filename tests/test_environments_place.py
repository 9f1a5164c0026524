"""Starting a simulator in an observed state."""

import numpy as np
import pytest

from trajworld.environments.open import open_environment
from trajworld.errors import UsageError

pytestmark = pytest.mark.once


@pytest.mark.parametrize(
    "name", ["Hopper-v5", "Walker2d-v5", "HalfCheetah-v5", "Swimmer-v5", "InvertedPendulum-v5"]
)
def test_what_follows_is_what_followed(name: str) -> None:
    environment, other = open_environment(name), open_environment(name)
    size = environment.description.action_size
    actions = np.random.default_rng(0).uniform(-0.3, 0.3, (10, size)).astype(np.float32)
    environment.reset(3)
    other.reset(9)
    for action in actions[:5]:
        seen = environment.step(action).observation
    assert np.abs(seen).max() < 10, "faster velocities are clipped: they do not say the state"
    other.place(seen)
    for action in actions[5:]:
        one, two = environment.step(action), other.step(action)
        np.testing.assert_allclose(two.observation, one.observation, atol=1e-9)
        assert two.reward == pytest.approx(one.reward)


@pytest.mark.parametrize(
    "name", ["robot/legged-3", "gymnasium/Ant-v5", "gymnasium/Reacher-v5", "gymnasium/Pendulum-v1"]
)
def test_where_observations_tell_too_little_it_is_refused(name: str) -> None:
    environment = open_environment(name)
    with pytest.raises(UsageError, match=f"^{name} cannot start in a given state"):
        environment.place(environment.reset(0))
