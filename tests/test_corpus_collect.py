"""Making a corpus: the same files whoever makes it, however often it was killed; and what it says of itself."""

import functools
import hashlib
import importlib.util
import json
import os
import shutil
import signal
from unittest.mock import patch

import minari
import numpy as np
import pytest
from waiting import start, wait_for

from trajworld.cli.main import main
from trajworld.collect.corpus import (
    _drawn,
    coverage,
    gather,
    open_corpus,
    plan_corpus,
    training_members,
)
from trajworld.collect.corpus_table import read_table
from trajworld.data.minari_datasets import read_minari
from trajworld.errors import TrajWorldError, UsageError
from trajworld.policies.search import ClockedPolicy
from trajworld.training.config import resolve_config
from trajworld.training.parts import open_parts

pytestmark = pytest.mark.once

TABLE = """\
environment, source, M, role, weight, size, behaviour, search, variants
gymnasium/Pendulum-v1?g=4.0, classic, 5, pre-train, 1, 0.5, varied, 1,
gymnasium/InvertedPendulum-v5, gymnasium, 6, pre-train, 2, 1, mixed, 2, reset_noise_scale=0.15
robot/legged-3, legged, 15, pre-train, 1, 1, varied, 2, terminate_when_unhealthy=false
robot/snake-2, snake, 14, pre-train, 0.5, 1, gait, 0,
gymnasium/Pendulum-v1?g=2.0, classic, 5, unseen, 1, 1, varied, 0,
"""


@pytest.fixture
def table(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text(TABLE)
    return path


@pytest.fixture
def run(command, table):
    """Exit code, output and errors of ``trajworld data collect-corpus`` on the small table."""
    return functools.partial(command, "data", "collect-corpus", "--table", table, "--transitions", 600)


def contents(folder):
    """The digest of every file below, hidden ones too, but for locks that a killed process left."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix != ".lock"
    }


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A corpus of the small table, made by this process."""
    folder = tmp_path_factory.mktemp("original")
    (folder / "table.csv").write_text(TABLE)
    options = ["--table", str(folder / "table.csv"), "--transitions", "600", "--workers", "1"]
    with patch.dict(os.environ, MINARI_DATASETS_PATH="set by the command"):
        main(["data", "collect-corpus", *options, "-o", str(folder / "made")])
    return folder / "made"


@pytest.fixture
def made(original, tmp_path, monkeypatch):
    """A copy of it, where Minari looks."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "made"))
    return shutil.copytree(original, tmp_path / "made")


def _datasets_begun(folder):
    # os.walk passes over what is renamed meanwhile; rglob raises.
    return sum("main_data.hdf5" in files for _, _, files in os.walk(folder))


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["1", "2"])
def test_killed_and_started_again_it_ends_the_same(run, table, tmp_path, workers):
    whole, folder = tmp_path / "whole", tmp_path / "killed"
    # So many that it is not over before it is killed.
    options = ["--transitions", "5000", "--workers", workers, "-o"]
    assert run(*options, whole)[0] == 0
    for _ in range(3):
        before = _datasets_begun(folder)
        process = start("data", "collect-corpus", "--table", table, *options, folder)
        # The next dataset is begun or there: in between, half of one is on disk.
        wait_for(lambda: process.poll() is not None or _datasets_begun(folder) > before)  # noqa: B023
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    assert contents(folder) != contents(whole), "it was over before it was killed: the test shows nothing"
    assert len(contents(whole)) == 5 * 2 + 1 + 3, "data, metadata, the list of members, Minari's namespaces"
    # What a kill in the middle of writing leaves behind.
    left = folder / "corpus" / "pre-train" / ".robot-snake-2-v0.abc.tmp"
    left.mkdir(parents=True, exist_ok=True)
    (left / "half").write_text("written")
    assert run(*options, folder)[0] == 0
    assert contents(folder) == contents(whole)
    assert not left.exists()


def test_finished_datasets_are_not_made_again(run, made):
    before = {path: path.stat().st_mtime_ns for path in made.rglob("*.hdf5")}
    code, out, _ = run("-o", made)
    assert code == 0
    assert "Made 0 datasets" in out
    assert (
        f"5 were there already. `MINARI_DATASETS_PATH={made} trajworld data corpus corpus` describes" in out
    )
    assert "already. `trajworld data corpus corpus` describes" in run()[1]
    assert {path: path.stat().st_mtime_ns for path in made.rglob("*.hdf5")} == before
    # One that is missing is made again.
    shutil.rmtree(made / "corpus" / "pre-train" / "robot-snake-2-v0")
    code, out, _ = run("-o", made, "--json")
    assert [entry["environment"] for entry in json.loads(out)] == ["robot/snake-2"]


def test_a_corpus_of_another_recipe_is_refused_and_stays(run, made):
    before = contents(made)
    code, out, err = run("-o", made, "--seed", "3")
    assert (code, out) == (1, "")
    assert "corpus/pre-train/gymnasium-pendulum-v1-g-4_0-v0 was made otherwise (seed 0 instead of 3)" in err
    assert contents(made) == before
    assert run("-o", made, "--seed", "3", "--name", "other", "--only", "snake")[0] == 0
    snake = "pre-train/robot-snake-2-v0/data/main_data.hdf5"
    assert len({contents(made)[f"{name}/{snake}"] for name in ("corpus", "other")}) == 2


def test_what_is_gathered_mixes_behaviours_and_variants(table):
    row = read_table(table)[2]
    gathered = gather(*plan_corpus("some", [row], 3000, 0)[0])
    lengths = [len(episode) for episode in gathered.episodes]
    assert max(lengths) <= 500
    assert sum(lengths) == gathered.tally.transitions == 3000
    assert set(gathered.kinds) == {"uniform", "ou", "constant", "gait", "policy"}
    # Some episodes end where the robot falls; in the variant others lie on the ground for long.
    fallen, others = (
        [episode.observations[-1, 0] for episode in gathered.episodes if episode.terminated == ends]
        for ends in (True, False)
    )
    assert min(others) < min(fallen)


@pytest.mark.parametrize(("behaviour", "share"), [("running", 0.75), ("varied", 0.4), ("gait", 0.4)])
def test_how_many_episodes_follow_a_policy(behaviour, share):
    policies = [ClockedPolicy(np.zeros((1, 4)), np.zeros(1), np.ones(1), period) for period in range(5)]
    generator = np.random.default_rng(0)
    drawn = [_drawn(behaviour, policies, generator) for _ in range(2000)]
    chosen = [one for kind, one in drawn if kind == "policy"]
    for count, expected in [(len(chosen), share)] + [
        (sum(one.period == each for one in chosen), share / 5) for each in range(5)
    ]:
        assert abs(count / 2000 - expected) < 5 * np.sqrt(expected * (1 - expected) / 2000)
    assert all(0.02 <= one.noise <= 0.6 for one in chosen)
    assert all(_drawn(behaviour, [], generator)[0] != "policy" for _ in range(100))


@pytest.mark.slow
def test_a_runner_moves_as_far_between_rows_as_half_cheetahs_runs_do():
    row = next(row for row in read_table() if row.environment == "robot/runner-1")
    [job], _ = plan_corpus("some", [row], 3000, 0)
    assert job.search == 15 * 3000
    gathered = gather(job)
    own = [
        episode for episode, kind in zip(gathered.episodes, gathered.kinds, strict=True) if kind == "policy"
    ]
    assert sum(map(len, own)) > 1500
    rows = [episode.observations.astype(np.float64) for episode in own]
    moved = np.concatenate([np.abs(np.diff(one, axis=0)) for one in rows]).mean(0)
    # What copying the last row is wrong by, in standard deviations: 0.8 for half-cheetah's, 0.2 for walker2d's.
    assert np.mean(moved / np.concatenate(rows).std(0)) > 0.5


def test_coverage_is_one_where_it_is_even_and_small_where_all_is_in_one_place():
    even, point = np.linspace(0, 1, 6400), np.eye(1, 6400)[0]
    assert coverage(even[:, None]) == pytest.approx(1.0, abs=0.01)
    assert coverage(point[:, None]) == pytest.approx(1 / 64, rel=0.01)
    # A variate that never varies says nothing.
    assert coverage(np.stack([even, np.ones(6400)], 1)) == pytest.approx(1.0, abs=0.01)
    assert coverage(np.ones((10, 2))) == 0.0
    # Half of the range, evenly, but for one outlier.
    assert coverage(np.append(even, 2.0)[:, None]) == pytest.approx(0.5, abs=0.03)


def test_the_corpus_is_described(made, command, tmp_path):
    picture = tmp_path / "corpus.png"
    found = json.loads(command("data", "corpus", "--json", "-o", picture)[1])
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert found["missing"] == []
    entries = found["entries"]
    assert [entry["variates"] for entry in entries] == [5, 6, 15, 14, 5]
    assert [entry["transitions"] for entry in entries] == [300, 600, 600, 600, 600]
    assert [entry["weight"] * 4.5 for entry in entries] == pytest.approx([1, 2, 1, 0.5, 0])
    assert {entry["dataset"] for entry in entries} == set(minari.list_local_datasets())
    for entry in entries:
        info, episodes = read_minari(entry["dataset"])
        read = list(episodes)
        assert entry["environment"] == info.environment
        assert entry["transitions"] == sum(map(len, read))
        assert entry["episodes"] == len(read)
        assert entry["terminated"] == sum(episode.terminated for episode in read)
        even = coverage(np.concatenate([episode.observations for episode in read]))
        assert entry["coverage"] == pytest.approx(even, abs=1e-4)
        assert sum(entry["behaviours"].values()) == pytest.approx(1)
    shutil.rmtree(made / "corpus" / "unseen" / "gymnasium-pendulum-v1-g-2_0-v0")
    code, printed, _ = command("data", "corpus")
    assert code == 0
    assert all(f"{kind} " in printed for kind in entries[0]["behaviours"])
    assert "still to be made: corpus/unseen/gymnasium-pendulum-v1-g-2_0-v0" in printed
    assert "pre-train: 4 environments of 4 different M, 2,100 transitions" in printed


def test_weights_change_the_members_alone_where_nobody_else_writes(run, made, table):
    before = contents(made)
    with open_corpus("corpus", read_table(table), {}):
        code, _, err = run("-o", made)
    assert (code, contents(made)) == (1, before)
    assert "another process is writing the corpus corpus" in err
    assert run("-o", made, "--weights", "legged=3", "--weights", "classic=0.5")[0] == 0
    assert [member.weight for member in training_members("corpus")] == [0.5, 2.0, 3.0, 0.5]
    changed = {name for name, digest in contents(made).items() if before[name] != digest}
    assert changed == {"corpus/corpus.json"}


def test_a_part_of_the_table_is_a_corpus_of_its_own(run, table, tmp_path):
    table.write_text(
        f"{TABLE}gymnasium/HalfCheetah-v5?timestep=0.12, cheetah, 24, pre-train, 2, 1, mixed, 0,\n"
    )
    part = functools.partial(run, "-o", tmp_path / "made", "--name", "part", "--only")
    assert part("robot/snake-*", "--weights", "snake=4", "--weights", "cheetah=3")[0] == 0
    assert [member.weight for member in training_members("part")] == [2.0]
    code, out, _ = part("cheetah")
    assert code == 0
    assert "Warning: gymnasium/HalfCheetah-v5?timestep=0.12: " in out
    members = training_members("part")
    assert [(member.source, member.weight) for member in members] == [("snake", 2.0), ("cheetah", 6.0)]
    shutil.rmtree(tmp_path / "made" / members[0].dataset_id)
    assert part("cheetah")[0] == 0
    with pytest.raises(
        TrajWorldError, match=r"lacks 1 of its 2 .* collect-corpus --name part`, with the opt"
    ):
        training_members("part")


def test_pre_training_takes_a_corpus_by_name(made):
    options = {"datasets": [{"spec": "corpus:corpus", "weight": 2.0}], "batch_size": 4}
    parts = open_parts(resolve_config("pretrain", preset="tiny", options=options))
    ids = [member.dataset_id for member in training_members("corpus")]
    assert [part.dataset.name for part in parts] == ids
    assert [part.weight for part in parts] == [2.0, 4.0, 2.0, 1.0]
    assert not any("g=2.0" in part.dataset.environment for part in parts), "the unseen stay unseen"
    with pytest.raises(UsageError, match="is a whole corpus, for pretrain"):
        open_parts(resolve_config("train", preset="tiny", options=options))


def test_a_corpus_that_is_missing_unfinished_or_damaged_is_refused(made):
    with pytest.raises(TrajWorldError, match="there is no corpus none"):
        training_members("none")
    shutil.rmtree(made / "corpus" / "pre-train" / "robot-snake-2-v0")
    with pytest.raises(TrajWorldError, match="lacks 1 of its 4 pre-training datasets"):
        training_members("corpus")
    for damaged in ("{}", '{"datasets": [{"role": "unseen"}]}', '{"datasets": 3}', "[]"):
        (made / "corpus" / "corpus.json").write_text(damaged)
        with pytest.raises(TrajWorldError, match=r"is damaged|is not a readable"):
            training_members("corpus")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--only", "horse*"], 2, "'horse*' fits no environment or source"),
        (["--name", "a/b"], 2, "a corpus's name is"),
        (["--weights", "legged"], 2, "SOURCE=FACTOR"),
        (["--weights", "horses=2"], 2, "the table has no source 'horses'"),
        (["--weights", "legged=0"], 2, "the weight of legged must be above 0"),
        (["--table", "none.csv"], 1, "cannot read the table none.csv"),
    ],
)
def test_mistakes_end_in_one_line_and_leave_nothing(run, tmp_path, arguments, code, message):
    folder = tmp_path / "nothing"
    found, out, err = run("-o", folder, *arguments)
    assert (found, out) == (code, "")
    assert message in err
    assert not list(folder.rglob("*.hdf5"))


def test_a_table_that_is_wrong_of_an_environment_stops_there(run, table, tmp_path):
    table.write_text(TABLE.replace("robot/snake-2, snake, 14", "robot/snake-2, snake, 13"))
    code, _, err = run("-o", tmp_path / "wrong", "--only", "snake")
    assert code == 1
    assert "robot/snake-2 has 14 variates, but the table says 13" in err
    table.write_text(TABLE.replace("terminate_when_unhealthy=false", "wings=2"))
    code, _, err = run("-o", tmp_path / "wrong", "--only", "legged", "--only", "snake", "--workers", "2")
    assert code == 2
    assert "unknown wings" in err
    # A simulator that is missing shows before anything is made.
    table.write_text(TABLE + "dm_control/cartpole-swingup, dm_control, 7, pre-train, 1, 1, varied, 0,\n")
    found = importlib.util.find_spec
    with patch("importlib.util.find_spec", lambda name: None if name == "dm_control" else found(name)):
        code, _, err = run("-o", tmp_path / "without")
    assert code == 1
    assert "pip install 'dm_control" in err
    assert not (tmp_path / "without").exists()
