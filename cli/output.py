"""What commands print: tables that cut no number, in any encoding, to whatever reads it."""

import codecs
import io
import sys
from collections.abc import Sequence
from typing import Literal, NoReturn

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

# What an encoding such as ASCII or cp932 may lack, in letters that every encoding has.
_PLAIN = dict(zip("–—…×±²→▸✓✗", ("-", "-", "...", "x", "+-", "2", "->", ">", "yes", "no"), strict=True))
_LEAST = 12


class _Console(Console):
    """A console that tells of a reader who went away, where Rich would end the program itself."""

    def on_broken_pipe(self) -> NoReturn:
        raise BrokenPipeError


def console(stderr: bool = False) -> Console:
    """Where to print."""
    return _Console(stderr=stderr)


def print_table(table: Table, out: Console | None = None) -> None:
    """Print a table, as wide as its numbers need where the terminal is narrower; without a terminal, as it needs."""
    out = out or console()
    needed = Measurement.get(out, out.options.update(max_width=10_000), table)
    if not out.is_terminal:
        out.width = max(out.width, needed.maximum)
    out.print(table, width=max(out.width, needed.minimum), crop=False)


def make_table(
    headers: Sequence[str],
    rows: Sequence[Sequence[object]],
    right: Sequence[bool] | None = None,
    title: str = "",
) -> Table:
    """A table of texts and numbers.

    Args:
        headers: Of the columns.
        rows: Cells; whole numbers get thousands separators, None is shown as –, and control characters of texts are
            spelled out.
        right: Which columns hold numbers: these are set to the right and never cut. Where not given, those whose
            cells are all numbers.
        title: Above it.
    """
    if right is None:
        columns = zip(*rows, strict=True) if rows else [[""]] * len(headers)
        right = [all(cell is None or isinstance(cell, int | float) for cell in column) for column in columns]
    table = Table(title=Text(title) if title else None, title_justify="left")
    texts = [[_text(cell) for cell in row] for row in rows]
    for place, (header, number) in enumerate(zip(headers, right, strict=True)):
        # Columns of words give way before numbers do, but not to nothing.
        least = min(_LEAST, max([len(header), *(len(row[place]) for row in texts)]))
        side: Literal["right", "left"] = "right" if number else "left"
        table.add_column(Text(header), justify=side, no_wrap=number, overflow="fold", min_width=least)
    for row in texts:
        table.add_row(*row)
    return table


def print_facts(facts: Sequence[tuple[str, object]]) -> None:
    """Print names and values below each other."""
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in facts:
        table.add_row(_text(name), _text(value))
    print_table(table)


def set_up_streams() -> None:
    """Let standard output and error show what their encoding lacks in plainer letters."""
    codecs.register_error("trajworld", _plainer)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="trajworld")


def _plainer(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    missing = error.object[error.start : error.end]
    return "".join(_PLAIN.get(letter, "?") for letter in missing), error.end


def _text(cell: object) -> Text:
    if isinstance(cell, Text):
        return cell
    if cell is None:
        return Text("–")
    return Text(printable(f"{cell:,}" if isinstance(cell, int) and not isinstance(cell, bool) else str(cell)))


def printable(text: str) -> str:
    """A text without line breaks and controls: what a file says must not move the cursor."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
