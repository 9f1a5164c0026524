"""How much less data, and how many steps fewer, fine-tuning needs to reach an error of training from scratch."""

import math

import numpy as np
import pandas as pd

FINE_TUNED, FROM_SCRATCH = "fine-tuned", "from scratch"


def savings(scratch: pd.DataFrame, tuned: pd.DataFrame, target: float) -> dict[str, dict[str, float]]:
    """What both sides need to have at most the error ``target``, each the least of the measured amounts.

    Args:
        scratch: Errors from scratch, by transitions (rows) and steps (columns), both ascending.
        tuned: Errors of the fine-tuned model, likewise.
        target: One of the errors from scratch on the most transitions.

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
    return {
        "transitions": {
            **_needs(amount, tuned[last], target),
            "at any step": _first(tuned.min(axis=1), target),
        },
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
    return {
        FROM_SCRATCH: scratch,
        FINE_TUNED: tuned,
        "≈": interpolated(errors, target),
        "factor": factor,
    }
