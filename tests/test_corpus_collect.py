"""Making a corpus: the same files whoever makes it, however often it was killed; and what it says of itself."""

import filecmp
import hashlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from trajworld.cli.main import main
from trajworld.collect.corpus import make_datasets, open_corpus, plan_corpus
from trajworld.collect.corpus_episodes import coverage, gather, recipe_of
from trajworld.collect.corpus_manifest import read_manifest, training_members
from trajworld.collect.corpus_summary import describe_corpus
from trajworld.collect.corpus_table import read_table
from trajworld.data.minari_datasets import local_datasets, read_minari
from trajworld.errors import TrajWorldError, UsageError

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
def run(capsys, table):
    """Exit code, output and errors of ``trajworld data collect-corpus`` on the small table."""

    def call(*arguments):
        try:
            code = main(["data", "collect-corpus", "--table", str(table), "--transitions", "600", *arguments])
        except SystemExit as exit_:
            code = exit_.code
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return call


def contents(folder):
    """The digest of every file below, hidden ones too."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def made(run, tmp_path):
    """A corpus of the small table, made by this process."""
    folder = tmp_path / "made"
    code, _, err = run("-o", str(folder), "--workers", "1")
    assert code == 0, err
    return folder


@pytest.mark.slow
def test_made_twice_it_is_the_same_file_by_file(run, made, tmp_path):
    # Later, by several processes, in two parts, from another folder.
    time.sleep(1.1)
    other = tmp_path / "other"
    assert run("-o", str(other), "--workers", "2", "--only", "legged", "--only", "*Inverted*")[0] == 0
    assert run("-o", str(other), "--workers", "3")[0] == 0
    assert contents(other) == contents(made)
    assert len(contents(made)) == 5 * 2 + 1 + 3, "data, metadata, the list of members, Minari's namespaces"
    # And no longer so under another seed, or the test could not fail.
    third = tmp_path / "third"
    assert run("-o", str(third), "--seed", "1", "--only", "snake")[0] == 0
    snake = "corpus/pre-train/robot-snake-2-v0/data/main_data.hdf5"
    assert not filecmp.cmp(third / snake, made / snake, shallow=False)


def _datasets_begun(folder, finished=False):
    # os.walk passes over what is renamed meanwhile; rglob raises.
    found = [path for path, _, files in os.walk(folder) if "main_data.hdf5" in files]
    return len([path for path in found if not (finished and ".tmp" in path)])


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["1", "2"])
def test_killed_and_started_again_it_ends_the_same(run, made, table, tmp_path, workers):
    folder = tmp_path / "killed"
    code = "import sys; from trajworld.cli.main import main; main(sys.argv[1:])"
    options = ["--table", str(table), "--transitions", "600", "-o", str(folder), "--workers", workers]
    for _ in range(3):
        process = subprocess.Popen(
            [sys.executable, "-c", code, "data", "collect-corpus", *options],
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        before = _datasets_begun(folder)
        deadline = time.monotonic() + 60
        # The next dataset is begun or there: in between, half of one is on disk.
        while process.poll() is None and _datasets_begun(folder) <= before:
            assert time.monotonic() < deadline
            time.sleep(0.002)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    assert contents(folder) != contents(made), "it was over before it was killed: the test shows nothing"
    # What a kill in the middle of writing leaves behind.
    left = folder / "corpus" / "pre-train" / ".robot-snake-2-v0.abc.tmp"
    left.mkdir(parents=True, exist_ok=True)
    (left / "half").write_text("written")
    assert run("-o", str(folder), "--workers", workers)[0] == 0
    assert contents(folder) == contents(made)
    assert not left.exists()


def test_finished_datasets_are_not_made_again(run, made):
    before = {path: path.stat().st_mtime_ns for path in made.rglob("*.hdf5")}
    code, out, _ = run("-o", str(made))
    assert code == 0
    assert "Made 0 datasets" in out
    assert "5 were there already" in out
    assert {path: path.stat().st_mtime_ns for path in made.rglob("*.hdf5")} == before
    # One that is gone is made again, the same.
    wanted = contents(made)
    shutil.rmtree(made / "corpus" / "pre-train" / "robot-snake-2-v0")
    code, out, _ = run("-o", str(made), "--json")
    assert [entry["environment"] for entry in json.loads(out)] == ["robot/snake-2"]
    assert contents(made) == wanted


def test_a_corpus_of_another_recipe_is_refused_and_stays(run, made):
    before = contents(made)
    code, out, err = run("-o", str(made), "--seed", "3")
    assert (code, out) == (1, "")
    assert "corpus/pre-train/gymnasium-pendulum-v1-g-4_0-v0 was made otherwise (seed 0 instead of 3)" in err
    code, _, err = run("-o", str(made), "--transitions", "700")
    assert code == 1
    assert "transitions 300 instead of 350" in err
    assert contents(made) == before
    assert run("-o", str(made), "--seed", "3", "--name", "other", "--only", "snake")[0] == 0


def test_only_one_process_makes_a_corpus(made, table, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(made))
    rows = read_table(table)
    with open_corpus("corpus", rows, {}):
        code = (
            "import sys\n"
            "from trajworld.collect.corpus import open_corpus\n"
            "from trajworld.collect.corpus_table import read_table\n"
            "with open_corpus('corpus', read_table(sys.argv[1]), {}): pass"
        )
        done = subprocess.run([sys.executable, "-c", code, str(table)], capture_output=True, text=True)
    assert "another process is collecting the corpus corpus" in done.stderr
    with open_corpus("corpus", rows, {}):
        pass


def test_minari_and_the_library_read_the_datasets(made, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(made))
    import minari

    wanted = {
        "corpus/pre-train/gymnasium-pendulum-v1-g-4_0-v0": 300,
        "corpus/pre-train/gymnasium-invertedpendulum-v5-v0": 600,
        "corpus/pre-train/robot-legged-3-v0": 600,
        "corpus/pre-train/robot-snake-2-v0": 600,
        "corpus/unseen/gymnasium-pendulum-v1-g-2_0-v0": 600,
    }
    assert set(minari.list_local_datasets()) == set(wanted)
    assert {entry["id"]: entry["transitions"] for entry in local_datasets()} == wanted
    for dataset_id, transitions in wanted.items():
        assert minari.load_dataset(dataset_id).total_steps == transitions
    info, episodes = read_minari("corpus/pre-train/robot-legged-3-v0")
    assert info.environment == "robot/legged-3"
    lengths = [len(episode) for episode in episodes]
    assert max(lengths) <= 500
    assert sum(lengths) == 600


def test_what_is_gathered_mixes_behaviours_and_variants(table):
    row = read_table(table)[2]
    gathered = gather(row, recipe_of(row, 3000, 0))
    assert sum(gathered.behaviours.values()) == gathered.tally.transitions == 3000
    assert set(gathered.behaviours) == {"uniform", "ou", "constant", "gait", "policy"}
    # Some episodes end where the robot falls; in the variant others lie on the ground for long.
    heights = [episode.observations[:, 0] for episode in gathered.episodes]
    ended = [episode.terminated for episode in gathered.episodes]
    assert any(ended)
    lowest = min(height[-1] for height, over in zip(heights, ended, strict=True) if over)
    lies = [height for height, over in zip(heights, ended, strict=True) if not over and height[-1] < lowest]
    assert lies
    assert 0 < gathered.coverage < 1
    assert gathered.description.name == "robot/legged-3"


def test_coverage_is_one_where_it_is_even_and_small_where_all_is_in_one_place():
    even = np.linspace(0, 1, 6400)
    point = np.zeros(6400)
    point[0] = 1.0
    assert coverage(even[:, None]) == pytest.approx(1.0, abs=0.01)
    assert coverage(point[:, None]) == pytest.approx(1 / 64, rel=0.01)
    # A variate that never varies says nothing.
    assert coverage(np.stack([even, np.ones(6400)], 1)) == pytest.approx(1.0, abs=0.01)
    assert coverage(np.ones((10, 2))) == 0.0
    # Half of the range, evenly, but for one outlier.
    assert coverage(np.append(even, 2.0)[:, None]) == pytest.approx(0.5, abs=0.03)


def test_the_corpus_is_described(made, monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(made))
    picture = tmp_path / "corpus.png"
    assert main(["data", "corpus", "--json", "-o", str(picture)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert found["missing"] == []
    assert [entry["variates"] for entry in found["entries"]] == [5, 6, 15, 14, 5]
    assert [entry["weight"] for entry in found["entries"]] == pytest.approx(
        [1 / 4.5, 2 / 4.5, 1 / 4.5, 0.5 / 4.5, 0]
    )
    for entry in found["entries"]:
        info, episodes = read_minari(entry["dataset"])
        assert (entry["transitions"], entry["episodes"]) == (info.transitions, info.episodes)
        read = list(episodes)
        assert entry["terminated"] == sum(episode.terminated for episode in read)
        assert entry["coverage"] == pytest.approx(
            coverage(np.concatenate([episode.observations for episode in read])), abs=1e-4
        )
        assert sum(entry["behaviours"].values()) == pytest.approx(1)
    shutil.rmtree(made / "corpus" / "unseen" / "gymnasium-pendulum-v1-g-2_0-v0")
    assert main(["data", "corpus"]) == 0
    printed = capsys.readouterr().out
    assert "still to be made: corpus/unseen/gymnasium-pendulum-v1-g-2_0-v0" in printed
    assert "pre-train: 4 environments of 4 different M, 2,100 transitions" in printed


def test_weights_change_the_members_alone(run, made, monkeypatch):
    before = contents(made)
    assert run("-o", str(made), "--weights", "legged=3", "--weights", "classic=0.5")[0] == 0
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(made))
    assert [member.weight for member in training_members("corpus")] == [0.5, 2.0, 3.0, 0.5]
    changed = {name for name, digest in contents(made).items() if before[name] != digest}
    assert changed == {"corpus/corpus.json"}


def test_pre_training_takes_a_corpus_by_name(made, monkeypatch):
    from trajworld.training.config import resolve_config
    from trajworld.training.data import make_mixture, open_parts

    monkeypatch.setenv("MINARI_DATASETS_PATH", str(made))
    config = resolve_config(
        "pretrain",
        preset="tiny",
        options={"datasets": [{"spec": "corpus:corpus", "weight": 2.0}], "batch_size": 4},
    )
    parts = open_parts(config)
    assert [part.dataset.name for part in parts] == [
        member.dataset_id for member in training_members("corpus")
    ]
    assert [part.weight for part in parts] == [2.0, 4.0, 2.0, 1.0]
    assert not any("g=2.0" in part.dataset.environment for part in parts), "the unseen stay unseen"
    mixture = make_mixture(config, parts)
    assert len(mixture.sizes) <= config.padded_sizes
    drawn = {mixture.batch(step).dataset for step in range(60)}
    assert drawn == {0, 1, 2, 3}


def test_a_corpus_that_is_missing_unfinished_or_given_to_train_is_refused(
    run, made, monkeypatch, tmp_path, capsys
):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(made))

    def pretrain(*arguments):
        with pytest.raises(SystemExit) as exit_:
            main([*arguments, "-o", str(tmp_path / "run")])
        return exit_.value.code, capsys.readouterr().err

    code, err = pretrain("pretrain", "corpus:none")
    assert code == 1
    assert "there is no corpus none" in err
    code, err = pretrain("pretrain", "corpus:../up")
    assert code == 2
    assert "a corpus's name is" in err
    code, err = pretrain("train", "corpus:corpus")
    assert code == 2
    assert "is a whole corpus, for pretrain" in err
    shutil.rmtree(made / "corpus" / "pre-train" / "robot-snake-2-v0")
    code, err = pretrain("pretrain", "corpus:corpus")
    assert code == 1
    assert "lacks 1 of its 4 pre-training datasets" in err
    (made / "corpus" / "corpus.json").write_text("{}")
    with pytest.raises(TrajWorldError, match="is damaged"):
        read_manifest("corpus")
    with pytest.raises(TrajWorldError, match="is damaged"):
        describe_corpus("corpus")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--only", "horse*"], 2, "'horse*' fits no environment or source"),
        (["--role", "unseen", "--only", "legged"], 2, "fits no unseen environment or source"),
        (["--name", "a/b"], 2, "a corpus's name is"),
        (["--name", "x"], 2, "a corpus's name is"),
        (["--weights", "legged"], 2, "SOURCE=FACTOR"),
        (["--weights", "horses=2"], 2, "the table has no source 'horses'"),
        (["--weights", "legged=0"], 2, "the weight of legged must be above 0"),
        (["--transitions", "0"], 2, "0 is not in the range"),
        (["--seed", "-1"], 2, "-1 is not in the range"),
        (["--workers", "0"], 2, "0 is not in the range"),
        (["--table", "none.csv"], 1, "cannot read the table none.csv"),
    ],
)
def test_mistakes_end_in_one_line_and_leave_nothing(run, tmp_path, arguments, code, message):
    folder = tmp_path / "nothing"
    found, out, err = run("-o", str(folder), *arguments)
    assert (found, out) == (code, "")
    assert message in err
    assert "Traceback" not in err
    assert not list(folder.rglob("*.hdf5"))


def test_a_table_that_is_wrong_of_an_environment_stops_there(run, table, tmp_path):
    table.write_text(TABLE.replace("robot/snake-2, snake, 14", "robot/snake-2, snake, 13"))
    code, _, err = run("-o", str(tmp_path / "wrong"), "--only", "snake")
    assert code == 1
    assert "robot/snake-2 has 14 variates, but the table says 13" in err
    table.write_text(TABLE.replace("terminate_when_unhealthy=false", "wings=2"))
    code, _, err = run("-o", str(tmp_path / "wrong"), "--only", "legged", "--only", "snake", "--workers", "2")
    assert code == 2
    assert "unknown wings" in err


def test_a_simulator_that_is_missing_shows_before_anything_is_made(run, table, tmp_path, monkeypatch):
    table.write_text(TABLE + "dm_control/cartpole-swingup, dm_control, 7, pre-train, 1, 1, varied, 0,\n")
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "dm_control" else find(name)
    )
    folder = tmp_path / "without"
    code, _, err = run("-o", str(folder))
    assert code == 1
    assert "pip install 'trajworld[dm-control]'" in err
    assert not folder.exists()


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["1", "2"])
def test_ctrl_c_leaves_finished_datasets_and_nothing_half_written(table, tmp_path, workers):
    folder = tmp_path / "interrupted"
    code = "import sys; from trajworld.cli.main import main; main(sys.argv[1:])"
    options = ["--table", str(table), "--transitions", "20000", "-o", str(folder), "--workers", workers]
    process = subprocess.Popen(
        [sys.executable, "-c", code, "data", "collect-corpus", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    while not _datasets_begun(folder, finished=True):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    assert err.strip().splitlines()[-1] == "Interrupted."
    assert "Traceback" not in err
    assert not [path for path in folder.rglob("*") if ".tmp" in path.name]


def test_plans_refuse_numbers_out_of_range_and_no_workers(table):
    rows = read_table(table)
    with pytest.raises(UsageError, match="at least 1"):
        plan_corpus("corpus", rows, 0, 0)
    with pytest.raises(UsageError, match="at least 1"):
        plan_corpus("corpus", rows, 10, -1)
    with pytest.raises(UsageError, match="workers must be at least 1"):
        list(make_datasets([], 0))
