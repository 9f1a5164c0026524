"""Numbers, names and durations as tables and sentences for people print them."""

import math


def number(value: float | None, digits: int = 3) -> str:
    """A value with ``digits`` significant digits, as tables and sentences print it."""
    if value is None:
        return "–"
    if not math.isfinite(value):
        return "not finite"
    if value == 0:
        return "0"
    shown = f"{value:#.{digits}g}"
    # As it is rounded: 999.7 is 1,000.
    return f"{value:,.0f}" if 1000 <= abs(float(shown)) < 1e6 else shown.rstrip(".")


def short_name(environment: str) -> str:
    """An environment's name without its suite."""
    return environment.rsplit("/", 1)[-1]


def duration(seconds: float) -> str:
    """Seconds as a person says them: ``0.4 s``, ``42 s``, ``3 min 20 s``, ``2 h 5 min``."""
    if not math.isfinite(seconds):
        return "unknown"
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def printable(text: str) -> str:
    """A text without line breaks and controls: what a file says must not move the cursor."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
