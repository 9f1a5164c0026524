"""How an error ends a command: one line, and an exit code; and output in encodings that lack a letter."""

import codecs
import io
import sys

import click

from trajworld.backend import BACKENDS
from trajworld.errors import TrajWorldError
from trajworld.text import printable
from trajworld.versions import EXTRAS, pip_command

_MOST = 2000  # Characters of a message: a file's may be of any length.
# Packages that an installation may lack, and the extra that brings each.
_EXTRAS = BACKENDS | EXTRAS | {"jaxlib": "jax", "pytest": "bench"}

# What an encoding such as ASCII or cp932 may lack, in letters that every encoding has.
_PLAIN = dict(zip("–—…×±²→▸✓✗", ("-", "-", "...", "x", "+-", "2", "->", ">", "yes", "no"), strict=True))


def set_up_streams() -> None:
    """Let standard output and error show what their encoding lacks in plainer letters."""
    codecs.register_error("trajworld", _plainer)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="trajworld")


def _plainer(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    missing = error.object[error.start : error.end]
    return "".join(_PLAIN.get(letter, "?") for letter in missing), error.end


def exit_code_of(error: BaseException) -> int | None:
    """Print what the user needs to know of an error; the exit code, or None if it is a bug."""
    if isinstance(error, ModuleNotFoundError):
        package = (error.name or "").split(".")[0]
        if package not in _EXTRAS:
            return None
        error = TrajWorldError(f"{package} is not installed: {pip_command(_EXTRAS[package])}")
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
