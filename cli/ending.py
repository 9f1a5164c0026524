"""How an error ends a command: one line, and an exit code."""

import click

from trajworld.errors import TrajWorldError

from .output import printable

_MOST = 2000  # Characters of a message: a file's may be of any length.
# Packages that an installation may lack, and the extra that brings each.
_EXTRAS = {
    **{name: name for name in ("jax", "torch", "ray")},
    "jaxlib": "jax",
    "tensorflow": "tensorflow-cpu",
    "dm_control": "dm-control",
    "huggingface_hub": "hub",
    "pytest": "bench",
    "pytest_benchmark": "bench",
}


def exit_code_of(error: BaseException) -> int | None:
    """Print what a person needs to know of an error; the exit code, or None where it is a fault of the program."""
    if isinstance(error, ModuleNotFoundError):
        package = (error.name or "").split(".")[0]
        if package not in _EXTRAS:
            return None
        error = TrajWorldError(f"{package} is not installed: pip install 'trajworld[{_EXTRAS[package]}]'")
    if isinstance(error, OSError) and error.filename is not None:
        error = TrajWorldError(f"{error.filename}: {error.strerror}")
    if isinstance(error, TrajWorldError):
        click.echo(f"Error: {printable(str(error))[:_MOST]}", err=True)
        return error.exit_code
    if isinstance(error, click.ClickException):
        error.show()
    if isinstance(error, click.ClickException | click.exceptions.Exit):
        return error.exit_code
    if isinstance(error, click.Abort | KeyboardInterrupt):
        click.echo("Interrupted.", err=True)
        return 130
    return None
