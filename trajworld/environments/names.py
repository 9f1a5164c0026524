"""Environment names, ``[gymnasium/|dm_control/|robot/]ID[?key=value&key=value]``, in one canonical form."""

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

    Attributes:
        family: ``gymnasium``, ``dm_control`` or ``robot`` (procedural).
        identifier: The registered id (``Hopper-v5``), domain and task (``cheetah-run``), or kind and number
            (``legged-17``).
        changes: What differs from the registered environment, sorted by key.
    """

    family: str
    identifier: str
    changes: tuple[tuple[str, Value], ...] = ()

    def __str__(self) -> str:
        query = "&".join(f"{key}={_written(value)}" for key, value in self.changes)
        return f"{self.family}/{self.identifier}" + (f"?{query}" if query else "")

    @property
    def slug(self) -> str:
        """The name in the letters that a Minari dataset id allows: ``gymnasium-pendulum-v1-g-5_0``."""
        text = str(self).lower().replace(".", "_").replace("+", "")
        return re.sub(r"[^\w-]", "-", text, flags=re.ASCII)


def parse_name(text: str) -> EnvironmentName:
    """Read an environment name; a name without a family is Gymnasium's.

    Raises:
        UsageError: The name is empty, or its changes are not ``key=value`` of finite numbers or true/false.
    """
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
        changes[key] = _read(value, f"{text!r}: {key}")
    return EnvironmentName(family, rest, tuple(sorted(changes.items())))


def _read(text: str, where: str) -> Value:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        number = float(text)
    except ValueError:
        raise UsageError(f"{where} must be a number or true/false, not {text!r}") from None
    if not math.isfinite(number):
        raise UsageError(f"{where} must be finite, not {text}")
    return number


def _written(value: Value) -> str:
    return str(value).lower() if isinstance(value, bool) else repr(value)
