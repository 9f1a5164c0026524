"""The folder that a command's results and pictures go to."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from trajworld.errors import TrajWorldError, UsageError


def check_overwrite(output: Path | None, overwrite: bool) -> None:
    """Refuse ``--overwrite`` without ``-o``.

    Raises:
        UsageError: It is so.
    """
    if overwrite and output is None:
        raise UsageError("--overwrite needs -o")


@contextlib.contextmanager
def results_folder(output: Path | None, overwrite: bool) -> Iterator[Path | None]:
    """The folder that becomes ``output`` when everything is in it; None where none was asked for."""
    if output is None:
        yield None
        return
    from trajworld.files import atomic_folder

    # Only a folder that this command made gives way: the option must not remove something else by a slip.
    if overwrite and output.exists() and not (output / "results.json").is_file():
        raise TrajWorldError(f"{output} is no folder of results: name another place")
    with atomic_folder(output, replace=overwrite) as folder:
        yield folder
