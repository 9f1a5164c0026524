"""Suites of datasets by level of skill, of policies whose skill is known."""

import dataclasses
from pathlib import Path
from typing import Any

import minari
import numpy as np
import pytest

from trajworld.collect import collector, suites
from trajworld.collect.suites import LEVELS, Noisy, collect_suite, plan_suite, suite_there
from trajworld.data.minari_datasets import dataset_path
from trajworld.errors import TrajWorldError, UsageError
from trajworld.files import write_json
from trajworld.policies.behaviour import Uniform
from trajworld.policies.files import save_policy
from trajworld.policies.policy import Layer, Policy

pytestmark = pytest.mark.once


def balancer(gain: float) -> Policy:
    """Pushes against the pole's angle and velocity in InvertedPendulum-v5; a gain of 1 keeps it up."""
    kernel = gain * np.array([[0.3], [5.0], [0.5], [1.0]], np.float32)
    bounds = np.full(1, 3, np.float32)
    mean = Layer(kernel, np.zeros(1, np.float32))
    return Policy((), mean, None, -bounds, bounds, squash=False, environment="gymnasium/InvertedPendulum-v5")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "datasets"))
    return tmp_path


def quiet(done: int, total: int | None, what: str) -> None:
    pass


def test_levels_follow_the_policies_returns(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policies = {"best": balancer(1.0), "none": balancer(0.0), "wrong": balancer(-1.0)}
    planned = plan_suite("trajworld/test", policies, progress=quiet)
    assert [one.level for one in planned] == list(LEVELS)
    parts = {one.level: [name for name, _ in one.parts] for one in planned}
    assert parts["random"] == ["uniform"]
    assert parts["expert"] == ["best"]
    # Ten steps or so against a thousand: the better of the two bad ones is nearest a third.
    assert parts["medium"] == ["none"]
    assert parts["medium-replay"] == ["uniform", "wrong", "none"]
    assert parts["medium-expert"] == ["none", "best"]

    # Of negative returns a third would lie above the best: it is a third of the way from the worst.
    returns = {"best": -100.0, "none": -700.0, "wrong": -1000.0}
    monkeypatch.setattr(
        suites,
        "policy_returns",
        lambda own, **_: [
            {"policy": one, "return": returns[one], "environment": own[one].environment} for one in own
        ],
    )
    middle = {"better": balancer(0.5), **policies}
    returns["better"] = -200.0
    (medium,) = (one for one in plan_suite("trajworld/test", middle, progress=quiet) if one.level == "medium")
    assert [name for name, _ in medium.parts] == ["none"]

    noises = "; a third of the episodes each with action noise of 0, 0.2, 0.5"
    assert [noises in one.acting for one in planned] == [level == "medium-replay" for level in LEVELS]

    rows = list(collect_suite(planned, transitions=1200, seed=3, workers=1, progress=quiet))
    assert [row["dataset"] for row in rows] == [
        f"trajworld/test/invertedpendulum-v5-{level}-v0" for level in LEVELS
    ]
    assert all(row["transitions"] == 1200 for row in rows)
    returns = {row["level"]: row["mean_return"] for row in rows}
    assert returns["expert"] > 10 * returns["medium"] > 0
    assert minari.load_dataset(rows[3]["dataset"]).total_steps == 1200
    # What is there stays, and what is missing is made again, the same.
    path = dataset_path(rows[1]["dataset"])
    before = minari.load_dataset(rows[1]["dataset"])[0].observations
    path.rename(home / "moved")
    assert [
        row["level"] for row in collect_suite(planned, transitions=1200, seed=3, workers=1, progress=quiet)
    ] == ["medium"]
    np.testing.assert_array_equal(minari.load_dataset(rows[1]["dataset"])[0].observations, before)
    dataset_path(rows[3]["dataset"]).rename(home / "again")
    with pytest.raises(UsageError, match="more than 1 transitions are needed"):
        list(collect_suite(planned[3:4], transitions=1, seed=3, workers=1, progress=quiet))
    with pytest.raises(
        TrajWorldError, match=r"made otherwise \(transitions 1200 instead of 1000, seed 3 inst"
    ):
        list(collect_suite(planned, transitions=1000, seed=4, workers=1, progress=quiet))


def test_the_command_checks_first_and_warns(
    home: Path, command: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, gain in (("best", 1.0), ("wrong", -1.0)):
        policy = dataclasses.replace(balancer(gain), environment="gymnasium/InvertedPendulum-v5?timestep=15")
        save_policy(policy, home / "policies" / f"{name}.npz")
    given = ("data", "collect-suite", "--policies", home / "policies", "--transitions", 60)
    code, out, _ = command(*given, "--name", "mine", "--workers", 1)
    assert code == 0
    # The reason is one, in a dataset of two parts that broke too.
    warnings = [line for line in out.splitlines() if line.startswith("Warning: gymnasium/Inverted")]
    assert len(warnings) == 5
    reasons = {
        "UnstableSimulationError: MuJoCo warned of an invalid state or full buffers",
        "an observation or reward is NaN or infinite",
    }
    assert {line.partition("): ")[2] for line in warnings} <= reasons
    found: list[int] = []
    monkeypatch.setattr(suites, "plan_suite", lambda *_, workers, **__: found.append(workers) or [])
    monkeypatch.setattr(collector, "available_cores", lambda: range(8))
    assert command(*given, "--name", "a/b c")[0] == 2
    assert command(*given, "--name", "other")[0] == 0
    assert found == [4]


def test_datasets_of_other_policies_of_the_same_names_are_not_those_asked_for(home: Path) -> None:
    policies = {"best": balancer(1.0), "none": balancer(0.0)}
    others = {"best": balancer(1.1), "none": balancer(0.0)}
    planned, other = (plan_suite("trajworld/test", one, progress=quiet) for one in (policies, others))
    recipes = [{one.level: one.recipe(60, 0) for one in each} for each in (planned, other)]
    differing = [level for level in LEVELS if recipes[0][level] != recipes[1][level]]
    assert differing == ["medium-expert", "expert"]
    assert recipes[0]["random"]["behaviour"]["parts"] == ["uniform"]
    noise = dataclasses.replace(policies["none"], log_std=policies["none"].mean)
    assert len({one.digest for one in (noise, *policies.values())}) == 3
    assert balancer(1.0).digest == policies["best"].digest
    list(collect_suite(planned[-1:], transitions=60, seed=0, workers=1, progress=quiet))
    assert suite_there(planned, 60, 0) == [planned[-1].dataset]
    with pytest.raises(TrajWorldError, match="was made otherwise"):
        suite_there(other, 60, 0)


def training(folder: Path, policies: list[Policy], lengths: list[list[int]]) -> list[np.ndarray]:
    """A training on disk: snapshots and streams, of episodes of these lengths in each; its observations."""
    rng, seen = np.random.default_rng(0), []
    write_json(folder / "training.json", {})
    for number, (policy, own) in enumerate(zip(policies, lengths, strict=True), 1):
        save_policy(policy, folder / f"snapshot-{number:03}.npz")
        dones = np.zeros(sum(own), np.float32)
        dones[np.cumsum(own) - 1] = 1
        before, after = rng.normal(size=(2, len(dones), 4)).astype(np.float32)
        actions = rng.uniform(-3, 3, (len(dones), 1)).astype(np.float32)
        np.savez(
            folder / f"stream-{number:03}.npz",
            observations=before,
            next_observations=after,
            actions=actions,
            rewards=np.ones(len(dones), np.float32),
            dones=dones,
            timeouts=np.zeros_like(dones),
            broken=np.zeros(len(dones), bool),
        )
        seen += np.split(before, np.cumsum(own)[:-1])
    return seen


def test_replay_is_the_training_up_to_medium(home: Path) -> None:
    policies = {"best": balancer(1.0), "none": balancer(0.0), "wrong": balancer(-1.0)}
    snapshots = [policies["wrong"], policies["none"], policies["best"]]
    seen = training(home / "trainings" / "mine", snapshots, [[5, 7, 3], [4, 9], [6]])
    for transitions in (28, 100, 20):
        name = f"trajworld/of{transitions}"
        planned = plan_suite(name, policies, streams=home / "trainings", progress=quiet)
        (replay,) = (one for one in planned if one.level == "medium-replay")
        (row,) = collect_suite([replay], transitions=transitions, seed=0, workers=1, progress=quiet)
        assert row["transitions"] == min(transitions, 28), "what medium learned from later is no part of it"
        found = minari.load_dataset(row["dataset"])
        begins = [episode.observations[0] for episode in found]
        if transitions > 20:
            np.testing.assert_array_equal(begins, [one[0] for one in seen[:5]])
            assert all(episode.terminations[-1] for episode in found)
        else:
            assert 2 <= len(begins) < 5
        assert "medium-replay: the training of none" in found.storage.metadata["description"]
    with pytest.raises(UsageError, match="holds no training run that made none, the medium policy"):
        plan_suite("trajworld/test", policies, streams=home / "datasets", progress=quiet)


def test_noise_is_drawn_for_each_episode_and_stays_in_the_box() -> None:
    low, high = np.array([-1.0, 0.0], np.float32), np.array([1.0, 4.0], np.float32)
    still = balancer(0.0)
    seen, stds = np.zeros(4, np.float32), []
    for episode in range(60):
        act = Noisy(still).controller(low[:1], high[:1], np.random.default_rng(episode))
        actions = np.array([act(seen, 0.0)[0] for _ in range(200)])
        assert np.abs(actions).max() <= 1
        stds.append(actions.std())
    shares = [np.mean(np.array(stds) < 0.05), np.mean(np.abs(np.array(stds) - 0.2) < 0.05)]
    assert all(0.15 < share < 0.55 for share in shares)
    act = Noisy(Uniform()).controller(low, high, np.random.default_rng(0))
    drawn = np.stack([act(seen, 0.0) for _ in range(100)])
    assert (drawn >= low).all()
    assert (drawn <= high).all()
