"""The group that an environment is reported with."""

import functools
from collections.abc import Iterable

from trajworld.collect.corpus_table import read_table


def source_of(environment: str) -> str:
    """The source that the library's table of environments gives it; where it is not in there, its name's first part."""
    return _sources().get(environment) or environment.partition("/")[0] or "(not named)"


def grouped(environments: Iterable[str]) -> dict[str, list[str]]:
    """Environments by source, the sources in order of first appearance."""
    found: dict[str, list[str]] = {}
    for environment in environments:
        found.setdefault(source_of(environment), []).append(environment)
    return found


@functools.cache
def _sources() -> dict[str, str]:
    return {row.environment: row.source for row in read_table()}
