"""The DeepMind control suite's environments, with plain or changed physics; no display is needed."""

import contextlib
import importlib.util
import math
import os
import sys
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from trajworld.environments.interface import (
    DEFAULT_TIME_LIMIT,
    Description,
    Step,
    unknown_change,
    unknown_environment,
)
from trajworld.environments.names import EnvironmentName
from trajworld.environments.physics import MUJOCO_CHANGES, change_mujoco, silent_mujoco
from trajworld.errors import TrajWorldError, UsageError


class DmControlEnvironment:
    """A task of the suite; dict observations are flattened in the specification's order, scalars included.

    Raises (when it is made):
        UsageError: The task is unknown, a change is not possible, or the actions have no bounds.
        TrajWorldError: ``dm_control`` is not installed or cannot start.
    """

    def __init__(self, name: EnvironmentName) -> None:
        suite = _suite(name)
        tasks = {f"{domain}-{task}": (domain, task) for domain, task in suite.ALL_TASKS}
        if name.identifier not in tasks:
            raise unknown_environment(name, tasks, "write domain-task, e.g. dm_control/cheetah-run")
        changes = dict(name.changes)
        if unknown := set(changes) - set(MUJOCO_CHANGES):
            raise unknown_change(name, unknown, MUJOCO_CHANGES)
        try:
            with silent_mujoco():
                # A fixed random state: a few tasks draw their model when it is built.
                self._env = suite.load(*tasks[name.identifier], task_kwargs={"random": 0})
        except Exception as error:
            raise TrajWorldError(f"{name} cannot start: {error}") from error
        physics = self._env.physics
        # Nothing is drawn here; a task that would refresh its picture must not ask for an OpenGL context.
        physics._make_rendering_contexts = lambda: None
        change_mujoco(physics.model.ptr, physics.data.ptr, changes, str(name))
        self._keys = list(self._env.observation_spec())
        size = sum(int(np.prod(spec.shape, dtype=int)) for spec in self._env.observation_spec().values())
        self.description = Description(
            name=str(name),
            observation_space=spaces.Box(-np.inf, np.inf, (size,), np.float32),
            action_space=_action_box(self._env.action_spec(), str(name)),
            time_limit=_time_limit(self._env),
        )
        self._steps = 0

    def reset(self, seed: int) -> NDArray[np.floating]:
        """Begin the episode of ``seed``: the task's random state starts anew from it."""
        self._steps = 0
        self._env.task.random.seed(seed)
        with silent_mujoco():
            return self._flat(self._env.reset().observation)

    def step(self, action: NDArray[np.float32]) -> Step:
        """Act with ``action [action_size]``; the suite raises its ``PhysicsError`` on an invalid state."""
        with silent_mujoco():
            time_step = self._env.step(action)
        self._steps += 1
        terminated = bool(time_step.last() and time_step.discount == 0.0)
        truncated = not terminated and (time_step.last() or self._steps >= self.description.time_limit)
        return Step(self._flat(time_step.observation), float(time_step.reward), terminated, bool(truncated))

    def close(self) -> None:
        """Free the physics."""
        self._env.close()

    def _flat(self, observation: Mapping[str, Any]) -> NDArray[np.floating]:
        return np.concatenate([np.ravel(observation[key]) for key in self._keys])


def _suite(name: EnvironmentName) -> ModuleType:
    """Import ``dm_control.suite`` without asking for an OpenGL context that the machine may not have."""
    if importlib.util.find_spec("dm_control") is None:
        raise TrajWorldError(
            f"{name} needs dm_control, which is not installed: pip install 'trajworld[dm-control]'"
        )
    # MuJoCo first, so that only dm_control sees the renderer switched off.
    import mujoco  # noqa: F401

    try:
        with _without_renderer():
            from dm_control import suite
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise TrajWorldError(
            f"{name}: dm_control cannot be imported ({reason}); try MUJOCO_GL=disabled"
        ) from error
    return suite


@contextlib.contextmanager
def _without_renderer() -> Iterator[None]:
    """No renderer while dm_control is imported, unless there is a display or the user chose a renderer."""
    display = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY") or sys.platform != "linux"
    if display or "MUJOCO_GL" in os.environ:
        yield
        return
    os.environ["MUJOCO_GL"] = "disabled"
    try:
        yield
    finally:
        del os.environ["MUJOCO_GL"]


def _action_box(spec: Any, where: str) -> spaces.Box:
    # A model without control limits reports infinities, or MuJoCo's largest number.
    low, high = np.asarray(spec.minimum, np.float32), np.asarray(spec.maximum, np.float32)
    if not (np.all(np.abs(low) < 1e9) and np.all(np.abs(high) < 1e9)):
        raise UsageError(f"{where} has actions without bounds: random actions cannot be drawn there")
    return spaces.Box(low, high, dtype=np.float32)


def _time_limit(env: Any) -> int:
    # The suite keeps the limit in steps to itself; a task without one has infinity there.
    limit = getattr(env, "_step_limit", math.inf)
    return math.ceil(limit) if math.isfinite(limit) else DEFAULT_TIME_LIMIT
