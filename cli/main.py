"""The ``trajworld`` command: its groups, loaded only when they are called, and how errors end."""

import os
import sys
from typing import Any

import click

from trajworld.backend import BACKENDS
from trajworld.errors import UsageError
from trajworld.version import __version__

from .commands import LazyGroup
from .ending import exit_code_of, set_up_streams

# Loaded lazily: `trajworld --help` imports no framework.
_COMMANDS = {
    "data": ("trajworld.cli.data:data", "Collect, import, list and inspect datasets."),
    "pretrain": ("trajworld.cli.train:pretrain", "Pre-train one model on many datasets."),
    "train": ("trajworld.cli.train:train", "Train on one dataset, from scratch or from a model (--init)."),
    "evaluate": ("trajworld.cli.evaluate:evaluate", "Measure a model's predictions on datasets."),
    "ope": ("trajworld.cli.ope:ope", "Estimate how good policies are, without running them."),
    "plan": ("trajworld.cli.plan:plan", "Act by planning inside a model (MPC)."),
    "checkpoint": (
        "trajworld.cli.checkpoint:checkpoint",
        "Import checkpoints; show, describe and publish models.",
    ),
    "policy": ("trajworld.cli.policy:policy", "List, import, evaluate, train and select policies."),
    "quickstart": (
        "trajworld.cli.study:quickstart",
        "Fine-tune a model on an unseen robot, compare, report.",
    ),
    "study": (
        "trajworld.cli.study:study",
        "Run the studies: transfer, zero-shot, grid, ope, planning, backends, quickstart.",
    ),
    "doctor": ("trajworld.cli.doctor:doctor", "Print versions, backends, devices, and what is missing."),
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
    set_up_streams()
    backend = os.environ["KERAS_BACKEND"]
    try:
        if backend not in BACKENDS and "doctor" not in (arguments or sys.argv):
            raise UsageError(f"KERAS_BACKEND is {backend!r}, not one of {', '.join(BACKENDS)}")
        return cli.main(args=arguments, prog_name="trajworld", standalone_mode=False) or 0
    except BrokenPipeError:
        # The reader of our output went away (`trajworld data list | head`): end as other commands do.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + 13)
    except BaseException as error:
        code = exit_code_of(error)
        if code is None:
            raise
        sys.exit(code)
