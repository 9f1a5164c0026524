"""Collecting: episodes against the simulators themselves, by any number of workers; the command and its failures."""

import functools
import itertools
import json
import os
import signal

import gymnasium
import minari
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from waiting import start, wait_for

from trajworld.collect import collector
from trajworld.collect.collector import Tally, collect
from trajworld.collect.episodes import Rollout, episode_seeds, run_episode
from trajworld.data.episode import Episode
from trajworld.data.minari_datasets import datasets_folder, local_datasets, read_minari
from trajworld.environments.interface import Description, Step
from trajworld.environments.open import open_environment
from trajworld.errors import TrajWorldError
from trajworld.policies.behaviour import Constant, OrnsteinUhlenbeck, Uniform, make_behaviour
from trajworld.processes import Workers

pytestmark = pytest.mark.once


@pytest.mark.parametrize(
    ("name", "behaviour"),
    [("Hopper-v5", OrnsteinUhlenbeck()), ("Pendulum-v1", Uniform()), ("InvertedPendulum-v5", Constant())],
)
def test_transitions_replayed_in_a_fresh_environment_are_the_same(name, behaviour):
    fresh = gymnasium.make(name)
    # Episode 2 comes after others in the same environment: nothing of those may remain.
    for index, episode in enumerate(collect(name, behaviour=behaviour, episodes=3, seed=11)):
        observations = [fresh.reset(seed=episode_seeds(11, f"gymnasium/{name}", index)[0])[0]]
        rewards, ends = [], []
        for action in episode.actions:
            assert fresh.action_space.contains(action)
            observation, reward, *end, _ = fresh.step(action)
            observations.append(observation)
            rewards.append(reward)
            ends.append(any(end))
        assert ends == [False] * (len(episode) - 1) + [True]
        replayed = (np.array(part, np.float32) for part in (observations, episode.actions, rewards))
        np.testing.assert_equal(vars(episode), vars(Episode(*replayed, *map(bool, end))))
    fresh.close()


@pytest.mark.parametrize("name", ["cartpole-swingup", "manipulator-bring_ball", "humanoid-walk"])
def test_dm_control_transitions_replayed_in_a_fresh_environment_are_the_same(name):
    pytest.importorskip("dm_control")
    seed_name = f"dm_control/{name}"
    environment = open_environment(seed_name)
    from dm_control import suite  # after the adapter, which imports it without a renderer

    for index in (0, 1):
        episode = run_episode(environment, OrnsteinUhlenbeck(), 4, index).episode
        assert (len(episode), episode.terminated, episode.truncated) == (1000, False, True)
        random = np.random.RandomState(episode_seeds(4, seed_name, index)[0])
        fresh = suite.load(*name.split("-"), task_kwargs={"random": random})
        time_step = fresh.reset()
        for step in range(150):
            flat = np.concatenate([np.ravel(value) for value in time_step.observation.values()])
            np.testing.assert_array_equal(episode.observations[step], flat.astype(np.float32))
            time_step = fresh.step(episode.actions[step])
            assert episode.rewards[step] == np.float32(time_step.reward)
    environment.close()


@given(transitions=st.integers(1, 700), seed=st.integers(0, 2**63))
@settings(max_examples=12)
def test_exactly_the_transitions_that_were_asked_for(transitions, seed):
    tally = Tally()
    options = {"behaviour": Uniform(), "transitions": transitions, "seed": seed}
    episodes = list(collect("Pendulum-v1", **options, tally=tally))
    assert sum(map(len, episodes)) == transitions == tally.transitions
    assert [len(episode) for episode in episodes[:-1]] == [200] * ((transitions - 1) // 200)
    assert all(episode.truncated and not episode.terminated for episode in episodes)
    assert tally.episodes == len(episodes)
    assert tally.total_return == pytest.approx(sum(episode.rewards.sum(dtype=float) for episode in episodes))


def test_a_cut_episode_did_not_terminate():
    whole = Episode(np.zeros((6, 2)), np.zeros((5, 1)), np.arange(5.0), terminated=True, truncated=False)
    assert collector.cut_episode(whole, 5) is whole
    cut = collector.cut_episode(whole, 3)
    assert (len(cut), cut.terminated, cut.truncated) == (3, False, True)


class Scripted:
    """An environment that counts its steps and, in every second episode, breaks as it is told."""

    def __init__(self, breaks: str, at: int) -> None:
        box = gymnasium.spaces.Box(-1, 1, (1,), np.float32)
        self.description = Description("gymnasium/Scripted-v0", box, box, 10)
        self.breaks, self.at, self.episodes, self.count = breaks, at, 0, 0

    def reset(self, seed):
        self.count, self.episodes = 0, self.episodes + 1
        return np.array([np.nan if self.broken() and self.breaks == "reset" else 0.0])

    def broken(self):
        return self.episodes % 2 == 1 and self.count == self.at

    def step(self, action):
        self.count += 1
        if not self.broken():
            return Step(np.array([float(self.count)]), 1.0, False, False)
        if self.breaks == "raises":
            raise FloatingPointError("the state\nis gone")
        bad = {"observation": (np.nan, 1.0), "overflow": (1e300, 1.0), "reward": (0.0, np.inf)}[self.breaks]
        return Step(np.array([bad[0]]), bad[1], False, False)


@pytest.mark.parametrize(
    ("breaks", "at", "lengths"),
    [
        ("raises", 5, [4, 10, 4, 7]),
        ("observation", 5, [4, 10, 4, 7]),
        ("overflow", 5, [4, 10, 4, 7]),
        ("reward", 5, [4, 10, 4, 7]),
        ("raises", 1, [10, 10, 5]),
        ("reset", 0, [10, 10, 5]),
    ],
)
def test_an_episode_is_cut_before_its_bad_step_and_left_out_without_a_good_one(breaks, at, lengths):
    tally, scripted = Tally(), Scripted(breaks, at)
    rollouts = (run_episode(scripted, Uniform(), 0, index) for index in itertools.count())
    episodes = list(collector.take_episodes(rollouts, "here", tally, transitions=25))
    assert [len(episode) for episode in episodes] == lengths
    assert all(episode.truncated and not episode.terminated for episode in episodes)
    for episode in episodes:
        np.testing.assert_array_equal(episode.observations[:, 0], np.arange(len(episode) + 1))
    assert (tally.unstable, tally.dropped) == ((2, 0) if at == 5 else (3, 3))
    assert tally.reason
    assert "\n" not in tally.reason


@pytest.mark.slow
def test_any_number_of_workers_gives_the_same_episodes():
    options = {"behaviour": make_behaviour("mixed"), "transitions": 2500, "seed": 9}
    with Workers(2) as workers:
        for name in ("Hopper-v5", "Pendulum-v1?g=5"):
            alone, shared = collect(name, **options), collect(name, **options, workers=workers)
            for one, other in zip(alone, shared, strict=True):
                np.testing.assert_equal(vars(one), vars(other))


@pytest.mark.slow
def test_a_worker_that_dies_is_one_clear_error():
    with Workers(2) as workers:
        stream = collect("Pendulum-v1", behaviour=Uniform(), transitions=10**7, workers=workers)
        next(stream)
        os.kill(workers.submit(os.getpid).result(), signal.SIGKILL)
        with pytest.raises(TrajWorldError, match="a worker process died while it ran gymnasium/Pendulum-v1"):
            for _ in stream:
                pass


@pytest.fixture
def run(command):
    return functools.partial(command, "data", "collect")


def files():
    """Everything under Minari's folder."""
    return sorted(str(path.relative_to(datasets_folder())) for path in datasets_folder().rglob("*"))


def test_each_environment_becomes_a_dataset_that_minari_reads(run):
    names = ("Pendulum-v1?g=5", "Hopper-v5")
    code, out, _ = run(*names, "--transitions", "300", "--seed", "4", "--behaviour", "uniform", "--json")
    assert code == 0
    ids = ("trajworld/gymnasium-pendulum-v1-g-5_0/uniform-v0", "trajworld/gymnasium-hopper-v5/uniform-v0")
    for summary, name, dataset_id in zip(json.loads(out), names, ids, strict=True):
        assert summary["dataset"] == dataset_id
        expected = list(collect(name, behaviour=Uniform(), transitions=300, seed=4))
        info, episodes = read_minari(dataset_id)
        for one, other in zip(expected, episodes, strict=True):
            np.testing.assert_equal(vars(one), vars(other))
        assert info.environment == summary["environment"] == f"gymnasium/{name.replace('=5', '=5.0')}"
        assert info.transitions == summary["transitions"] == 300
        assert info.episodes == summary["episodes"] == len(expected)
        returns = [episode.rewards.sum(dtype=float) for episode in expected]
        assert summary["mean_return"] == pytest.approx(np.mean(returns))
        recorded = info.metadata["collection"]
        assert recorded["behaviour"] == {"name": "uniform", "scale": 1.0}
        assert recorded["seed"] == 4
        assert recorded["versions"]["gymnasium"] == gymnasium.__version__
        opened = minari.load_dataset(dataset_id)
        assert (opened.total_episodes, opened.total_steps) == (len(expected), 300)
        space = gymnasium.make(name.partition("?")[0]).action_space
        np.testing.assert_array_equal(opened.action_space.high, space.high)


def test_the_table_names_the_dataset_and_warns_of_broken_episodes(run):
    name = "HalfCheetah-v5?timestep=0.08"
    code, out, _ = run(name, "--episodes", "2", "--behaviour", "uniform", "--id", "my/{behaviour}-v3")
    assert code == 0
    assert "my/uniform-v3" in out
    assert f"Warning: gymnasium/{name}" in out


def test_a_taken_id_is_refused_replaced_or_skipped(run):
    def first():
        return next(iter(read_minari("trajworld/gymnasium-pendulum-v1/ou-v0")[1])).observations

    arguments = ("Pendulum-v1", "--episodes", "1", "--json")
    assert run(*arguments)[0] == 0
    before = first()
    code, out, err = run("InvertedPendulum-v5", *arguments, "--seed", "1")
    assert (code, json.loads(out)) == (1, [])
    assert "Minari has trajworld/gymnasium-pendulum-v1/ou-v0 already" in err
    assert not any("inverted" in name for name in files()), "it ran before it looked"
    code, out, err = run("InvertedPendulum-v5", *arguments, "--seed", "1", "--skip-existing")
    assert (code, [row["environment"] for row in json.loads(out)]) == (0, ["gymnasium/InvertedPendulum-v5"])
    np.testing.assert_array_equal(before, first())
    assert run(*arguments, "--seed", "1", "--replace")[0] == 0
    assert not np.array_equal(before, first())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["Nothing-v0"], "there is no environment"),
        (["--transitions", "5", "--episodes", "5"], "not both"),
        (["--transitions", "0"], "0 is not in the range"),
        (["--seed", "-1"], "-1 is not in the range"),
        (["--replace", "--skip-existing"], "not both"),
        (["--behaviour", "mixed", "--noise-scale", "0.2"], "draws its own scale"),
        (["--id", "../escape-v0"], "is no Minari id"),
        (["--id", "/abs/olute-v0"], "is no Minari id"),
        (["--id", "{env}-v0"], "id template"),
        (["--id", "{environment-v0"], "id template"),
        (["gymnasium/Pendulum-v1"], "would both be"),
    ],
)
def test_mistakes_end_in_one_line_before_anything_runs(run, arguments, message):
    code, out, err = run("Pendulum-v1", *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert files() == []


def test_what_was_finished_before_a_failure_stays(run, monkeypatch):
    def breaks(environment, *arguments):
        if "InvertedPendulum" in environment.description.name:
            return Rollout(None, "out of order")
        return run_episode(environment, *arguments)

    monkeypatch.setattr(collector, "run_episode", breaks)
    code, out, err = run("Pendulum-v1", "InvertedPendulum-v5", "Hopper-v5", "--transitions", "50", "--json")
    assert code == 1
    assert [row["environment"] for row in json.loads(out)] == ["gymnasium/Pendulum-v1"]
    last = err.strip().splitlines()[-1]
    assert last.startswith("Error: gymnasium/InvertedPendulum-v5: 100 episodes in a row")
    assert "out of order" in last
    assert read_minari("trajworld/gymnasium-pendulum-v1/ou-v0")[0].transitions == 50
    assert not any("inverted" in name for name in files())


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.parametrize(
    "command",
    [
        ["collect", "Pendulum-v1", "Hopper-v5", "--episodes", "4000"],
        ["collect-corpus", "--only", "classic", "--only", "legged", "--transitions", "20000"],
    ],
)
def test_ctrl_c_leaves_nothing_half_written(command, workers):
    process = start("data", *command, "--workers", workers)
    wait_for(lambda: any("main_data.hdf5" in names for _, _, names in os.walk(datasets_folder())), process)
    # To the whole group, as a terminal does.
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=240)
    assert process.returncode == 130, err
    assert err.strip().splitlines()[-1] == "Interrupted."
    assert "Traceback" not in err
    assert not [name for name in files() if ".tmp" in name]
    for entry in local_datasets():
        info, episodes = read_minari(entry["id"])
        assert len(list(episodes)) == info.episodes
