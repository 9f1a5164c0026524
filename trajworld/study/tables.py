"""Tables of studies: intervals, and the text of each value on a terminal, in Markdown and in HTML.

In a table for people a value stands in one column and its interval in two more, ``NAME low`` and ``NAME high``: they
are shown together, ``0.0491 [0.0371–0.0680]``. NaN and NA are shown as –.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rich.table import Table
from rich.text import Text

from trajworld.text import number

LOW, HIGH = " low", " high"


def over_seeds(table: pd.DataFrame, by: Sequence[str], value: str, name: str | None = None) -> pd.DataFrame:
    """The mean of ``value`` over the rows of each group, and the least and greatest as its interval.

    Args:
        table: Tidy.
        by: Columns that make the groups.
        value: The column.
        name: Of the new column; ``value`` where not given.
    """
    name = name or value
    groups = table.groupby(list(by), sort=False, dropna=False)[value]
    found = groups.agg(**{name: "mean", name + LOW: "min", name + HIGH: "max"}).reset_index()
    single = groups.size().to_numpy() == 1
    found.loc[single, [name + LOW, name + HIGH]] = np.nan
    return found


def bootstrap(
    sums: NDArray[np.floating],
    counts: NDArray[np.floating],
    seed: int | Sequence[int],
    replicates: int = 1000,
) -> NDArray[np.float64]:
    """Replicates of means over episodes, which are the independent unit: they are drawn anew with replacement.

    Args:
        sums: ``[E, ...]``: the sum of each episode's values; columns stay paired.
        counts: ``[E]``: how many values each sum is of.
        seed: Of the draws.
        replicates: R.

    Returns:
        ``[R, ...]`` means.
    """
    episodes = len(counts)
    drawn = np.random.default_rng(seed).multinomial(
        episodes, np.full(episodes, 1 / episodes), size=replicates
    )
    means = (drawn @ sums.reshape(episodes, -1)) / (drawn @ counts)[:, None]
    return means.reshape(replicates, *sums.shape[1:])


def interval(
    replicates: NDArray[np.floating], level: float = 0.95
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The lower and upper ends of the interval that replicates ``[R, ...]`` give, over the first axis."""
    low, high = np.nanquantile(replicates, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return low, high


def texts(table: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """The headers and the cells of a table as people read them, intervals beside their values."""
    shown = [
        name
        for name in table.columns
        if not any(name.endswith(end) and name.removesuffix(end) in table.columns for end in (LOW, HIGH))
    ]
    rows = []
    for _, row in table.iterrows():
        cells = []
        for name in shown:
            text = _text(row[name])
            if name + LOW in table.columns and not pd.isna(row[name + LOW]):
                text += f" [{_text(row[name + LOW])}–{_text(row[name + HIGH])}]"
            cells.append(text)
        rows.append(cells)
    return [str(name) for name in shown], rows


def numeric(table: pd.DataFrame) -> list[bool]:
    """Of each shown column, whether it holds numbers, which are set to the right."""
    return [pd.api.types.is_numeric_dtype(table[name]) for name in texts(table.head(0))[0]]


def terminal(title: str, table: pd.DataFrame) -> Table:
    """A table for a terminal; no number is cut, however narrow it is."""
    found = Table(title=Text(title), title_justify="left", box=None, pad_edge=False, header_style="bold")
    headers, rows = texts(table)
    for header, right in zip(headers, numeric(table), strict=True):
        least = 0 if right else min(12, len(header))
        side: Literal["right", "left"] = "right" if right else "left"
        found.add_column(Text(header), justify=side, no_wrap=right, overflow="fold", min_width=least)
    for cells in rows:
        # An interval may stand below its value, but is not broken itself.
        found.add_row(*(Text(cell.replace(" [", "\n[")) for cell in cells))
    return found


def markdown(table: pd.DataFrame) -> str:
    """A Markdown table."""
    headers, rows = texts(table)
    clean: Callable[[str], str] = lambda text: text.replace("|", "\\|").replace("\n", " ")  # noqa: E731
    lines = [headers, ["--:" if right else "---" for right in numeric(table)], *rows]
    return "\n".join(f"| {' | '.join(map(clean, line))} |" for line in lines) + "\n"


def _text(value: object) -> str:
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, int | np.integer):
        return f"{value:,}"
    if pd.isna(value):
        return "–"
    if value == np.inf:
        return "∞"
    return number(float(value)) if isinstance(value, float | np.floating) else str(value)
