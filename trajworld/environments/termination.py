"""When an imagined episode ends: the termination rules of environments whose observations decide it."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from trajworld.environments.names import GYMNASIUM, parse_name
from trajworld.errors import UsageError

Rule = Callable[[NDArray[np.floating]], NDArray[np.bool_]]
"""From observations ``[..., O]`` to whether the episode ends there, ``[...]``."""


def termination_rule(environment: str) -> Rule:
    """The rule of an environment's name, as datasets record it; :func:`never` if it is unknown.

    The rules are those of Gymnasium's MuJoCo environments, read from observations without the root's x and y; besides,
    as is usual in models, a value beyond 100 ends an episode of walker2d and half-cheetah.
    """
    try:
        name = parse_name(environment)
    except UsageError:  # A dataset of a table has its file's name, which may be anything.
        return never
    changes = dict(name.changes)
    if name.family != GYMNASIUM or not all(changes.get(key, True) for key in _DECIDING):
        return never
    identifier = name.identifier.lower()
    return next((rule for start, rule in _RULES.items() if identifier.startswith(start)), never)


def never(observations: NDArray[np.floating]) -> NDArray[np.bool_]:
    """No observation ends an episode."""
    return np.zeros(observations.shape[:-1], bool)


def _hopper(observations: NDArray[np.floating]) -> NDArray[np.bool_]:
    height, angle = observations[..., 0], observations[..., 1]
    healthy = _bounded(observations[..., 1:]) & np.isfinite(height) & (height > 0.7) & (np.abs(angle) < 0.2)
    return ~healthy


def _walker2d(observations: NDArray[np.floating]) -> NDArray[np.bool_]:
    height, angle = observations[..., 0], observations[..., 1]
    return ~(_bounded(observations) & (height > 0.8) & (height < 2.0) & (np.abs(angle) < 1.0))


def _half_cheetah(observations: NDArray[np.floating]) -> NDArray[np.bool_]:
    return ~_bounded(observations)


def _between(low: float, high: float) -> Rule:
    def rule(observations: NDArray[np.floating]) -> NDArray[np.bool_]:
        height = observations[..., 0]
        return ~(np.isfinite(observations).all(axis=-1) & (height >= low) & (height <= high))

    return rule


def _bounded(observations: NDArray[np.floating]) -> NDArray[np.bool_]:
    # False for NaN too.
    return (np.abs(observations) < 100).all(axis=-1)


# Arguments, by default true, that change when an episode ends, or what is observed.
_DECIDING = ("terminate_when_unhealthy", "exclude_current_positions_from_observation")

_RULES: dict[str, Rule] = {
    "hopper-": _hopper,
    "walker2d-": _walker2d,
    "halfcheetah-": _half_cheetah,
    "ant-": _between(0.2, 1.0),
    "humanoid-": _between(1.0, 2.0),
}
