"""Drawing planar snakes: chains of three to eight links in the x-y plane, in a viscous medium or on the ground."""

import math

from trajworld.environments.robots.robot import Dice, Robot

_TIMESTEPS = (0.0025, 0.004, 0.005)


def draw_snake(name: str, dice: Dice) -> Robot:
    """A robot of this kind, maybe one that cannot be simulated: see ``draw_robot``.

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
    timestep = dice.choose(_TIMESTEPS)
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
    place, height, joint = 0.0, radius, _root(crawls)
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


def _root(crawls: bool) -> str:
    free = 'limited="false" armature="0" damping="0"'
    height = f'<joint name="rootz" type="slide" axis="0 0 1" {free}/>' if crawls else ""
    return (
        f'<joint name="rootx" type="slide" axis="1 0 0" {free}/>'
        f'<joint name="rooty" type="slide" axis="0 1 0" {free}/>'
        f'<joint name="heading" type="hinge" axis="0 0 1" {free}/>{height}'
    )
