"""What a study of transfer says, in plain sentences: good news, bad news and what to doubt."""

import math
from collections import Counter
from collections.abc import Iterable

from trajworld.transfer.factors import DATA_FACTOR, STEP_FACTOR, Need, Savings
from trajworld.transfer.plan import FINE_TUNED, FROM_SCRATCH, SIDES
from trajworld.transfer.results import EnvironmentResults, Results
from trajworld.wording import listed, number, short_name

_SAME = 0.05
"""An error that is less by no more than this part is not called a gain."""


def findings(results: Results) -> list[str]:
    """What was found, the most important first and the doubts last; computed from ``results`` alone."""
    return [
        *_headline(results),
        *(sentence for one in results.environments for sentence in _of_environment(results, one)),
        *_doubts(results),
    ]


def _headline(results: Results) -> Iterable[str]:
    compared = [one for one in results.environments if one.factors is not None]
    if not compared:
        yield "Nothing can be said yet: on no environment both sides are finished at every amount of data."
        return
    data = [one for one in compared if one.factors is not None and one.factors.last.data_holds]
    steps = [one for one in compared if one.factors is not None and one.factors.last.steps_hold]
    sizes, measured = results.plan.sizes, [step for step in results.plan.settings.steps if step > 0]
    wanted = (
        ("a quarter of the data", DATA_FACTOR, data, sizes[-1] / sizes[0]),
        ("a tenth of the steps", STEP_FACTOR, steps, measured[-1] / measured[0]),
    )
    for what, factor, good, tried in wanted:
        bad = [one for one in compared if one not in good]
        if bad and tried < factor:
            yield f"Whether fine-tuning needs at most {what} cannot be said: so little was not tried."
        elif not bad:
            on = "each of the" if len(compared) > 1 else "the"
            yield (
                f"Fine-tuning needs at most {what} (a factor of at least {factor:g}) to reach the error of training "
                f"from scratch on {on} {len(compared)} environment{'s' * (len(compared) > 1)}: {_names(compared)}."
            )
        else:
            reached = f"on {_names(good)} it does, " if good else ""
            yield (
                f"That fine-tuning needs at most {what} to reach the error of training from scratch does not hold: "
                f"{reached}on {_names(bad)} it does not."
            )
    missing = [one for one in results.environments if one.factors is None and not one.diverged]
    if missing:
        yield f"On {_names(missing)} not every trial is finished, so that nothing is said of it."


def _of_environment(results: Results, one: EnvironmentResults) -> Iterable[str]:
    for side in SIDES:
        if sizes := [f"{size:,}" for other, size in one.diverged if other == side]:
            yield (
                f"{short_name(one.environment)}: {side}, training diverged with every learning rate on {listed(sizes)} "
                "transitions, so that the two sides cannot be compared: try lower rates."
            )
    if one.factors is None:
        return
    name, last, best = short_name(one.environment), one.factors.last, one.factors.best
    size, steps = results.plan.sizes[-1], results.plan.settings.steps[-1]
    yield (
        f"{name}: from scratch on {size:,} transitions the model errs by {number(last.target)} after {steps:,} steps"
        f"{_reached(last, size, steps)}. {_data_sentence(last, size, steps)} {_step_sentence(last, size)}"
    )
    if best.target < last.target and (best.data_holds, best.steps_hold) != (last.data_holds, last.steps_hold):
        yield (
            f"{name}: against the least error from scratch, {number(best.target)} after {best.step:,} steps"
            f"{_reached(best, size, best.step)}, "
            f"{_data_sentence(best, size, steps)[0].lower()}{_data_sentence(best, size, steps)[1:]} "
            f"{_step_sentence(best, size)}"
        )
    yield from _little_gain(one, steps)
    yield from _overlap(results, one)
    yield from _against_copying(results, one)


def _reached(savings: Savings, size: int, steps: int) -> str:
    """Where scratch has that error first, as far as that is not said already: what the factors are measured against."""
    parts = []
    if savings.step < steps:
        parts.append(f"it is first there after {savings.step:,} steps")
    if savings.amount < size:
        parts.append(f"{savings.amount:,} transitions are enough for that")
    return f" ({'; '.join(parts)})" if parts else ""


def _data_sentence(savings: Savings, size: int, steps: int) -> str:
    need = savings.data
    if need is None:
        return (
            f"Fine-tuned it has no such error after {steps:,} steps with any amount of data that was tried."
        )
    if need.amount == size:
        return f"Fine-tuned it needs all {size:,} transitions for that (data factor 1)."
    fewest = "the least that was tried, " if need.amount == min(savings.steps) else ""
    return (
        f"Fine-tuned it has at most that error with {need.amount:,} transitions ({fewest}data factor "
        f"{need.factor or math.inf:.3g})."
    )


def _step_sentence(savings: Savings, size: int) -> str:
    need, smallest = savings.largest, savings.smallest
    parts = []
    if need is None:
        parts.append(f"On {size:,} transitions it does not come down to that at any step that was measured")
    else:
        parts.append(f"On {size:,} transitions it is there {_after(need)}")
    other = None if smallest is None or smallest == size else savings.steps[smallest]
    if other is not None:
        parts.append(f"on {smallest:,} {_after(other)}")
    return f"{'; '.join(parts)}."


def _after(need: Need) -> str:
    if need.factor is None:
        return "without a step"
    about = "" if math.isclose(need.about, need.amount) else f", by interpolation about {need.about:,.0f}"
    return f"after {need.amount:,} steps (step factor {need.factor:.3g}{about})"


def _little_gain(one: EnvironmentResults, steps: int) -> Iterable[str]:
    """Say so where data is not what training from scratch lacks: "a quarter of the data" would promise too much."""
    curves = one.of_side(FROM_SCRATCH)
    first, last = curves[0], curves[-1]
    if first is not last and last.mean[-1] > (1 - _SAME) * first.mean[-1]:
        yield (
            f"{short_name(one.environment)}: in {steps:,} steps, training from scratch gains little from more data "
            f"({number(first.mean[-1])} with {first.transitions:,} transitions, {number(last.mean[-1])} with "
            f"{last.transitions:,}), so that the data factor says little."
        )


def _overlap(results: Results, one: EnvironmentResults) -> Iterable[str]:
    """Say so where the seeds of the two sides are not apart."""
    close = []
    for size in results.plan.sizes:
        scratch, tuned = one.curve(FROM_SCRATCH, size), one.curve(FINE_TUNED, size)
        if scratch is not None and tuned is not None and tuned.high[-1] >= scratch.low[-1]:
            close.append(f"{size:,}")
    if close:
        yield (
            f"{short_name(one.environment)}: after the last step on {listed(close)} transitions the worst fine-tuned "
            "seed is no better than the best from scratch."
        )


def _against_copying(results: Results, one: EnvironmentResults) -> Iterable[str]:
    copying = one.copy_last_row.normalised_mae
    for side in SIDES:
        worse = [f"{curve.transitions:,}" for curve in one.of_side(side) if curve.mean[-1] >= copying]
        if worse:
            yield (
                f"{short_name(one.environment)}: {side}, the model is no better than copying the last row "
                f"({number(copying)}) on {listed(worse)} transitions."
            )


def _doubts(results: Results) -> Iterable[str]:
    plan = results.plan
    seen = [one for one in results.environments if one.seen]
    if seen:
        yield f"Beware: pre-training saw {_names(seen)}, so this is no transfer to something new."
    for side in SIDES:
        for rate, name in ((max(plan.learning_rates), "largest"), (min(plan.learning_rates), "smallest")):
            curves = [curve for one in results.environments for curve in one.of_side(side)]
            where = [curve for curve in curves if math.isclose(curve.learning_rate, rate)]
            if where and len(plan.learning_rates) > 1:
                yield (
                    f"{side.capitalize()}, the best learning rate was the {name} that was tried ({rate:g}) in "
                    f"{len(where)} of {len(curves)} cases (environments and amounts of data)."
                )
    for side in SIDES:
        curves = [curve for one in results.environments for curve in one.of_side(side)]
        lost = Counter(
            rate for curve in curves for rate, loss in curve.holdout_losses.items() if loss is None
        )
        for text, count in lost.items():
            yield (
                f"{side.capitalize()}, training diverged with the learning rate {text} in {count} of {len(curves)} "
                "cases, so that another was chosen there."
            )
    yield (
        f"Errors are mean absolute one-step errors in standard deviations of each variate, over "
        f"{plan.settings.test_windows:,} test windows; means of {plan.seeds} seed{'s' * (plan.seeds > 1)}, intervals "
        "from the least to the greatest seed. The learning rate of each side, environment and amount of data is the "
        f"best of {listed([f'{rate:g}' for rate in plan.learning_rates])} by the loss on the first seed's own "
        "held-out episodes."
    )


def _names(environments: Iterable[EnvironmentResults]) -> str:
    return listed([short_name(one.environment) for one in environments])
