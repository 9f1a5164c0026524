"""``trajworld data collect``: what it writes, what it prints, and what failures leave behind."""

import functools
import json
import os
import signal

import gymnasium
import minari
import numpy as np
import pytest
from waiting import start, wait_for

from trajworld.collect import collector
from trajworld.collect.collector import Rollout, collect, run_episode
from trajworld.data.minari_datasets import datasets_folder, local_datasets, read_minari
from trajworld.policies.behaviour import Uniform

pytestmark = pytest.mark.once


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
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    assert err.strip().splitlines()[-1] == "Interrupted."
    assert "Traceback" not in err
    assert not [name for name in files() if ".tmp" in name]
    for entry in local_datasets():
        info, episodes = read_minari(entry["id"])
        assert len(list(episodes)) == info.episodes
