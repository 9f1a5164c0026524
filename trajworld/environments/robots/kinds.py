"""Procedural robots, each drawn by its kind and number: the same two always give the same robot."""

import math
import re
from collections.abc import Callable

import numpy as np

from trajworld.environments.interface import silent_mujoco
from trajworld.environments.robots.bodies import Dice, Link, Robot, capsule_volume, legs_volume, planar_model
from trajworld.environments.robots.runner import draw_runner
from trajworld.errors import TrajWorldError, UsageError

# (legs, links a leg): an upright torso stands on one to three legs, a lying one on two to four.
_UPRIGHT = ((1, 1), (1, 2), (1, 2), (1, 3), (1, 3), (1, 3), (2, 1), (2, 2), (2, 3), (2, 3), (2, 3), (3, 2))
_LYING = ((2, 1), (2, 2), (2, 3), (2, 3), (2, 3), (3, 1), (3, 2), (4, 1), (4, 2), (1, 2), (1, 3))
_LEGGED_TIMESTEPS = (0.002, 0.0025, 0.003, 0.004, 0.005)
_SNAKE_TIMESTEPS = (0.0025, 0.004, 0.005)

_NAME = re.compile(r"(\w+)-(0|[1-9]\d{0,8})", re.ASCII)

# The simulation that a drawn model must survive: steps, how long an action is held, and its limits.
_TRIAL_STEPS = 300
_HELD = 15
_FASTEST = 60.0
_ATTEMPTS = 100


def _legged(name: str, dice: Dice) -> Robot:
    """A torso in the x-z plane with one to four legs of one to three links; maybe one that cannot be simulated."""
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
        places = [place / (num_legs - 1) for place in range(num_legs)] if num_legs > 1 else [0.5]
        hips = [(torso_length * (place - 0.5), 0.0) for place in places]
    height = max(
        -(hip_z + sum(link.z for link in leg)) + leg[-1].radius
        for (_, hip_z), leg in zip(hips, legs, strict=True)
    )
    density = dice.log_uniform(400, 1500)
    gravity = 9.81 if dice.chance(0.5) else dice.uniform(5.0, 14.0)
    mass = density * (capsule_volume(torso_length, torso_radius) + legs_volume(legs))
    torque = mass * gravity * leg_length * dice.log_uniform(0.6, 5.0)
    # Of the driven joints, in proportion to the body's inertia and strength.
    armature = mass * leg_length**2 * dice.log_uniform(0.004, 0.3)
    damping = torque * dice.log_uniform(0.002, 0.06)
    stiffness = torque * dice.log_uniform(0.1, 3.0) if dice.chance(0.4) else 0.0
    joint = f'armature="{armature:.5f}" damping="{damping:.5f}" stiffness="{stiffness:.5f}"'
    sign = dice.choose((-1, 1))
    timestep = dice.choose(_LEGGED_TIMESTEPS)
    frame_skip = max(1, round(dice.log_uniform(0.008, 0.05) / timestep))
    integrator = dice.choose(("implicitfast", "implicitfast", "RK4"))
    friction = dice.uniform(0.4, 2.0)
    softness = dice.uniform(max(0.01, 2 * timestep), 0.03)
    absolute = upright or dice.chance(0.3)

    half = torso_length / 2
    xml = planar_model(
        name,
        option=f'timestep="{timestep}" gravity="0 0 {-gravity:.4f}" integrator="{integrator}"',
        joint=joint,
        density=density,
        friction=friction,
        softness=softness,
        height=height,
        absolute=absolute,
        sign=sign,
        torso=f"0 0 {-half:.5f} 0 0 {half:.5f}" if upright else f"{-half:.5f} 0 0 {half:.5f} 0 0",
        torso_radius=torso_radius,
        hips=hips,
        legs=legs,
        torque=torque,
    )
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
) -> list[Link]:
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
            Link(long * math.sin(angle), -long * math.cos(angle), radius, 0.0, low, high, 0.8**level)
        )
    if has_foot:
        toe, heel = length * dice.uniform(0.12, 0.3), length * dice.uniform(0.03, 0.12)
        play = dice.uniform(0.4, 0.9)
        links.append(Link(toe, 0.0, links[-1].radius * 1.2, heel, -play, play, dice.uniform(0.25, 0.6)))
    return links


def _snake(name: str, dice: Dice) -> Robot:
    """A chain of three to eight links in the x-y plane; maybe one that cannot be simulated.

    A swimmer's medium resists motion across a link more than along it; on the ground friction does.
    """
    num_links = dice.choose((3, 4, 5, 6, 7, 8))
    crawls = dice.chance(0.4)
    mean_length = dice.log_uniform(0.15, 0.8)
    lengths = [mean_length * dice.uniform(0.75, 1.25) for _ in range(num_links)]
    radius = mean_length * dice.uniform(0.07, 0.13)
    density = dice.log_uniform(500, 1500)
    mass = density * math.pi * radius**2 * (mean_length + 4 * radius / 3)
    joint_range = dice.uniform(0.7, 1.7)
    timestep = dice.choose(_SNAKE_TIMESTEPS)
    frame_skip = max(1, round(dice.log_uniform(0.01, 0.05) / timestep))
    integrator = dice.choose(("implicitfast", "RK4"))
    # One turn of the middle of the chain against its own inertia takes about a second at full torque.
    inertia = mass * mean_length**2 * num_links
    if crawls:
        along, ratio = dice.log_uniform(0.03, 0.2), dice.uniform(3.0, 10.0)
        gravity = dice.uniform(5.0, 14.0)
        torque = mass * num_links * gravity * mean_length * along * ratio * dice.log_uniform(0.3, 1.5)
        option = f'gravity="0 0 {-gravity:.4f}"'
    else:
        along = ratio = 0.0
        torque = inertia * dice.log_uniform(8.0, 40.0)
        medium, viscosity = dice.log_uniform(800, 5000), dice.log_uniform(0.05, 0.6)
        option = f'gravity="0 0 0" density="{medium:.2f}" viscosity="{viscosity:.4f}"'
    armature = inertia * dice.log_uniform(0.01, 0.2)
    damping = torque * dice.log_uniform(0.005, 0.1)

    bodies, motors, pairs = [], [], []
    free = 'limited="false" armature="0" damping="0"'
    joint = (
        f'<joint name="rootx" type="slide" axis="1 0 0" {free}/>'
        f'<joint name="rooty" type="slide" axis="0 1 0" {free}/>'
        f'<joint name="heading" type="hinge" axis="0 0 1" {free}/>'
    )
    joint += f'<joint name="rootz" type="slide" axis="0 0 1" {free}/>' if crawls else ""
    place, height = 0.0, radius
    for number, length in enumerate(lengths):
        # The head comes first, and each link trails behind the one before.
        part = f"link{number}"
        if number > 0:
            place, height = -lengths[number - 1], 0.0
            joint = f'<joint name="{part}" type="hinge" axis="0 0 1"/>'
            motors.append(f'<motor name="{part}" joint="{part}" gear="{torque:.6f}"/>')
        bodies.append(
            f'<body name="{part}" pos="{place:.5f} 0 {height:.5f}">{joint}'
            f'<geom name="{part}" type="capsule" size="{radius:.5f}" fromto="0 0 0 {-length:.5f} 0 0"/>'
        )
        if crawls:
            pairs.append(
                f'<pair geom1="floor" geom2="{part}" condim="3" '
                f'friction="{along:.4f} {along * ratio:.4f} 0.005 0.0001 0.0001"/>'
            )
    xml = f"""<mujoco model="{name}">
  <compiler angle="radian" inertiafromgeom="true"/>
  <option timestep="{timestep}" integrator="{integrator}" {option}/>
  <default>
    <joint limited="true" range="{-joint_range:.4f} {joint_range:.4f}" armature="{armature:.7f}"
      damping="{damping:.7f}"/>
    <geom density="{density:.2f}" contype="0" conaffinity="0"/>
    <motor ctrllimited="true" ctrlrange="-1 1"/>
  </default>
  <worldbody>
    <geom name="floor" type="plane" size="40 40 40"/>
    {"".join(bodies)}{"</body>" * num_links}
  </worldbody>
  <actuator>{"".join(motors)}</actuator>
  <contact>{"".join(pairs)}</contact>
</mujoco>"""
    # On the ground the root has a height too, which hardly changes and is not observed.
    root = 4 if crawls else 3
    joints = tuple(range(root, root + num_links - 1))
    return Robot(
        name=name,
        xml=xml,
        positions=(2, *joints),
        velocities=(0, 1, 2, *joints),
        frame_skip=frame_skip,
        velocity_limit=math.inf,
        control_cost=dice.log_uniform(1e-4, 1e-2),
        healthy_bonus=0.0,
        lowest=None,
        steepest=math.inf,
        size=sum(lengths),
    )


KINDS: dict[str, Callable[[str, Dice], Robot]] = {"legged": _legged, "snake": _snake, "runner": draw_runner}


def parse_robot(identifier: str) -> tuple[str, int]:
    """The kind and number of ``legged-17``; a ``UsageError`` where it is no robot's."""
    parts = _NAME.fullmatch(identifier)
    if parts is None or parts[1] not in KINDS:
        offered = " or ".join(f"robot/{kind}-17" for kind in KINDS)
        raise UsageError(f"there is no robot {identifier!r}: write a kind and a number, {offered}")
    return parts[1], int(parts[2])


def draw_robot(kind: str, number: int) -> Robot:
    """The robot of a kind and number; a ``UsageError`` where there is none.

    A draw whose simulation under strong random actions breaks is thrown away and the next is tried: the result depends
    only on ``kind`` and ``number``.
    """
    parse_robot(f"{kind}-{number}")
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
            if robot.stands and not start - 2 * robot.size < data.qpos[1] < start + 4 * robot.size:
                return False
    return True
