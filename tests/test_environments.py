"""The simulators' adapters: names, spaces, changed physics, and what is refused."""

import contextlib
import math
import subprocess
import sys

import gymnasium
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trajworld.environments.interface import UnstableSimulationError
from trajworld.environments.names import EnvironmentName, parse_name
from trajworld.environments.open import open_environment
from trajworld.errors import TrajWorldError, UsageError

pytestmark = pytest.mark.once


@pytest.fixture
def opened():
    """Open environments and close them after the test."""
    with contextlib.ExitStack() as stack:
        yield lambda name: stack.enter_context(contextlib.closing(open_environment(name)))


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("Hopper-v5", "gymnasium/Hopper-v5"),
        ("dm_control/cheetah-run", "dm_control/cheetah-run"),
        ("Pendulum-v1?l=1.5&g=5", "gymnasium/Pendulum-v1?g=5.0&l=1.5"),
        ("Pendulum-v1?", "gymnasium/Pendulum-v1"),
        ("Ant-v5?include=False", "gymnasium/Ant-v5?include=false"),
        ("phys2d/CartPole-v1", "gymnasium/phys2d/CartPole-v1"),
    ],
)
def test_names_have_one_canonical_form(text, canonical):
    assert str(parse_name(text)) == canonical
    assert parse_name(canonical) == parse_name(text)


@given(
    st.sampled_from(["gymnasium", "dm_control"]),
    st.dictionaries(
        st.from_regex(r"[a-z_]{1,8}", fullmatch=True),
        st.booleans() | st.floats(allow_nan=False, allow_infinity=False),
        max_size=4,
    ),
)
def test_canonical_names_read_back(family, changes):
    name = EnvironmentName(family, "Some-v1", tuple(sorted(changes.items())))
    assert parse_name(str(name)) == name
    assert set(name.slug) <= set("abcdefghijklmnopqrstuvwxyz0123456789_-")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        *((name, None) for name in ("", "?g=1", "gymnasium/", "A?g", "A?g=", "A?g=1&g=2", "A?g=nan", "A?=1")),
        ("Hoper-v5", "did you mean gymnasium/Hopper-v5"),
        ("../../etc/passwd", "there is no environment"),
        ("CartPole-v1", "Discrete actions.*InvertedPendulum-v5"),
        ("Pendulum-v1?gravity=5", "unknown gravity; what can be changed there: g, l, m$"),
        ("Pendulum-v1?l=0", "l must be above 0"),
        ("Pendulum-v1?m=true", "m must be a number"),
        ("Hopper-v5?wind=1", "unknown wind; .*friction, .*gravity"),
        ("Hopper-v5?friction=-1", "friction must be at least 0"),
        ("Hopper-v5?frame_skip=2.5", "must be a whole number"),
        *((f"Hopper-v5?frame_skip={count}", "frame_skip must be at least 1") for count in (0, -1)),
        ("Hopper-v5?terminate_when_unhealthy=3", "must be true or false"),
        ("Hopper-v5?render_mode=1", "unknown render_mode"),
        ("dm_control/cheetah-runn", "did you mean dm_control/cheetah-run"),
        ("dm_control/xyz", "write domain-task"),
        ("dm_control/cheetah-run?g=3", "friction, gravity, mass, timestep"),
        ("dm_control/lqr-lqr_2_1", "without bounds"),
        *((f"robot/{name}", "write a kind and a number") for name in ("legged", "legged-07", "horse-1")),
        ("robot/legged-1?number=2&wings=2", "unknown number, wings"),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_line(name, message):
    if name.startswith("dm_control"):
        pytest.importorskip("dm_control")
    with pytest.raises(UsageError, match=message) as error:
        open_environment(name)
    assert "\n" not in str(error.value)


def test_an_environment_that_cannot_start_is_one_line(monkeypatch):
    # As if the package were not installed.
    monkeypatch.setitem(sys.modules, "Box2D", None)
    for module in [name for name in sys.modules if name.startswith("gymnasium.envs.box2d")]:
        monkeypatch.delitem(sys.modules, module)
    with pytest.raises(TrajWorldError, match="cannot start") as error:
        open_environment("BipedalWalker-v3")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("change", ["", "?g=5.0&l=1.5&m=0.5"])
def test_the_pendulum_obeys_its_equation_with_the_changed_constants(opened, change):
    constants = {"g": 10.0, "m": 1.0, "l": 1.0} | dict(parse_name("Pendulum-v1" + change).changes)
    environment = opened("Pendulum-v1" + change)
    cos, sin, speed = environment.reset(3).astype(float)
    angle = math.atan2(sin, cos)
    for action in (0.7, -1.9, 2.0, 0.0, 0.3):
        torque = 3.0 / (constants["m"] * constants["l"] ** 2) * action
        pull = 3 * constants["g"] / (2 * constants["l"]) * math.sin(angle)
        speed = min(max(speed + 0.05 * (pull + torque), -8), 8)
        angle += 0.05 * speed
        step = environment.step(np.array([action], np.float32))
        np.testing.assert_allclose(step.observation, [math.cos(angle), math.sin(angle), speed], atol=2e-5)


@pytest.mark.parametrize(("change", "gravity"), [("", 9.81), ("?gravity=3.0", 3.0), ("?gravity=0", 0.0)])
def test_a_falling_hopper_gains_speed_at_the_gravity_that_was_set(opened, change, gravity):
    environment = opened("Hopper-v5" + change)
    environment.reset(0)
    simulator = environment._env.unwrapped
    simulator.set_state(np.add(simulator.init_qpos, [0, 4, 0, 0, 0, 0]), np.zeros(6))
    simulator.do_simulation(np.zeros(3), 3)
    seconds = 3 * simulator.model.opt.timestep
    assert simulator.data.qvel[1] / seconds == pytest.approx(-gravity, rel=1e-3, abs=1e-6)


def test_other_changes_reach_the_model(opened):
    ant = opened("Ant-v5?include_cfrc_ext_in_observation=false").description
    assert (ant.observation_size, ant.action_size, ant.time_limit) == (27, 8, 1000)
    plain = opened("Hopper-v5")._env.unwrapped.model
    changed = opened("Hopper-v5?mass=2.0&friction=0.5&timestep=0.001")._env.unwrapped.model
    np.testing.assert_allclose(changed.body_mass, 2 * plain.body_mass)
    np.testing.assert_allclose(changed.body_inertia, 2 * plain.body_inertia)
    np.testing.assert_allclose(changed.body_subtreemass, 2 * plain.body_subtreemass)
    np.testing.assert_allclose(changed.geom_friction, 0.5 * plain.geom_friction)
    assert changed.opt.timestep == 0.001
    robot = opened("robot/legged-3?gravity=5&terminate_when_unhealthy=false")
    assert robot._env.unwrapped.model.opt.gravity[2] == -5.0
    assert robot.description.time_limit == 1000


def test_a_falling_cheetah_does_too(opened):
    pytest.importorskip("dm_control")
    environment = opened("dm_control/cheetah-run?gravity=2.0")
    environment.reset(0)
    physics = environment._env.physics
    with physics.reset_context():
        physics.named.data.qpos["rootz"] = 10.0
    environment.step(np.zeros(6, np.float32))
    assert physics.named.data.qvel["rootz"][0] / physics.data.time == pytest.approx(-2.0, rel=0.02)


def test_mujocos_silent_reset_of_a_broken_state_is_an_error(opened, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    environment = opened("InvertedDoublePendulum-v5")
    environment.reset(0)
    environment.step(np.zeros(1, np.float32))
    environment._env.unwrapped.data.qvel[0] = np.nan
    with pytest.raises(UnstableSimulationError):
        environment.step(np.zeros(1, np.float32))
    environment.reset(0)
    environment.step(np.zeros(1, np.float32))
    assert not list(tmp_path.iterdir()), "MuJoCo left its log file"


def test_gymnasium_dict_observations_are_flattened(opened):
    class Dictionary(gymnasium.Env):
        observation_space = gymnasium.spaces.Dict(
            {"b": gymnasium.spaces.Box(-1, 1, (2,)), "a": gymnasium.spaces.Box(-1, 1, (1,))}
        )
        action_space = gymnasium.spaces.Box(-1, 1, (1,))

        def reset(self, *, seed=None, options=None):
            return {"a": np.array([0.1], np.float32), "b": np.array([0.2, 0.3], np.float32)}, {}

    gymnasium.register("TrajWorldDictionary-v0", entry_point=Dictionary)
    environment = opened("TrajWorldDictionary-v0")
    assert environment.description.observation_size == 3
    expected = gymnasium.spaces.flatten(Dictionary.observation_space, Dictionary().reset()[0])
    np.testing.assert_array_equal(environment.reset(0), expected)
    del gymnasium.registry["TrajWorldDictionary-v0"]


@pytest.mark.parametrize("name", ["HalfCheetah-v5", "dm_control/pendulum-swingup"])
def test_starting_needs_no_display_and_leaves_no_trace(name, tmp_path):
    if name.startswith("dm_control"):
        pytest.importorskip("dm_control")
    code = (
        "import os; [os.environ.pop(name, None) for name in ('MUJOCO_GL', 'DISPLAY', 'WAYLAND_DISPLAY')]\n"
        "from trajworld.environments.open import open_environment\n"
        f"e = open_environment({name!r}); e.reset(0); e.close()\n"
        "print(os.environ.get('MUJOCO_GL'))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert (result.returncode, result.stdout.strip(), result.stderr) == (0, "None", "")
    assert not list(tmp_path.iterdir()), "MuJoCo left its log file"


def test_a_task_that_redraws_its_terrain_needs_no_renderer(opened):
    pytest.importorskip("dm_control")
    environment = opened("dm_control/quadruped-escape")
    first = environment.reset(1)
    environment.reset(2)
    np.testing.assert_array_equal(environment.reset(1), first)
