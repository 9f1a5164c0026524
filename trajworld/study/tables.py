"""Tables of studies: intervals, and the text of each value on a terminal, in Markdown and in HTML.

In a table for people a value stands in one column and its interval in two more, ``NAME low`` and ``NAME high``: they
are shown together, ``0.0491 [0.0371–0.0680]``. NaN and NA are shown as –.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rich.table import Table
from rich.text import Text
from scipy.special import stdtrit

from trajworld.text import number

LOW, HIGH = " low", " high"


def over_seeds(table: pd.DataFrame, by: Sequence[str], value: str) -> pd.DataFrame:
    """The mean of ``value`` over the rows of each group of equal ``by``, and the least and greatest as its interval."""
    groups = table.groupby(list(by), sort=False, dropna=False)[value]
    found = groups.agg(**{value: "mean", value + LOW: "min", value + HIGH: "max"}).reset_index()
    found.loc[groups.size().to_numpy() == 1, [value + LOW, value + HIGH]] = np.nan
    return found


def bootstrap(
    sums: NDArray[np.floating],
    counts: NDArray[np.floating],
    seed: int | Sequence[int],
    replicates: int = 1000,
) -> NDArray[np.float64]:
    """Replicates ``[R, ...]`` of means over episodes, which are the independent unit: drawn anew with replacement.

    ``sums [E, ...]`` are those of each episode's ``counts [E]`` values; its columns stay paired.
    """
    episodes = len(counts)
    drawn = np.random.default_rng(seed).multinomial(
        episodes, np.full(episodes, 1 / episodes), size=replicates
    )
    means = (drawn @ sums.reshape(episodes, -1)) / (drawn @ counts)[:, None]
    return means.reshape(replicates, *sums.shape[1:])


def standard_error(values: NDArray[np.floating]) -> float:
    """Of the mean of ``[N]`` independent values; NaN for fewer than two."""
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan")


def half_width(values: NDArray[np.floating]) -> float:
    """Of the 95 % interval of that mean, by Student's t; NaN for fewer than two."""
    return float(stdtrit(len(values) - 1, 0.975)) * standard_error(values)


def interval(replicates: NDArray[np.floating]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The lower and upper ends of the 95 % interval that replicates ``[R, ...]`` give, over the first axis."""
    low, high = np.nanquantile(replicates, [0.025, 0.975], axis=0)
    return low, high


def texts(table: pd.DataFrame) -> tuple[list[str], list[list[str]], list[bool]]:
    """The headers and the cells of a table as people read them, intervals beside their values.

    And of each column, whether it holds numbers, which are set to the right.
    """
    ends = {f"{name}{end}" for name in table.columns for end in (LOW, HIGH)}
    shown = list(table.columns.difference(ends, sort=False))

    def column(name: str) -> list[str]:
        none = [np.nan] * len(table)
        low, high = table.get(name + LOW, none), table.get(name + HIGH, none)
        return [
            _text(value) + ("" if pd.isna(least) else f" [{_text(least)}–{_text(most)}]")
            for value, least, most in zip(table[name], low, high, strict=True)
        ]

    rows = [list(row) for row in zip(*map(column, shown), strict=True)]
    return shown, rows, [pd.api.types.is_numeric_dtype(table[name]) for name in shown]


def terminal(title: str, table: pd.DataFrame) -> Table:
    """A table for a terminal; no number is cut, however narrow it is."""
    found = Table(title=Text(title), title_justify="left", box=None, pad_edge=False, header_style="bold")
    headers, rows, numeric = texts(table)
    for header, right in zip(headers, numeric, strict=True):
        least = 0 if right else min(12, len(header))
        side: Literal["right", "left"] = "right" if right else "left"
        found.add_column(Text(header), justify=side, no_wrap=right, overflow="fold", min_width=least)
    for cells in rows:
        # An interval may stand below its value, but is not broken itself.
        found.add_row(*(Text(cell.replace(" [", "\n[")) for cell in cells))
    return found


def markdown(table: pd.DataFrame) -> str:
    """A Markdown table."""
    headers, rows, numeric = texts(table)
    lines = [headers, ["--:" if right else "---" for right in numeric], *rows]
    clean = [[text.replace("|", "\\|").replace("\n", " ") for text in line] for line in lines]
    return "".join(f"| {' | '.join(line)} |\n" for line in clean)


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
