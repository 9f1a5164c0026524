"""Markdown of values that come from files: a name cannot end a table's cell or begin a tag."""

from collections.abc import Sequence


def code(text: str) -> str:
    """A name as inline code, what could end the code or the cell replaced."""
    plain = "".join(c if c.isprintable() else "�" for c in text).replace("`", "'").replace("|", "¦")
    return f"`{plain}`" if plain.strip() else "–"


def plain(text: str) -> str:
    """Text as it is read: no tags, no line breaks, no cells."""
    return " ".join(text.split()).replace("|", "¦").replace("<", "&lt;").replace("`", "'")


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, left: int = 1) -> str:
    """A table whose first ``left`` columns are flush left, the others flush right."""
    rule = ["---" if place < left else "---:" for place in range(len(head))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *rows))
