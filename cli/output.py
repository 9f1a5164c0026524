"""What commands print: tables that cut no number, in any encoding, for any reader."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral
from typing import TYPE_CHECKING, Any, NoReturn

import click
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from trajworld.text import printable

if TYPE_CHECKING:
    from trajworld.data.dataset import Dataset

# A column of these alone is set to the right and never cut.
_NUMBER = re.compile(r"–?|not finite|-?[\d,.]+(e[+-]\d+)?( – \d+|%|k| MB)?")
# Columns of words give way before numbers do, but not to nothing.
_LEAST = 12
MANY = 12
"""Of more than these only the first are shown."""


class _Console(Console):
    """A console that raises when its reader is gone, where Rich would end the program."""

    def on_broken_pipe(self) -> NoReturn:
        raise BrokenPipeError


def console(stderr: bool = False) -> Console:
    """Where to print."""
    return _Console(stderr=stderr)


def say(out: Console, text: str) -> None:
    """Print a line as it is."""
    out.print(text, highlight=False, markup=False, soft_wrap=True)


def print_json(value: Any) -> None:
    """Print plain values as JSON."""
    click.echo(json.dumps(value, indent=2, allow_nan=False))


def say_picture(path: object) -> None:
    """Say where a picture is, if there is one."""
    if path is not None:
        click.echo(f"Picture: {path}")


def warn_of_endless(dataset: "Dataset", environment: str) -> None:
    """Warn where a dataset's episodes end, but no rule says when rollouts in a model of its environment do."""
    from trajworld.environments.termination import never, termination_rule

    if dataset.terminated.any() and termination_rule(environment) is never:
        click.echo(
            f"Warning: episodes of {dataset.name} end, but no termination rule is known for the model: rollouts "
            "continue to the horizon",
            err=True,
        )


def print_table(table: Table) -> None:
    """Print a table, as wide as its numbers need where the terminal is narrower; without a terminal, as it needs."""
    out = console()
    needed = Measurement.get(out, out.options.update(max_width=10_000), table)
    if not out.is_terminal:
        out.width = max(out.width, needed.maximum)
    out.print(table, width=max(out.width, needed.minimum), crop=False)


def print_rows(headers: Sequence[str], rows: Sequence[Sequence[object]], title: str = "") -> None:
    """Print a table of texts and numbers.

    Whole numbers get thousands separators, None is shown as –, and control characters of texts are spelled out.
    """
    table = Table(title=title and Text(title), title_justify="left")
    texts = [[_text(cell) for cell in row] for row in rows]
    for place, header in enumerate(headers):
        cells = [row[place].plain for row in texts]
        number = all(_NUMBER.fullmatch(cell) for cell in cells)
        table.add_column(
            Text(header),
            justify="right" if number else "left",
            no_wrap=number,
            overflow="fold",
            min_width=min(_LEAST, max(map(len, [header, *cells]))),
        )
    for row in texts:
        table.add_row(*row)
    print_table(table)


def print_records(
    records: Iterable[Mapping[str, Any]], columns: Sequence[str], title: str = "", **formats: str
) -> None:
    """Print a row of each record: the named values, by the ``formats`` of some; blank where a record has none."""

    def shown(name: str, value: Any) -> Any:
        return "" if value is None else formats[name].format(value) if name in formats else value

    rows = [[shown(name, record.get(name)) for name in columns] for record in records]
    print_rows([name.replace("_", " ") for name in columns], rows, title)


def print_facts(facts: Iterable[tuple[str, Any]]) -> None:
    """Print names and values, which are of JSON's types, below each other; None and empty texts are left out."""
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts:
        if value not in (None, ""):
            table.add_row(_text(name.replace("_", " ")), _text(_words(value)))
    print_table(table)


def _words(value: Any) -> Any:
    """A JSON value for people; of a long list the first and how many there are."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {_words(part)}" for name, part in value.items())
    if isinstance(value, list):
        names = [str(_words(part)) for part in value]
        return ", ".join(names if len(names) <= MANY else [f"{len(names)} in all: {names[0]}", names[1], "…"])
    return value


def _text(cell: object) -> Text:
    if isinstance(cell, Text):
        return cell
    if cell is None:
        return Text("–")
    return Text(
        printable(f"{cell:,}" if isinstance(cell, Integral) and not isinstance(cell, bool) else str(cell))
    )
