"""What a procedural robot is, and the random numbers that it is drawn with."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Robot:
    """A model and how it is observed, rewarded and stopped; see ``trajworld.environments.robots.environment``.

    Attributes:
        name: Kind and number, ``legged-17``.
        xml: The MuJoCo model (MJCF).
        positions: Which of ``qpos`` are observed: all but the place in the world.
        velocities: Which of ``qvel`` are observed.
        frame_skip: Simulator steps an action lasts.
        velocity_limit: Observed velocities are clipped to plus and minus this; may be infinite.
        control_cost: Weight of the squared actions in the reward.
        healthy_bonus: Reward of each healthy step.
        lowest: Unhealthy below this height of the root (qpos[1], m); None where every state is healthy.
        steepest: Unhealthy beyond this pitch of the root (qpos[2], rad).
        size: A length (m) that is typical of the body; no motion should leave it far behind in a step.
    """

    name: str
    xml: str
    positions: tuple[int, ...]
    velocities: tuple[int, ...]
    frame_skip: int
    velocity_limit: float
    control_cost: float
    healthy_bonus: float
    lowest: float | None
    steepest: float
    size: float


class Dice:
    """Random numbers that Python promises never to change for a seed: made of ``random()`` alone."""

    def __init__(self, seed: str) -> None:
        self._next = random.Random(seed).random

    def uniform(self, low: float, high: float) -> float:
        """Uniform in [low, high)."""
        return low + (high - low) * self._next()

    def log_uniform(self, low: float, high: float) -> float:
        """Log-uniform in [low, high)."""
        return float(low * (high / low) ** self._next())

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return self._next() < probability

    def choose(self, options: Sequence[T]) -> T:
        """One of the options, each as likely."""
        return options[int(self._next() * len(options))]
