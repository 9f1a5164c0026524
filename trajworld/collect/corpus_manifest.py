"""The file that says which datasets a corpus consists of; pre-training reads it as ``corpus:NAME``."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trajworld.collect.corpus_table import PRETRAIN, Row
from trajworld.data.minari_datasets import dataset_path, datasets_folder
from trajworld.errors import TrajWorldError, UsageError
from trajworld.files import read_json, write_json

PREFIX = "corpus:"
DEFAULT_NAME = "corpus"
_FILE = "corpus.json"
# Minari refuses a namespace of a single letter.
_NAME = re.compile(r"[\w-]{2,}", re.ASCII)


@dataclass(frozen=True)
class Member:
    """A dataset of a corpus.

    Attributes:
        dataset_id: Its Minari id.
        environment: The environment's name.
        source: The group it belongs to.
        role: ``pre-train`` or ``unseen``.
        weight: Its share of pre-training's batches.
    """

    dataset_id: str
    environment: str
    source: str
    role: str
    weight: float


def checked_name(name: str) -> str:
    """``name``, if it can name a corpus.

    Raises:
        UsageError: It cannot.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(f"a corpus's name is two or more letters, digits, - and _, not {name!r}")
    return name


def corpus_folder(name: str) -> Path:
    """The folder of a corpus among Minari's datasets."""
    return datasets_folder() / checked_name(name)


def member_id(name: str, row: Row) -> str:
    """The Minari id of a row's dataset: ``NAME/pre-train/robot-legged-17-v0``."""
    return f"{name}/{row.role}/{row.slug}-v0"


def write_manifest(name: str, rows: Sequence[Row], weights: dict[str, float]) -> None:
    """Write the list of a corpus's datasets; ``weights`` are factors by source."""
    members = [
        {
            "dataset_id": member_id(name, row),
            "environment": row.environment,
            "source": row.source,
            "role": row.role,
            "weight": row.weight * weights.get(row.source, 1.0),
        }
        for row in rows
    ]
    write_json(corpus_folder(name) / _FILE, {"name": name, "datasets": members})


def read_manifest(name: str) -> list[Member]:
    """The datasets of a corpus, whether they are there yet or not.

    Raises:
        UsageError: The name is malformed.
        TrajWorldError: There is no such corpus, or its list is damaged.
    """
    path = corpus_folder(name) / _FILE
    if not path.is_file():
        raise TrajWorldError(
            f"there is no corpus {name} in {datasets_folder()}: `trajworld data collect-corpus` makes one"
        )
    found = read_json(path)
    try:
        return [_member(entry) for entry in found["datasets"]]
    except (KeyError, TypeError, ValueError) as error:
        raise TrajWorldError(f"{path} is damaged ({error!r}): collect-corpus writes it anew") from None


def training_members(name: str) -> list[Member]:
    """The datasets of a corpus that pre-training uses.

    Raises:
        TrajWorldError: There is no such corpus, or it is not finished.
    """
    members = [member for member in read_manifest(name) if member.role == PRETRAIN]
    missing = [member for member in members if not dataset_path(member.dataset_id).exists()]
    if missing or not members:
        lack = f"{len(missing)} of its {len(members)} pre-training datasets" if members else "any to train on"
        raise TrajWorldError(
            f"the corpus {name} lacks {lack}: `trajworld data collect-corpus` makes the rest"
        )
    return members


def _member(entry: dict[str, Any]) -> Member:
    return Member(
        str(entry["dataset_id"]),
        str(entry["environment"]),
        str(entry["source"]),
        str(entry["role"]),
        float(entry["weight"]),
    )
