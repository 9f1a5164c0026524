"""``trajworld doctor``: what this machine has, and what is missing."""

import dataclasses
import json

import click

from .output import console, make_table, print_table


@click.command(short_help="Print versions, backends, devices, and what is missing.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for machines.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=120,
    show_default=True,
    help="Seconds that each backend may take to answer.",
)
@click.pass_context
def doctor(context: click.Context, as_json: bool, timeout: float) -> None:
    """Print versions, the backends found and their devices, room on the disk, and what is missing.

    Each backend is imported and computes something in a process of its own. The exit code is 0 when the
    active backend (KERAS_BACKEND, jax where it is not set) works, else 1.

    \b
    Examples:
      trajworld doctor
      KERAS_BACKEND=torch trajworld doctor
      trajworld doctor --json | jq .missing
    """
    from trajworld.doctor import examine

    with console(stderr=True).status("Trying JAX, TensorFlow and PyTorch ..."):
        report = examine(timeout)
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(report), indent=2))
        context.exit(not report.healthy)

    backends = []
    for one in report.frameworks:
        many = f"{one.devices} x {one.device} (a run trains on {one.training})"
        device = (many if one.devices > 1 else one.device) or one.problem
        note = f"active: {report.reason}" if one.name == report.active else ""
        backends.append((one.name, one.version or "-", "yes" if one.works else "no", device, note))
    memory = "unknown" if report.memory is None else f"{report.memory / 1e9:.1f} GB"
    machine = [
        ("cores", str(report.cores)),
        ("memory", memory),
        ("converted datasets (TRAJWORLD_HOME)", report.home),
        ("disk free there", f"{report.home_free / 1e9:.1f} GB"),
        ("Minari datasets", report.minari),
    ]
    versions = [(name, version or "not installed") for name, version in report.versions.items()]
    print_table(make_table(("library", "version"), versions))
    print_table(make_table(("backend", "version", "works", "device", ""), backends))
    print_table(make_table(("machine", ""), machine))
    if report.missing:
        print_table(make_table(("missing", "mend it by"), [(one.what, one.mend) for one in report.missing]))
    else:
        click.echo("Nothing is missing.")
    click.echo(f"The active backend, {report.active}, {'works' if report.healthy else 'does not work'}.")
    context.exit(not report.healthy)
