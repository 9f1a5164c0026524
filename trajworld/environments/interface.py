"""The interface of every simulator, and what its adapters share."""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from trajworld.environments.names import EnvironmentName
from trajworld.errors import TrajWorldError, UsageError

# An environment without a time limit of its own is cut here.
DEFAULT_TIME_LIMIT = 1000


class Step(NamedTuple):
    """What one action led to: ``observation [observation_size]``, and how the episode ended, if it did."""

    observation: NDArray[np.floating]
    reward: float
    terminated: bool
    truncated: bool


@dataclass(frozen=True)
class Description:
    """What is known of an environment before it runs.

    Attributes:
        name: The canonical name, e.g. ``gymnasium/Hopper-v5``, ``dm_control/cheetah-run``, ``robot/legged-17``.
        observation_space: A one-dimensional float32 ``gymnasium.spaces.Box``.
        action_space: A one-dimensional float32 ``gymnasium.spaces.Box`` with finite bounds.
        time_limit: Steps after which an episode is truncated.
    """

    name: str
    observation_space: Any
    action_space: Any
    time_limit: int

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

    def step(self, action: NDArray[np.float32]) -> Step:
        """Act with ``action [action_size]``; raises whatever the simulator raises when it breaks."""

    def close(self) -> None:
        """Free what the simulator holds."""


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


def first_line(error: Exception) -> str:
    """The first line of an exception's text; its type where it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


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
