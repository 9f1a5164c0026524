"""The interface of every simulator, and what its adapters share: errors, and changes of a MuJoCo model's physics."""

import contextlib
import difflib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from trajworld.environments.names import EnvironmentName, Value
from trajworld.errors import TrajWorldError, UsageError, first_line

# An environment without its own time limit is cut here.
DEFAULT_TIME_LIMIT = 1000

# Gravity in m/s², in the model's own direction; factors on every contact friction coefficient, and on every body's
# mass and inertia; seconds of a simulator step (the steps of an action stay the same).
MUJOCO_CHANGES = ("gravity", "friction", "mass", "timestep")


class Step(NamedTuple):
    """What one action led to: ``observation [observation_size]``, and how the episode ended, if it did."""

    observation: NDArray[np.floating]
    reward: float
    terminated: bool
    truncated: bool


@dataclass(frozen=True)
class Description:
    """What is known of an environment before it runs."""

    name: str  # the canonical one: gymnasium/Hopper-v5, dm_control/cheetah-run, robot/legged-17
    observation_space: Any  # a float32 gymnasium.spaces.Box of one dimension
    action_space: Any  # another, with finite bounds
    time_limit: int  # steps after which an episode is truncated

    @property
    def observation_size(self) -> int:
        """The number of observation variates."""
        return int(self.observation_space.shape[0])

    @property
    def action_size(self) -> int:
        """The number of action variates."""
        return int(self.action_space.shape[0])

    @property
    def num_variates(self) -> int:
        """M: observation variates, the reward, action variates."""
        return self.observation_size + 1 + self.action_size


class UnstableSimulationError(RuntimeError):
    """The simulator's state became invalid in a step, so that what it returned means nothing."""


class Environment(Protocol):
    """A simulator that is reset with a seed and stepped with flat actions."""

    @property
    def description(self) -> Description:
        """Its name, spaces and time limit."""

    def reset(self, seed: int) -> NDArray[np.floating]:
        """Begin the episode of ``seed`` in [0, 2³²); returns the observation ``[observation_size]``."""

    def place(self, observation: NDArray[np.floating]) -> None:
        """After a reset, put the simulator into an observed state; a ``UsageError`` where that is incomplete."""

    def step(self, action: NDArray[np.float32]) -> Step:
        """Act with ``action [action_size]``; raises any error of a simulator that breaks."""

    def close(self) -> None:
        """Free what the simulator holds."""


def not_placed(name: str) -> UsageError:
    """The error where an observation does not determine the state."""
    return UsageError(f"{name} cannot start in a given state: its observations do not contain all of it")


def action_box(low: Any, high: Any, where: str) -> Any:
    """The flat float32 ``gymnasium.spaces.Box`` of actions; a ``UsageError`` where they have no bounds."""
    from gymnasium import spaces

    low, high = (np.asarray(bound, np.float32).ravel() for bound in (low, high))
    # A MuJoCo model without control limits reports infinities, or MuJoCo's largest number.
    if not np.all(np.abs([low, high]) < 1e9):
        raise UsageError(f"{where} has actions without bounds: random actions cannot be drawn there")
    return spaces.Box(low, high, dtype=np.float32)


def cannot_start(name: EnvironmentName, error: Exception) -> TrajWorldError:
    """The error for a simulator that raised when it was made."""
    return TrajWorldError(f"{name} cannot start: {first_line(error)}")


def unknown_environment(name: EnvironmentName, known: Iterable[str], fallback: str) -> UsageError:
    """The error for a name that its family lacks, with the close ones of ``known``."""
    by_lower = {candidate.lower(): candidate for candidate in known}
    close = difflib.get_close_matches(name.identifier.lower(), by_lower, n=4, cutoff=0.6)
    offered = ", ".join(f"{name.family}/{by_lower[match]}" for match in close)
    hint = f"did you mean {offered}?" if offered else fallback
    return UsageError(f"there is no environment {name.family}/{name.identifier}: {hint}")


def check_changes(name: EnvironmentName, keys: Iterable[str], valid: Iterable[str]) -> None:
    """Raise a ``UsageError`` for changes that an environment does not have."""
    if unknown := set(keys) - set(valid):
        offered = ", ".join(sorted(valid)) or "none"
        raise UsageError(
            f"{name}: unknown {', '.join(sorted(unknown))}; what can be changed there: {offered}"
        )


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
