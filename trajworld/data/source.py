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
        name: Its name; a file's is without the suffix.
        environment: For example ``robomimic/Lift``.
        place: The file or folder.
        files: Those that the episodes depend on.
        episodes: Reads them one at a time, and updates the account.
        transitions: How many there are, where that is known.
        names: What observation and action variates are called there, in this order; empty where they have no names.
        spec: Its dataset specification, if not what the user gave.
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
    """Names of a vector's values: the vector's, then its own if these are ``size`` texts, else numbers."""
    if size == 1:
        return [vector]
    fits = isinstance(own, list) and len(own) == size and all(isinstance(one, str) for one in own)
    return [f"{vector} {one}" for one in (own if fits else range(size))]
