"""``trajworld doctor``: what this machine has, and what is missing."""

from typing import Annotated

import click

from .commands import Json, command
from .output import console, print_facts, print_json, print_records, print_rows


@command()
def doctor(
    *,
    as_json: Json = False,
    timeout: Annotated[float, click.FloatRange(min=0, min_open=True)] = 120,
) -> None:
    """Print versions, the backends found and their devices, disk space, and what is missing.

    Each backend is imported and computes something in its own process. The exit code is 0 when the
    active backend (KERAS_BACKEND, jax where it is not set) works, else 1.

    \b
    Examples:
      trajworld doctor
      KERAS_BACKEND=torch trajworld doctor
      trajworld doctor --json | jq .missing

    Options:
        timeout: Seconds that each backend may take to answer.
    """
    from trajworld.doctor import examine

    with console(stderr=True).status("Trying JAX, TensorFlow and PyTorch ..."):
        found = examine(timeout)
    if as_json:
        print_json(found)
        raise click.exceptions.Exit(not found["healthy"])
    versions = [(name, version or "not installed") for name, version in found["versions"].items()]
    print_rows(("library", "version"), versions)
    columns = ("name", "version", "works", "device", "devices", "training", "problem")
    print_records(found["frameworks"], columns)
    sizes = {name: f"{found[name] / 1e9:.1f} GB" for name in ("memory", "home_free") if found[name]}
    shown = ("active", "reason", "cores", "memory", "home", "home_free", "minari")
    print_facts((name, (found | sizes)[name]) for name in shown)
    if found["missing"]:
        print_records(found["missing"], ("what", "fix"))
    else:
        click.echo("Nothing is missing.")
    click.echo(f"The active backend, {found['active']}, {'works' if found['healthy'] else 'does not work'}.")
    raise click.exceptions.Exit(not found["healthy"])
