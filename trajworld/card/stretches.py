"""What changed over a run: on what it was computed, one stretch of steps after another, and where it was to end."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Stretch:
    """The steps of a run from its start or a resumption to the next resumption that is not the same.

    Attributes:
        start: How many steps were done before.
        backend: Keras's backend.
        device: How many and which devices, in words: ``1 cpu``, ``4 of 8 NVIDIA A100 (gpu)``.
        versions: Of the libraries, by name.
    """

    start: int
    backend: str
    device: str
    versions: dict[str, str]


def stretches_of(record: dict[str, Any]) -> tuple[Stretch, ...]:
    """What ``run.json`` says of a run's start, and of each time that it was resumed (``resumed``; missing for never).

    A resumption undoes the steps after it: of several at one step the last counts, and one that went back further
    than an earlier one replaces it.

    Raises:
        KeyError, TypeError, ValueError, AttributeError: The record is damaged.
    """
    layout = record.get("layout", {})
    found = [_stretch(record, 0, layout)]
    for entry in record.get("resumed", []):
        one = _stretch(entry, int(entry["step"]), entry.get("layout", layout))
        while found and found[-1].start >= one.start:
            found.pop()
        found.append(one)
    kept = found[:1]
    for one in found[1:]:
        last = kept[-1]
        if (one.backend, one.device, one.versions) != (last.backend, last.device, last.versions):
            kept.append(one)
    return tuple(kept)


def earlier_ends(record: dict[str, Any]) -> tuple[tuple[int, int], ...]:
    """``(step, steps)`` for each time that a resumed run was given another end: until ``step`` it was to end at
    ``steps``.

    Raises:
        KeyError, TypeError, ValueError: The record is damaged.
    """
    return tuple(
        (int(entry["step"]), int(entry["steps_before"]))
        for entry in record.get("resumed", [])
        if "steps_before" in entry
    )


def computed_on(stretches: Sequence[Stretch]) -> str:
    """``1 cpu, Keras on jax; from step 12,355 on tensorflow``: where nothing but versions changed, nothing is said."""
    text = f"{stretches[0].device}, Keras on {stretches[0].backend}"
    for last, one in itertools.pairwise(stretches):
        if one.device != last.device:
            text += f"; from step {one.start:,} on {one.device}, Keras on {one.backend}"
        elif one.backend != last.backend:
            text += f"; from step {one.start:,} on {one.backend}"
    return text


def library_versions(stretches: Sequence[Stretch]) -> str:
    """``keras 3.15.1, jax 0.10.2; from step 12,355 jax 0.11.0``: all at the start, then what changed."""
    text = ", ".join(f"{name} {version}" for name, version in stretches[0].versions.items())
    for last, one in itertools.pairwise(stretches):
        changed = [
            f"{name} {version}"
            for name, version in one.versions.items()
            if last.versions.get(name) != version
        ]
        changed += [f"without {name}" for name in last.versions if name not in one.versions]
        if changed:
            text += f"; from step {one.start:,} {', '.join(changed)}"
    return text


def own_versions(stretches: Sequence[Stretch]) -> list[str]:
    """The versions of this package that the run was made with, in order, each once."""
    return list(dict.fromkeys(one.versions.get("trajworld", "?") for one in stretches))


def _stretch(entry: dict[str, Any], start: int, layout: dict[str, Any]) -> Stretch:
    versions = {str(name): str(version) for name, version in entry["versions"].items()}
    return Stretch(start, str(entry["backend"]), _device(entry["device"], layout), versions)


def _device(device: dict[str, Any], layout: dict[str, Any]) -> str:
    used = int(layout.get("devices", 1))
    name, kind, there = str(device["name"]), str(device["kind"]), int(device["count"])
    count = f"{used}" if used >= there else f"{used} of {there}"
    return f"{count} {name}" + (f" ({kind})" if kind.lower() not in name.lower() else "")
