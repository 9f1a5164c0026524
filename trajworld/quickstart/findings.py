"""What the quickstart's numbers say, in plain sentences: good news, bad news and what to doubt."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TypeGuard

from trajworld.quickstart.results import FINE_TUNED, FROM_SCRATCH, Results, TrialRow
from trajworld.text import listed, number, short_name

SAME = 0.05
"""Two errors that differ by less than this part of the larger one are called the same."""
SAME_NLL = 0.05
"""Two likelihoods that differ by less than so many nats are called the same."""


@dataclass(frozen=True)
class ComparisonRow:
    """The normalised mean absolute errors at one size of fine-tuning data; None where there is no chosen run."""

    transitions: int
    copy_last_row: float
    zero_shot: float
    from_scratch: float | None
    fine_tuned: float | None

    @property
    def ratio(self) -> float | None:
        """The error from scratch over the fine-tuned error: above 1 where pre-training helped; None if undefined."""
        if not (_known(self.from_scratch) and _known(self.fine_tuned)) or self.fine_tuned == 0:
            return None
        ratio = self.from_scratch / self.fine_tuned
        return ratio if math.isfinite(ratio) else None

    @property
    def sign(self) -> int | None:
        """``verdict`` of the fine-tuned error against the one from scratch; None where one is missing or not finite."""
        if not (_known(self.from_scratch) and _known(self.fine_tuned)):
            return None
        return verdict(self.fine_tuned, self.from_scratch)


def comparison_rows(results: Results) -> list[ComparisonRow]:
    """The main table as numbers, smallest size first."""
    scratch, tuned = _errors(results.chosen(FROM_SCRATCH)), _errors(results.chosen(FINE_TUNED))
    return [
        ComparisonRow(
            transitions=size,
            copy_last_row=results.copy_last_row.normalised_mae,
            zero_shot=results.zero_shot.normalised_mae,
            from_scratch=scratch.get(size),
            fine_tuned=tuned.get(size),
        )
        for size in sorted({*scratch, *tuned})
    ]


def verdict(error: float, other: float) -> int:
    """-1 if ``error`` is below ``other``, 1 if above, 0 if they differ by less than 5 % of the larger."""
    if abs(error - other) <= SAME * max(abs(error), abs(other)):
        return 0
    return -1 if error < other else 1


def findings(results: Results) -> list[str]:
    """What was found, in sentences, the most important first and the doubts last.

    Everything is computed from ``results``; errors are mean absolute errors in standard deviations of each variate.
    """
    rows = comparison_rows(results)
    return [
        _headline(results, rows),
        *(_at_size(results, row) for row in rows),
        *_data_efficiency(results, rows),
        *_against_copying(results, rows),
        *_zero_shot(results, rows),
        *_likelihood(results),
        *_caveats(results),
    ]


def _headline(results: Results, rows: list[ComparisonRow]) -> str:
    target = short_name(results.plan.target)
    compared = [row for row in rows if row.sign is not None]
    if not compared:
        return (
            f"Nothing can be said about pre-training on {target}: no size has a finite error of both sides."
        )
    parts = []
    for sign, text in ((-1, "helped"), (0, "made no difference"), (1, "hurt")):
        sizes = [row.transitions for row in compared if row.sign == sign]
        if len(sizes) == len(compared) > 1:
            every = "any" if sign == 0 else "every"
            parts.append(f"{text} at {every} size of fine-tuning data that was tried ({_counts(sizes)})")
        elif sizes:
            parts.append(f"{text} at {_counts(sizes)}")
    helped = [row for row in compared if row.sign == -1]
    most = ""
    if len(compared) > 1 and helped:
        best = max(helped, key=lambda row: row.ratio or math.inf)
        most = f" It helped most with {_count(best.transitions)}: {_difference(best)} error."
    return f"On {target}, pre-training {listed(parts)}.{most}"


def _at_size(results: Results, row: ComparisonRow) -> str:
    where = f"After {results.plan.steps:,} steps on {_count(row.transitions)}"
    tuned, scratch = row.fine_tuned, row.from_scratch
    if not (_known(tuned) and _known(scratch)):
        lost = [
            f"{side} {'has no chosen run' if value is None else 'ended with an error that is not finite'}"
            for side, value in ((FINE_TUNED, tuned), (FROM_SCRATCH, scratch))
            if not _known(value)
        ]
        return f"{where} there is no comparison: {listed(lost)}."
    return (
        f"{where} the fine-tuned model errs by {number(tuned)} standard deviations, "
        f"from scratch by {number(scratch)}: {_difference(row)}."
    )


def _difference(row: ComparisonRow) -> str:
    tuned, scratch = row.fine_tuned, row.from_scratch
    if not (_known(tuned) and _known(scratch)) or row.sign == 0:
        return "no difference"
    return _less(tuned, scratch) if row.sign == -1 else f"pre-training hurt, {_more(tuned, scratch)}"


def _data_efficiency(results: Results, rows: list[ComparisonRow]) -> Iterable[str]:
    if len(rows) < 2:
        return
    first, last = rows[0], rows[-1]
    tuned, scratch = first.fine_tuned, last.from_scratch
    if not (_known(tuned) and _known(scratch)):
        return
    sign = verdict(tuned, scratch)
    how = ("better than", "as good as", "not as good as")[sign + 1]
    text = (
        f"Fine-tuned on {_count(first.transitions)} ({number(tuned)}) the model is {how} "
        f"from scratch on {_count(last.transitions)} ({number(scratch)})"
    )
    if sign <= 0:
        text += f", {last.transitions / first.transitions:.3g} times the data"
        if _known(first.from_scratch) and verdict(scratch, first.from_scratch) >= 0:
            # Where data is not what the short run lacks, "times the data" would promise too much.
            text += (
                f"; but in {results.plan.steps:,} steps from scratch gains nothing from more data "
                f"({number(first.from_scratch)} with {_count(first.transitions)}), so this says little"
            )
    yield f"{text}."


def _against_copying(results: Results, rows: list[ComparisonRow]) -> Iterable[str]:
    copying = results.copy_last_row.normalised_mae
    if not _known(copying):
        yield "Copying the last row has no finite error to compare with."
        return
    for side, name in ((FINE_TUNED, "The fine-tuned model"), (FROM_SCRATCH, "The model from scratch")):
        values = {
            row.transitions: value
            for row in rows
            if _known(value := row.fine_tuned if side == FINE_TUNED else row.from_scratch)
        }
        parts: list[str] = []
        for sign, text in ((1, "is worse than"), (0, "is no better than"), (-1, "beats")):
            sizes = [size for size, value in values.items() if verdict(value, copying) == sign]
            if sizes:
                what = f"{text} copying the last row ({number(copying)})" if not parts else f"{text} it"
                every = len(sizes) == len(values) > 1
                parts.append(f"{what} at every size" if every else f"{what} at {_counts(sizes)}")
        if parts:
            yield f"{name} {listed(parts)}."


def _zero_shot(results: Results, rows: list[ComparisonRow]) -> Iterable[str]:
    zero, copying = results.zero_shot.normalised_mae, results.copy_last_row.normalised_mae
    if not _known(zero):
        yield "Zero-shot, the pre-trained model's error is not finite."
        return
    if _known(copying):
        sign = verdict(zero, copying)
        if sign < 0:
            than = f"{_less(zero, copying)} than copying the last row"
        elif sign == 0:
            than = "no different from copying the last row"
        else:
            than = f"where copying the last row errs by {number(copying)}: {_more(zero, copying)}"
        useless = ", so without an update it is worse than predicting no change" if sign > 0 else ""
        yield f"Zero-shot, the pre-trained model errs by {number(zero)}, {than}{useless}."
    sizes = [row.transitions for row in rows if _known(row.fine_tuned) and verdict(row.fine_tuned, zero) >= 0]
    if sizes:
        yield f"Fine-tuning did not improve on the zero-shot model at {_counts(sizes)}."


def _likelihood(results: Results) -> Iterable[str]:
    """Say so where the likelihood of the true bins contradicts the error."""
    scratch = {row.transitions: row.errors for row in results.chosen(FROM_SCRATCH)}
    against = []
    for row in results.chosen(FINE_TUNED):
        ours, other = row.errors, scratch.get(row.transitions)
        if other is None or not (_known(ours.normalised_mae) and _known(other.normalised_mae)):
            continue
        if _known(ours.nll) and _known(other.nll) and abs(ours.nll - other.nll) >= SAME_NLL:
            by_likelihood = -1 if ours.nll < other.nll else 1
            if by_likelihood * verdict(ours.normalised_mae, other.normalised_mae) < 0:
                against.append(row.transitions)
    if against:
        yield f"The likelihood of the true values says the opposite of the error at {_counts(against)}."


def _caveats(results: Results) -> Iterable[str]:
    plan = results.plan
    if len(plan.learning_rates) == 1:
        yield f"Both sides were tried with one learning rate only ({plan.learning_rates[0]:g})."
    else:
        for side in (FINE_TUNED, FROM_SCRATCH):
            chosen = results.chosen(side)
            for rate, name in ((max(plan.learning_rates), "largest"), (min(plan.learning_rates), "smallest")):
                sizes = [
                    row.transitions for row in chosen if math.isclose(row.learning_rate, rate, rel_tol=1e-6)
                ]
                if sizes:
                    model = "fine-tuned model" if side == FINE_TUNED else "model from scratch"
                    yield (
                        f"The {model}'s best learning rate was the {name} tried ({rate:g}) at {_counts(sizes)}: "
                        f"a {'larger' if name == 'largest' else 'smaller'} one might serve it better."
                    )
    yield (
        f"This is one seed, one unseen environment, a {plan.preset} model and {plan.steps:,} steps, at which neither "
        f"side is fully trained: read it as a demonstration, not as a benchmark. "
        f"Differences below {SAME * 100:.0f} % are not called differences."
    )


def _errors(trials: Sequence[TrialRow]) -> dict[int, float]:
    return {row.transitions: row.errors.normalised_mae for row in trials}


def _known(value: float | None) -> TypeGuard[float]:
    return value is not None and math.isfinite(value)


def _less(error: float, other: float) -> str:
    """How much less, for ``error < other``."""
    if error > 0 and other / error >= 1.5:
        return f"{_times(other / error)} less"
    return f"{100 * (1 - error / other):.0f} % less"


def _more(error: float, other: float) -> str:
    """How much more, for ``error > other``."""
    if other == 0:
        return "more, as the other makes none"
    if error / other >= 1.5:
        return f"{_times(error / other)} as much"
    return f"{100 * (error / other - 1):.0f} % more"


def _times(factor: float) -> str:
    if factor > 1e6:
        return "over a million times"
    return f"{factor:.1f} times" if factor < 10 else f"{factor:,.0f} times"


def _count(transitions: int) -> str:
    return f"{transitions:,} transitions"


def _counts(sizes: Sequence[int]) -> str:
    return f"{listed([f'{size:,}' for size in sizes])} transitions"
