"""``trajworld doctor``: what this machine has, and what is missing."""

import dataclasses
from typing import Annotated

import click

from .commands import Json, command
from .output import console, print_json, print_rows


@command()
def doctor(
    *,
    as_json: Json = False,
    timeout: Annotated[float, click.FloatRange(min=0, min_open=True)] = 120,
) -> None:
    """Print versions, the backends found and their devices, room on the disk, and what is missing.

    Each backend is imported and computes something in a process of its own. The exit code is 0 when the
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
        report = examine(timeout)
    if as_json:
        print_json(dataclasses.asdict(report))
        raise click.exceptions.Exit(not report.healthy)

    backends = []
    for one in report.frameworks:
        many = f"{one.devices} x {one.device} (a run trains on {one.training})"
        device = (many if one.devices > 1 else one.device) or one.problem
        note = f"active: {report.reason}" if one.name == report.active else ""
        backends.append((one.name, one.version or "-", "yes" if one.works else "no", device, note))
    machine = [
        ("cores", str(report.cores)),
        ("memory", "unknown" if report.memory is None else f"{report.memory / 1e9:.1f} GB"),
        ("converted datasets (TRAJWORLD_HOME)", report.home),
        ("disk free there", f"{report.home_free / 1e9:.1f} GB"),
        ("Minari datasets", report.minari),
    ]
    versions = [(name, version or "not installed") for name, version in report.versions.items()]
    print_rows(("library", "version"), versions)
    print_rows(("backend", "version", "works", "device", ""), backends)
    print_rows(("machine", ""), machine)
    if report.missing:
        print_rows(("missing", "mend it by"), [(one.what, one.mend) for one in report.missing])
    else:
        click.echo("Nothing is missing.")
    click.echo(f"The active backend, {report.active}, {'works' if report.healthy else 'does not work'}.")
    raise click.exceptions.Exit(not report.healthy)
