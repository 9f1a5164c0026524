"""Model files as tables."""

import json
from typing import Any

import click

from .output import make_table, print_facts, print_table

_LISTED = 12
"""So many environments are shown one by one."""


def print_models(found: dict[str, dict[str, Any]], cards: dict[str, str], as_json: bool) -> None:
    """The models that ship, by name; ``cards`` has the path of each one's card, or nothing."""
    if as_json:
        models = [{"name": name, **one, "card": cards[name]} for name, one in found.items()]
        click.echo(json.dumps(models, indent=2))
        return
    rows = []
    for name, one in found.items():
        steps = one["history"].get("step", one["history"].get("steps"))
        counts = _counts(list(_environments(one).values()))[:2]
        size = f"{one['bytes'] / 1e6:,.1f} MB"
        rows.append((name, one["parameters"], size, *counts, steps, "yes" if cards[name] else "no"))
    headers = ("name", "parameters", "size", "environments", "variates", "steps", "card")
    print_table(make_table(headers, rows, (True, True, True, True, True, True, False)))


def print_model(found: dict[str, Any], as_json: bool) -> None:
    """What one model file holds."""
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    saved, history, sources = found["saved"], dict(found["history"]), _environments(found)
    if isinstance(versions := history.pop("versions", None), dict):
        history["versions"] = ", ".join(f"{name} {version}" for name, version in versions.items())
    print_facts(
        [
            ("model", found["path"]),
            ("size", f"{found['bytes'] / 1e6:,.1f} MB, {found['parameters']:,} parameters"),
            ("kind", found["kind"]),
            ("sizes", ", ".join(f"{name} {value}" for name, value in found["sizes"].items())),
            ("dtype", found["dtype"]),
            ("environment", found["environment"] or _short(list(sources), "environments") or "(not known)"),
            ("saved", f"{saved['date_saved']}, Keras {saved['keras_version']}"),
            *((name, _value(value)) for name, value in history.items()),
        ]
    )
    _print_ranges(found)
    if len(sources) > _LISTED:
        click.echo("--json has the range of every variate of each.")


def _print_ranges(found: dict[str, Any]) -> None:
    """The support of each variate; of a pre-trained model, how many variates its environments have."""
    lower, upper = found["support"]["lower"], found["support"]["upper"]
    if isinstance(lower, list):
        rows: list[tuple[object, ...]] = [
            (_variate(index, found["observation_size"]), *(f"{end:.6g}" for end in ends))
            for index, ends in enumerate(zip(lower, upper, strict=True))
        ]
        print_table(make_table(("variate", "lower", "upper"), rows, (False, True, True), "Ranges"))
        return
    shared, sizes = f"{lower:g} to {upper:g}", _environments(found)
    headers: tuple[str, ...] = ("environment", "variates", "shared range")
    rows = [(name, count, shared) for name, count in sizes.items()]
    if not sizes:
        rows = [("(data are scaled by their own range)", None, shared)]
    if len(sizes) > _LISTED:
        from trajworld.collect.corpus_table import grouped

        headers = ("source", "environments", "variates", "different", "shared range")
        groups = {source: [sizes[name] for name in names] for source, names in grouped(sizes).items()}
        if len(groups) > 1:
            groups["all"] = list(sizes.values())
        rows = [(source, *_counts(counts), shared) for source, counts in groups.items()]
    print_table(make_table(headers, rows, (False, *[True] * (len(headers) - 1)), "Ranges"))


def _environments(found: dict[str, Any]) -> dict[str, int]:
    """M of each environment, or dataset of no known environment, that a model was pre-trained on."""
    return {one["environment"] or one["dataset"]: len(one["support"]["lower"]) for one in found["sources"]}


def _counts(sizes: list[int]) -> tuple[str | None, str | None, str | None]:
    """How many, from which to which, and how many different."""
    if not sizes:
        return None, None, None
    return f"{len(sizes)}", f"{min(sizes)} – {max(sizes)}", f"{len(set(sizes))}"


def _value(value: Any) -> str:
    """A part of the history; long lists and records of other models are cut short."""
    short = _shortened(value)
    return short if isinstance(short, str) else json.dumps(short, ensure_ascii=False)


def _shortened(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _shortened(part) for name, part in value.items()}
    if isinstance(value, list) and len(value) > _LISTED:
        return _short([str(item) for item in value], "in all")
    return value


def _short(names: list[str], what: str) -> str:
    """The names, or the first of many and how many there are."""
    return ", ".join(names) if len(names) <= _LISTED else f"{len(names)} {what}: {', '.join(names[:2])}, …"


def _variate(index: int, observations: int | None) -> str:
    if observations is None:
        return str(index)
    if index == observations:
        return "reward"
    return f"observation {index}" if index < observations else f"action {index - observations - 1}"
