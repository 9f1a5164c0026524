"""``trajworld data draw-robots``: pictures of procedural robots."""

from pathlib import Path

import click

from trajworld.environments.names import ROBOT, parse_name
from trajworld.errors import UsageError


@click.command("draw-robots", short_help="Draw procedural robots.")
@click.argument("robots", metavar="ROBOT...", nargs=-1, required=True)
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="The picture (.png).",
)
def draw_robots(robots: tuple[str, ...], output: Path) -> None:
    """Draw ROBOTs (robot/legged-17, robot/snake-3) side by side: legged ones from the side, snakes from above.

    \b
    Examples:
      trajworld data draw-robots robot/legged-{0..17} robot/snake-{0..5} -o robots.png
    """
    from trajworld.environments.robots.kinds import parse_robot
    from trajworld.environments.robots.picture import draw_robots as draw

    names = [parse_name(text) for text in robots]
    for name in names:
        if name.family != ROBOT or name.changes:
            raise UsageError(f"{name} is no robot to draw: write a kind and a number, as in robot/legged-17")
    draw([parse_robot(name.identifier) for name in names], output)
    click.echo(f"Picture: {output}")
