"""What procedural robots are made of: seeded dice, links, and the model of a torso on legs."""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Robot:
    """A model and how ``RobotEnv`` observes, rewards and stops it."""

    name: str  # kind and number, legged-17
    xml: str  # the MuJoCo model (MJCF)
    positions: tuple[int, ...]  # which of qpos are observed: all but the place in the world
    velocities: tuple[int, ...]  # which of qvel are observed
    frame_skip: int  # simulator steps an action lasts
    velocity_limit: float  # observed velocities are clipped to plus and minus this; may be infinite
    control_cost: float  # weight of the squared actions in the reward
    healthy_bonus: float  # reward of each healthy step
    lowest: (
        float | None
    )  # unhealthy below this height of the root (qpos[1], m); None where every state is healthy
    steepest: float  # unhealthy beyond this pitch of the root (qpos[2], rad)
    size: float  # a length (m) that is typical of the body; no motion should leave it far behind in a step

    @property
    def stands(self) -> bool:
        """Whether it stands on the ground in the x-z plane; the others lie in the x-y plane."""
        return not self.name.startswith("snake")


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
        """One of the options, all equally likely."""
        return options[int(self._next() * len(options))]


class Link(NamedTuple):
    """A capsule from its joint at (0, 0) to (x, z), and beyond the joint by ``heel`` in the other direction."""

    x: float
    z: float
    radius: float
    heel: float
    low: float
    high: float
    strength: float
    springs: str = ""  # attributes of its joint in place of the model's


def capsule_volume(length: float, radius: float) -> float:
    """The volume (m³) of a capsule whose ends' centres are ``length`` apart."""
    return math.pi * radius**2 * (length + 4 * radius / 3)


def legs_volume(legs: Sequence[Sequence[Link]]) -> float:
    """Of all links of all legs."""
    return sum(
        capsule_volume(math.hypot(link.x, link.z) + link.heel, link.radius) for leg in legs for link in leg
    )


def planar_model(
    name: str,
    *,
    option: str,
    joint: str,
    density: float,
    friction: float,
    softness: float,
    height: float,
    absolute: bool,
    sign: int,
    torso: str,
    torso_radius: float,
    hips: Sequence[tuple[float, float]],
    legs: Sequence[Sequence[Link]],
    torque: float,
    head: str = "",
) -> str:
    """The MJCF model of a torso (a capsule) that moves in the x-z plane on legs of driven hinges.

    ``option`` and ``joint`` are attributes of the simulation and of every hinge, ``torso`` the two ends of the
    capsule, ``height`` (m) its place at rest, which is where qpos[1] is 0 unless it is ``absolute``; ``hips`` are the
    legs' places in the torso, ``torque`` (N m) what a link of strength 1 is driven with, ``head`` further geoms.
    """
    bodies, motors = [], []
    for number, ((hip_x, hip_z), leg) in enumerate(zip(hips, legs, strict=True)):
        x, z = hip_x, hip_z
        for level, link in enumerate(leg):
            part = f"leg{number}_{level}"
            length = math.hypot(link.x, link.z)
            back = (-link.x / length * link.heel, -link.z / length * link.heel)
            bodies.append(
                f'<body name="{part}" pos="{x:.5f} 0 {z:.5f}">'
                f'<joint name="{part}" type="hinge" axis="0 {sign} 0" '
                f'range="{link.low:.4f} {link.high:.4f}"{link.springs}/>'
                f'<geom name="{part}" type="capsule" size="{link.radius:.5f}" '
                f'fromto="{back[0]:.5f} 0 {back[1]:.5f} {link.x:.5f} 0 {link.z:.5f}"/>'
            )
            motors.append(f'<motor name="{part}" joint="{part}" gear="{torque * link.strength:.4f}"/>')
            x, z = link.x, link.z
        bodies.append("</body>" * len(leg))
    root = 'armature="0" damping="0" stiffness="0" limited="false"'
    reference = f' ref="{height:.5f}"' if absolute else ""
    return f"""<mujoco model="{name}">
  <compiler angle="radian" inertiafromgeom="true"/>
  <option {option}/>
  <default>
    <joint limited="true" {joint}/>
    <geom density="{density:.2f}" contype="1" conaffinity="0" condim="3" friction="{friction:.4f} 0.1 0.1"
      solref="{softness:.4f} 1"/>
    <motor ctrllimited="true" ctrlrange="-1 1"/>
  </default>
  <worldbody>
    <geom name="floor" type="plane" size="40 40 40" conaffinity="1" contype="0" friction="{friction:.4f} 0.1 0.1"/>
    <body name="torso" pos="0 0 {height:.5f}">
      <joint name="rootx" type="slide" axis="1 0 0" {root}/>
      <joint name="rootz" type="slide" axis="0 0 1" {root}{reference}/>
      <joint name="rooty" type="hinge" axis="0 {sign} 0" {root}/>
      <geom name="torso" type="capsule" size="{torso_radius:.5f}" fromto="{torso}"/>
      {head}{"".join(bodies)}
    </body>
  </worldbody>
  <actuator>{"".join(motors)}</actuator>
</mujoco>"""
