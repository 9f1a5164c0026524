"""Whether an environment is unseen: what a model's file says of the environments that it was trained on."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trajworld.environments.names import DM_CONTROL, GYMNASIUM, ROBOT, parse_name
from trajworld.errors import TrajWorldError, UsageError
from trajworld.models.identity import Identity

_FAMILIES = (GYMNASIUM, DM_CONTROL, ROBOT)
_VERSION = re.compile(r"-v\d+$")


@dataclass(frozen=True)
class Training:
    """What a model was trained on, the models that it was started from (``--init``) included.

    Attributes:
        environments: Those that it was pre-trained on itself, by name.
        datasets: Those of the models that it was started from: their files name data, and no environments.
        known: Whether every one of these names tells an environment, and no model on the way is without any, as
            published checkpoints are.
    """

    environments: tuple[str, ...]
    datasets: tuple[str, ...]
    known: bool


def training_of(identity: Identity) -> Training:
    """What a model's file says of its training."""
    environments, datasets = tuple(identity.sources), list[str]()
    known = bool(environments) and all(
        name.startswith(tuple(f"{one}/" for one in _FAMILIES)) for name in environments
    )
    history: Any = identity.history
    while (init := history.get("init")) is not None:
        history = init.get("history") if isinstance(init, Mapping) else None
        if not isinstance(history, Mapping):
            known = False
            break
        named = history.get("datasets")
        named = [str(name) for name in named] if isinstance(named, Sequence) else []
        datasets += named
        ours = re.compile(rf"(^|/)({'|'.join(_FAMILIES)})-")
        known = known and bool(named) and all(ours.search(name) for name in named)
    return Training(environments, tuple(datasets), known)


def check_unseen(identity: Identity, environments: Sequence[str]) -> None:
    """Refuse a model that cannot be zero-shot in these environments, as far as its file tells.

    A changed environment (``gymnasium/Pendulum-v1?g=7.0``) was seen if it was trained on under these very changes: the
    built-in table keeps some gravities of the pendulum for tests and trains on others. Any other environment
    (``gymnasium/Hopper-v5``) was seen if it was trained on as it is, with any changes, or in another version: the table
    trains on no kind of the embodiments that it keeps. Datasets of models that this one was started from count for the
    environment that their name holds.

    Args:
        identity: The model's.
        environments: Their names.

    Raises:
        TrajWorldError: It was trained on one environment alone, or has seen one of these.
    """
    if not identity.support.shared:
        whose = identity.environment or "one environment"
        raise TrajWorldError(
            f"the model was trained on {whose} alone: zero-shot needs one that was pre-trained on many"
        )
    training = training_of(identity)
    for environment in environments:
        if (name := _seen_as(environment, training)) is not None:
            raise TrajWorldError(
                f"the model saw {name} in pre-training, so {environment} is not unseen: leave it out by --only"
            )


def _seen_as(environment: str, training: Training) -> str | None:
    """The name under which an environment was trained on; None where none is known."""
    wanted = _canonical(environment)
    changed = "?" in wanted
    for name in training.environments:
        found = _canonical(name)
        if found == wanted or (not changed and _stem(found) == _stem(wanted)):
            return name
    try:
        slug = parse_name(wanted if changed else _stem(wanted)).slug
    except UsageError:
        return None
    # In a dataset's name what follows may be a version; of an unchanged environment also changes.
    end = r"(-v\d+)?(/|$)" if changed else r"(-|/|$)"
    pattern = re.compile(rf"(^|/){re.escape(slug)}{end}", re.IGNORECASE)
    return next((name for name in training.datasets if pattern.search(name)), None)


def _canonical(name: str) -> str:
    try:
        return str(parse_name(name))
    except UsageError:
        return name


def _stem(name: str) -> str:
    """``gymnasium/Hopper`` of ``gymnasium/Hopper-v5?gravity=5.0``."""
    return _VERSION.sub("", name.partition("?")[0])
