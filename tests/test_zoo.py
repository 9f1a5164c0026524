"""Policies that ship, and how they are chosen: names, sizes, true values, and the choice itself."""

import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trajworld.collect import selection
from trajworld.collect.episodes import run_episodes
from trajworld.collect.returns import policy_returns
from trajworld.collect.selection import pick_spread, select_policies
from trajworld.data.store import write_store
from trajworld.errors import TrajWorldError, UsageError
from trajworld.policies.behaviour import Uniform
from trajworld.policies.files import policy_files, read_policies, read_policy, save_policy, zoo_truth
from trajworld.policies.policy import Layer, Policy

pytestmark = pytest.mark.once

ROBOTS = {"half-cheetah": "HalfCheetah-v5", "hopper": "Hopper-v5", "walker2d": "Walker2d-v5"}
Command = Callable[..., tuple[int, str, str]]


def truth_of(robot: str) -> list[dict[str, Any]]:
    path = zoo_truth(policy_files([f"zoo/{robot}"]).values())
    assert path is not None
    return json.loads(path.read_text())["policies"]


def test_names_mean_all_a_robots_or_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    everything = policy_files(["zoo"])
    assert sum(path.stat().st_size for path in everything.values()) < 2e6
    for robot, environment in ROBOTS.items():
        own = read_policies([f"zoo/{robot}"])
        assert list(own) == [f"{robot}-{number:02}" for number in range(1, 12)]
        assert list(own) == [name for name in everything if name.startswith(robot)]
        assert {policy.environment for policy in own.values()} == {f"gymnasium/{environment}"}
        assert all(policy.log_std is not None for policy in own.values())
    assert policy_files(["zoo/hopper-03"]) == {"hopper-03": everything["hopper-03"]}
    assert read_policy("zoo/hopper-03").sizes == (11, 64, 64, 3)
    with pytest.raises(
        UsageError, match="no policy that ships is called zoo/hopper-3: there are zoo, zoo/half"
    ):
        policy_files(["zoo/hopper-3"])
    with pytest.raises(UsageError, match="zoo/hopper is 11 policies: name one, such as zoo/hopper-11"):
        read_policy("zoo/hopper")
    # What is there comes first, but not a folder without policies.
    monkeypatch.chdir(tmp_path)
    (tmp_path / "zoo" / "animals").mkdir(parents=True)
    assert policy_files(["zoo"]) == everything
    with pytest.raises(TrajWorldError, match="there is no policy in zoo/animals"):
        policy_files(["zoo/animals"])
    save_policy(read_policy("zoo/hopper-03"), tmp_path / "zoo" / "mine.npz")
    assert list(policy_files(["zoo"])) == ["mine"]


def test_the_true_values_are_in_order_and_apart(command: Command) -> None:
    for robot, environment in ROBOTS.items():
        rows = truth_of(robot)
        assert [row["policy"] for row in rows] == list(policy_files([f"zoo/{robot}"]))
        for row in rows:
            assert row["environment"] == f"gymnasium/{environment}"
            assert (row["gamma"], row["horizon"]) == (0.995, 1000)
            assert row["episodes"] == 100
        gaps = [
            (after["discounted"] - before["discounted"])
            / math.hypot(after["discounted_stderr"], before["discounted_stderr"])
            for before, after in itertools.pairwise(rows)
        ]
        assert min(gaps) > 0
        assert gaps == pytest.approx([row["apart"] for row in rows[1:]])
        assert sum(gap < 4 for gap in gaps) <= 1
    files = list(policy_files(["zoo"]).values())
    assert zoo_truth(files) is None
    assert zoo_truth([Path("mine.npz")]) is None
    entries = json.loads(command("policy", "list", "zoo", "--json")[1])
    assert len(entries) == len(files)
    assert "zoo/hopper-03" in {entry["file"] for entry in entries}
    shown = json.loads(command("policy", "show", "zoo/hopper-03", "--json")[1])
    assert shown["kind"] == "Gaussian, tanh"


@pytest.mark.slow
@pytest.mark.parametrize("robot", ROBOTS)
def test_the_true_values_are_found_again(robot: str) -> None:
    episodes, rows = 8, {row["policy"]: row for row in truth_of(robot)}
    some = {name: read_policy(f"zoo/{name}") for name in list(rows)[::5]}
    for found in policy_returns(some, episodes=episodes, seed=77):
        known = rows[found["policy"]]
        for value in ("return", "discounted"):
            # The deviation over many episodes says how far a mean of few may lie.
            error = math.hypot(known[value + "_std"] / math.sqrt(episodes), known[value + "_stderr"])
            assert abs(found[value] - known[value]) < 4 * error


def test_ope_knows_the_true_values(tmp_path: Path, command: Command) -> None:
    place = "gymnasium/Hopper-v5"
    episodes = [rollout.episode for rollout in run_episodes(place, Uniform(), 0, 0, 3)]
    data = write_store(tmp_path / "data", episodes, name="hopper", source="", environment=place)
    given = ("ope", "simulator", data.path, "--policies", "zoo/hopper-01", "--policies", "zoo/hopper-11")
    options = ("--states", 2, "--horizon", 20)
    code, out, err = command(*given, *options[:2], "--json")
    assert code == 0, err
    known = {row["policy"]: row for row in truth_of("hopper")}
    for row in json.loads(out)["policies"]:
        assert row["truth"] == pytest.approx(known[row["policy"]]["discounted"])
    for other in (("--discount", 0.9), ()):
        code, out, err = command(*given, *options, *other, "--json")
        assert (code, "No true values" in err, json.loads(out)["metrics"]) == (0, True, None)
    changed = place + "?gravity=5.0"
    data = write_store(tmp_path / "changed", episodes, name="hopper", source="", environment=changed)
    code, out, err = command(*given[:2], data.path, *given[3:], *options, "--json")
    assert code == 0, err
    assert f"the data are of {changed}" in err
    assert json.loads(out)["metrics"] is None


@pytest.mark.parametrize("seed", range(8))
def test_the_choice_is_the_best_of_all(seed: int) -> None:
    rng = np.random.default_rng(seed)
    values, errors = rng.normal(0, 10, 8), rng.uniform(0.1, 1.5, 8)
    order = np.argsort(values)
    grid = np.linspace(values.min(), values.max(), 4)

    def cost(choice: tuple[int, ...]) -> tuple[int, float]:
        close = [
            values[b] - values[a] < 4 * math.hypot(errors[a], errors[b])
            for a, b in itertools.pairwise(choice)
        ]
        return sum(close), float(np.sum((values[list(choice)] - grid) ** 2))

    every = [(order[0], *middle, order[-1]) for middle in itertools.combinations(order[1:-1], 2)]
    assert tuple(pick_spread(values, errors, 4)) == min(every, key=cost)


def test_values_that_are_equal_are_chosen_in_their_order() -> None:
    assert pick_spread([5.0, 5.0, 5.0], [0.1, 0.1, 0.1], 3) == [0, 1, 2]


def of_value(value: float, environment: str = "gymnasium/Hopper-v5") -> Policy:
    """A policy that stands for one of a value, which is its only number."""
    return Policy((), Layer(np.full((1, 1), value), np.zeros(1)), environment=environment)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Returns that are the policies' numbers, 1 higher in the second run; the calls are kept."""
    calls: list[dict[str, Any]] = []

    def returns(policies: dict[str, Policy], **options: Any) -> list[dict[str, Any]]:
        calls.append({"policies": list(policies), **options})
        values = {name: float(one.mean.kernel[0, 0]) + options["seed"] for name, one in policies.items()}
        shared = {
            "episodes": options["episodes"],
            "length": 10.0,
            "return_stderr": 0.2,
            "returns": [1.0, 2.0],
        }
        return [
            {"policy": name, "discounted": value, "discounted_stderr": 0.1, "return": 2 * value, **shared}
            for name, value in values.items()
        ]

    monkeypatch.setattr(selection, "policy_returns", returns)
    return calls


def test_a_selection_is_chosen_by_some_episodes_and_measured_in_others(
    measured: list[dict[str, Any]],
) -> None:
    values = [9.0, 0.0, 3.1, 3.2, 6.0, 0.1]
    policies = {f"snapshot-{number}": of_value(value) for number, value in enumerate(values)}
    chosen, truth = select_policies(policies, "mine", count=4, episodes=30)
    assert [float(one.mean.kernel[0, 0]) for one in chosen.values()] == pytest.approx([0, 3.1, 6, 9])
    assert [row["policy"] for row in truth] == list(chosen) == [f"mine-0{number}" for number in range(1, 5)]
    assert [row["discounted"] for row in truth] == pytest.approx([1, 4.1, 7, 10])
    assert truth[0]["apart"] is None
    assert truth[1]["apart"] == pytest.approx(3.1 / math.hypot(0.1, 0.1))
    assert all("returns" not in row for row in truth)
    assert [(call["episodes"], call["seed"]) for call in measured] == [(15, 0), (30, 1)]
    assert measured[1]["policies"] == ["snapshot-1", "snapshot-2", "snapshot-4", "snapshot-0"]
    with pytest.raises(UsageError, match="choose among those of one environment"):
        select_policies(policies | {"other": of_value(1.0, "gymnasium/Walker2d-v5")}, "mine", count=4)


def test_the_command_makes_a_folder_that_policies_are_read_from(
    tmp_path: Path, measured: list[dict[str, Any]], command: Command
) -> None:
    for number, value in enumerate([9.0, 0.0, 3.1, 3.2]):
        save_policy(of_value(value), tmp_path / "training" / f"snapshot-{number}.npz")
    arguments = ("policy", "select", tmp_path / "training", "--count", 3, "-o", tmp_path / "mine")
    code, out, err = command(*arguments)
    assert (code, "mine-03" in out, "apart" in out) == (0, True, True), err
    assert list(policy_files([tmp_path / "mine"])) == ["mine-01", "mine-02", "mine-03"]
    rows = json.loads((tmp_path / "mine" / "truth.json").read_text())["policies"]
    assert [row["policy"] for row in rows] == ["mine-01", "mine-02", "mine-03"]
    assert command(*arguments)[0] == 1
    code, _, err = command(*arguments[:-1], tmp_path / "other", "--count", 5)
    assert (code, "there are 4 policies" in err, (tmp_path / "other").exists()) == (2, True, False)
