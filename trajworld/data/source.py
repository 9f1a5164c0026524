"""What a reader finds in a file or folder before it reads its episodes."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trajworld.data.account import Account
from trajworld.data.episode import Episode


@dataclass(frozen=True)
class Source:
    """Data of one environment outside the store.

    Attributes:
        name: What people call it: of a file, its name without the suffix.
        environment: For example ``robomimic/Lift``.
        place: The file or folder.
        files: On which the episodes depend.
        episodes: Reads them one at a time, and brings the account up to date.
        transitions: How many there are, where that is known.
        names: What observation and action variates are called there, in this order; empty where they have no names.
        spec: As a dataset's specification, where that is not what a person gave.
    """

    name: str
    environment: str
    place: Path
    files: Sequence[Path]
    episodes: Callable[[Account], Iterator[Episode]]
    transitions: int | None = None
    names: tuple[str, ...] = ()
    spec: str = ""


def value_names(vector: str, size: int, own: Any = None) -> list[str]:
    """Names of a vector's values: its own after the vector's, where it has so many texts of them; else numbers."""
    if size == 1:
        return [vector]
    fits = isinstance(own, list) and len(own) == size and all(isinstance(one, str) for one in own)
    return [f"{vector} {one}" for one in (own if fits else range(size))]
