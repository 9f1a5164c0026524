"""Returns of policies in the simulator, and ``trajworld policy``."""

import json
import math
import signal
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from trajworld.collect import returns as module
from trajworld.collect.episodes import Rollout, episode_seeds
from trajworld.collect.returns import policy_returns
from trajworld.errors import UsageError
from trajworld.policies.files import load_policy, read_policies, read_policy, save_policy
from trajworld.policies.policy import Layer, Policy

pytestmark = pytest.mark.once


def swinging(seed: int = 0, **options: Any) -> Policy:
    """A stochastic policy for the pendulum."""
    rng = np.random.default_rng(seed)
    hidden = Layer(rng.normal(size=(3, 6)), rng.normal(size=6))
    mean, log_std = (Layer(rng.normal(size=(6, 1)), rng.normal(size=1)) for _ in range(2))
    bound = np.full(1, 2.0)
    return Policy((hidden,), mean, log_std, -bound, bound, **{"environment": "Pendulum-v1", **options})


@pytest.mark.parametrize("horizon", [None, 30])
def test_returns_are_those_of_a_plain_loop(horizon: int | None) -> None:
    policy = swinging()
    (found,) = policy_returns({"one": policy}, episodes=3, horizon=horizon, gamma=0.9, seed=5)
    totals, discounted = [], []
    # Other episodes than those of data that are collected with the seed.
    own = int(np.random.SeedSequence([5, 0x6F7065]).generate_state(1)[0])
    for index in range(3):
        seed, generator = episode_seeds(own, "gymnasium/Pendulum-v1", index)
        env = gymnasium.make("Pendulum-v1")
        observation, _ = env.reset(seed=seed)
        rewards = []
        while len(rewards) < (horizon or 200):
            observation, reward, *_ = env.step(policy.act(observation[None], generator)[0])
            rewards.append(float(reward))
        totals.append(sum(rewards))
        discounted.append(sum(0.9**step * reward for step, reward in enumerate(rewards)))
    np.testing.assert_allclose(found["returns"], totals, rtol=1e-5)
    np.testing.assert_allclose(found["discounted_returns"], discounted, rtol=1e-5)
    assert found["return"] == pytest.approx(np.mean(totals), rel=1e-5)
    assert found["return_stderr"] == pytest.approx(np.std(totals, ddof=1) / math.sqrt(3), rel=1e-4)
    assert (found["length"], found["terminated"], found["unstable"]) == (horizon or 200, 0, 0)


def test_the_same_for_any_number_of_workers_and_each_seed() -> None:
    policies = {"one": swinging(), "two": swinging(1)}
    options = {"episodes": 5, "horizon": 20}
    alone = policy_returns(policies, **options)
    steps = []
    assert policy_returns(policies, **options, workers=2, progress=lambda *step: steps.append(step)) == alone
    assert steps[-1] == (10, 10, "one, two")
    assert policy_returns({"two": policies["two"]}, **options)[0] == alone[1]
    assert policy_returns(policies, **options, seed=1)[0]["returns"] != alone[0]["returns"]
    assert alone[0]["returns"] != alone[1]["returns"]


def test_given_starts_are_compared_with_other_episodes(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: list[int] = []

    def look(*task: Any) -> list[Rollout]:
        seeds.append(task[2])
        return [Rollout(None, "")]

    monkeypatch.setattr(module, "run_episodes", look)
    for starts in (None, np.zeros((1, 3)), None):
        policy_returns({"one": swinging()}, episodes=1, starts=starts)
    assert seeds[0] == seeds[2] != seeds[1]


def test_an_episode_that_breaks_counts_up_to_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "run_episodes", lambda *_: [Rollout(None, "out of order")])
    (found,) = policy_returns({"one": swinging()}, episodes=1)
    assert (found["return"], found["unstable"], found["return_stderr"]) == (0, 1, None)


@pytest.mark.parametrize(
    ("policy", "options", "said"),
    [
        (swinging(), {"gamma": 1.1}, "discount"),
        (swinging(), {"horizon": 0}, "at least 1 step"),
        (swinging(environment=""), {}, "one: the file does not say"),
        (swinging(), {"environment": "Hopper-v5"}, "takes 3 observation values and gives 1 actions"),
        (swinging(), {"environment": "Nowhere-v5"}, "there is no environment"),
    ],
)
def test_what_does_not_fit_is_refused(policy: Policy, options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        policy_returns({"one": policy}, **options)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_policy(swinging(), tmp_path / "one.npz")
    save_policy(swinging(1, environment=""), tmp_path / "two.npz")
    (tmp_path / "bad.npz").write_bytes(b"PK no")
    for other in ("stream-001.npz", "vecnormalize.pkl"):
        (tmp_path / other).write_bytes(b"no policy, and none is expected")
    return tmp_path


def test_a_folder_with_an_unreadable_policy_is_refused_and_other_files_are_passed_over(
    command: Any, saved: Path
) -> None:
    (saved / "README.md").write_text("about")
    (saved / "replay_buffer.pkl").write_bytes(b"no policy")
    np.savez(saved / "evaluations.npz", results=np.zeros(3))
    code, _, err = command("policy", "evaluate", saved, "--environment", "Pendulum-v1")
    assert (code, len(err.splitlines())) == (1, 1)
    assert f"{saved / 'bad.npz'} is no whole zip archive" in err
    (saved / "bad.npz").unlink()
    assert list(read_policies([saved])) == ["one", "two"]


def test_list_show_and_import(command: Any, saved: Path) -> None:
    code, out, _ = command("policy", "list", saved)
    assert (code, "one.npz" in out, "3 → 6 → 1" in out) == (0, True, True)
    assert f"Left out: {saved / 'bad.npz'}" in out
    entries = json.loads(command("policy", "list", saved, "--json")[1])
    assert ["problem" in entry for entry in entries] == [True, False, False]
    shown = json.loads(command("policy", "show", saved / "one.npz", "--json")[1])
    assert (shown["kind"], shown["sizes"], shown["parameters"]) == (
        "Gaussian, tanh",
        [3, 6, 1],
        3 * 6 + 6 + 2 * 7,
    )
    assert "Gaussian" in command("policy", "show", saved / "one.npz")[1]
    options = ("--environment", "Pendulum-v1?g=5", "--deterministic", "-o")
    assert command("policy", "import", saved / "two.npz", *options, saved / "new" / "three.npz")[0] == 0
    made = load_policy(saved / "new" / "three.npz")
    assert (made.environment, made.log_std) == ("gymnasium/Pendulum-v1?g=5.0", None)
    code, _, err = command("policy", "import", saved / "bad.npz", "-o", saved / "four.npz")
    assert (code, len(err.splitlines()), (saved / "four.npz").exists()) == (1, 1, False)


def test_evaluate(command: Any, saved: Path) -> None:
    files = (saved / "one.npz", saved / "two.npz")
    options = ("--environment", "Pendulum-v1", "--episodes", 2, "--horizon", 9, "--gamma", 0.5)
    code, out, _ = command("policy", "evaluate", *files, *options, "-o", saved / "found.json")
    assert (code, "discounted" in out, "±" in out) == (0, True, True)
    found = json.loads((saved / "found.json").read_text())["policies"]
    assert found == json.loads(command("policy", "evaluate", *files, *options, "--json")[1])["policies"]
    policies = {file.stem: read_policy(file) for file in files}
    assert found == policy_returns(policies, environment="Pendulum-v1", episodes=2, horizon=9, gamma=0.5)
    code, out, err = command("policy", "evaluate", *files, *options, "-o", saved / "one.npz" / "found.json")
    assert (code, "discounted" in out, "cannot write" in err) == (1, True, True)
    code, _, err = command("policy", "evaluate", *files, "--episodes", 2)
    assert (code, "name one by --environment" in err) == (2, True)


def test_ctrl_c_ends_an_evaluation(command: Any, saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "run_episodes", lambda *_: signal.raise_signal(signal.SIGINT))
    code, out, err = command(
        "policy", "evaluate", saved / "one.npz", "--workers", 1, "-o", saved / "found.json"
    )
    assert (code, out, err.splitlines()[-1]) == (130, "", "Interrupted.")
    assert not (saved / "found.json").exists()


# How many episodes the benchmark's means are of is not said; ten are assumed.
@pytest.mark.slow
@pytest.mark.parametrize("name", ["halfcheetah_online_1", "hopper_online_2", "walker_online_5"])
def test_dope_policies_return_what_the_benchmark_says(shared: Path, name: str) -> None:
    path = shared / "dope" / "policies" / f"{name}.pkl"
    if not path.exists():
        pytest.skip("no policies of DOPE")
    entries = json.loads((shared / "dope" / "d4rl_policies.json").read_text())
    (entry,) = (entry for entry in entries if entry["policy_path"].endswith(f"{name}.pkl"))
    (found,) = policy_returns({name: read_policy(path)}, episodes=10)
    error = math.hypot(found["return_stderr"], entry["return_std:"] / math.sqrt(10))
    assert abs(found["return"] - entry["return_mean"]) < 3 * error


@pytest.mark.slow
def test_the_agent_returns_what_its_readme_says(shared: Path) -> None:
    path = shared / "agents" / "trpo-Hopper-v3" / "Hopper-v3.zip"
    if not path.exists():
        pytest.skip("no agent")
    policy = read_policy(path, environment="Hopper-v5", deterministic=True)
    (found,) = policy_returns({"trpo": policy}, episodes=4)
    assert abs(found["return"] - 3623) < 3 * math.hypot(found["return_stderr"], 5 / math.sqrt(4))
