"""What a study of transfer says, in plain sentences: good news, bad news and what to doubt."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from trajworld.text import listed, number, short_name
from trajworld.transfer.factors import DATA_FACTOR, STEP_FACTOR, Need, Savings, Verdict
from trajworld.transfer.plan import FINE_TUNED, FROM_SCRATCH, SIDES
from trajworld.transfer.results import EnvironmentResults, Results
from trajworld.transfer.trials import Origin

_SAME = 0.05
"""An error that is less by no more than this part is not called a gain."""

_ENDS: dict[Verdict, str] = {
    "holds": "it does",
    "fails": "it does not",
    "unknown": "what was tried leaves it open",
}


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
    for what, factor, verdict in (
        ("a quarter of the data", DATA_FACTOR, _of_data),
        ("a tenth of the steps", STEP_FACTOR, _of_steps),
    ):
        yield _verdict_sentence(what, factor, compared, verdict)
    missing = [one for one in results.environments if one.factors is None and not one.diverged]
    if missing:
        yield f"On {_names(missing)} not every trial is finished, so that nothing is said of it."


def _of_data(savings: Savings) -> Verdict:
    return savings.data_verdict


def _of_steps(savings: Savings) -> Verdict:
    return savings.steps_verdict


def _verdict_sentence(
    what: str, factor: float, compared: Sequence[EnvironmentResults], verdict: Callable[[Savings], Verdict]
) -> str:
    """Whether so little is enough: on which environments it is, is not, and cannot be known."""
    names: dict[Verdict, list[str]] = {"holds": [], "fails": [], "unknown": []}
    for one in compared:
        assert one.factors is not None
        found, seeds = verdict(one.factors.last), [verdict(each.last) for each in one.seed_factors]
        agree = seeds.count(found)
        doubt = "" if agree == len(seeds) else f" (in {agree} of {len(seeds)} seeds)"
        names[found].append(f"{short_name(one.environment)}{doubt}")
    claim = (
        f"fine-tuning needs at most {what} that training from scratch needs for the same error (a factor of at least "
        f"{factor:g})"
    )
    if not names["fails"] and not names["unknown"]:
        on = "each of the" if len(compared) > 1 else "the"
        return (
            f"{claim[0].upper()}{claim[1:]} on {on} {len(compared)} environment{'s' * (len(compared) > 1)}: "
            f"{listed(names['holds'])}."
        )
    if not names["fails"] and not names["holds"]:
        return f"Whether {claim} cannot be said: what was tried leaves it open."
    parts = [f"on {listed(names[one])} {text}" for one, text in _ENDS.items() if names[one]]
    if names["fails"]:
        return f"That {claim} does not hold: {', '.join(parts)}."
    return f"Whether {claim} cannot be said of all environments: {', '.join(parts)}."


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
    lasts = [each.last for each in one.seed_factors]
    yield (
        f"{name}: from scratch on {size:,} transitions the model errs by {number(last.target)} after {steps:,} steps"
        f"{_reached(last, size, steps)}. {_needs(last, lasts, size, steps)}"
    )
    if best.target < last.target and (best.data_verdict, best.steps_verdict) != (
        last.data_verdict,
        last.steps_verdict,
    ):
        needs = _needs(best, [each.best for each in one.seed_factors], size, steps)
        yield (
            f"{name}: against the least error from scratch, {number(best.target)} after {best.step:,} steps"
            f"{_reached(best, size, best.step)}, "
            f"{needs[0].lower()}{needs[1:]}"
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


def _needs(savings: Savings, by_seed: Sequence[Savings], size: int, steps: int) -> str:
    """Two sentences: the data and the steps that fine-tuning needs for a target; and how seeds differ in that."""
    data = _data_sentence(savings.data, [each.data for each in by_seed], size, steps)
    largest = savings.largest
    by_steps = [each.largest for each in by_seed]
    if largest is None:
        parts = [
            f"On {size:,} transitions it does not come down to that at any step that was measured{_some(by_steps)}"
        ]
    else:
        parts = [f"On {size:,} transitions it is there {_after(largest, by_steps)}"]
    smallest = savings.smallest
    other = None if smallest is None or smallest == size else savings.steps[smallest]
    if other is not None and smallest is not None:
        parts.append(f"on {smallest:,} {_after(other, [each.steps[smallest] for each in by_seed])}")
    return f"{data} {'; '.join(parts)}."


def _data_sentence(need: Need | None, by_seed: Sequence[Need | None], size: int, steps: int) -> str:
    if need is None:
        return (
            f"Fine-tuned it has no such error after {steps:,} steps with any amount of data that was tried"
            f"{_some(by_seed)}."
        )
    factor = f"data factor {_factor(need)}{_range(need, by_seed)}"
    if need.amount == size and need.below is not None:
        return f"Fine-tuned it needs all {size:,} transitions for that ({factor})."
    least = "the least that was tried, " if need.below is None else ""
    return f"Fine-tuned it has at most that error with {need.amount:,} transitions ({least}{factor})."


def _after(need: Need, by_seed: Sequence[Need | None]) -> str:
    if need.factor is None:
        return "without a step"
    about = (
        "" if math.isclose(need.about, need.amount) else f"; by interpolation about {need.about:,.0f} steps"
    )
    return f"after {need.amount:,} steps (step factor {_factor(need)}{_range(need, by_seed)}{about})"


def _range(need: Need, by_seed: Sequence[Need | None]) -> str:
    """The least and the greatest factor of the seeds, each against its own error from scratch."""
    if len(by_seed) < 2:
        return ""
    reached = sorted((each for each in by_seed if each is not None), key=_size)
    ends = [_factor(reached[place]) for place in (0, -1)] if reached else []
    if len(reached) == len(by_seed):
        if {*ends} == {_factor(need)}:
            return " by every seed"
        return f"; {ends[0]} by every seed" if ends[0] == ends[1] else f"; {ends[0]} to {ends[1]} by seed"
    text = f"; {len(by_seed) - len(reached)} of {len(by_seed)} seeds never there"
    if not ends:
        return text
    return (
        f"{text}, the others {ends[0]}"
        if ends[0] == ends[1]
        else f"{text}, the others {ends[0]} to {ends[1]}"
    )


def _size(need: Need) -> float:
    return math.inf if need.factor is None else need.factor


def _factor(need: Need) -> str:
    return "infinite" if need.factor is None else f"{need.factor:.3g}"


def _some(needs: Sequence[Need | None]) -> str:
    """How many seeds have what their mean has not."""
    count = sum(need is not None for need in needs)
    return f" ({count} of {len(needs)} seeds have, against their own error from scratch)" if count else ""


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
    yield from _amounts(results)
    ran = list(dict.fromkeys(_said(origin) for origin in results.origins))
    if len(ran) > 1:
        yield (
            f"The trials did not all run alike ({'; '.join(ran)}), so that some of their differences may be rounding "
            "that training made grow."
        )
    yield (
        f"Errors are mean absolute one-step errors in standard deviations of each variate, over "
        f"{plan.settings.test_windows:,} test windows; means of {plan.seeds} seed{'s' * (plan.seeds > 1)}, intervals "
        "from the least to the greatest seed. The learning rate of each side, environment and amount of data is the "
        f"best of {listed([f'{rate:g}' for rate in plan.learning_rates])} by the loss on the first seed's own "
        "held-out episodes."
    )


def _amounts(results: Results) -> Iterable[str]:
    """What the amounts of data really were, and how far seeds are of different data."""
    curves = [curve for one in results.environments for side in SIDES for curve in one.of_side(side)]
    parts = [
        curve.mean_transitions / curve.transitions for curve in curves if curve.mean_transitions is not None
    ]
    if parts:
        yield (
            f"Amounts of data are limits: the runs had {_per_cent(parts)} of them, in whole episodes, a tenth of these "
            "held out."
        )
    shared = [one.shared for one in results.environments if one.shared is not None]
    if shared:
        size = results.plan.sizes[-1]
        yield (
            f"Two seeds on {size:,} transitions have {_per_cent(shared)} of them in common, being drawn from "
            f"{results.plan.pool / size:.3g} times as many: their spread is less than that of fresh data."
        )


def _per_cent(parts: Sequence[float]) -> str:
    low, high = (f"{100 * end:.0f}" for end in (min(parts), max(parts)))
    return f"{low} %" if low == high else f"{low} to {high} %"


def _said(origin: Origin) -> str:
    packages = ", ".join(f"{name} {text}" for name, text in origin.versions.items())
    return f"{origin.backend or 'unknown'}: {packages}" if packages else origin.backend or "unknown"


def _names(environments: Iterable[EnvironmentResults]) -> str:
    return listed([short_name(one.environment) for one in environments])
