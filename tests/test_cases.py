"""Cases that people met with other tools: files of another kind, odd paths, places that cannot be written, locks."""

import gzip
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_fixtures import d4rl_file, minari_dataset
from test_cli_start import python
from test_data_readers import steps, write
from training_fixtures import store

from trajworld.collect.corpus_table import read_table
from trajworld.data.account import Account
from trajworld.data.d4rl import read_d4rl
from trajworld.data.minari_datasets import dataset_path
from trajworld.data.resolve import open_dataset
from trajworld.errors import TrajWorldError
from trajworld.files import one_writer
from trajworld.interop.published import import_published
from trajworld.models.files import load_model
from trajworld.training.config import resolve_config
from trajworld.versions import pip_command

pytestmark = pytest.mark.once

GIT_LFS = b"version https://git-lfs.github.com/spec/v1\n"
OTHER_FILES = [b"<html></html>", GIT_LFS, gzip.compress(b"x", mtime=0), b""]
OTHER_FILES += [(99).to_bytes(8, "little") + b'{"a": 1}', b"PK\x03\x04 archive/data.pkl", b"\x80\x04K\x01."]


def errors(printed: str) -> int:
    return sum(line.startswith("Error: ") for line in printed.splitlines())


READERS: dict[str, Callable[[Path], Any]] = {
    "a.hdf5": open_dataset,
    "a.keras": load_model,
    "a.pkl": import_published,
    "a.toml": lambda path: resolve_config("train", file=path, options={"datasets": ["x"]}),
    "a.csv": read_table,
    "episode_0.npz": lambda path: open_dataset(path.parent),
}


@pytest.mark.parametrize("name", READERS)
def test_a_file_of_another_kind_is_one_line_from_every_reader(tmp_path: Path, name: str) -> None:
    for content in OTHER_FILES if name != "a.toml" else [one for one in OTHER_FILES if one]:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(TrajWorldError, match=name) as error:
            READERS[name](tmp_path / name)
        assert "\n" not in str(error.value)


def test_files_that_were_put_together_keep_every_transition(tmp_path: Path) -> None:
    both = {name: np.concatenate([part, steps(30, 2)[name]]) for name, part in steps(30, 1).items()}
    both["terminals"][:], both["timeouts"][:] = False, False
    found = list(read_d4rl(write(tmp_path / "both.hdf5", both)).episodes(account := Account()))
    assert sum(map(len, found)) == account.kept == 60
    np.testing.assert_array_equal(
        np.concatenate([one.observations[1:] for one in found]), both["next_observations"]
    )


def test_odd_names_and_the_range_of_one_of_the_models_own_datasets_by_its_name(
    tmp_path: Path, command: Any, monkeypatch: pytest.MonkeyPatch, make_episodes: Any, plain_steps: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("a,b=c", "d=1,e", "other")):
        d4rl_file(tmp_path / f"{name}.hdf5", make_episodes([9, 8, 7], seed=seed))
    assert command("pretrain", "a,b=c.hdf5", "d=1,e.hdf5=2", "-o", "r=1,2", *TINY)[0] == 0
    monkeypatch.chdir("/")
    assert command("pretrain", "--resume", tmp_path / "r=1,2", "--steps", "3")[0] == 0
    model, other = tmp_path / "r=1,2/last.keras", tmp_path / "other.hdf5"
    words = ["evaluate", model, other, "--horizon=0", "--json", "--ranges"]
    found = json.loads(command(*words, "a,b=c")[1])["datasets"][0]["prediction"]
    assert found["ranges"] == "the model's own, of a,b=c"
    code, _, err = command(*words, "f=9")
    assert (code, errors(err)) == (2, 1)


def test_what_was_changed_in_a_store_is_noticed(tmp_path: Path) -> None:
    path = Path(store(tmp_path / "data"))
    rows = np.load(path / "rows.npy")
    rows[3, 0] += 1
    np.save(path / "rows.npy", rows)
    os.utime(path / "rows.npy", (2e9, 2e9))
    with pytest.raises(TrajWorldError, match="not those that were written"):
        open_dataset(path)


def test_transitions_that_a_minari_dataset_counts_but_does_not_hold_are_told(make_episodes: Any) -> None:
    file = minari_dataset("counts-v0", make_episodes([5, 6])) / "data/metadata.json"
    held = json.loads(file.read_text())
    file.write_text(json.dumps({**held, "total_episodes": 1}))
    assert list(open_dataset("counts-v0").account.notes.values()) == [6]
    file.write_text(json.dumps({**held, "data_format": "arrow"}))
    with pytest.raises(TrajWorldError, match="cannot read episode 0"):
        open_dataset("counts-v0")


NOWHERE, TINY = "/proc/none", ["--preset", "tiny", "--steps", "2", "--batch-size", "2"]


@pytest.mark.skipif(sys.platform != "linux", reason="/proc cannot be written, not even by root")
@pytest.mark.parametrize(
    "arguments",
    [
        f"data collect-corpus --only robot/snake-0 --transitions 50 --workers 1 -o {NOWHERE}",
        "data import a.hdf5 --id a-v0",
        f"data inspect a.hdf5 -o {NOWHERE}/a.png",
        f"data draw-robots robot/snake-0 -o {NOWHERE}/a.png",
        f"train data -o {NOWHERE}/run --preset tiny --steps 1",
        f"pretrain data -o {NOWHERE}/run --preset tiny --steps 1",
        f"evaluate trajworld-small data --horizon 0 --windows 4 -o {NOWHERE}/out",
        f"checkpoint card run -o {NOWHERE}/CARD.md",
        f"study run backends --quick -o {NOWHERE}/report",
        f"quickstart --scale tiny -o {NOWHERE}/quick",
    ],
)
def test_a_place_that_cannot_be_written_is_one_line(
    tmp_path: Path, command: Any, monkeypatch: pytest.MonkeyPatch, plain_steps: Any, arguments: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a.hdf5", steps(40))
    store(tmp_path / "data")
    if "card" in arguments:
        assert command("train", "data", "-o", "run", *TINY)[0] == 0
    if "import" in arguments:
        monkeypatch.setenv("MINARI_DATASETS_PATH", NOWHERE)
    code, _, err = command(*arguments.split())
    assert (code, errors(err), "Traceback" in err) == (1, 1, False), err
    assert NOWHERE in err


@pytest.mark.parametrize("name", ["loop", "x" * 300, "~no-such-user/a", "a,b=c"])
def test_links_in_circles_and_odd_names(
    tmp_path: Path, command: Any, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for suffix in (".hdf5", ".keras", ".pkl", ".toml", ""):
        Path(f"loop{suffix}").symlink_to(f"loop{suffix}")
    store(tmp_path / "data")
    for words in (
        ["data", "inspect", f"{name}.hdf5"],
        ["data", "import", f"{name}.hdf5", "--id", "a-v0"],
        ["train", f"{name}.hdf5", "-o", "run"],
        ["train", "data", "-o", "run", "--config", f"{name}.toml"],
        ["train", "data", "-o", "run", "--init", f"{name}.keras"],
        ["train", "--resume", name],
        ["pretrain", f"{name}.hdf5=2", "-o", "run"],
        ["evaluate", f"{name}.keras", "data"],
        ["checkpoint", "import", f"{name}.pkl", "-o", "a.keras"],
        ["checkpoint", "card", name, "-o", "a.md"],
        ["data", "collect-corpus", "--list", "--table", f"{name}.csv"],
        ["study", "report", name],
    ):
        code, _, err = command(*words)
        assert (code in (1, 2), errors(err), "Traceback" in err) == (True, 1, False), (words, err)
    assert not Path("run").exists()


def test_an_id_that_another_process_writes_is_refused(tmp_path: Path, command: Any) -> None:
    write(tmp_path / "a.hdf5", steps(40))
    with one_writer(dataset_path("mine/a-v0"), "it"):
        code, _, err = command("data", "import", tmp_path / "a.hdf5", "--id", "mine/a-v0")
    assert (code, err.count("Error: another process is writing")) == (1, 1)
    assert command("data", "import", tmp_path / "a.hdf5", "--id", "mine/a-v0")[0] == 0


def test_a_writer_removes_what_a_killed_one_left_and_nothing_else(tmp_path: Path) -> None:
    names = ".a.0123abcd.tmp/x .a.0123abcd.old/x a/.k.12.tmp.json .b.0123abcd.tmp/x .a.b.0123abcd.tmp/x a/k"
    left = names.split()
    for name in left:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with one_writer(tmp_path / "a", "it"):
        assert [(tmp_path / name).exists() for name in left] == [False, False, False, True, True, True]
    shutil.rmtree(tmp_path / "a")
    (tmp_path / ".a.0123abcd.old").mkdir()
    with one_writer(tmp_path / "a", "it"):
        assert (tmp_path / ".a.0123abcd.old").exists(), (
            "it is all that is left of a folder that was being replaced"
        )


@pytest.mark.parametrize(
    ("package", "arguments", "words"),
    [
        ("", "data list", "KERAS_BACKEND is 'caffe'"),
        ("dm_control", "data collect dm_control/cheetah-run", "pip install 'dm_control"),
        ("ray", "study run backends --quick --engine ray -o out", "on this machine"),
        ("huggingface_hub", "evaluate hf://a/b data", "pip install -U huggingface_hub"),
        ("pyarrow", "data import log.parquet --id log-v0", f"is not installed: {pip_command('parquet')}\n"),
        (
            "stable_baselines3",
            "policy train Pendulum-v1 -o agent",
            f"is not installed: {pip_command('agents')}\n",
        ),
    ],
)
def test_what_is_not_installed_is_named_in_one_line(
    command: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, package: str, arguments: str, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "log.parquet").write_bytes(b"PAR1")
    (tmp_path / "log.toml").write_text('observation = ["a"]')
    before = sorted(tmp_path.iterdir())
    if package:
        for name in [package, *(name for name in sys.modules if name.startswith(f"{package}."))]:
            monkeypatch.setitem(sys.modules, name, None)
    else:
        monkeypatch.setenv("KERAS_BACKEND", "caffe")
    code, _, err = command(*arguments.split())
    assert (code in (1, 2), errors(err)) == (True, 1), err
    assert words in err
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("encoding", ["cp850", "ascii"])
def test_a_terminal_with_few_letters(encoding: str) -> None:
    code = "import sys; from trajworld.cli.main import main; sys.exit(main(sys.argv[1:]))"
    words = ["data", "collect-corpus", "--list", "--only", "robot/snake-*"]
    done = python(code, *words, PYTHONIOENCODING=encoding, COLUMNS="100")
    assert (done.returncode, "robot/snake-0" in done.stdout) == (0, True), done.stderr


@pytest.mark.slow
def test_mutated_files_end_in_a_right_result_or_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parent / "campaigns")
    from mutate import campaign

    counts, faults = campaign(25, seed=1)
    assert faults == []
    assert sum(ended["refused"] for ended in counts.values()) > 12
