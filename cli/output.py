"""Tables on standard output."""

from collections.abc import Collection, Iterable, Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table


def print_table(
    headings: Sequence[str], rows: Iterable[Sequence[str]], words: Collection[str] = ()
) -> Console:
    """Print a table and return the console, for what follows it.

    Args:
        headings: The first is a name, which is folded where it is too long, never cut.
        rows: Cells.
        words: The headings of columns of words; the others but the first hold numbers, to the right.
    """
    table = Table(box=None, pad_edge=False)
    table.add_column(headings[0], overflow="fold")
    for heading in headings[1:]:
        table.add_column(heading, justify="left" if heading in words else "right")
    for row in rows:
        table.add_row(*map(escape, row))
    console = Console(highlight=False)
    if not console.is_terminal:
        # A pipe has no width: names must come through whole.
        console = Console(width=320, highlight=False)
    console.print(table)
    return console
