"""The ``trajworld`` command: its groups, loaded only when they are called, and how errors end."""

import os
import sys
from typing import Any

import click

from trajworld.errors import TrajWorldError
from trajworld.version import __version__

from .ending import exit_code_of
from .lazy import LazyCommand, LazyGroup

# Loaded lazily: `trajworld --help` imports no framework.
_COMMANDS = {
    "data": LazyCommand(".data", "data", "Collect, import, list and inspect datasets."),
    "pretrain": LazyCommand(".train", "pretrain", "Pre-train one model on many datasets."),
    "train": LazyCommand(".train", "train", "Train on one dataset, from scratch or from a model (--init)."),
    "evaluate": LazyCommand(".evaluate", "evaluate", "Measure a model's predictions on datasets."),
    "evaluate-transfer": LazyCommand(
        ".transfer", "evaluate_transfer", "Measure what a pre-trained model saves on unseen robots."
    ),
    "evaluate-zero-shot": LazyCommand(
        ".zero_shot", "evaluate_zero_shot", "Apply a model to environments that it never saw."
    ),
    "checkpoint": LazyCommand(
        ".checkpoint", "checkpoint", "Import published checkpoints; show, describe and publish models."
    ),
    "quickstart": LazyCommand(
        ".quickstart", "quickstart", "Fine-tune a pre-trained model on an unseen robot, compare, report."
    ),
    "study": LazyCommand(".study", "study", "Run the studies: transfer, zero-shot, backends, quickstart."),
    "doctor": LazyCommand(".doctor", "doctor", "Print versions, backends, devices, and what is missing."),
}


@click.group(
    cls=LazyGroup,
    lazy=_COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(__version__, prog_name="trajworld")
def cli() -> None:
    """Trajectory world models across heterogeneous environments.

    Pre-train one transformer on trajectories of many robots, fine-tune it on another, and measure what it predicts.
    """


def main(arguments: list[str] | None = None) -> Any:
    """Run the command line; a user's mistake ends in one line and exit code 1 or 2, never a traceback."""
    try:
        return cli.main(args=arguments, prog_name="trajworld", standalone_mode=False) or 0
    except BrokenPipeError:
        # The reader of our output went away (`trajworld data list | head`): nothing is wrong.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except (
        TrajWorldError,
        click.exceptions.Exit,
        click.ClickException,
        click.Abort,
        KeyboardInterrupt,
    ) as error:
        sys.exit(exit_code_of(error))
