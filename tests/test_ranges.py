"""Supports and identities: plain NumPy, exact through a file's configuration."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trajworld.errors import TrajWorldError
from trajworld.models.identity import Identity, action_mask
from trajworld.models.ranges import (
    Support,
    pretraining_support,
    training_support,
)

FLOATS = st.floats(-(2.0**100), 2.0**100, width=32, allow_subnormal=False)
ENDS = st.lists(
    st.tuples(FLOATS, FLOATS).map(sorted),
    min_size=1,
    max_size=5,
)


def test_the_training_range_is_widened_by_1e_5() -> None:
    support = training_support([-1.0, 0.0], [2.0, 0.5])
    np.testing.assert_allclose(support.lower, [-1.00001, -1e-5], rtol=1e-6)
    np.testing.assert_allclose(support.upper, [2.00001, 0.50001], rtol=1e-6)


@settings(max_examples=100, deadline=None)
@given(ENDS)
def test_every_range_is_valid_and_holds_its_values(ends: list[list[float]]) -> None:
    low, high = (np.array(column, np.float32) for column in zip(*ends, strict=True))
    for support in (training_support(low, high), pretraining_support(low, high)):
        assert np.all(support.lower < support.upper)
        assert np.all((support.lower <= low) & (high <= support.upper))
    widened = training_support(low, high)
    assert np.all((widened.lower < low) & (high < widened.upper))


def test_a_constant_variate_gets_a_tiny_range() -> None:
    for value in (0.0, 1.0, -5e8):
        support = training_support([value], [value])
        assert support.lower < np.float32(value) < support.upper
        assert support.upper - support.lower <= max(3e-5, abs(value) * 1e-6)


def test_pre_training_keeps_the_range_itself_but_of_a_constant() -> None:
    support = pretraining_support([0.0, 3.0], [2.0, 3.0])
    assert (support.lower[0], support.upper[0]) == (0.0, 2.0)
    assert support.lower[1] < 3.0 < support.upper[1]


def test_wrong_ends_are_refused() -> None:
    for lower, upper in (
        ([0.0], [0.0]),
        ([1.0], [0.0]),
        ([np.nan], [1.0]),
        ([0.0], [np.inf]),
        ([0.0, 1.0], [1.0]),
        ([[0.0]], [[1.0]]),
    ):
        with pytest.raises(TrajWorldError, match=r"^a support's ends "):
            Support(np.array(lower, np.float32), np.array(upper, np.float32))


@settings(max_examples=50, deadline=None)
@given(ENDS)
def test_a_support_survives_json_exactly(ends: list[list[float]]) -> None:
    low, high = zip(*ends, strict=True)
    support = training_support(low, high)
    again = Support.from_config(json.loads(json.dumps(support.to_config())))
    np.testing.assert_array_equal(again.lower, support.lower)
    np.testing.assert_array_equal(again.upper, support.upper)


def test_an_identity_survives_json() -> None:
    support = training_support([0.0, 1.0, 2.0], [1.0, 2.0, 3.0])
    identity = Identity(support, "gymnasium/Toy-v0", 1, 1, {}, {"steps": 3, "rates": [1e-4], "versions": {}})
    again = Identity.from_config(json.loads(json.dumps(identity.to_config())))
    assert again.to_config() == identity.to_config()
    shared = Identity(sources={"a": support})
    again = Identity.from_config(json.loads(json.dumps(shared.to_config())))
    np.testing.assert_array_equal(again.sources["a"].upper, support.upper)


def test_which_range_serves_which_data() -> None:
    own = training_support([0.0, 1.0, 2.0], [1.0, 2.0, 3.0])
    tuned = Identity(own, environment="gymnasium/Toy-v0")
    assert tuned.support_for("elsewhere", 3) is own
    with pytest.raises(
        TrajWorldError, match=r"^the model of gymnasium/Toy-v0 predicts 3 variates, but .* have 5"
    ):
        tuned.support_for("elsewhere", 5)
    pretrained = Identity(sources={"seen": own})
    assert pretrained.support_for("seen", 3) is own
    assert pretrained.support_for("unseen", 3) is None
    with pytest.raises(TrajWorldError, match="predicts 3 variates"):
        pretrained.support_for("seen", 4)


@pytest.mark.parametrize(("observations", "actions", "padded"), [(3, 2, None), (1, 0, 4), (2, 1, 8)])
def test_action_mask(observations: int, actions: int, padded: int | None) -> None:
    mask = action_mask(observations, actions, padded)
    count = observations + 1 + actions
    assert mask.dtype == np.int32
    assert mask.shape == (padded or count,)
    expected = [int(observations + 1 <= index < count) for index in range(padded or count)]
    assert mask.tolist() == expected
