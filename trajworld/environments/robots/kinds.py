"""The kinds of procedural robots: the same kind and number always give the same robot."""

import re
from collections.abc import Callable

import numpy as np

from trajworld.environments.physics import silent_mujoco
from trajworld.environments.robots.legged import draw_legged
from trajworld.environments.robots.robot import Dice, Robot
from trajworld.environments.robots.snake import draw_snake
from trajworld.errors import TrajWorldError, UsageError

KINDS: dict[str, Callable[[str, Dice], Robot]] = {"legged": draw_legged, "snake": draw_snake}
_NAME = re.compile(r"(\w+)-(0|[1-9]\d{0,8})", re.ASCII)

# The simulation that a drawn model must survive: steps, how long an action is held, and its limits.
_TRIAL_STEPS = 300
_HELD = 15
_FASTEST = 60.0
_ATTEMPTS = 100


def parse_robot(identifier: str) -> tuple[str, int]:
    """The kind and number of ``legged-17``; a ``UsageError`` where it is no robot's."""
    parts = _NAME.fullmatch(identifier)
    if parts is None or parts[1] not in KINDS:
        raise _no_robot(identifier)
    return parts[1], int(parts[2])


def _no_robot(identifier: str) -> UsageError:
    offered = " or ".join(f"robot/{kind}-17" for kind in KINDS)
    return UsageError(f"there is no robot {identifier!r}: write a kind and a number, {offered}")


def draw_robot(kind: str, number: int) -> Robot:
    """The robot of a kind and number; a ``UsageError`` where there is none.

    A draw whose model does not compile, or whose simulation under strong random actions breaks, is thrown away and
    the next is tried: what comes out is a function of ``kind`` and ``number`` alone.
    """
    if kind not in KINDS or number < 0:
        raise _no_robot(f"{kind}-{number}")
    for attempt in range(_ATTEMPTS):
        robot = KINDS[kind](f"{kind}-{number}", Dice(f"trajworld {kind} {number} {attempt}"))
        if is_sane(robot):
            return robot
    raise TrajWorldError(f"no sane robot of {_ATTEMPTS} draws for {kind}-{number}")


def is_sane(robot: Robot) -> bool:
    """Whether the model stays finite, slow enough, on the ground and near it under strong random actions."""
    import mujoco

    with silent_mujoco():
        model = mujoco.MjModel.from_xml_string(robot.xml)
        data = mujoco.MjData(model)
        generator = np.random.default_rng(0)
        stands = robot.name.startswith("legged")
        start = float(data.qpos[1])
        for step in range(_TRIAL_STEPS):
            if step % _HELD == 0:
                data.ctrl[:] = generator.choice([-1.0, 0.0, 1.0], model.nu)
            before = data.qpos[:2].copy()
            mujoco.mj_step(model, data, nstep=robot.frame_skip)
            if data.warning.number.any() or not np.all(np.isfinite(data.qacc)):
                return False
            if np.abs(data.qvel).max() > _FASTEST or np.abs(data.qpos[:2] - before).max() > robot.size:
                return False
            if stands and not start - 2 * robot.size < data.qpos[1] < start + 4 * robot.size:
                return False
    return True
