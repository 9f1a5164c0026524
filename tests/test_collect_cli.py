"""``trajworld data collect``: what it writes, what it prints, and what failures leave behind."""

import json
import os
import signal
import subprocess
import sys
import time

import gymnasium
import numpy as np
import pytest

from trajworld.cli.main import main
from trajworld.collect.collector import collect
from trajworld.collect.datasets import collect_datasets, dataset_targets
from trajworld.data.minari_datasets import read_minari
from trajworld.errors import TrajWorldError, UsageError
from trajworld.policies.behaviour import Uniform


@pytest.fixture(autouse=True)
def datasets(tmp_path, monkeypatch):
    """An empty Minari folder."""
    folder = tmp_path / "datasets"
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(folder))
    return folder


def run(capsys, *arguments):
    """Exit code, output and errors of ``trajworld data collect``."""
    try:
        code = main(["data", "collect", *arguments])
    except SystemExit as exit_:
        code = exit_.code
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*")) if folder.exists() else []


def test_each_environment_becomes_a_dataset_that_minari_reads(capsys, datasets):
    code, out, _ = run(
        capsys,
        "Pendulum-v1?g=5",
        "Hopper-v5",
        "--transitions",
        "300",
        "--seed",
        "4",
        "--behaviour",
        "uniform",
        "--json",
    )
    assert code == 0
    pendulum, hopper = json.loads(out)
    assert pendulum["dataset"] == "trajworld/gymnasium-pendulum-v1-g-5_0/uniform-v0"
    assert hopper["dataset"] == "trajworld/gymnasium-hopper-v5/uniform-v0"
    for summary, name in ((pendulum, "Pendulum-v1?g=5"), (hopper, "Hopper-v5")):
        expected = list(collect(name, behaviour=Uniform(), transitions=300, seed=4))
        info, episodes = read_minari(summary["dataset"])
        found = list(episodes)
        assert info.environment == summary["environment"] == f"gymnasium/{name.replace('=5', '=5.0')}"
        assert (info.transitions, summary["transitions"]) == (300, 300)
        assert info.episodes == summary["episodes"] == len(expected) == len(found)
        assert summary["mean_return"] == pytest.approx(
            np.mean([episode.rewards.sum(dtype=float) for episode in expected])
        )
        for one, other in zip(expected, found, strict=True):
            np.testing.assert_array_equal(one.observations, other.observations)
            np.testing.assert_array_equal(one.actions, other.actions)
            np.testing.assert_array_equal(one.rewards, other.rewards)
            assert (one.terminated, one.truncated) == (other.terminated, other.truncated)
        recorded = info.metadata["collection"]
        assert recorded["behaviour"] == {"name": "uniform", "scale": 1.0}
        assert recorded["seed"] == 4
        assert recorded["versions"]["gymnasium"] == gymnasium.__version__


def test_minari_itself_opens_what_was_collected(capsys):
    import minari

    assert run(capsys, "Pendulum-v1", "--episodes", "2", "--id", "mine/{behaviour}-v3")[0] == 0
    dataset = minari.load_dataset("mine/ou-v3")
    assert (dataset.total_episodes, dataset.total_steps) == (2, 400)
    assert dataset.action_space == gymnasium.make("Pendulum-v1").action_space


def test_the_table_names_the_dataset_and_warns_of_broken_episodes(capsys):
    code, out, err = run(
        capsys, "HalfCheetah-v5?timestep=0.08", "--transitions", "200", "--behaviour", "uniform"
    )
    assert code == 0
    assert "trajworld/gymnasium-halfcheetah-v5-timestep-0_08/uniform-v0" in out
    assert "Warning: gymnasium/HalfCheetah-v5?timestep=0.08" in out
    assert "200 of 200 transitions" in err


def test_a_taken_id_is_refused_replaced_or_skipped(capsys, datasets):
    arguments = ("Pendulum-v1", "--episodes", "1", "--json")
    assert run(capsys, *arguments)[0] == 0
    before = next(iter(read_minari("trajworld/gymnasium-pendulum-v1/ou-v0")[1])).observations
    code, out, err = run(capsys, "InvertedPendulum-v5", *arguments, "--seed", "1")
    assert (code, json.loads(out)) == (1, [])
    assert "Minari has trajworld/gymnasium-pendulum-v1/ou-v0 already" in err
    assert not any("inverted" in name for name in files(datasets)), "it ran before it looked"
    code, out, err = run(capsys, "InvertedPendulum-v5", *arguments, "--seed", "1", "--skip-existing")
    assert (code, [row["environment"] for row in json.loads(out)]) == (0, ["gymnasium/InvertedPendulum-v5"])
    assert "is there already" in err
    np.testing.assert_array_equal(
        before, next(iter(read_minari("trajworld/gymnasium-pendulum-v1/ou-v0")[1])).observations
    )
    assert run(capsys, *arguments, "--seed", "1", "--replace")[0] == 0
    after = next(iter(read_minari("trajworld/gymnasium-pendulum-v1/ou-v0")[1])).observations
    assert not np.array_equal(before, after)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Missing argument"),
        (["Hoper-v5"], "did you mean"),
        (["Pendulum-v1", "Nothing-v0"], "there is no environment"),
        (["CartPole-v1"], "Discrete actions"),
        (["Pendulum-v1?g=abc"], "must be a number"),
        (["Pendulum-v1", "--transitions", "0"], "0 is not in the range"),
        (["Pendulum-v1", "--transitions", "5", "--episodes", "5"], "not both"),
        (["Pendulum-v1", "--replace", "--skip-existing"], "not both"),
        (["Pendulum-v1", "--behaviour", "brownian"], "brownian"),
        (["Pendulum-v1", "--behaviour", "mixed", "--noise-scale", "0.2"], "draws its own scale"),
        (["Pendulum-v1", "--noise-correlation", "1"], "correlation"),
        (["Pendulum-v1", "--seed", "-1"], "-1"),
        (["Pendulum-v1", "--workers", "0"], "0"),
        (["Pendulum-v1", "--id", "../escape-v0"], "is no Minari id"),
        (["Pendulum-v1", "--id", "/abs/olute-v0"], "is no Minari id"),
        (["Pendulum-v1", "--id", "noversion"], "is no Minari id"),
        (["Pendulum-v1", "--id", "{env}-v0"], "id template"),
        (["Pendulum-v1", "--id", "{environment-v0"], "id template"),
        (["Pendulum-v1", "Pendulum-v1?g=5", "--id", "same-v0"], "would both be same-v0"),
        (["Pendulum-v1", "gymnasium/Pendulum-v1"], "would both be"),
    ],
)
def test_mistakes_end_in_one_line_before_anything_runs(capsys, datasets, arguments, message):
    code, out, err = run(capsys, *arguments)
    assert code == 2
    assert message in err
    assert out == ""
    assert files(datasets) == []


class Breaks(gymnasium.Env):
    """Every step of it raises."""

    observation_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)
    action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        return np.zeros(1, np.float32), {}

    def step(self, action):
        raise RuntimeError("out of order")


@pytest.fixture
def breaks():
    gymnasium.register("TrajWorldBreaks-v0", entry_point=f"{__name__}:Breaks")
    yield "TrajWorldBreaks-v0"
    del gymnasium.registry["TrajWorldBreaks-v0"]


def test_what_was_finished_before_a_failure_stays(capsys, datasets, breaks):
    code, out, err = run(capsys, "Pendulum-v1", breaks, "Hopper-v5", "--transitions", "50", "--json")
    assert code == 1
    assert [row["environment"] for row in json.loads(out)] == ["gymnasium/Pendulum-v1"]
    assert (
        err.strip().splitlines()[-1].startswith("Error: gymnasium/TrajWorldBreaks-v0: 100 episodes in a row")
    )
    assert "out of order" in err
    assert read_minari("trajworld/gymnasium-pendulum-v1/ou-v0")[0].transitions == 50
    left = [
        name
        for name in files(datasets)
        if "pendulum" not in name and not name.endswith("namespace_metadata.json")
    ]
    assert left == ["trajworld"]


def test_a_failure_while_replacing_keeps_the_old_dataset(datasets, breaks):
    gymnasium.register("TrajWorldWorks-v0", entry_point="gymnasium.envs.classic_control.pendulum:PendulumEnv")
    try:
        works = dataset_targets(["TrajWorldWorks-v0"], "uniform", "one/id-v0")
        fails = dataset_targets([breaks], "uniform", "one/id-v0")
        options = {"behaviour_name": "uniform", "behaviour": Uniform(), "transitions": 30}
        list(collect_datasets(works, **options))
        with pytest.raises(TrajWorldError, match="already"):
            list(collect_datasets(fails, **options))
        before = files(datasets)
        with pytest.raises(TrajWorldError, match="out of order"):
            list(collect_datasets(fails, **options, replace=True))
        assert files(datasets) == before
        assert read_minari("one/id-v0")[0].environment == "gymnasium/TrajWorldWorks-v0"
    finally:
        del gymnasium.registry["TrajWorldWorks-v0"]


def test_a_target_needs_an_environment_that_exists():
    with pytest.raises(UsageError):
        dataset_targets(["dm_control"], "ou")


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["1", "2"])
def test_ctrl_c_leaves_finished_datasets_and_nothing_half_written(datasets, workers):
    code = "import sys; from trajworld.cli.main import main; main(sys.argv[1:])"
    command = ["data", "collect", "Pendulum-v1", "Hopper-v5", "--episodes", "4000", "--workers", workers]
    process = subprocess.Popen(
        [sys.executable, "-c", code, *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | {"MINARI_DATASETS_PATH": str(datasets)},
    )
    deadline = time.monotonic() + 30
    # The temporary folder of the first dataset: it has begun to write.
    while not any(name.endswith("main_data.hdf5") for name in files(datasets)):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(0.5)
    # To the whole group, as a terminal does.
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    assert err.strip().splitlines()[-1] == "Interrupted."
    assert "Traceback" not in err
    assert [name for name in files(datasets) if "hdf5" in name or ".tmp" in name] == []
