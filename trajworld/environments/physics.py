"""Changes of a MuJoCo model's physics: gravity, friction, mass and time step."""

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from trajworld.environments.names import Value
from trajworld.errors import UsageError

# Key -> what it sets, for messages and the command's help.
MUJOCO_CHANGES = {
    "gravity": "gravity in m/s² (9.81 on Earth), in the model's own direction",
    "friction": "factor on every contact friction coefficient",
    "mass": "factor on every body's mass and inertia",
    "timestep": "seconds per simulator step (steps per action stay the same)",
}


def change_mujoco(model: Any, data: Any, changes: dict[str, Value], where: str) -> None:
    """Change a MuJoCo model in place.

    Args:
        model: An ``mujoco.MjModel``.
        data: Its ``mujoco.MjData``, used to recompute constants that depend on mass.
        changes: Values by key of ``MUJOCO_CHANGES``.
        where: The environment's name, for messages.

    Raises:
        UsageError: A value is out of range, or the model has no gravity to change.
    """
    import mujoco

    for key, raw in changes.items():
        value = checked_number(raw, key, where, minimum=0.0, open_end=key in ("mass", "timestep"))
        if key == "gravity":
            if model.opt.disableflags & int(mujoco.mjtDisableBit.mjDSBL_GRAVITY):
                raise UsageError(f"{where}: gravity is switched off in this model")
            strength = np.linalg.norm(model.opt.gravity)
            down = model.opt.gravity / strength if strength > 0 else np.array([0.0, 0.0, -1.0])
            model.opt.gravity[:] = value * down
        elif key == "friction":
            model.geom_friction[:] *= value
            model.pair_friction[:] *= value
        elif key == "mass":
            model.body_mass[:] *= value
            model.body_inertia[:] *= value
        else:
            model.opt.timestep = value
    if "mass" in changes:
        mujoco.mj_setConst(model, data)


@contextlib.contextmanager
def silent_mujoco() -> Iterator[None]:
    """Keep MuJoCo's warnings from the terminal and from MUJOCO_LOG.TXT in the current folder.

    Nothing is lost: those about the state are counted in ``data.warning``, which the adapters look at.
    """
    import mujoco

    before = mujoco.get_mju_user_warning()
    mujoco.set_mju_user_warning(_ignore)
    try:
        yield
    finally:
        mujoco.set_mju_user_warning(before)


def _ignore(message: str) -> None:
    pass


def checked_number(
    value: Value, key: str, where: str, *, minimum: float | None = None, open_end: bool = False
) -> float:
    """``value`` as a float, at least ``minimum`` (above it where ``open_end``).

    Raises:
        UsageError: It is true/false, or out of range.
    """
    if isinstance(value, bool):
        raise UsageError(f"{where}: {key} must be a number, not {str(value).lower()}")
    if minimum is not None and (value < minimum or (open_end and value == minimum)):
        raise UsageError(
            f"{where}: {key} must be {'above' if open_end else 'at least'} {minimum:g}, not {value:g}"
        )
    return float(value)
