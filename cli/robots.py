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
    from trajworld.environments.robots.picture import draw_robots as draw

    draw([_robot(text) for text in robots], output)
    click.echo(f"Picture: {output}")


def _robot(text: str) -> tuple[str, int]:
    name = parse_name(text)
    kind, _, number = name.identifier.rpartition("-")
    if name.family != ROBOT or name.changes or not number.isdecimal():
        raise UsageError(f"{text!r} is no robot to draw: write a kind and a number, as in robot/legged-17")
    return kind, int(number)
