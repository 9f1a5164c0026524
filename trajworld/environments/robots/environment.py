"""Procedural robots as Gymnasium environments.

After ``register_robots()``: ``gymnasium.make("trajworld/Robot-v0", kind="legged", number=17)``.
"""

from typing import Any

import gymnasium
import mujoco
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from trajworld.environments.robots.kinds import draw_robot

ROBOT_ID = "trajworld/Robot-v0"
_STEPS = 1000


class RobotEnv(gymnasium.Env[NDArray[np.float64], NDArray[np.float32]]):
    """A robot that should move forwards (in x), observed like Gymnasium's locomotion environments.

    Observations are the positions without the place in the world, then the velocities (clipped to the robot's limit).
    The reward is the forward velocity (m/s), plus the bonus of a healthy state, minus the control cost. An episode ends
    where a robot on legs that can fall is unhealthy.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012

    def __init__(
        self,
        kind: str = "legged",
        number: int = 0,
        terminate_when_unhealthy: bool = True,
        reset_noise_scale: float = 0.05,
    ) -> None:
        """Draw a ``legged`` robot, a ``snake`` or a ``runner``; a ``UsageError`` where there is no such kind or number.

        Initial positions (m, rad) are uniform within plus and minus ``reset_noise_scale`` of rest; velocities are
        normal with this standard deviation.
        """
        self.robot = draw_robot(kind, number)
        self.model = mujoco.MjModel.from_xml_string(self.robot.xml)
        self.data = mujoco.MjData(self.model)
        self._terminate, self._noise = terminate_when_unhealthy, reset_noise_scale
        size = len(self.robot.positions) + len(self.robot.velocities)
        self.observation_space = spaces.Box(-np.inf, np.inf, (size,), np.float64)
        self.action_space = spaces.Box(-1.0, 1.0, (self.model.nu,), np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float64], dict[str, Any]]:
        """Begin an episode near rest."""
        super().reset(seed=seed)
        mujoco.mj_resetData(self.model, self.data)
        self.data.qpos[:] += self.np_random.uniform(-self._noise, self._noise, self.model.nq)
        self.data.qvel[:] = self._noise * self.np_random.standard_normal(self.model.nv)
        mujoco.mj_forward(self.model, self.data)
        if self.robot.stands and self.data.ncon:
            # Raised until nothing of it is in the floor, which would throw it into the air.
            self.data.qpos[1] -= min(0.0, float(self.data.contact.dist.min()))
            mujoco.mj_forward(self.model, self.data)
        return self._observation(), {}

    def step(
        self, action: NDArray[np.float32]
    ) -> tuple[NDArray[np.float64], float, bool, bool, dict[str, Any]]:
        """Act with ``action [action_size]`` in [-1, 1]."""
        before = float(self.data.qpos[0])
        self.do_simulation(action, self.robot.frame_skip)
        seconds = float(self.model.opt.timestep) * self.robot.frame_skip
        velocity = (float(self.data.qpos[0]) - before) / seconds
        healthy = self._is_healthy()
        cost = self.robot.control_cost * float(np.sum(np.square(action, dtype=np.float64)))
        reward = velocity + self.robot.healthy_bonus * healthy - cost
        terminated = self._terminate and not healthy
        return self._observation(), reward, terminated, False, {"x_velocity": velocity}

    def do_simulation(self, action: NDArray[np.float32], frames: int) -> None:
        """Hold an action for ``frames`` simulator steps."""
        self.data.ctrl[:] = action
        mujoco.mj_step(self.model, self.data, nstep=frames)

    def _is_healthy(self) -> bool:
        if self.robot.lowest is None:
            return True
        height, pitch = self.data.qpos[1], self.data.qpos[2]
        return bool(height > self.robot.lowest and abs(pitch) < self.robot.steepest)

    def _observation(self) -> NDArray[np.float64]:
        limit = self.robot.velocity_limit
        velocities = np.clip(self.data.qvel[list(self.robot.velocities)], -limit, limit)
        return np.concatenate([self.data.qpos[list(self.robot.positions)], velocities])


def register_robots() -> None:
    """Make ``trajworld/Robot-v0`` known to Gymnasium; more calls change nothing."""
    if ROBOT_ID not in gymnasium.registry:
        gymnasium.register(ROBOT_ID, entry_point=RobotEnv, max_episode_steps=_STEPS)
