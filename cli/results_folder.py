"""The folder that a command's results and pictures go to."""

import contextlib
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from trajworld.errors import TrajWorldError, UsageError

RESULTS = "results.json"


def check_overwrite(output: Path | None, overwrite: bool) -> None:
    """Refuse ``--overwrite`` without ``-o``.

    Raises:
        UsageError: It is so.
    """
    if overwrite and output is None:
        raise UsageError("--overwrite needs -o")


@contextlib.contextmanager
def results_folder(
    output: Path | None, overwrite: bool, kind: str, contents: Sequence[str]
) -> Iterator[Path | None]:
    """The folder that becomes ``output`` when everything is in it; None where none was asked for.

    Args:
        output: The folder; must not be there unless it may be overwritten.
        overwrite: Whether a folder that the same command made gives way.
        kind: What the command's ``results.json`` says that it holds.
        contents: Patterns of the names of all that the command writes into the folder.

    Raises:
        TrajWorldError: ``output`` is there and may not be overwritten, or is not what the same command made.
    """
    if output is None:
        yield None
        return
    from trajworld.files import atomic_folder

    if overwrite and output.exists():
        _check_own(output, kind, contents)
    with atomic_folder(output, replace=overwrite) as folder:
        yield folder


def _check_own(output: Path, kind: str, contents: Sequence[str]) -> None:
    """Refuse a folder of anything else: the option must not remove hours of another study by a slip."""
    from trajworld.files import read_json

    path = output / RESULTS
    found = read_json(path) if path.is_file() else None
    of = found.get("kind") if isinstance(found, dict) else None
    if of != kind:
        what = (
            f"holds results of the kind {of[:40]!r}"
            if isinstance(of, str)
            else f"is no folder of {kind} results"
        )
        raise TrajWorldError(
            f"{output} {what}, and is not overwritten: name another place or remove it first"
        )
    for item in sorted(output.iterdir()):
        if not any(fnmatchcase(item.name, pattern) for pattern in contents):
            raise TrajWorldError(
                f"{output} holds {item.name!r}, which is not of these results, and is not overwritten: move that away "
                "first"
            )
