"""How much less data, and how many steps fewer, fine-tuning needs to reach the error of training from scratch.

Both sides are measured alike: each is credited the least of the measured amounts with which it has the error, so that
a curve from scratch that has long been flat does not make the other look better.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from trajworld.transfer.crossing import first_reaching, interpolated

DATA_FACTOR, STEP_FACTOR = 4.0, 10.0
"""What this project wants of a pre-trained model: a quarter of the data, and a tenth of the steps."""

Verdict = Literal["holds", "fails", "unknown"]


@dataclass(frozen=True)
class Need:
    """What it takes to reach a target.

    Attributes:
        amount: The least of the measured amounts (steps or transitions) at which the mean error is at most the target.
        about: Where between it and the one before the error is there, by interpolation.
        factor: What training from scratch needs for the same target, divided by ``amount``: above 1 where fine-tuning
            needs less, below 1 where it needs more. None where fine-tuning needs none at all (a target that is reached
            before the first step) but scratch some; 1 where neither needs any.
        below: The greatest of the measured amounts under ``amount``, all of which miss the target; None where less was
            not tried, so that ``amount`` may be more than is needed.
    """

    amount: int
    about: float
    factor: float | None
    below: int | None


@dataclass(frozen=True)
class Savings:
    """What fine-tuning needs to reach one target.

    Attributes:
        target: A mean error of training from scratch on the largest amount of data.
        step: The first measured step at which scratch on the largest amount of data has at most this error.
        amount: The least transitions with which scratch has at most this error after its last step; where no amount
            gives it then (it had it on its way and lost it), the least with which it has it at any step.
        data: Transitions with which the fine-tuned model has at most this error after its last step; None if with none.
        steps: Steps after which it has at most this error, by amount of data; None where it never has.
    """

    target: float
    step: int
    amount: int
    data: Need | None
    steps: dict[int, Need | None]

    @property
    def largest(self) -> Need | None:
        """Steps on the largest amount of data, which is what scratch had."""
        return self.steps[max(self.steps)]

    @property
    def smallest(self) -> int | None:
        """The smallest amount of data with which the target is reached at any step."""
        return min((size for size, need in self.steps.items() if need is not None), default=None)

    @property
    def data_verdict(self) -> Verdict:
        """Whether at most a quarter of scratch's ``amount`` of data is needed."""
        return _verdict(self.data, self.amount, DATA_FACTOR)

    @property
    def steps_verdict(self) -> Verdict:
        """Whether at most a tenth of scratch's ``step`` is needed, on as much data."""
        return _verdict(self.largest, self.step, STEP_FACTOR)


@dataclass(frozen=True)
class Factors:
    """Savings against both targets.

    Attributes:
        last: Against scratch's error after its last step.
        best: Against its least error at any of the steps.
    """

    last: Savings
    best: Savings


def factors(
    steps: Sequence[int], scratch: Mapping[int, Sequence[float]], tuned: Mapping[int, Sequence[float]]
) -> Factors:
    """What fine-tuning saves.

    Args:
        steps: Where errors were measured, ascending.
        scratch: Mean errors from scratch at the steps, by amount of data.
        tuned: Mean errors of the fine-tuned model, likewise.
    """
    errors = scratch[max(scratch)]
    return Factors(
        _savings(steps, errors[-1], scratch, tuned),
        _savings(steps, min(errors), scratch, tuned),
    )


def _savings(
    steps: Sequence[int],
    target: float,
    scratch: Mapping[int, Sequence[float]],
    tuned: Mapping[int, Sequence[float]],
) -> Savings:
    sizes = sorted(tuned)
    step = steps[_first(scratch[max(scratch)], target)]
    amount = _amount_from_scratch(scratch, target)
    return Savings(
        target,
        step,
        amount,
        _need(sizes, [tuned[one][-1] for one in sizes], target, amount),
        {one: _need(steps, tuned[one], target, step) for one in sizes},
    )


def _amount_from_scratch(scratch: Mapping[int, Sequence[float]], target: float) -> int:
    sizes = sorted(scratch)
    index = first_reaching([scratch[one][-1] for one in sizes], target)
    return sizes[_first([min(scratch[one]) for one in sizes], target) if index is None else index]


def _first(errors: Sequence[float], target: float) -> int:
    index = first_reaching(errors, target)
    assert index is not None, "the target is one of the errors"
    return index


def _need(amounts: Sequence[int], errors: Sequence[float], target: float, other: int) -> Need | None:
    index, about = first_reaching(errors, target), interpolated(amounts, errors, target)
    if index is None or about is None:
        return None
    below = amounts[index - 1] if index else None
    return Need(amounts[index], about, _ratio(other, amounts[index]), below)


def _ratio(other: int, amount: int) -> float | None:
    if amount:
        return other / amount
    return None if other else 1.0


def _verdict(need: Need | None, other: int, factor: float) -> Verdict:
    """Whether ``other / factor`` is enough: known where as much or less is enough, or as much or more too little."""
    if need is None:
        return "fails"
    if need.factor is None or need.factor >= factor:
        return "holds"
    return "fails" if need.below is not None and need.below >= other / factor else "unknown"
