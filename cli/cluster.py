"""A command in several processes, on one host or several: its options, and how the processes end together."""

import contextlib
import os
import re
import sys
import traceback
from collections.abc import Iterator
from typing import Annotated

import click

from trajworld.errors import UsageError

from .commands import With
from .ending import exit_code_of

_KERAS = "KERAS_DISTRIBUTION"


class EndedAlone(click.exceptions.Exit):
    """The end of a command that the other processes did not agree on."""


@contextlib.contextmanager
def joined(
    *,
    coordinator: Annotated[str, With(metavar="HOST:PORT", envvar=f"{_KERAS}_JOB_ADDRESSES")] | None = None,
    processes: Annotated[int, With(envvar=f"{_KERAS}_NUM_PROCESSES")] | None = None,
    process: Annotated[int, With(envvar=f"{_KERAS}_PROCESS_ID")] | None = None,
) -> Iterator[None]:
    """Run the block in one of several processes, where any are named, and end together with the others.

    Raises:
        UsageError: The three do not fit each other, or the framework trains in one process.
        TrajWorldError: The processes do not find each other.

    Options:
        coordinator: Train in several processes (JAX): where process 0 listens, or auto to ask Slurm, a TPU pod or Open
            MPI.
        processes: How many processes there are.
        process: Which of them this is, from 0; process 0 writes the run.
    """
    if coordinator is None:
        if processes is not None or process is not None:
            raise UsageError("--processes and --process need --coordinator HOST:PORT")
        yield
        return
    # Keras takes the addresses of all, and looks at the first.
    coordinator = coordinator.split(",")[0]
    if coordinator != "auto":
        if not re.fullmatch(r".+:\d{1,5}", coordinator):
            raise UsageError(f"--coordinator is HOST:PORT or auto, not {coordinator!r}")
        if processes is None or process is None:
            raise UsageError("--coordinator HOST:PORT needs --processes and --process")
        if not 0 <= process < processes:
            raise UsageError(
                f"--process counts from 0 to --processes less 1: {process} of {processes} cannot be"
            )
    from trajworld.backend import active_backend

    backend = active_backend()
    backend.join(coordinator, processes, process)
    try:
        yield
        backend.leave()
    except BaseException as error:
        if isinstance(error, click.exceptions.Exit) and not isinstance(error, EndedAlone):
            backend.leave()
            raise
        code = exit_code_of(error)
        if code is None:
            traceback.print_exc()
        interrupted = isinstance(error, EndedAlone | KeyboardInterrupt)
        problem = "it was interrupted" if interrupted else str(error) or type(error).__name__
        with contextlib.suppress(KeyboardInterrupt):
            backend.leave(" ".join(problem.split()))
        sys.stdout.flush()
        sys.stderr.flush()
        # An orderly end would wait for the others, who wait for this process in their computations.
        os._exit(1 if code is None else code)
