"""What a planner asks of its model: a model that is watched, and predicts what the test says."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
from linear_model import motion

from trajworld.data.dataset import Dataset
from trajworld.environments.termination import never
from trajworld.models.ranges import Support
from trajworld.models.rollout import GivenActions, Rollout
from trajworld.planning.planner import Planner, refined
from trajworld.planning.settings import PlannerSettings
from trajworld.policies.policy import Layer, Policy

METHODS = ("shooting", "cem", "mppi")
LOW, HIGH = np.array([-1.0, -0.5], np.float32), np.array([1.0, 1.5], np.float32)


@pytest.fixture
def data(tmp_path: Path) -> Dataset:
    return motion(tmp_path / "data")


def planner_of(data: Dataset, settings: PlannerSettings, samples: bool = False, **given: Any) -> Planner:
    """A planner in a model of which only the context, three rows, is asked."""
    model: Any = SimpleNamespace(context=3, samples=samples)
    ends = np.full(data.num_variates, 50.0, np.float32)
    return Planner(model, Support(-ends, ends), data, settings, **given)


class Seen(NamedTuple):
    """What a model is given: to start from, the actions, and the draws."""

    rows: list[np.ndarray]
    masks: list[np.ndarray]
    controls: list[Any]
    draws: list[Any]


def watched(planner: Planner, monkeypatch: Any, values: np.ndarray) -> Seen:
    """A planner whose model predicts a reward of ``values [N]`` in the first step, and nothing else."""
    seen, horizon = Seen([], [], [], []), planner.settings.horizon

    def run(rows: Any, mask: Any, variates: Any, control: Any, draws: Any) -> Rollout:
        for kept, one in zip(seen, (rows.copy(), mask, control, draws), strict=True):
            kept.append(one)
        zeros = np.zeros((len(values), horizon, 3), np.float32)
        rewards = np.pad(values[:, None], [(0, 0), (0, horizon - 1)])
        # A policy in the model: the actions are its noise here.
        actions = getattr(control, "actions", zeros[..., :2])
        return Rollout(zeros, rewards, zeros, zeros[..., 0], actions, np.zeros((len(values), horizon, 4)))

    monkeypatch.setitem(planner.__dict__, "_run", run)
    return seen


def test_the_model_reads_the_real_rows_of_the_episode(data: Dataset, monkeypatch: Any) -> None:
    planner = planner_of(data, PlannerSettings(horizon=2, candidates=3))
    seen = watched(planner, monkeypatch, np.zeros(3))
    act = planner.controller(LOW, HIGH, np.random.default_rng(0))
    given = [np.array([step, 0.1, 0.2], np.float32) for step in range(5)]
    done = [act(one, 0.5 * step) for step, one in enumerate(given)]
    assert [rows.shape[:2] for rows in seen.rows] == [(3, 1), (3, 2), (3, 3), (3, 3), (3, 3)]
    assert all(mask.all() for mask in seen.masks)
    last = seen.rows[-1]
    np.testing.assert_array_equal(last[0], last[2])
    np.testing.assert_array_equal(last[0, :, 0], [2, 3, 4])
    np.testing.assert_array_equal(last[0, :, 3], [1.0, 1.5, 2.0])
    np.testing.assert_array_equal(last[0, :2, 4:], done[2:4])
    assert seen.draws == [None] * 5


def test_the_next_step_begins_with_the_last_plan_one_step_on(data: Dataset, monkeypatch: Any) -> None:
    """The first candidate is the plan itself, in half boxes, of which shooting keeps nothing."""
    half, middle = (HIGH - LOW) / 2, (LOW + HIGH) / 2
    for method in METHODS:
        given = PlannerSettings(method=method, horizon=4, candidates=5, elites=2, rounds=1)
        planner = planner_of(data, given)
        seen = watched(planner, monkeypatch, np.arange(5.0))
        act = planner.controller(LOW, HIGH, np.random.default_rng(0))
        first = act(np.zeros(3, np.float32), 0.0)
        units = (seen.controls[0].actions - middle) / half
        plan, _ = refined(units, np.arange(5.0), np.ones((4, 2)), given)
        np.testing.assert_allclose(first, middle + half * plan[0], atol=1e-6)
        act(np.zeros(3, np.float32), 0.0)
        shifted = np.zeros((4, 2)) if method == "shooting" else np.append(plan[1:], np.zeros((1, 2)), axis=0)
        np.testing.assert_allclose(seen.controls[1].actions[0], middle + half * shifted, atol=1e-6)


def test_a_proposal_leads_the_first_round_alone(data: Dataset, monkeypatch: Any) -> None:
    """Its noise is that of the settings in half boxes, whatever the bounds; a further round is around the plan."""
    policy = Policy((), Layer(np.zeros((3, 2), np.float32), np.zeros(2, np.float32)), low=LOW, high=HIGH)
    for noise, found in ((None, 0.1), (0.3, 0.3)):
        given = PlannerSettings(method="mppi", horizon=4, candidates=5, rounds=2, noise=noise)
        planner = planner_of(data, given, proposal=policy)
        seen = watched(planner, monkeypatch, np.arange(5.0))
        planner.controller(LOW, HIGH, np.random.default_rng(0))(np.zeros(3, np.float32), 0.0)
        drawn = np.random.default_rng(0).standard_normal((5, 4, 2))
        drawn[0] = 0
        added = np.swapaxes(seen.controls[0].noise[..., 2:], 0, 1)
        np.testing.assert_allclose(added, found * drawn * (HIGH - LOW) / 2, atol=1e-6)
        assert isinstance(seen.controls[1], GivenActions)


def test_samples_of_a_model_are_drawn_anew_for_each_action(data: Dataset, monkeypatch: Any) -> None:
    planner = planner_of(data, PlannerSettings(horizon=4, candidates=5), samples=True)
    seen = watched(planner, monkeypatch, np.arange(5.0))
    act = planner.controller(LOW, HIGH, np.random.default_rng(0))
    for _ in range(2):
        act(np.zeros(3, np.float32), 0.0)
    assert [one.shape for one in seen.draws] == [(4, 2, 5, 6)] * 2
    assert np.abs(seen.draws[0] - seen.draws[1]).min() > 0


def test_the_rule_is_that_of_the_environment_where_it_acts(data: Dataset, monkeypatch: Any) -> None:
    """Of two candidates one ends before its reward; the clipped observations do not say so."""
    seen, given = [], PlannerSettings(horizon=2, candidates=2)
    rule = lambda observations: observations[..., 0] > 1  # noqa: E731
    monkeypatch.setattr(
        "trajworld.planning.planner.termination_rule",
        lambda name: seen.append(name) or (rule if name == "there" else never),
    )

    def run(rows: Any, mask: Any, variates: Any, control: Any, draws: Any) -> Rollout:
        unclipped = np.zeros((2, 2, 4))
        unclipped[0, 0, 0] = 5.0
        rewards = np.array([[0.0, 9.0], [0.0, 1.0]])
        zeros = np.zeros((2, 2, 3))
        return Rollout(zeros, rewards, zeros, zeros[..., 0], control.actions, unclipped)

    for where, best in (("there", 1), ("elsewhere", 0)):
        planner = planner_of(data, given, environment=where)
        monkeypatch.setitem(planner.__dict__, "_run", run)
        act = planner.controller(LOW, HIGH, np.random.default_rng(0))
        drawn = math.sqrt(2) * np.random.default_rng(0).standard_normal((2, 2, 2))
        drawn[0] = 0
        expected = np.clip((LOW + HIGH) / 2 + (HIGH - LOW) / 2 * drawn[best, 0], LOW, HIGH)
        np.testing.assert_allclose(act(np.zeros(3, np.float32), 0.0), expected, atol=1e-6)
    assert seen == ["there", "elsewhere"]
