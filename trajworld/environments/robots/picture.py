"""Pictures of robots, drawn from their models' geometry: no OpenGL is needed."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from trajworld.environments.robots.bodies import Robot
from trajworld.environments.robots.kinds import draw_robot

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# How long it moves before it is drawn (s), so that a body shows its joints.
_SECONDS = 0.25
_ROOT_COLOUR, _LINK_COLOURS = "#334155", ("#d97706", "#0e7490")


def draw_robots(names: Sequence[tuple[str, int]], path: str | Path) -> None:
    """Draw robots of the given kinds and numbers side by side and save the picture.

    Robots on legs are seen from the side, snakes from above, each a moment after rest under random actions. Errors are
    those of ``save_figure``.
    """
    from matplotlib.figure import Figure

    from trajworld.charts import save_figure

    columns = min(6, len(names))
    lines = math.ceil(len(names) / columns)
    figure = Figure(figsize=(1.9 * columns, 1.9 * lines), layout="constrained")
    for place, (kind, number) in enumerate(names, start=1):
        _draw(figure.add_subplot(lines, columns, place), draw_robot(kind, number))
    save_figure(figure, path)


def _draw(axes: "Axes", robot: Robot) -> None:
    """Draw one robot; one unit is a metre on both axes."""
    import mujoco

    model = mujoco.MjModel.from_xml_string(robot.xml)
    data = mujoco.MjData(model)
    data.ctrl[:] = np.random.default_rng(1).uniform(-0.5, 0.5, model.nu)
    mujoco.mj_step(model, data, nstep=max(1, round(_SECONDS / model.opt.timestep)))
    side = robot.stands
    plane = [0, 2] if side else [0, 1]
    corners = []
    for geom in np.flatnonzero(model.geom_type == mujoco.mjtGeom.mjGEOM_CAPSULE):
        axis = data.geom_xmat[geom].reshape(3, 3)[:, 2] * model.geom_size[geom, 1]
        centre, radius = data.geom_xpos[geom], float(model.geom_size[geom, 0])
        ends = np.stack([(centre - axis)[plane], (centre + axis)[plane]])
        root = model.body_parentid[model.geom_bodyid[geom]] == 0
        colour = _ROOT_COLOUR if root else _LINK_COLOURS[geom % 2]
        axes.fill(*_capsule(ends, radius).T, facecolor=colour, edgecolor="white", linewidth=0.6)
        corners.extend([ends - radius, ends + radius])
    low, high = np.min(np.concatenate(corners), 0), np.max(np.concatenate(corners), 0)
    if side:
        low[1] = min(low[1], 0.0)
    middle, half = (low + high) / 2, 0.58 * float(np.max(high - low))
    if side:
        axes.axhspan(middle[1] - half, 0.0, color="0.9", zorder=0)
    axes.set(xlim=(middle[0] - half, middle[0] + half), ylim=(middle[1] - half, middle[1] + half))
    axes.set(aspect="equal", xticks=[], yticks=[])
    axes.spines[:].set_color("0.8")
    extent = high[1] - low[1] if side else high[0] - low[0]
    axes.set_title(f"{robot.name}\n{extent:.1f} m, {model.body_mass.sum():.1f} kg", fontsize=8)


def _capsule(ends: NDArray[np.float64], radius: float) -> NDArray[np.float64]:
    """The outline ``[32, 2]`` of all points within ``radius`` of the line between two points."""
    along = ends[1] - ends[0]
    angle = math.atan2(along[1], along[0]) + math.pi / 2 + np.linspace(0, math.pi, 16)
    half = radius * np.stack([np.cos(angle), np.sin(angle)], 1)
    return np.concatenate([ends[0] + half, ends[1] - half])
