"""The DeepMind control suite's environments, with plain or changed physics; no display is needed."""

import importlib.util
import math
import os
import sys
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from trajworld.environments import interface
from trajworld.environments.names import EnvironmentName
from trajworld.errors import TrajWorldError, first_line
from trajworld.versions import pip_command


class DmControlEnvironment:
    """A task of the suite; dict observations are flattened in the specification's order, scalars included."""

    def __init__(self, name: EnvironmentName) -> None:
        suite = _suite(name)
        tasks = {f"{domain}-{task}": (domain, task) for domain, task in suite.ALL_TASKS}
        if name.identifier not in tasks:
            raise interface.unknown_environment(name, tasks, "write domain-task, e.g. dm_control/cheetah-run")
        changes = dict(name.changes)
        interface.check_changes(name, changes, interface.MUJOCO_CHANGES)
        try:
            with interface.silent_mujoco():
                # A fixed random state: a few tasks draw their model when it is built.
                self._env = suite.load(*tasks[name.identifier], task_kwargs={"random": 0})
        except Exception as error:
            raise interface.cannot_start(name, error) from error
        physics = self._env.physics
        # Nothing is drawn here; a task that would refresh its picture must not ask for an OpenGL context.
        physics._make_rendering_contexts = lambda: None
        interface.change_mujoco(physics.model.ptr, physics.data.ptr, changes, str(name))
        observed, acted = self._env.observation_spec(), self._env.action_spec()
        self._keys = list(observed)
        size = sum(math.prod(spec.shape) for spec in observed.values())
        # The suite's limit in steps is private; a task without one has infinity there.
        limit = getattr(self._env, "_step_limit", math.inf)
        self.description = interface.Description(
            name=str(name),
            observation_space=spaces.Box(-np.inf, np.inf, (size,), np.float32),
            action_space=interface.action_box(acted.minimum, acted.maximum, str(name)),
            time_limit=math.ceil(limit) if math.isfinite(limit) else interface.DEFAULT_TIME_LIMIT,
        )

    def reset(self, seed: int) -> NDArray[np.floating]:
        """Begin the episode of ``seed``: the task's random state starts anew from it."""
        self._env.task.random.seed(seed)
        with interface.silent_mujoco():
            return self._flat(self._env.reset().observation)

    def place(self, observation: NDArray[np.floating]) -> None:
        """An observation of the suite does not determine the simulator's state."""
        raise interface.not_placed(self.description.name)

    def step(self, action: NDArray[np.float32]) -> interface.Step:
        """Act with ``action [action_size]``; the suite raises its ``PhysicsError`` on an invalid state."""
        with interface.silent_mujoco():
            time_step = self._env.step(action)
        ended = bool(time_step.last())
        terminated = bool(ended and time_step.discount == 0.0)
        observation = self._flat(time_step.observation)
        return interface.Step(observation, float(time_step.reward), terminated, ended and not terminated)

    def close(self) -> None:
        """Free the physics."""
        self._env.close()

    def _flat(self, observation: Mapping[str, Any]) -> NDArray[np.floating]:
        return np.concatenate([np.ravel(observation[key]) for key in self._keys])


def _suite(name: EnvironmentName) -> ModuleType:
    """Import ``dm_control.suite`` without asking for an OpenGL context that the machine may not have."""
    if importlib.util.find_spec("dm_control") is None:
        raise TrajWorldError(f"{name} needs dm_control, which is not installed: {pip_command('dm-control')}")
    # MuJoCo first, so that only dm_control sees the renderer switched off.
    import mujoco  # noqa: F401

    display = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY") or sys.platform != "linux"
    without_renderer = not display and "MUJOCO_GL" not in os.environ
    if without_renderer:
        os.environ["MUJOCO_GL"] = "disabled"
    try:
        from dm_control import suite
    except Exception as error:
        raise TrajWorldError(
            f"{name}: dm_control cannot be imported ({first_line(error)}); try MUJOCO_GL=disabled"
        ) from error
    finally:
        if without_renderer:
            del os.environ["MUJOCO_GL"]
    return suite
