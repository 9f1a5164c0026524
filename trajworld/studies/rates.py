"""Learning rates: which one the runs of a group are judged by, and the rows of those runs."""

import pandas as pd

GROUP = ["transitions", "environment", "side"]
"""What the runs of a group have in common: they are tried with several learning rates."""

_COLUMNS = [
    *GROUP,
    "task",
    "learning_rate",
    "seed",
    "step",
    "mae_std",
    "nll",
    "holdout_loss",
    "diverged",
    "seen",
]


def training_runs(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of training runs, with all their columns even where none is finished."""
    table = with_columns(table)
    return table[table["task"] == "train_and_measure"].astype({"diverged": bool})


def with_columns(table: pd.DataFrame) -> pd.DataFrame:
    """A table with the columns of training runs, empty where no run is finished."""
    return table.reindex(columns=list(dict.fromkeys([*table.columns, *_COLUMNS])))


def chosen_rate(rows: pd.DataFrame) -> float | None:
    """The learning rate with the lowest last holdout loss of the first seed, of those with which no seed diverged.

    Args:
        rows: Of the runs of one group.
    """
    diverged = rows.loc[rows["diverged"], "learning_rate"]
    first = rows[(rows["seed"] == rows["seed"].min()) & ~rows["learning_rate"].isin(diverged)]
    last = first[first["step"] == first["step"].max()]
    return float(last.loc[last["holdout_loss"].idxmin(), "learning_rate"]) if len(last) else None


def chosen_runs(table: pd.DataFrame, rates: int, seeds: int) -> pd.DataFrame:
    """The rows of the runs with the chosen rate, of the groups that are finished.

    Args:
        table: Of a study's cells.
        rates: How many the first seed tries.
        seeds: How many have the chosen rate.
    """
    runs, found = training_runs(table), []
    for _, rows in runs.groupby(GROUP, sort=False):
        chosen = rows[rows["learning_rate"] == chosen_rate(rows)]
        if tried(rows) == rates and chosen["seed"].nunique() == seeds:
            found.append(chosen)
    return pd.concat(found) if found else runs.head(0)


def tried(rows: pd.DataFrame) -> int:
    """How many rates the first seed of a group has run with."""
    return int(rows.loc[rows["seed"] == rows["seed"].min(), "learning_rate"].nunique())
