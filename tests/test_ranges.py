"""Supports and identities, exact through a file's configuration; which range a pre-trained model reads data over."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from training_fixtures import config_for, store

from trajworld.data.dataset import Dataset
from trajworld.data.resolve import open_dataset
from trajworld.data.statistics import value_range
from trajworld.errors import TrajWorldError, UsageError
from trajworld.evaluation.ranges import named_ranges, support_for
from trajworld.models.files import load_model
from trajworld.models.identity import DatasetRange, Identity, action_mask
from trajworld.models.outside import share_outside
from trajworld.models.ranges import Support, pretraining_support, training_support
from trajworld.training.loop import train
from trajworld.training.run import start_run

pytestmark = pytest.mark.once

FLOATS = st.floats(-(2.0**100), 2.0**100, width=32, allow_subnormal=False)
ENDS = st.lists(st.tuples(FLOATS, FLOATS).map(sorted), min_size=1, max_size=5)


@settings(max_examples=100)
@given(ENDS)
def test_every_range_is_valid_holds_its_values_and_survives_json(ends: list[list[float]]) -> None:
    low, high = (np.array(column, np.float32) for column in zip(*ends, strict=True))
    for support in (training_support(low, high), pretraining_support(low, high)):
        assert np.all(support.lower < support.upper)
        assert np.all((support.lower <= low) & (high <= support.upper))
        again = Support.from_config(json.loads(json.dumps(support.to_config())))
        np.testing.assert_array_equal([again.lower, again.upper], [support.lower, support.upper])
    widened = training_support(low, high)
    assert np.all((widened.lower < low) & (high < widened.upper))


def test_the_training_range_is_widened_by_1e_5_and_that_of_pre_training_only_where_it_is_constant() -> None:
    support = training_support([-1.0, 0.0], [2.0, 0.5])
    np.testing.assert_allclose(support.lower, [-1.00001, -1e-5], rtol=1e-6)
    np.testing.assert_allclose(support.upper, [2.00001, 0.50001], rtol=1e-6)
    for value in (0.0, 1.0, -5e8):
        support = training_support([value], [value])
        assert support.upper - support.lower <= max(3e-5, abs(value) * 1e-6)
    support = pretraining_support([0.0, 3.0], [2.0, 3.0])
    assert (support.lower[0], support.upper[0]) == (0.0, 2.0)
    assert support.lower[1] < 3.0 < support.upper[1]


@pytest.mark.parametrize(("observations", "actions"), [(3, 2), (1, 0), (2, 1)])
def test_action_mask(observations: int, actions: int) -> None:
    mask = action_mask(observations, actions)
    assert mask.dtype == np.int32
    assert mask.tolist() == [0] * (observations + 1) + [1] * actions


def source(dataset: str, environment: str, content: str, top: float, variates: int = 6) -> DatasetRange:
    return DatasetRange(
        dataset, environment, content, training_support(np.zeros(variates), np.full(variates, top))
    )


HOPPER = "gymnasium/Hopper-v5"
SOURCES = (
    source("hopper_random", HOPPER, "digest-1", 1),
    source("hopper_expert", HOPPER, "digest-2", 2),
    source("medium", "gymnasium/Ant-v5", "digest-3", 3),
    source("medium", "gymnasium/Ant-v5", "digest-4", 4, variates=9),
    source("own-1", "", "digest-5", 5),
    source("robot/old", "robot/old", "", 6),
)
IDENTITY = Identity(sources=SOURCES, history={"steps": 3, "rates": [1e-4], "versions": {}})


@pytest.fixture
def data(memory_dataset: Callable[..., Dataset]) -> Callable[..., Dataset]:
    """A function that makes a dataset of 6 variates, or 9, of a name, environment and content."""

    def make(name: str, environment: str, content: str = "another", variates: int = 6) -> Dataset:
        made = memory_dataset([9], observations=variates - 3, actions=2)
        return dataclasses.replace(made, name=name, environment=environment, content=content)

    return make


@pytest.mark.parametrize(
    ("of", "chosen", "expected"),
    [
        (("x", "y", "digest-2"), None, 2),  # The same rows, whatever they are called.
        (("medium", "gymnasium/Ant-v5"), None, 3),  # The only one of this environment and M.
        (("medium", "gymnasium/Ant-v5", "digest-4", 9), None, 4),
        (("own-1", ""), None, 5),  # No environment: by name.
        (("medium", "robot/old"), None, 6),
        (("own-1", "robot/new"), None, None),  # Never seen.
        (("hopper_medium", HOPPER), "hopper_expert", 2),
        (("x", "robot/new"), "medium", 3),
        (("x", "robot/new"), ("y", "", "digest-1"), 1),
        (("x", HOPPER), ("y", "", "digest-4", 9), None),
        (("hopper_medium", HOPPER), ("y", HOPPER, "not-seen"), None),
        (("hopper_random", HOPPER, "digest-1"), "hopper_expert", 1),
        # Where several fit, or none, one is to be named.
        (("hopper_medium", HOPPER), None, "2 datasets of .*--ranges hopper_random or hopper_expert"),
        (("hopper_medium", HOPPER, "another", 9), None, "0 datasets of .* with 9 variates"),
        (("hopper_medium", HOPPER), "nothing", "none of the model's datasets are called nothing"),
        (("hopper_medium", HOPPER, "another", 9), "hopper_expert", "have the 9 variates of hopper_medium"),
    ],
)
def test_which_range_reads_which_data(
    data: Callable[..., Dataset], of: Any, chosen: Any, expected: float | str | None
) -> None:
    again = Identity.from_config(json.loads(json.dumps(IDENTITY.to_config())))
    assert again.to_config() == IDENTITY.to_config()
    given = data(*of), data(*chosen) if isinstance(chosen, tuple) else chosen
    if isinstance(expected, str):
        with pytest.raises(TrajWorldError, match=expected):
            again.source_for(*given)
        return
    found = again.source_for(*given)
    assert (found and round(float(found.support.upper[0]))) == expected
    assert found is None or found.variates == (of[3] if len(of) > 3 else 6)


def test_a_range_is_named_by_one_of_the_models_own_datasets_or_by_data(
    data: Callable[..., Dataset], tmp_path: Path
) -> None:
    models: Any = [SimpleNamespace(identity=one) for one in (Identity(), IDENTITY)]
    given, path = data("x", HOPPER), store(tmp_path / "data")
    for ranges in (None, "hopper_expert", given):
        assert named_ranges(ranges, models) is ranges
    opened = named_ranges(path, models)
    assert isinstance(opened, Dataset)
    assert opened.path == Path(path)
    with pytest.raises(UsageError, match="hopper_expert"):
        named_ranges("hopper_expert", models[:1])


def test_the_share_outside_one_of_several_ranges(data: Callable[..., Dataset]) -> None:
    given = data("hopper_medium", HOPPER)
    with pytest.raises(TrajWorldError, match="hopper_random or hopper_expert"):
        share_outside(IDENTITY, given)
    for name in ("hopper_random", "hopper_expert"):
        assert share_outside(IDENTITY, given, name)["range"] == name


def test_files_of_earlier_versions_have_a_range_for_each_environment(data: Callable[..., Dataset]) -> None:
    config = IDENTITY.to_config()
    config["sources"] = {
        name: source("", "", "", top).support.to_config() for name, top in ((HOPPER, 7), ("m", 8))
    }
    old = Identity.from_config(config)
    found = [old.source_for(data("hopper_medium", HOPPER)), old.source_for(data("m", ""))]
    assert [round(float(one.support.upper[0])) for one in found if one] == [7, 8]
    assert "a union" in found[0].origin  # type: ignore[union-attr]
    assert old.source_for(data("x", "")) is None
    assert Identity.from_config(old.to_config()).to_config() == old.to_config()


@pytest.mark.usefixtures("plain_steps")
def test_two_pre_training_datasets_of_one_environment_keep_their_own_ranges(tmp_path: Path) -> None:
    """Of equal names too, and of scales so different that the range of both would hold one in a few bins."""
    specs = [store(tmp_path / folder / "medium", scale=scale) for folder, scale in (("a", 1.0), ("b", 100.0))]
    train(start_run(tmp_path / "run", config_for("pretrain", specs, holdout_fraction=0.0)))
    model = load_model(tmp_path / "run" / "last.keras")
    for spec in specs:
        dataset = open_dataset(spec)
        found = support_for(model, dataset)
        assert found.origin == "the model's own, of medium"
        expected = pretraining_support(*value_range(dataset))
        np.testing.assert_array_equal(found.support.lower, expected.lower)
        np.testing.assert_array_equal(found.support.upper, expected.upper)
    third = open_dataset(store(tmp_path / "c" / "medium", seed=2))
    with pytest.raises(TrajWorldError, match="2 datasets of test/medium"):
        support_for(model, third)
    assert support_for(model, third, open_dataset(specs[1])).support.upper[0] > 50
