"""What a zero-shot study's numbers say, in plain sentences, good news and bad."""

from collections.abc import Iterator

from trajworld.text import listed, number, short_name
from trajworld.zero_shot.bootstrap import FEWEST, Ratio
from trajworld.zero_shot.results import BASELINES, Group, Results, group_of
from trajworld.zero_shot.study import COPY, MINIMUM_NORM, MODEL, RIDGE

_CALLED = {
    COPY: "copying the last row",
    MINIMUM_NORM: "least squares of minimum norm",
    RIDGE: "the ridge",
}
_NAMED = 4
# Times as many unknowns as transitions, or as few: within it they are about as many.
_NEAR = 1.5
_VERDICTS = {-1: "better than", 0: "not distinguishable from", 1: "worse than"}


def findings(results: Results) -> list[str]:
    """What was found, in sentences: one on each family, then what must be known to read them.

    Where it is not known what the model saw, that comes first.

    A difference is one where the 95 % interval of the ratio of two errors does not hold 1, from ten test episodes or
    more.
    """
    return [
        *_training(results),
        *(_on_family(group) for group in results.family_groups),
        *_exceptions(results),
        *_least_squares(results),
        *_resolution(results),
        *_caveats(results),
    ]


def _training(results: Results) -> Iterator[str]:
    if not results.model.training_known:
        yield (
            "What this model saw is not known: its file does not tell all environments that it, or a model that it was "
            "started from, was trained on. So it is not certain that these were unseen."
        )


def _on_family(group: Group) -> str:
    name, count = group.name, ""
    if len(group.members) > 1:
        name, count = f"{name[0].upper()}{name[1:]}", f" ({len(group.members)} environments)"
    error = number(group.errors.of(MODEL, group.longest))
    text = f"{name}{count}: with {_rows(group.longest)} the model errs by {error}"
    if not group.errors.enough:
        return f"{text}, {listed([_beside(group, baseline) for baseline in BASELINES])}: {_too_few(group)}."
    signs = {baseline: group.against(baseline).sign for baseline in BASELINES}
    parts = [
        f"{_VERDICTS[sign]} {listed([_against(group, baseline) for baseline in BASELINES if signs[baseline] == sign])}"
        for sign in (-1, 0, 1)
        if sign in signs.values()
    ]
    return f"{text}, {listed(parts)}.{_improvement(group)}"


def _too_few(group: Group) -> str:
    where = " in one of them" if len(group.members) > 1 else ""
    return f"too few test episodes to tell ({group.errors.episodes}{where})"


def _beside(group: Group, baseline: str) -> str:
    return f"{_CALLED[baseline]} by {number(group.errors.of(baseline, group.longest))}"


def _against(group: Group, baseline: str) -> str:
    error = number(group.errors.of(baseline, group.longest))
    return f"{_CALLED[baseline]} ({error}; ratio {_ratio(group.against(baseline))})"


def _improvement(group: Group) -> str:
    if group.shortest == group.longest:
        return ""
    ratio, best = group.improvement, group.best_context(MODEL)
    found = {-1: "It improves with context", 0: "No difference by context could be told"}
    first = number(group.errors.of(MODEL, group.shortest))
    text = (
        f" {found.get(ratio.sign, 'It gets worse with context')}: with {_rows(group.shortest)} it errs by {first} "
        f"(ratio {_ratio(ratio)})"
    )
    if best not in (group.shortest, group.longest):
        text += f"; its mean error is least with {best}, {number(group.errors.of(MODEL, best))}"
    return f"{text}."


def _exceptions(results: Results) -> Iterator[str]:
    """The environments in which the model is no use, or not the best use, of the context."""
    told = [group for group in map(group_of, results.measured) if group.errors.enough]
    for baseline in (COPY, RIDGE):
        worse = [group for group in told if group.against(baseline).sign > 0]
        if not worse or len(results.measured) == 1:
            continue
        worse.sort(key=lambda group: group.against(baseline).value, reverse=True)
        named = [f"{group.name} ({number(group.against(baseline).value)})" for group in worse[:_NAMED]]
        most = ", most on " if len(worse) > len(named) else ": "
        yield (
            f"The model is worse than {_CALLED[baseline]} in {len(worse)} of {len(told)} environments"
            f"{most}{listed(named)} (ratios of the errors)."
        )


def _least_squares(results: Results) -> Iterator[str]:
    """How good the linear baselines are, and where."""
    groups = results.family_groups
    failing = [
        group
        for group in groups
        if group.errors.ratio((MINIMUM_NORM, group.longest), (COPY, group.longest)).sign > 0
    ]
    if failing:
        names = listed(
            [f"{_ratio_of(group)} times copying's error on {group.name}{_why(group)}" for group in failing]
        )
        yield (
            f"Least squares of minimum norm makes {names}. The ridge, whose penalties were chosen on other episodes of "
            "the same environment, is the baseline to beat."
        )
    early = [
        group
        for group in groups
        if group.errors.ratio((RIDGE, group.longest), (RIDGE, group.best_context(RIDGE))).sign > 0
    ]
    if early:
        names = listed(
            [
                f"{number(group.errors.of(RIDGE, group.best_context(RIDGE)))} with {group.best_context(RIDGE)} rows on "
                f"{group.name}"
                for group in early
            ]
        )
        yield (
            f"The ridge does best with less than the whole context: {names}; dynamics may be linear only nearby."
        )


def _why(group: Group) -> str:
    """Why minimum norm fails, where it is known: its error peaks at as many transitions as unknowns."""
    transitions = group.longest - 1
    unknowns = [member.trial.dataset.num_variates + 1 for member in group.members]
    near = all(transitions / _NEAR <= count <= transitions * _NEAR for count in unknowns)
    return " (about as many unknowns as transitions)" if near and unknowns else ""


def _resolution(results: Results) -> Iterator[str]:
    """Where the model's bins are too wide for the comparison."""
    for each in results.measured:
        group = group_of(each)
        best = min(group.errors.of(baseline, group.longest) for baseline in BASELINES)
        if each.bin_error >= 0.5 * best:
            yield (
                f"On {group.name} the best baseline errs by {number(best)}, and a model that knew the "
                f"right bin, and no more, would err by {number(each.bin_error)}: bins are too wide to tell much there."
            )


def _caveats(results: Results) -> Iterator[str]:
    groups = [group_of(each) for each in results.measured]
    fewest = min(group.errors.episodes for group in groups)
    yield (
        "Errors are mean absolute errors in standard deviations of each variate. Intervals are 95 %, over test "
        f"episodes ({fewest} or more an environment), for these very environments and this one model."
    )
    if few := [f"{group.name} ({group.errors.episodes})" for group in groups if not group.errors.enough]:
        yield (
            f"Fewer than {FEWEST} episodes were tested in {listed(few)}: too few for an interval to be trusted, so no "
            "verdict is given there, nor on a mean that they are part of. Collect more, or longer ones."
        )
    if results.settings.get("short_contexts") == "padded" and len(results.measured[0].errors.contexts) > 1:
        yield (
            "Short contexts are padded, which a model knows from the starts of episodes alone: part of what more "
            "context gains is gained by less padding. With --unpadded it is given the same rows without."
        )
    outside = max(results.measured, key=lambda each: each.trial.outside)
    if outside.trial.outside >= 0.01:
        yield (
            f"In {short_name(outside.trial.dataset.environment)} {outside.trial.outside:.1%} of the tested values lie "
            "outside the ranges, which come from other episodes, and are clipped for all but copying."
        )


def _ratio_of(group: Group) -> str:
    return number(group.errors.ratio((MINIMUM_NORM, group.longest), (COPY, group.longest)).value)


def _ratio(ratio: Ratio) -> str:
    return f"{number(ratio.value)}, {number(ratio.low)} to {number(ratio.high)}"


def _rows(count: int) -> str:
    return f"{count} row" + "s" * (count > 1)
