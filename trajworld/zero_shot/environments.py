"""The datasets of unseen environments: those of a corpus that was collected, or a corpus of their own."""

from collections.abc import Sequence

from trajworld.collect.corpus import Member, member_id, read_manifest
from trajworld.collect.corpus_table import UNSEEN, Row, read_table, select
from trajworld.data.minari_datasets import dataset_path
from trajworld.errors import TrajWorldError
from trajworld.zero_shot.defaults import TRANSITIONS

SEED = 0
"""Of that collection."""

_NAME = "zero-shot"


def unseen_rows(only: Sequence[str] = ()) -> list[Row]:
    """The rows of the built-in table that pre-training never uses, those that fit ``only`` where it is given.

    Raises:
        UsageError: A pattern fits none.
    """
    return select(read_table(), only, UNSEEN)


def own_corpus(transitions: int) -> str:
    """The name of the corpus that holds the comparison's own datasets of so many transitions each."""
    return _NAME if transitions == TRANSITIONS else f"{_NAME}-{transitions}"


def own_members(rows: Sequence[Row], transitions: int) -> list[Member]:
    """The datasets that ``rows`` become in the comparison's own corpus."""
    name = own_corpus(transitions)
    return [Member(member_id(name, row), row.environment, row.source, row.role, row.weight) for row in rows]


def corpus_members(name: str, only: Sequence[str]) -> list[Member]:
    """The unseen datasets of a corpus, all of them collected.

    Args:
        name: The corpus's.
        only: Patterns of environments or sources; all without any.

    Raises:
        UsageError: A pattern fits none.
        TrajWorldError: There is no such corpus, it has no unseen environments, or some are still to be made.
    """
    members = select(read_manifest(name), only, UNSEEN)
    if not members:
        raise TrajWorldError(f"the corpus {name} has no unseen environments: its table gives none that role")
    missing = [member for member in members if not dataset_path(member.dataset_id).exists()]
    if missing:
        raise TrajWorldError(
            f"the corpus {name} lacks {len(missing)} of {len(members)} unseen datasets, {missing[0].dataset_id} among "
            f"them: `trajworld data collect-corpus --name {name} --role {UNSEEN}` makes them"
        )
    return members
