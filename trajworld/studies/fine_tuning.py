"""Fine-tuning against training from scratch: the runs with the chosen learning rates, and what fine-tuning saves."""

import math

import numpy as np
import pandas as pd

SIDES = FROM_SCRATCH, FINE_TUNED = ("from scratch", "fine-tuned")
GROUP = ["transitions", "environment", "side"]
"""What the runs of a group have in common: they are tried with several learning rates."""

_OF_RUNS = ["learning_rate", "seed", "step", "mae_std", "nll", "holdout_loss", "diverged", "seen"]


def rows_of(table: pd.DataFrame, task: str = "train_and_measure") -> pd.DataFrame:
    """The rows of a task, with the columns of training runs even where none is finished."""
    columns = dict.fromkeys([*table.columns, "task", *GROUP, *_OF_RUNS])
    table = table.reindex(columns=list(columns))
    return table[table["task"] == task].astype({"diverged": bool})


def chosen_rate(rows: pd.DataFrame, rates: int) -> float | None:
    """The learning rate with the lowest last holdout loss of the first seed, of those with which no seed diverged.

    ``rows`` are of the runs of one group; until the first seed has tried all ``rates``, none is chosen.
    """
    first = rows[rows["seed"] == rows["seed"].min()]
    if first["learning_rate"].nunique() < rates:
        return None
    first = first[~first["learning_rate"].isin(rows.loc[rows["diverged"], "learning_rate"])]
    last = first[first["step"] == first["step"].max()]
    return float(last.loc[last["holdout_loss"].idxmin(), "learning_rate"]) if len(last) else None


def chosen_runs(table: pd.DataFrame, rates: int, seeds: int) -> pd.DataFrame:
    """The rows of the runs with the chosen rate, of the groups of which all ``seeds`` are finished with it."""
    runs, found = rows_of(table), []
    for _, rows in runs.groupby(GROUP, sort=False):
        chosen = rows[rows["learning_rate"] == chosen_rate(rows, rates)]
        found += [chosen] if chosen["seed"].nunique() == seeds else []
    return pd.concat(found) if found else runs.head(0)


def savings(scratch: pd.DataFrame, tuned: pd.DataFrame, target: float) -> dict[str, dict[str, float]]:
    """What both sides need to have at most the error ``target``, each the least of the measured amounts.

    ``scratch`` and ``tuned`` are errors by transitions (rows) and steps (columns), both ascending.

    Returns:
        Of ``transitions`` (after the last step; from scratch at any step, where the last has lost the target again) and
        of ``steps`` (on the most transitions): what is needed ``from scratch`` and ``fine-tuned``, infinite where it
        never has the error; ``≈``, an estimate of the latter by interpolation; and ``factor``, the first divided by the
        second: 0 where fine-tuning never has the error, infinite where it has it without a step. Of ``transitions``,
        too, ``at any step``: the least with which the fine-tuned model has the error at any step.
    """
    most, last = scratch.index[-1], scratch.columns[-1]
    amount = _first(scratch[last], target)
    amount = amount if math.isfinite(amount) else _first(scratch.min(axis=1), target)
    at_any_step = {"at any step": _first(tuned.min(axis=1), target)}
    return {
        "transitions": _needs(amount, tuned[last], target) | at_any_step,
        "steps": _needs(_first(scratch.loc[most], target), tuned.loc[most], target),
    }


def interpolated(errors: "pd.Series[float]", target: float) -> float:
    """About where ascending places first have at most the error ``target``; infinite where none has.

    Between that place and the one before, the logarithm of the error is taken to be a straight line over the logarithm
    of the place, or over the place itself where that begins with 0.
    """
    reached = np.flatnonzero(errors <= target)
    if not len(reached) or not reached[0]:
        return float(errors.index[0]) if len(reached) else math.inf
    low, high = (float(place) for place in errors.index[reached[0] - 1 : reached[0] + 1])
    above, below = np.log(errors.iloc[reached[0] - 1 : reached[0] + 1])
    share = (above - math.log(target)) / (above - below)
    found = low + share * (high - low) if low <= 0 else low * (high / low) ** share
    # Rounding must not carry it out of where it lies.
    return float(np.clip(found, low, high))


def _first(errors: "pd.Series[float]", target: float) -> float:
    return float(min(errors.index[errors <= target], default=math.inf))


def _needs(scratch: float, errors: "pd.Series[float]", target: float) -> dict[str, float]:
    tuned = _first(errors, target)
    factor = scratch / tuned if tuned else math.inf if scratch else 1.0
    about = interpolated(errors, target)
    return {FROM_SCRATCH: scratch, FINE_TUNED: tuned, "≈": about, "factor": factor}
