"""Options of a command that may run in several processes, on one host or several, and how they end together."""

import contextlib
import os
import re
import sys
import traceback
from collections.abc import Iterator

import click

from trajworld.errors import UsageError

from .ending import exit_code_of

OPTIONS: list[click.Parameter] = [
    click.Option(
        ["--devices"],
        type=int,
        metavar="N",
        help="Share each batch among N GPUs or TPUs of this process (JAX).  [default: all that divide the batch size; "
        "on CPUs 1; a resumed run: as before]",
    ),
    click.Option(
        ["--coordinator"],
        envvar="KERAS_DISTRIBUTION_JOB_ADDRESSES",
        metavar="HOST:PORT",
        help="Train in several processes (JAX): where process 0 listens, or auto to ask Slurm, a TPU pod or Open MPI.",
    ),
    click.Option(
        ["--processes"],
        type=int,
        envvar="KERAS_DISTRIBUTION_NUM_PROCESSES",
        help="How many processes there are.",
    ),
    click.Option(
        ["--process"],
        type=int,
        envvar="KERAS_DISTRIBUTION_PROCESS_ID",
        help="Which of them this is, from 0; process 0 writes the run.",
    ),
]


class EndedAlone(click.exceptions.Exit):
    """The end of a command that the other processes did not agree on."""


@contextlib.contextmanager
def joined(coordinator: str | None, processes: int | None, process: int | None) -> Iterator[None]:
    """Run the block in one of several processes, where any are named, and end together with the others.

    Raises:
        UsageError: The three do not fit each other, or the framework trains in one process.
        TrajWorldError: The processes do not find each other.
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
