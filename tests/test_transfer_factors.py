"""Where curves come down to a target, and the factors that follow, against numbers worked out by hand."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trajworld.transfer.crossing import first_reaching, interpolated
from trajworld.transfer.factors import Need, Savings, factors

STEPS = (0, 50, 200, 1000, 2000)
positive = st.floats(1e-6, 1e6)


def test_first_place_that_reaches_a_target() -> None:
    assert first_reaching([0.9, 0.5, 0.6, 0.2], 0.5) == 1
    assert first_reaching([0.9, 0.5], 0.4) is None
    assert first_reaching([], 1.0) is None


def test_interpolation_is_exact_on_a_power_law() -> None:
    places = [10, 40, 160]
    errors = [3 * place**-0.5 for place in places]
    for place in (10.0, 17.0, 40.0, 100.0, 160.0):
        assert interpolated(places, errors, 3 * place**-0.5 * (1 + 1e-12)) == pytest.approx(place)
    # From 0 on the place itself takes the part of its logarithm.
    assert interpolated([0, 8], [1.0, 0.25], 0.5) == pytest.approx(4.0)
    assert interpolated([0, 8], [1.0, 0.25], 1.0) == 0.0
    assert interpolated([0, 8], [1.0, 0.25], 0.2) is None


@given(
    st.lists(st.integers(0, 10**6), min_size=1, max_size=8, unique=True).map(sorted),
    st.data(),
)
def test_interpolation_lies_between_its_neighbours(places: list[int], data: st.DataObject) -> None:
    errors = data.draw(st.lists(positive, min_size=len(places), max_size=len(places)))
    target = data.draw(positive)
    index, found = first_reaching(errors, target), interpolated(places, errors, target)
    if index is None:
        assert found is None
        return
    assert found is not None
    assert places[max(index - 1, 0)] <= found <= places[index]
    # A harder target is never reached earlier.
    harder = interpolated(places, errors, target * 0.9)
    assert harder is None or harder >= found - 1e-9 * abs(found)
    # The unit of the errors does not matter.
    again = interpolated(places, [7 * error for error in errors], 7 * target)
    assert again == pytest.approx(found, rel=1e-6, abs=1e-6 * places[-1]) or math.isclose(
        min(abs(7 * error - 7 * target) for error in errors), 0, abs_tol=1e-9 * target
    )


def test_factors_by_hand() -> None:
    scratch = {4000: [2.0, 1.0, 0.5, 0.3, 0.25], 16000: [2.0, 1.0, 0.5, 0.15, 0.2]}
    tuned = {4000: [0.6, 0.4, 0.2, 0.18, 0.19], 16000: [0.6, 0.3, 0.12, 0.11, 0.10]}
    found = factors(STEPS, scratch, tuned)
    last, best = found.last, found.best
    # From scratch on 16,000 transitions: 0.2 after 2000 steps, 0.15 at best, after 1000; at most 0.2 since 1000.
    assert (last.target, last.step, last.amount) == (0.2, 1000, 16000)
    # After the last step no amount of data gives 0.15 any more.
    assert (best.target, best.step, best.amount) == (0.15, 1000, 16000)
    assert last.data is not None
    assert (last.data.amount, last.data.factor) == (4000, 4.0)
    assert last.data_verdict == "holds"
    assert best.data is not None
    assert (best.data.amount, best.data.factor) == (16000, 1.0)
    assert best.data_verdict == "fails"
    # 0.19 at 4000 and 0.10 at 16000: 0.15 lies at 4000 * 4 ** (log(0.19 / 0.15) / log(0.19 / 0.1)).
    assert best.data.about == pytest.approx(4000 * 4 ** (math.log(19 / 15) / math.log(1.9)))
    # On 16,000 transitions 0.2 is first reached at 200 steps: a fifth of 1000. At 50 it is not, and 100 was not tried.
    assert last.largest is not None
    assert (last.largest.amount, last.largest.factor) == (200, 5.0)
    assert last.steps_verdict == "unknown"
    assert last.largest.about == pytest.approx(50 * 4 ** (math.log(0.3 / 0.2) / math.log(0.3 / 0.12)))
    need = last.steps[4000]
    assert need is not None
    assert (need.amount, need.factor) == (200, 5.0)
    assert need.about == pytest.approx(200)
    assert last.smallest == 4000
    assert best.largest is not None
    assert (best.largest.amount, best.largest.factor) == (200, 5.0)
    assert best.steps_verdict == "unknown"
    assert best.steps[4000] is None
    assert best.smallest == 16000


def test_scratch_is_credited_where_it_first_reaches_its_own_error() -> None:
    """A flat curve from scratch: it has its last error long before, and with less data."""
    steps = (0, 50, 100, 200, 1000)
    scratch = {16_000: [1.0, 0.6, 0.5, 0.41, 0.395], 64_000: [1.0, 0.5, 0.40, 0.395, 0.40]}
    tuned = {16_000: [0.9, 0.6, 0.3, 0.3, 0.3], 64_000: [0.9, 0.5, 0.30, 0.2, 0.2]}
    found = factors(steps, scratch, tuned)
    assert (found.last.target, found.last.step, found.last.amount) == (0.40, 100, 16_000)
    assert found.last.data is not None
    assert (found.last.data.amount, found.last.data.factor) == (16_000, 1.0)
    assert found.last.largest is not None
    assert (found.last.largest.amount, found.last.largest.factor) == (100, 1.0)
    assert found.last.data_verdict == "unknown"
    assert found.last.steps_verdict == "fails"
    # Its least error, 0.395, it has after 200 steps, and with 16,000 transitions after the last.
    assert (found.best.target, found.best.step, found.best.amount) == (0.395, 200, 16_000)
    assert found.best.largest is not None
    assert found.best.largest.factor == 2.0


@pytest.mark.parametrize(
    ("need", "other", "verdict"),
    [
        (None, 100, "fails"),
        (Need(10, 9.0, 10.0, 5), 100, "holds"),
        (Need(5, 5.0, 20.0, None), 100, "holds"),
        (Need(0, 0.0, None, None), 100, "holds"),
        # 10 of 100 missed it, or more than that did.
        (Need(20, 15.0, 5.0, 10), 100, "fails"),
        (Need(100, 99.0, 1.0, 50), 100, "fails"),
        # 5 missed it and 20 did not: 10 was not tried.
        (Need(20, 15.0, 5.0, 5), 100, "unknown"),
        (Need(20, 15.0, 5.0, 0), 100, "unknown"),
        (Need(50, 50.0, 2.0, None), 100, "unknown"),
        (Need(0, 0.0, 1.0, None), 0, "unknown"),
    ],
)
def test_verdicts(need: Need | None, other: int, verdict: str) -> None:
    assert Savings(0.1, other, 1000, None, {1000: need}).steps_verdict == verdict
    # A quarter of the data is judged alike.
    assert Savings(0.1, 1, 4000, Need(2000, 1500.0, 2.0, 1000), {1000: None}).data_verdict == "fails"
    assert Savings(0.1, 1, 4000, Need(2000, 1500.0, 2.0, 500), {1000: None}).data_verdict == "unknown"


def test_fine_tuning_may_need_more() -> None:
    scratch = {100: [1.0, 0.5, 0.3], 400: [1.0, 0.3, 0.3]}
    found = factors((0, 10, 100), scratch, {100: [0.9, 0.8, 0.5], 400: [0.9, 0.8, 0.3]})
    assert found.last.data is not None
    assert (found.last.amount, found.last.data.amount, found.last.data.factor) == (100, 400, 0.25)
    assert found.last.largest is not None
    assert (found.last.step, found.last.largest.amount, found.last.largest.factor) == (10, 100, 0.1)


def test_an_error_that_scratch_loses_again_counts_where_it_had_it() -> None:
    scratch = {100: [1.0, 0.2, 0.5], 400: [1.0, 0.2, 0.4]}
    found = factors((0, 10, 100), scratch, {100: [0.9, 0.2, 0.1], 400: [0.9, 0.2, 0.1]})
    assert (found.last.step, found.last.amount) == (10, 400)
    assert (found.best.target, found.best.step, found.best.amount) == (0.2, 10, 100)


@given(st.data())
def test_the_same_curves_on_both_sides_save_nothing(data: st.DataObject) -> None:
    curve = st.lists(st.floats(0.01, 10), min_size=4, max_size=4)
    curves = {size: data.draw(curve) for size in (100, 400, 1600)}
    last = factors((0, 10, 100, 1000), curves, curves).last
    assert last.data is not None
    assert last.data.factor == 1
    assert last.largest is not None
    assert last.largest.factor == 1


def test_a_target_that_is_never_reached() -> None:
    found = factors(STEPS, {100: [1.0, 0.5, 0.2, 0.1, 0.05]}, {100: [1.0, 0.5, 0.4, 0.3, 0.2]})
    assert found.last.data is None
    assert found.last.largest is None
    assert found.last.smallest is None
    assert found.last.data_verdict == "fails"
    assert found.last.steps_verdict == "fails"


def test_a_target_that_is_reached_without_a_step() -> None:
    found = factors((0, 10), {100: [1.0, 0.6], 400: [1.0, 0.5]}, {100: [0.4, 0.3], 400: [0.4, 0.3]})
    assert found.last.largest is not None
    assert (found.last.largest.amount, found.last.largest.factor) == (0, None)
    assert found.last.steps_verdict == "holds"
    assert found.last.data_verdict == "holds"


def test_data_counts_after_the_last_step_and_steps_at_any() -> None:
    # With 100 transitions the target is reached on the way and lost again.
    found = factors(
        (0, 10, 100),
        {400: [1.0, 0.9, 0.5], 100: [1.0, 0.9, 0.6]},
        {100: [0.9, 0.4, 0.6], 400: [0.9, 0.6, 0.3]},
    )
    assert found.last.data is not None
    assert found.last.data.amount == 400
    assert found.last.smallest == 100
