"""Model files as tables."""

import json
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

_LISTED = 12
"""So many environments are shown one by one."""


def print_models(found: dict[str, dict[str, Any]], cards: dict[str, str], as_json: bool) -> None:
    """The models that ship, by name; ``cards`` has the path of each one's card, or nothing."""
    if as_json:
        click.echo(
            json.dumps([{"name": name, **one, "card": cards[name]} for name, one in found.items()], indent=2)
        )
        return
    table = Table()
    table.add_column("name", no_wrap=True)
    for heading in ("parameters", "size", "environments", "variates", "steps"):
        table.add_column(heading, justify="right")
    table.add_column("card")
    for name, one in found.items():
        sizes = list(_environments(one).values())
        steps = one["history"].get("step", one["history"].get("steps"))
        table.add_row(
            _plain(name),
            f"{one['parameters']:,}",
            f"{one['bytes'] / 1e6:,.1f} MB",
            *(_counts(sizes)[:2] if sizes else ("–", "–")),
            f"{steps:,}" if isinstance(steps, int) else "–",
            "yes" if cards[name] else "no",
        )
    Console().print(table)


def print_model(description: dict[str, Any], as_json: bool) -> None:
    """What one model file holds."""
    if as_json:
        click.echo(json.dumps(description, indent=2))
        return
    console = Console()
    sizes, saved, history = description["sizes"], description["saved"], dict(description["history"])
    versions = history.pop("versions", None)
    facts = Table(show_header=False, box=None)
    facts.add_column()
    facts.add_column(overflow="fold")
    sources = _environments(description)
    environments = description["environment"] or _short_list(list(sources), "environments") or "(not known)"
    for name, value in (
        ("model", description["path"]),
        ("size", f"{description['bytes'] / 1e6:,.1f} MB, {description['parameters']:,} parameters"),
        ("kind", description["kind"]),
        ("sizes", ", ".join(f"{name} {value}" for name, value in sizes.items())),
        ("dtype", description["dtype"]),
        ("environment", environments),
        ("saved", f"{saved['date_saved']}, Keras {saved['keras_version']}"),
        *((name, _value(value)) for name, value in history.items()),
    ):
        facts.add_row(_plain(name), _plain(value))
    if isinstance(versions, dict):
        facts.add_row(
            "versions", _plain(", ".join(f"{name} {version}" for name, version in versions.items()))
        )
    console.print(facts)
    console.print(_ranges(description))
    if len(sources) > _LISTED:
        console.print("--json has the range of every variate of each.", highlight=False)


def _ranges(description: dict[str, Any]) -> Table:
    """The support of each variate; of a pre-trained model, how many variates its environments have."""
    table = Table(title="Ranges", title_justify="left")
    lower, upper = description["support"]["lower"], description["support"]["upper"]
    if isinstance(lower, list):
        observations = description["observation_size"]
        table.add_column("variate")
        table.add_column("lower", justify="right")
        table.add_column("upper", justify="right")
        for index, ends in enumerate(zip(lower, upper, strict=True)):
            table.add_row(_variate(index, observations), *(f"{end:.6g}" for end in ends))
        return table
    sizes = _environments(description)
    shared = f"{lower:g} to {upper:g}"
    if len(sizes) > _LISTED:
        return _sources(sizes, shared)
    table.add_column("environment", overflow="fold")
    table.add_column("variates", justify="right")
    table.add_column("shared range", justify="right")
    for name, count in sizes.items():
        table.add_row(_plain(name), str(count), shared)
    if not sizes:
        table.add_row("(data are scaled by their own range)", "", shared)
    return table


def _environments(description: dict[str, Any]) -> dict[str, int]:
    """M of each environment, or dataset of no known environment, that a model was pre-trained on."""
    return {
        one["environment"] or one["dataset"]: len(one["support"]["lower"]) for one in description["sources"]
    }


def _sources(sizes: dict[str, int], shared: str) -> Table:
    """How many environments of each source a model has the ranges of, and of which M."""
    from trajworld.collect.corpus_table import grouped

    table = Table(title="Ranges", title_justify="left")
    for heading in ("source", "environments", "variates", "different", "shared range"):
        table.add_column(heading, justify="left" if heading == "source" else "right")
    groups = grouped(sizes)
    for source, names in groups.items():
        table.add_row(_plain(source), *_counts([sizes[name] for name in names]), shared)
    if len(groups) > 1:
        table.add_section()
        table.add_row("all", *_counts(list(sizes.values())), shared)
    return table


def _counts(sizes: list[int]) -> tuple[str, str, str]:
    """How many, from which to which, and how many different."""
    return f"{len(sizes)}", f"{min(sizes)} – {max(sizes)}", f"{len(set(sizes))}"


def _value(value: Any) -> str:
    """A part of the history; long lists and records of other models are cut short."""
    if isinstance(value, str):
        return value
    short = _shortened(value)
    return short if isinstance(short, str) else json.dumps(short, ensure_ascii=False)


def _shortened(value: Any) -> Any:
    """Plain values, long lists of names in them cut short."""
    if isinstance(value, dict):
        return {name: _shortened(part) for name, part in value.items()}
    if isinstance(value, list) and len(value) > _LISTED:
        return _short_list([str(item) for item in value], "in all")
    return value


def _short_list(names: list[str], what: str) -> str:
    """The names, or the first of many and how many there are."""
    if len(names) <= _LISTED:
        return ", ".join(names)
    return f"{len(names)} {what}: {', '.join(names[:2])}, …"


def _variate(index: int, observations: int | None) -> str:
    if observations is None:
        return str(index)
    if index == observations:
        return "reward"
    return f"observation {index}" if index < observations else f"action {index - observations - 1}"


def _plain(text: str) -> str:
    """Text from a file for the terminal: no markup, and what would move the cursor spelled out."""
    return escape("".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text))
