"""The ``trajworld`` command: its groups, loaded only when they are called, and how errors end."""

import importlib
import os
import sys
from typing import Any

import click

from trajworld.errors import TrajWorldError
from trajworld.version import __version__

# Command name -> (module, attribute, one line of help). Loaded lazily: `trajworld --help` imports no framework.
_COMMANDS = {
    "data": (".data", "data", "Collect, import, list and inspect datasets."),
    "doctor": (".doctor", "doctor", "Print versions, backends, devices, and what is missing."),
}


class _LazyGroup(click.Group):
    """A group whose commands are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, attribute, _ = _COMMANDS[cmd_name]
        return getattr(importlib.import_module(module, __package__), attribute)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, _, text) in _COMMANDS.items()])


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="trajworld")
def cli() -> None:
    """Trajectory world models across heterogeneous environments.

    Pre-train one transformer on trajectories of many robots, fine-tune it on another, and measure what it predicts.
    """


def main(arguments: list[str] | None = None) -> Any:
    """Run the command line; a user's mistake ends in one line and exit code 1 or 2, never a traceback."""
    try:
        return cli.main(args=arguments, prog_name="trajworld", standalone_mode=False) or 0
    except TrajWorldError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(error.exit_code)
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("Interrupted.", err=True)
        sys.exit(130)
    except BrokenPipeError:
        # The reader of our output went away (`trajworld data list | head`): nothing is wrong.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
