"""Pictures of robots, drawn from their models' geometry: no OpenGL is needed."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from trajworld.environments.robots.kinds import draw_robot
from trajworld.environments.robots.robot import Robot
from trajworld.errors import UsageError
from trajworld.files import atomic_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLUMNS = 6
# Under gravity alone for so long (s), so that a body shows its joints.
_SECONDS = 0.25


def draw_robots(names: Sequence[tuple[str, int]], path: str | Path) -> None:
    """Draw robots of the given kinds and numbers side by side and save the picture.

    Legged robots are seen from the side, snakes from above, each a moment after rest under random actions.

    Raises:
        UsageError: There is nothing to draw, or the name's suffix is of no picture format.
        TrajWorldError: The picture cannot be written there.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if not names:
        raise UsageError("name at least one robot to draw")
    formats = FigureCanvasAgg.get_supported_filetypes()
    if Path(path).suffix.removeprefix(".").lower() not in formats:
        raise UsageError(f"{path}: a picture's name ends in one of .{', .'.join(sorted(formats))}")
    columns = min(_COLUMNS, len(names))
    lines = math.ceil(len(names) / columns)
    figure = Figure(figsize=(1.9 * columns, 1.9 * lines), layout="constrained")
    FigureCanvasAgg(figure)
    for place, (kind, number) in enumerate(names, start=1):
        draw_robot_on(figure.add_subplot(lines, columns, place), draw_robot(kind, number))
    with atomic_file(path) as temporary:
        figure.savefig(temporary, dpi=110)


def draw_robot_on(axes: "Axes", robot: Robot) -> None:
    """Draw one robot; one unit is a metre on both axes."""
    import mujoco
    from matplotlib.collections import PatchCollection

    model = mujoco.MjModel.from_xml_string(robot.xml)
    data = mujoco.MjData(model)
    generator = np.random.default_rng(1)
    data.ctrl[:] = generator.uniform(-0.5, 0.5, model.nu)
    mujoco.mj_step(model, data, nstep=max(1, round(_SECONDS / model.opt.timestep)))
    side = robot.name.startswith("legged")
    plane = [0, 2] if side else [0, 1]
    patches, colours, corners = [], [], []
    for geom in range(model.ngeom):
        if model.geom_type[geom] != mujoco.mjtGeom.mjGEOM_CAPSULE:
            continue
        axis = data.geom_xmat[geom].reshape(3, 3)[:, 2] * model.geom_size[geom, 1]
        centre, radius = data.geom_xpos[geom], float(model.geom_size[geom, 0])
        ends = np.stack([(centre - axis)[plane], (centre + axis)[plane]])
        patches.append(_capsule(ends, radius))
        colours.append(0.0 if model.body_parentid[model.geom_bodyid[geom]] == 0 else 1.0 + geom % 2)
        corners.extend([ends - radius, ends + radius])
    axes.add_collection(
        PatchCollection(
            patches, array=np.array(colours), cmap=_colours(), clim=(0, 2), edgecolor="white", lw=0.6
        )
    )
    low, high = np.min(np.concatenate(corners), 0), np.max(np.concatenate(corners), 0)
    if side:
        low[1] = min(low[1], 0.0)
    middle, half = (low + high) / 2, 0.58 * float(np.max(high - low))
    axes.set_xlim(middle[0] - half, middle[0] + half)
    axes.set_ylim(middle[1] - half, middle[1] + half)
    if side:
        axes.axhspan(middle[1] - half, 0.0, color="0.9", zorder=0)
    axes.set_aspect("equal")
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_color("0.8")
    mass = float(model.body_mass.sum())
    extent = high[1] - low[1] if side else high[0] - low[0]
    axes.set_title(f"{robot.name}\n{extent:.1f} m, {mass:.1f} kg", fontsize=8)


def _capsule(ends: Any, radius: float) -> Any:
    """The outline of all points within ``radius`` of the line between two points."""
    from matplotlib.patches import Polygon

    along = ends[1] - ends[0]
    angle = math.atan2(along[1], along[0])
    first = np.linspace(angle + math.pi / 2, angle + 3 * math.pi / 2, 16)
    last = np.linspace(angle - math.pi / 2, angle + math.pi / 2, 16)
    rim = [ends[0] + radius * np.stack([np.cos(first), np.sin(first)], 1)]
    rim.append(ends[1] + radius * np.stack([np.cos(last), np.sin(last)], 1))
    return Polygon(np.concatenate(rim), closed=True)


def _colours() -> Any:
    from matplotlib.colors import ListedColormap

    return ListedColormap(["#334155", "#d97706", "#0e7490"])
