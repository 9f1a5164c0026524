"""Tables of train-test pairs: errors relative to a reference model, wins over it, and what training cost.

The rows of tests have ``model``, ``trained on``, ``tested on``, ``seed``, and the errors.
"""

import numpy as np
import pandas as pd

from trajworld.studies.training_cells import pretrain_model, train_model
from trajworld.study.cells import Row
from trajworld.study.tables import HIGH, LOW, bootstrap, interval, over_seeds

_PAIR = ["trained on", "tested on"]


def relative(pairs: pd.DataFrame, measure: str, reference: str) -> pd.DataFrame:
    """``value``, the error divided by the reference model's mean over seeds on the same pair, where there is one."""
    scratch = pairs[pairs["model"] == reference].groupby(_PAIR)[measure].mean().rename("scratch")
    found = pairs.join(scratch, on=_PAIR)
    return found.assign(value=found[measure] / found["scratch"]).dropna(subset=["value"])


def by_pair(rows: pd.DataFrame) -> pd.DataFrame:
    """``value`` of each pair, a model's mean over the seeds that are finished."""
    return rows.groupby(["model", "environment", *_PAIR], sort=False)["value"].mean().reset_index()


def _by_training(rows: pd.DataFrame, value: str) -> pd.DataFrame:
    """The sum over the pairs of each dataset that is trained on, of means over seeds, and the number of pairs."""
    means = rows.groupby(_PAIR)[value].mean()
    return means.groupby("trained on").agg(["sum", "count"])


def _mean(name: str, rows: pd.DataFrame, value: str) -> Row:
    """The mean over pairs, with its interval."""
    sums = _by_training(rows, value)
    found: Row = {name: sums["sum"].sum() / max(sums["count"].sum(), 1) if len(rows) else np.nan}
    low = high = np.nan
    if len(sums) > 1:
        low, high = map(float, interval(bootstrap(sums["sum"].to_numpy(), sums["count"].to_numpy(), 0)))
    return found | {name + LOW: low, name + HIGH: high}


def summary(rows: pd.DataFrame, value: str) -> pd.DataFrame:
    """Of each model the mean over all pairs, over seeds, in and out of distribution."""
    found = []
    for model, own in rows.groupby("model", sort=False):
        same = own["trained on"] == own["tested on"]
        pairs = own.groupby(_PAIR).ngroups
        row = {"model": model, "pairs": pairs, **_mean("all pairs", own, value)}
        # Seeds that are not finished would differ by their pairs.
        whole = own[own.groupby("seed")["seed"].transform("size") == pairs]
        seeds = whole.groupby("seed", as_index=False)[value].mean().rename(columns={value: "by seed"})
        row |= (
            over_seeds(seeds.assign(model=model), ["model"], "by seed").iloc[0].to_dict()
            if len(seeds)
            else {}
        )
        row["seeds"] = len(seeds)
        row |= _mean("in distribution", own[same], value) | _mean("out of distribution", own[~same], value)
        found.append(row)
    return pd.DataFrame(found)


def wins(raw: pd.DataFrame, scaled: pd.DataFrame, reference: str) -> pd.DataFrame:
    """On how many pairs, and datasets to train on, a model's mean error over seeds is less than the reference's."""
    found = []
    for model, own in raw.groupby("model", sort=False):
        if model == reference:
            continue
        row: Row = {"model": model}
        for unit, rows in (("", own), (" in std", scaled[scaled["model"] == model])):
            means = rows.groupby(_PAIR)["value"].mean()
            sets = (means.groupby("trained on").mean() < 1).astype(float)
            pairs = (means < 1).astype(float).groupby("trained on").sum()
            for name, won, of in (("pairs", pairs, len(means)), ("training sets", sets, len(sets))):
                ends = interval(bootstrap(won.to_numpy(), np.ones(len(won)), 0))
                low, high = len(won) * np.array(ends if len(won) > 1 else (np.nan, np.nan))
                row |= {name + unit: won.sum(), name + unit + LOW: low, name + unit + HIGH: high}
                row |= {} if unit else {f"of {name}": of}
        found.append(row)
    return pd.DataFrame(found)


def cost(table: pd.DataFrame, tests: pd.DataFrame) -> pd.DataFrame:
    """Steps, seconds and parameters of pre-training here, and of the trainings that ``tests`` name."""
    named = tests[["trained", "model"]].drop_duplicates()
    needed = ["cell", "step", "seconds", "parameters"]
    table = table.reindex(columns=dict.fromkeys([*table.columns, *needed]))
    trained = table.loc[table["task"] == train_model.__name__, needed]
    before = table[table["task"] == pretrain_model.__name__]
    if len(before):
        before = before.assign(model="pre-training: " + before["kind"])
    rows = pd.concat([trained.merge(named, left_on="cell", right_on="trained"), before])
    found = over_seeds(rows, ["model"], "seconds")
    counts = rows.groupby("model", sort=False).agg(
        runs=("cell", "size"), steps=("step", "mean"), parameters=("parameters", "first")
    )
    return found.merge(counts.reset_index(), on="model")
