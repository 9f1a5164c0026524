"""Which environments a model was trained on, and whether another one is unseen."""

import re
from collections.abc import Iterable

from trajworld.environments.names import DM_CONTROL, GYMNASIUM, ROBOT, parse_name
from trajworld.errors import TrajWorldError, UsageError
from trajworld.models.identity import Identity

_FAMILIES = tuple(f"{family}/" for family in (GYMNASIUM, DM_CONTROL, ROBOT))
_VERSION = re.compile(r"-v\d+$")


def environments_seen(identity: Identity) -> tuple[list[str], bool]:
    """The names of the environments that a model, or one that it started from, was trained on; and whether these are
    all: data and models of unknown environments are listed by their own names.
    """
    names = identity.history.get("environments")
    if not isinstance(names, list):
        # Files of earlier versions name their own data, but not those of the model that they were started from.
        own = [one.environment or one.dataset for one in identity.sources] or [identity.environment]
        names = own + ["--init"] * ("init" in identity.history)
    names = [str(name) for name in names if name]
    return names, bool(names) and all(name.startswith(_FAMILIES) for name in names)


def with_init(environments: Iterable[str], init: Identity, name: str) -> list[str]:
    """The environments that a new model is trained on, and those that ``init``, the model it starts from, saw, with its
    own ``name`` if not all of these are known.
    """
    seen, known = environments_seen(init)
    return sorted({*environments, *seen, *(() if known else (name,))})


def check_unseen(identity: Identity, environment: str) -> bool:
    """Refuse a model that cannot be tested zero-shot in an environment, as far as its file says; returns whether it
    says all.

    A changed environment (``gymnasium/Pendulum-v1?g=7.0``) was seen if the model was trained on it under the same
    changes; any other (``gymnasium/Hopper-v5``) if it was trained on it with any changes, or in another version.

    Raises:
        TrajWorldError: The model was trained on one environment alone, or has seen this one.
    """
    if not identity.support.shared:
        raise TrajWorldError(
            f"the model was trained on {identity.environment or 'one environment'} alone: zero-shot needs one that was "
            "pre-trained on many"
        )
    names, known = environments_seen(identity)
    wanted = _canonical(environment)
    for name in names:
        found = _canonical(name)
        if found == wanted or ("?" not in wanted and _stem(found) == _stem(wanted)):
            raise TrajWorldError(
                f"the model saw {name} in pre-training, so {environment} is not unseen: leave it out by --only"
            )
    return known


def _canonical(name: str) -> str:
    try:
        return str(parse_name(name))
    except UsageError:
        return name


def _stem(name: str) -> str:
    """``gymnasium/Hopper`` of ``gymnasium/Hopper-v5?gravity=5.0``."""
    return _VERSION.sub("", name.partition("?")[0])
