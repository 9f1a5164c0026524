"""Where a curve of errors comes down to a target: at which of the measured places, and about where between them."""

import math
from collections.abc import Sequence


def first_reaching(errors: Sequence[float], target: float) -> int | None:
    """The index of the first error that is at most the target; None where none is."""
    return next((index for index, error in enumerate(errors) if error <= target), None)


def interpolated(places: Sequence[float], errors: Sequence[float], target: float) -> float | None:
    """About where the error first comes down to the target.

    Between the first place that reaches it and the one before, the logarithm of the error is taken to be a straight
    line over the logarithm of the place (over the place itself where that begins with 0).

    Args:
        places: Ascending, 0 or more: steps, or amounts of data.
        errors: As many, above 0.
        target: Above 0.

    Returns:
        A place; the first one where the error is at most the target there already; None where it is nowhere.
    """
    index = first_reaching(errors, target)
    if index is None or index == 0:
        return None if index is None else float(places[0])
    (low, high), (above, below) = places[index - 1 : index + 1], errors[index - 1 : index + 1]
    share = (math.log(above) - math.log(target)) / (math.log(above) - math.log(below))
    if low <= 0:
        found = low + share * (high - low)
    else:
        found = math.exp(math.log(low) + share * (math.log(high) - math.log(low)))
    # Rounding must not carry it out of where it lies.
    return min(max(found, float(low)), float(high))
