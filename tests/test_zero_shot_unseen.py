"""What counts as unseen: by the names that a model's file records, of its own data and of those it was started from."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from trajworld.collect.corpus import member_id
from trajworld.collect.corpus_table import PRETRAIN, UNSEEN, read_table
from trajworld.errors import TrajWorldError
from trajworld.models.identity import Identity
from trajworld.models.ranges import UNIT_SUPPORT, training_support
from trajworld.zero_shot.unseen import check_unseen, training_of

HOPPER = "gymnasium/Hopper-v5"
WARM = "gymnasium/Pendulum-v1?g=7.0"


def trained_on(*environments: str, history: Mapping[str, Any] | None = None) -> Identity:
    return Identity(sources=dict.fromkeys(environments, UNIT_SUPPORT), history=history or {})


def started_from(*histories: Mapping[str, Any]) -> Identity:
    """Pre-trained on a swimmer from a model of the first history, which was started from one of the second, …"""
    history: Mapping[str, Any] | None = None
    for one in reversed(histories):
        history = {**one, **({} if history is None else {"init": {"file": "x", "history": history}})}
    return trained_on("gymnasium/Swimmer-v5", history={"init": {"file": "x.keras", "history": history}})


def test_the_built_in_tables_split_is_one() -> None:
    rows = read_table()
    unseen = [row.environment for row in rows if row.role == UNSEEN]
    trained = [row for row in rows if row.role == PRETRAIN]
    itself = trained_on(*(row.environment for row in trained))
    first = started_from({"datasets": [member_id("corpus", row) for row in trained]})
    for identity in (itself, first):
        check_unseen(identity, unseen)
        assert training_of(identity).known
        for row in trained:
            with pytest.raises(TrajWorldError, match="is not unseen"):
                check_unseen(identity, [row.environment])
    for row in rows:
        if row.role == UNSEEN:
            for identity in (
                trained_on(row.environment),
                started_from({"datasets": [member_id("corpus", row)]}),
            ):
                with pytest.raises(TrajWorldError, match="is not unseen: leave it out by --only"):
                    check_unseen(identity, unseen)


@pytest.mark.parametrize(
    ("saw", "environment", "unseen"),
    [
        ("gymnasium/Hopper-v5?gravity=5.0", HOPPER, False),
        ("gymnasium/Hopper-v4", HOPPER, False),
        ("Hopper-v5", HOPPER, False),
        ("gymnasium/Walker2d-v5", HOPPER, True),
        ("gymnasium/Pendulum-v1?g=6.0", WARM, True),
        ("gymnasium/Pendulum-v1", WARM, True),
        ("gymnasium/Pendulum-v1?l=1.5&g=7", "gymnasium/Pendulum-v1?g=7.0&l=1.5", False),
        ("gymnasium/Pendulum-v1?g=7", WARM, False),
        ("robot/legged-100", "robot/legged-1000", True),
        ("dm_control/cartpole-two_poles", "dm_control/cartpole-three_poles", True),
        ("dm_control/cartpole-three_poles?mass=3.0", "dm_control/cartpole-three_poles", False),
        ("gymnasium/Hopper-v5?what", HOPPER, False),
    ],
)
def test_which_names_count(saw: str, environment: str, unseen: bool) -> None:
    identity = trained_on("gymnasium/Swimmer-v5", saw)
    if unseen:
        check_unseen(identity, [environment])
    else:
        with pytest.raises(TrajWorldError, match="is not unseen") as caught:
            check_unseen(identity, ["gymnasium/Ant-v5", environment])
        assert f"saw {saw} in pre-training" in str(caught.value)


@pytest.mark.parametrize(
    ("dataset", "environment", "unseen"),
    [
        ("trajworld/gymnasium-hopper-v5/mixed-v0", HOPPER, False),
        ("corpus/pre-train/gymnasium-hopper-v5-gravity-5_0-v0", HOPPER, False),
        ("corpus/pre-train/gymnasium-pendulum-v1-g-6_0-v0", WARM, True),
        ("corpus/pre-train/gymnasium-pendulum-v1-g-7_0-v0", WARM, False),
        ("corpus/pre-train/gymnasium-pendulum-v1-g-7_0-l-1_5-v0", WARM, True),
        ("corpus/pre-train/robot-legged-100-v0", "robot/legged-1000", True),
        ("corpus/pre-train/robot-legged-1000-v0", "robot/legged-1000", False),
    ],
)
def test_models_that_it_was_started_from_count(dataset: str, environment: str, unseen: bool) -> None:
    for identity in (
        started_from({"datasets": ["corpus/pre-train/gymnasium-ant-v5-v0", dataset]}),
        started_from({"datasets": ["corpus/pre-train/gymnasium-ant-v5-v0"]}, {"datasets": [dataset]}),
    ):
        assert training_of(identity).known
        if unseen:
            check_unseen(identity, [environment])
        else:
            with pytest.raises(TrajWorldError, match=f"saw {dataset} in pre-training"):
                check_unseen(identity, [environment])


@pytest.mark.parametrize(
    "identity",
    [
        Identity(history={"imported": "trm_dynamics.pkl"}),
        trained_on("gymnasium/Swimmer-v5", "d4rl/hopper-medium-v2"),
        trained_on("gymnasium/Swimmer-v5", "unitraj/modular_rl/hopper_5-v2"),
        started_from({"imported": "trm_dynamics.pkl"}),
        started_from(
            {"datasets": ["corpus/pre-train/gymnasium-ant-v5-v0"]}, {"imported": "trm_dynamics.pkl"}
        ),
        started_from({"datasets": ["d4rl/hopper-medium-v2"]}),
        started_from({"datasets": "all"}),
        trained_on("gymnasium/Swimmer-v5", history={"init": "best.keras"}),
        trained_on("gymnasium/Swimmer-v5", history={"init": {"file": "best.keras", "history": None}}),
    ],
)
def test_what_is_not_known_is_not_refused_but_told(identity: Identity) -> None:
    assert not training_of(identity).known
    check_unseen(identity, [HOPPER, WARM])


def test_a_model_of_one_environment_is_refused() -> None:
    with pytest.raises(TrajWorldError, match=r"trained on gymnasium/Hopper-v5 alone"):
        check_unseen(Identity(training_support(np.zeros(6), np.ones(6)), HOPPER, 3, 2), [WARM])
