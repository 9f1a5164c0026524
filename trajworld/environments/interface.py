"""The interface of every simulator."""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from trajworld.environments.names import EnvironmentName
from trajworld.errors import UsageError

# An environment without a time limit of its own is cut here.
DEFAULT_TIME_LIMIT = 1000


class Step(NamedTuple):
    """What one action led to.

    Attributes:
        observation: ``[observation_size]``, of the simulator's precision.
        reward: Received on arriving there.
        terminated: Whether the state is terminal.
        truncated: Whether the time limit ended the episode.
    """

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


def unknown_environment(name: EnvironmentName, known: Iterable[str], fallback: str) -> UsageError:
    """The error for a name that its family lacks, with the close ones of ``known``."""
    by_lower = {candidate.lower(): candidate for candidate in known}
    close = difflib.get_close_matches(name.identifier.lower(), by_lower, n=4, cutoff=0.6)
    offered = ", ".join(f"{name.family}/{by_lower[match]}" for match in close)
    hint = f"did you mean {offered}?" if offered else fallback
    return UsageError(f"there is no environment {name.family}/{name.identifier}: {hint}")


def unknown_change(name: EnvironmentName, keys: Iterable[str], valid: Iterable[str]) -> UsageError:
    """The error for changes that an environment does not have."""
    offered = ", ".join(sorted(valid)) or "none"
    return UsageError(f"{name}: unknown {', '.join(sorted(keys))}; what can be changed there: {offered}")
