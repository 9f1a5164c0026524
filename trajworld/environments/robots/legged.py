"""Drawing planar legged robots: a torso in the x-z plane with one to four legs of one to three links."""

import math
from dataclasses import dataclass

from trajworld.environments.robots.robot import Dice, Robot

# (legs, links a leg): an upright torso stands on one to three legs, a lying one on two to four.
_UPRIGHT = ((1, 1), (1, 2), (1, 2), (1, 3), (1, 3), (1, 3), (2, 1), (2, 2), (2, 3), (2, 3), (2, 3), (3, 2))
_LYING = ((2, 1), (2, 2), (2, 3), (2, 3), (2, 3), (3, 1), (3, 2), (4, 1), (4, 2), (1, 2), (1, 3))
_TIMESTEPS = (0.002, 0.0025, 0.003, 0.004, 0.005)


@dataclass(frozen=True)
class _Link:
    """A capsule from its joint at (0, 0) to (x, z), and beyond the joint by ``heel`` in the other direction."""

    x: float
    z: float
    radius: float
    heel: float
    low: float
    high: float
    strength: float


def draw_legged(name: str, dice: Dice) -> Robot:
    """A robot of this kind, maybe one that cannot be simulated: see ``draw_robot``."""
    upright = dice.chance(0.6)
    num_legs, num_links = dice.choose(_UPRIGHT if upright else _LYING)
    leg_length = dice.log_uniform(0.35, 1.2)
    bend = dice.uniform(0.0, 0.25) if upright and dice.chance(0.4) else 0.0
    if not upright:
        bend = dice.uniform(0.0, 0.7)
    has_foot = num_links == 3 or (num_links == 2 and dice.chance(0.25))
    thickness = dice.uniform(0.06, 0.12)
    legs = [_leg(dice, num_links, leg_length, bend, has_foot, thickness) for _ in range(num_legs)]
    if upright:
        # As in most bodies that stand upright, the legs are alike; they differ by how each is moved.
        legs = [legs[0]] * num_legs
    torso_length = leg_length * (dice.uniform(0.3, 0.9) if upright else dice.uniform(0.7, 1.8))
    torso_radius = torso_length * dice.uniform(0.05, 0.12)
    if upright:
        hips = [(0.0, -torso_length / 2)] * num_legs
    else:
        places = [0.5] if num_legs == 1 else [place / (num_legs - 1) for place in range(num_legs)]
        hips = [(torso_length * (place - 0.5), 0.0) for place in places]
    height = max(
        -(hip_z + sum(link.z for link in leg)) + leg[-1].radius
        for (_, hip_z), leg in zip(hips, legs, strict=True)
    )
    density = dice.log_uniform(400, 1500)
    gravity = 9.81 if dice.chance(0.5) else dice.uniform(5.0, 14.0)
    mass = density * (
        _capsule(torso_length, torso_radius)
        + sum(_capsule(math.hypot(link.x, link.z) + link.heel, link.radius) for leg in legs for link in leg)
    )
    torque = mass * gravity * leg_length * dice.log_uniform(0.6, 5.0)
    # Of the driven joints, in proportion to the body's inertia and strength.
    armature = mass * leg_length**2 * dice.log_uniform(0.004, 0.3)
    damping = torque * dice.log_uniform(0.002, 0.06)
    stiffness = torque * dice.log_uniform(0.1, 3.0) if dice.chance(0.4) else 0.0
    joint = f'armature="{armature:.5f}" damping="{damping:.5f}" stiffness="{stiffness:.5f}"'
    sign = dice.choose((-1, 1))
    timestep = dice.choose(_TIMESTEPS)
    frame_skip = max(1, round(dice.log_uniform(0.008, 0.05) / timestep))
    integrator = dice.choose(("implicitfast", "implicitfast", "RK4"))
    friction = dice.uniform(0.4, 2.0)
    softness = dice.uniform(max(0.01, 2 * timestep), 0.03)
    absolute = upright or dice.chance(0.3)

    bodies, motors = [], []
    for number, ((hip_x, hip_z), leg) in enumerate(zip(hips, legs, strict=True)):
        x, z = hip_x, hip_z
        for level, link in enumerate(leg):
            part = f"leg{number}_{level}"
            length = math.hypot(link.x, link.z)
            back = (-link.x / length * link.heel, -link.z / length * link.heel)
            bodies.append(
                f'<body name="{part}" pos="{x:.5f} 0 {z:.5f}">'
                f'<joint name="{part}" type="hinge" axis="0 {sign} 0" range="{link.low:.4f} {link.high:.4f}"/>'
                f'<geom name="{part}" type="capsule" size="{link.radius:.5f}" '
                f'fromto="{back[0]:.5f} 0 {back[1]:.5f} {link.x:.5f} 0 {link.z:.5f}"/>'
            )
            motors.append(f'<motor name="{part}" joint="{part}" gear="{torque * link.strength:.4f}"/>')
            x, z = link.x, link.z
        bodies.append("</body>" * len(leg))
    half = torso_length / 2
    torso = f"0 0 {-half:.5f} 0 0 {half:.5f}" if upright else f"{-half:.5f} 0 0 {half:.5f} 0 0"
    root = 'armature="0" damping="0" stiffness="0" limited="false"'
    reference = f' ref="{height:.5f}"' if absolute else ""
    xml = f"""<mujoco model="{name}">
  <compiler angle="radian" inertiafromgeom="true"/>
  <option timestep="{timestep}" gravity="0 0 {-gravity:.4f}" integrator="{integrator}"/>
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
      {"".join(bodies)}
    </body>
  </worldbody>
  <actuator>{"".join(motors)}</actuator>
</mujoco>"""
    joints = num_legs * num_links
    falls = upright or dice.chance(0.3)
    origin = 0.0 if absolute else -height
    return Robot(
        name=name,
        xml=xml,
        positions=tuple(range(1, 3 + joints)),
        velocities=tuple(range(3 + joints)),
        frame_skip=frame_skip,
        velocity_limit=10.0 if falls else math.inf,
        control_cost=dice.log_uniform(1e-3, 1e-1),
        healthy_bonus=1.0 if falls else 0.0,
        lowest=origin + height * dice.uniform(0.45, 0.75) if falls else None,
        steepest=dice.uniform(0.2, 1.0),
        size=leg_length + torso_length,
    )


def _leg(
    dice: Dice, num_links: int, length: float, bend: float, has_foot: bool, thickness: float
) -> list[_Link]:
    """The links of one leg at rest, from the hip downwards; ``bend`` (rad) tilts them to either side in turn."""
    upper = num_links - has_foot
    shares = [dice.uniform(0.7, 1.3) for _ in range(upper)]
    side = dice.choose((-1, 1))
    links = []
    for level, share in enumerate(shares):
        long = length * share / sum(shares)
        angle = bend * side * (-1) ** level if upper > 1 else 0.0
        # The hip swings to both sides; a knee bends to one, with a little play.
        low, high = -dice.uniform(0.4, 1.4), dice.uniform(0.4, 1.4)
        if level > 0:
            low, high = (-dice.uniform(1.0, 2.4), 0.3) if dice.chance(0.5) else (-0.3, dice.uniform(1.0, 2.4))
        radius = max(0.015, thickness * long)
        links.append(
            _Link(long * math.sin(angle), -long * math.cos(angle), radius, 0.0, low, high, 0.8**level)
        )
    if has_foot:
        toe, heel = length * dice.uniform(0.12, 0.3), length * dice.uniform(0.03, 0.12)
        play = dice.uniform(0.4, 0.9)
        links.append(_Link(toe, 0.0, links[-1].radius * 1.2, heel, -play, play, dice.uniform(0.25, 0.6)))
    return links


def _capsule(length: float, radius: float) -> float:
    return math.pi * radius**2 * (length + 4 * radius / 3)
