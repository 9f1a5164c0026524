"""Runners: long bodies on springy legs of three links, strong for their weight, that are acted on rarely."""

import math

from trajworld.environments.robots.bodies import Dice, Link, Robot, capsule_volume, legs_volume, planar_model

# Links of each leg, from the hindmost to the foremost.
_LEGS = ((3, 3), (3, 3), (3, 3), (3, 3), (3, 2), (2, 3), (3, 3, 3), (3, 2, 3), (3, 3, 2), (3, 3, 3, 3))
_TIMESTEPS = (0.005, 0.006, 0.008, 0.01)
# What an action lasts (s), and how far a leg's joints can be driven to either side of rest (rad).
_LONGEST, _SHORTEST = 0.05, 0.035
_SWINGS = (0.35, 1.2)


def draw_runner(name: str, dice: Dice) -> Robot:
    """A lying torso in the x-z plane on two to four legs of two or three links, one of three at least.

    Lengths, masses, springs, damping, strength and time step are drawn independently; each leg has its own proportions,
    stance and joint ranges. It may be one that cannot be simulated.
    """
    counts = dice.choose(_LEGS)
    leg_length = dice.log_uniform(0.35, 1.2)
    torso_length = leg_length * dice.uniform(0.9, 2.4)
    torso_radius = torso_length * dice.uniform(0.035, 0.09)
    thickness = dice.uniform(0.05, 0.12)
    density = dice.log_uniform(300, 1500)
    gravity = 9.81 if dice.chance(0.5) else dice.uniform(5.0, 14.0)
    legs = [_leg(dice, count, leg_length * dice.uniform(0.8, 1.2), thickness) for count in counts]
    head, head_length = "", 0.0
    if dice.chance(0.5):
        head_length, angle = torso_length * dice.uniform(0.15, 0.4), dice.uniform(-0.4, 1.4)
        x, z = torso_length / 2 + head_length * math.cos(angle), head_length * math.sin(angle)
        head = (
            f'<geom name="head" type="capsule" size="{torso_radius:.5f}" '
            f'fromto="{torso_length / 2:.5f} 0 0 {x:.5f} 0 {z:.5f}"/>'
        )
    reach = [sum(link.z for link in leg) - leg[-1].radius for leg in legs]
    height = -min(reach)
    # A shorter leg has its hip lower in the torso, as far as that is thick; the rest hangs over the ground.
    hips = [
        (torso_length * (number / (len(legs) - 1) - 0.5), -min(torso_radius, own + height))
        for number, own in enumerate(reach)
    ]
    mass = density * (
        capsule_volume(torso_length, torso_radius)
        + (capsule_volume(head_length, torso_radius) if head else 0.0)
        + legs_volume(legs)
    )
    torque = mass * gravity * leg_length * dice.log_uniform(1.0, 4.0)
    armature = mass * leg_length**2 * dice.log_uniform(0.004, 0.04)
    damping = torque * dice.log_uniform(0.02, 0.08)
    stiffness = torque * dice.log_uniform(0.3, 3.0) if dice.chance(0.8) else 0.0
    legs = [[_sprung(dice, link, damping, stiffness) for link in leg] for leg in legs]
    timestep = dice.choose(_TIMESTEPS)
    seconds = dice.uniform(_SHORTEST, _LONGEST)
    falls = dice.chance(0.2)
    absolute = falls or dice.chance(0.3)
    sign = dice.choose((-1, 1))
    joints = sum(counts)
    origin = 0.0 if absolute else -height
    return Robot(
        name=name,
        xml=planar_model(
            name,
            option=f'timestep="{timestep}" gravity="0 0 {-gravity:.4f}" '
            f'integrator="{dice.choose(("Euler", "implicitfast"))}"',
            joint=f'armature="{armature:.5f}"',
            density=density,
            friction=dice.uniform(0.4, 1.6),
            softness=dice.uniform(max(0.015, 2 * timestep), 0.03),
            height=height,
            absolute=absolute,
            sign=sign,
            torso=f"{-torso_length / 2:.5f} 0 0 {torso_length / 2:.5f} 0 0",
            torso_radius=torso_radius,
            hips=hips,
            legs=legs,
            torque=torque,
            head=head,
        ),
        positions=tuple(range(1, 3 + joints)),
        velocities=tuple(range(3 + joints)),
        frame_skip=max(1, math.floor(seconds / timestep + 0.5)),
        velocity_limit=math.inf,
        control_cost=dice.log_uniform(1e-2, 2e-1),
        healthy_bonus=1.0 if falls else 0.0,
        lowest=origin + height * dice.uniform(0.3, 0.5) if falls else None,
        steepest=dice.uniform(0.7, 1.3),
        size=leg_length + torso_length,
    )


def _leg(dice: Dice, count: int, length: float, thickness: float) -> list[Link]:
    """The links of a leg at rest, from the hip downwards: thigh and shin bent to either side, a foot to the front."""
    side = dice.choose((-1, 1))
    shares = [dice.uniform(0.7, 1.3), dice.uniform(0.7, 1.3), dice.uniform(0.35, 0.9)][:count]
    # From straight down; a foot may stand on its toe or lie flat.
    angles = [side * dice.uniform(0.1, 0.8), -side * dice.uniform(0.1, 0.9), dice.uniform(0.2, 1.5)][:count]
    heel = length * dice.uniform(0.0, 0.08)
    strength, links = 1.0, []
    for level, (share, angle) in enumerate(zip(shares, angles, strict=True)):
        long = length * share / sum(shares)
        links.append(
            Link(
                x=long * math.sin(angle),
                z=-long * math.cos(angle),
                radius=max(0.015, thickness * length / 2) * (1.0 - 0.1 * level),
                heel=heel if level == 2 else 0.0,
                low=-dice.uniform(*_SWINGS),
                high=dice.uniform(*_SWINGS),
                strength=strength,
            )
        )
        strength *= dice.uniform(0.45, 1.0)
    return links


def _sprung(dice: Dice, link: Link, damping: float, stiffness: float) -> Link:
    """The link with its own springs and damping, in proportion to its strength."""
    own = link.strength * dice.uniform(0.7, 1.3)
    return link._replace(springs=f' damping="{damping * own:.5f}" stiffness="{stiffness * own:.5f}"')
