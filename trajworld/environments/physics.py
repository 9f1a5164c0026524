"""Changes of a MuJoCo model's physics: gravity, friction, mass and time step."""

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from trajworld.environments.names import Value
from trajworld.errors import UsageError

# Gravity in m/s², in the model's own direction; factors on every contact friction coefficient, and on every body's
# mass and inertia; seconds of a simulator step (the steps of an action stay the same).
MUJOCO_CHANGES = ("gravity", "friction", "mass", "timestep")


def change_mujoco(model: Any, data: Any, changes: dict[str, Value], where: str) -> None:
    """Change an ``MjModel`` in place by values of ``MUJOCO_CHANGES``; ``MjData`` recomputes what depends on mass."""
    import mujoco

    for key, raw in changes.items():
        value = checked_number(raw, key, where, may_be_zero=key in ("gravity", "friction"))
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
    mujoco.set_mju_user_warning(lambda message: None)
    try:
        yield
    finally:
        mujoco.set_mju_user_warning(before)


def checked_number(value: Value, key: str, where: str, *, may_be_zero: bool = False) -> float:
    """``value`` as a float above 0, or at least 0; a ``UsageError`` where it is true/false, or out of range."""
    if isinstance(value, bool):
        raise UsageError(f"{where}: {key} must be a number, not {str(value).lower()}")
    if value < 0 or (value == 0 and not may_be_zero):
        raise UsageError(f"{where}: {key} must be {'at least' if may_be_zero else 'above'} 0, not {value:g}")
    return float(value)
