"""Procedural robots: pure functions of kind and number, sound physics, and Gymnasium's own rules."""

import hashlib
from collections import Counter
from dataclasses import replace

import gymnasium
import mujoco
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st

from trajworld.environments.robots import kinds
from trajworld.environments.robots.environment import ROBOT_ID, RobotEnv, register_robots
from trajworld.environments.robots.kinds import KINDS, draw_robot
from trajworld.errors import TrajWorldError

pytestmark = pytest.mark.once

GOLDEN = {
    ("legged", 0): "472e5c0e8234",
    ("legged", 7): "a62a0d40a8d0",
    ("legged", 17): "82755c46a740",
    ("snake", 2): "8355ab40690e",
    ("snake", 3): "4bad05970638",
    ("runner", 0): "674dfc9b18ca",
    ("runner", 6): "9577430d530e",
}


@pytest.mark.parametrize("kind", KINDS)
@given(number=st.integers(0, 10**6), seed=st.integers(0, 2**31))
@settings(max_examples=15, derandomize=True)
def test_any_robot_moves_and_survives_full_torque(kind, number, seed):
    env = RobotEnv(kind, number, terminate_when_unhealthy=False, reset_noise_scale=0.2)
    assert env.robot == draw_robot(kind, number)
    joints = env.model.nu
    # Positions without the place in the world, then velocities: 2 + n and 3 + n, or 1 + n and 3 + n.
    assert env.observation_space.shape == ((4 if kind == "snake" else 5) + 2 * joints,)
    seen = [env.reset(seed=seed)[0]]
    np.testing.assert_array_equal(seen[0], env.reset(seed=seed)[0])
    generator = np.random.default_rng(seed)
    for step in range(200):
        if step % 10 == 0:
            action = generator.choice([-1.0, 1.0], joints).astype(np.float32)
        observation, reward, *ends, _ = env.step(action)
        assert np.all(np.isfinite([*observation, reward]))
        assert ends == [False, False]
        seen.append(observation)
    assert not env.data.warning.number.any()
    assert np.abs(env.data.qvel).max() < 200
    assert np.all(np.ptp(seen, axis=0)[: len(observation) // 2] > 0), "a joint never moved"


def test_robots_are_those_that_they_always_were():
    # In this process and any other: a change would give other bodies under the same names.
    digests = {name: hashlib.sha256(repr(draw_robot(*name)).encode()).hexdigest()[:12] for name in GOLDEN}
    assert digests == GOLDEN


@pytest.mark.parametrize("number", range(6))
def test_a_runner_is_long_strong_and_acted_on_rarely(number):
    robot = draw_robot("runner", number)
    model = mujoco.MjModel.from_xml_string(robot.xml)
    parts = [model.body(body).name.partition("_")[0] for body in range(model.nbody)]
    links = {leg: count for leg, count in Counter(parts).items() if leg.startswith("leg")}
    assert len(links) >= 2
    assert max(links.values()) == 3
    assert 0.03 < model.opt.timestep * robot.frame_skip <= 0.05 + 1e-9
    torso, limbs = 2 * model.geom("torso").size[1], 2 * model.geom_size[1:, 1].max()
    assert torso == pytest.approx(limbs), "nothing is longer than the torso"
    # The strongest joint carries the whole body at the end of a stretched leg.
    reach = max(
        sum(2 * model.geom(f"{leg}_{level}").size[1] for level in range(count))
        for leg, count in links.items()
    )
    weight = model.body_subtreemass[1] * -model.opt.gravity[2]
    assert model.actuator_gear[:, 0].max() > 0.6 * weight * reach


def test_draws_are_thrown_away_until_one_is_sane(monkeypatch):
    first = draw_robot("legged", 3)
    assert kinds.is_sane(first)
    explodes = replace(first, xml=first.xml.replace('gear="', 'gear="9999'))
    assert not kinds.is_sane(explodes)
    monkeypatch.setattr(kinds, "is_sane", lambda robot: robot.xml != first.xml)
    assert draw_robot("legged", 3).xml != first.xml
    monkeypatch.setattr(kinds, "is_sane", lambda robot: False)
    with pytest.raises(TrajWorldError, match="no sane robot"):
        draw_robot("legged", 3)


@pytest.mark.parametrize("kind", KINDS)
def test_gymnasium_accepts_them(kind):
    register_robots()
    env = gymnasium.make(ROBOT_ID, kind=kind, number=5)
    check_env(env.unwrapped, skip_render_check=True)
    assert env.spec.max_episode_steps == 1000
    env.close()


def test_the_reward_is_velocity_and_health_less_control():
    env = RobotEnv("legged", 0)
    robot = env.robot
    assert robot.healthy_bonus == 1.0
    env.reset(seed=0)
    action = np.array([0.5, -1.0], np.float32)
    before = env.data.qpos[0]
    observation, reward, terminated, _, info = env.step(action)
    velocity = (env.data.qpos[0] - before) / (env.model.opt.timestep * robot.frame_skip)
    assert info["x_velocity"] == pytest.approx(velocity)
    assert reward == pytest.approx(velocity + 1.0 - robot.control_cost * 1.25)
    assert not terminated
    np.testing.assert_allclose(observation[:4], env.data.qpos[1:])
    np.testing.assert_allclose(observation[4:], np.clip(env.data.qvel, -10, 10))


def test_a_robot_that_fell_ends_its_episode_only_where_it_should():
    for ends in (True, False):
        env = RobotEnv("legged", 0, terminate_when_unhealthy=ends)
        env.reset(seed=0)
        env.data.qpos[2] = env.robot.steepest + 0.3
        _, reward, terminated, *_ = env.step(np.zeros(2, np.float32))
        assert terminated == ends
        assert reward < 0.9, "no bonus where it is not healthy"


@given(
    kind=st.sampled_from(["legged", "runner"]),
    number=st.integers(0, 200),
    noise=st.floats(0.0, 0.5),
    seed=st.integers(0, 1000),
)
@settings(max_examples=30, derandomize=True)
def test_no_start_is_in_the_floor(kind, number, noise, seed):
    env = RobotEnv(kind, number, reset_noise_scale=noise)
    env.reset(seed=seed)
    # What is left is the stiffness of a contact, not a body thrown out of the ground.
    assert env.data.ncon == 0 or env.data.contact.dist.min() > -1e-3


@pytest.mark.parametrize(
    ("word", "speed", "steps", "ratio"), [("<pair", 0.5, 1000, 2.0), ("viscosity", 1.0, 100, 1.2)]
)
def test_the_ground_or_the_medium_resists_a_snake_across_more_than_along(word, speed, steps, ratio):
    number = next(number for number in range(40) if word in draw_robot("snake", number).xml)
    env = RobotEnv("snake", number, reset_noise_scale=0.0)
    moved = []
    for direction in (0, 1):
        env.reset(seed=0)
        for _ in range(30):
            mujoco.mj_step(env.model, env.data)
        before = env.data.qpos[direction]
        env.data.qvel[direction] = speed
        for _ in range(steps):
            mujoco.mj_step(env.model, env.data)
        moved.append(env.data.qpos[direction] - before)
    assert moved[0] > ratio * moved[1] > 0


def test_pictures_are_drawn_without_a_display(tmp_path, command):
    path = tmp_path / "robots.png"
    code, out, _ = command("data", "draw-robots", "robot/legged-3", "robot/snake-2", "-o", path)
    assert (code, out) == (0, f"Picture: {path}\n")
    assert path.read_bytes().startswith(b"\x89PNG")
    path.unlink()
    for name in ("Hopper-v5", "robot/legged-3?gravity=1", "robot/horse-1"):
        code, _, err = command("data", "draw-robots", name, "-o", path)
        assert (code, path.exists()) == (2, False)
        assert "write a kind and a number" in err
