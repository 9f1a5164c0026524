"""Environment names, ``[gymnasium/|dm_control/|robot/]ID[?key=value&key=value]``, in one canonical form."""

import json
import math
import re
from dataclasses import dataclass

from trajworld.errors import UsageError

GYMNASIUM = "gymnasium"
DM_CONTROL = "dm_control"
ROBOT = "robot"

# What a change of physics or a constructor option may be set to.
Value = bool | int | float

_KEY = re.compile(r"[A-Za-z_]\w*", re.ASCII)


@dataclass(frozen=True)
class EnvironmentName:
    """A parsed environment name; ``str()`` is its canonical form, which datasets record.

    The ``identifier`` is Gymnasium's (``Hopper-v5``), domain and task (``cheetah-run``), or a robot's kind and number
    (``legged-17``). ``changes`` of the registered environment are sorted by key.
    """

    family: str
    identifier: str
    changes: tuple[tuple[str, Value], ...] = ()

    def __str__(self) -> str:
        # In JSON, True is true, and a float is written so that it reads back.
        query = "&".join(f"{key}={json.dumps(value)}" for key, value in self.changes)
        return f"{self.family}/{self.identifier}" + (f"?{query}" if query else "")

    @property
    def slug(self) -> str:
        """The name in the letters that a Minari dataset id allows: ``gymnasium-pendulum-v1-g-5_0``."""
        text = str(self).lower().replace(".", "_").replace("+", "")
        return re.sub(r"[^\w-]", "-", text, flags=re.ASCII)


def parse_name(text: str) -> EnvironmentName:
    """Read an environment name; a name without a family is Gymnasium's."""
    stem, _, query = text.strip().partition("?")
    family, slash, rest = stem.partition("/")
    if family not in (GYMNASIUM, DM_CONTROL, ROBOT) or not slash:
        # Gymnasium has namespaces of its own, so that an unknown first part belongs to the id.
        family, rest = GYMNASIUM, stem
    if not rest:
        raise UsageError(f"{text!r} names no environment: write e.g. Hopper-v5 or dm_control/cheetah-run")
    changes: dict[str, Value] = {}
    for pair in query.split("&") if query else []:
        key, equals, value = pair.partition("=")
        if not equals or not _KEY.fullmatch(key):
            raise UsageError(f"{text!r}: {pair!r} is not key=value, as in Pendulum-v1?g=5.0&l=1.5")
        if key in changes:
            raise UsageError(f"{text!r} sets {key} twice")
        if value.lower() in ("true", "false"):
            changes[key] = value.lower() == "true"
            continue
        try:
            changes[key] = float(value)
        except ValueError:
            raise UsageError(f"{text!r}: {key} must be a number or true/false, not {value!r}") from None
        if not math.isfinite(changes[key]):
            raise UsageError(f"{text!r}: {key} must be finite, not {value}")
    return EnvironmentName(family, rest, tuple(sorted(changes.items())))
