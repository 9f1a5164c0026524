"""Files: one writer, room on the disk, and what a file is when it is not what it should be."""

import gzip
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import filelock
import pytest
from minari.storage.datasets_root_dir import get_dataset_path

from trajworld.data.home import home
from trajworld.data.minari_datasets import dataset_path, datasets_folder
from trajworld.data.resolve import open_dataset
from trajworld.errors import TrajWorldError, UsageError
from trajworld.files import atomic_folder, ensure_room, kind_of_bytes, one_writer, open_zip, user_path
from trajworld.interop.restricted_pickle import read_pickle

pytestmark = pytest.mark.once


def test_a_path_has_one_writer_and_a_killed_one_holds_nothing(tmp_path: Path) -> None:
    code = (
        "import os, sys, time\nfrom trajworld.files import one_writer\n"
        "with one_writer(sys.argv[1], 'the thing'):\n    print('held', flush=True)\n    time.sleep(60)\n"
    )
    path = tmp_path / "deep" / "thing"
    process = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    busy = pytest.raises(TrajWorldError, match="another process is writing the thing")
    with busy, one_writer(path, "the thing"):
        pytest.fail("both hold it")
    process.kill()
    process.wait()
    with one_writer(path, "the thing"):
        pass
    assert list(path.parent.iterdir()) == []


def test_a_folder_made_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    def make(path: Path) -> None:
        with atomic_folder(path) as temporary:
            (temporary / "mine").write_text("mine")
            (path / "theirs").mkdir(parents=True)

    with pytest.raises(TrajWorldError, match="made meanwhile"):
        make(tmp_path / "folder")
    assert [item.name for item in tmp_path.rglob("*")] == ["folder", "theirs"]


def test_a_ctrl_c_while_a_folder_is_replaced_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "folder" / "old").mkdir(parents=True)
    replace = os.replace

    def stopped(source: Any, target: Any) -> None:
        replace(source, target)
        if Path(source) == tmp_path / "folder":
            raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", stopped)
    with pytest.raises(KeyboardInterrupt), atomic_folder(tmp_path / "folder", replace=True):
        pass
    assert [item.name for item in tmp_path.rglob("*")] == ["folder", "old"]


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="asks the disk itself")
def test_room_that_is_not_there_is_told_before_anything_is_written(tmp_path: Path) -> None:
    ensure_room(tmp_path, 1 << 20)
    with pytest.raises(TrajWorldError, match="cannot write"):
        ensure_room(tmp_path, 1 << 60)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("pointer.hdf5", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"),
        ("page.hdf5", b"\n<!DOCTYPE html><html></html>", "HTML page"),
        ("packed.hdf5", gzip.compress(b"x", mtime=0), "gzip"),
        ("weights.hdf5", (100).to_bytes(8, "little") + b'{"a": 1}', "safetensors"),
        ("empty.hdf5", b"", "empty"),
        ("array.hdf5", b"\x93NUMPY\x01\x00", "NumPy file"),
        ("tensors.hdf5", b"PK\x03\x04 archive/data.pkl", "PyTorch file"),
        ("archive.hdf5", b"PK\x03\x04 x", "zip archive"),
    ],
)
def test_files_that_are_something_else_are_named_for_what_they_are(
    tmp_path: Path, name: str, content: bytes, words: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    for read in (open_dataset, read_pickle):
        with pytest.raises(TrajWorldError, match=words) as error:
            read(path)
        assert "\n" not in str(error.value)
    with pytest.raises(UsageError, match=words):
        open_dataset(path.rename(path.with_suffix(".xyz")))


def test_folders_follow_the_environment_and_a_tilde_is_the_home_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert user_path("~/a=b,c") == tmp_path / "a=b,c"
    monkeypatch.setenv("MINARI_DATASETS_PATH", "~/minari")
    monkeypatch.setenv("TRAJWORLD_HOME", "~/own")
    assert (datasets_folder(), home()) == (tmp_path / "minari", tmp_path / "own")
    for name in ("MINARI_DATASETS_PATH", "TRAJWORLD_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert Path(get_dataset_path("x-v0")) == dataset_path("x-v0") == tmp_path / ".minari/datasets/x-v0"
    assert home().is_relative_to(tmp_path)
    with pytest.raises(UsageError, match="~no-such-user"):
        user_path("~no-such-user/data")


def test_a_lock_loses_its_name_while_it_is_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a third process could lock a new file of that name, beside one that waited for the old."""
    there, release = [], filelock.FileLock.release

    def look(self: Any, *arguments: Any) -> None:
        there.append(Path(self.lock_file).exists())
        release(self, *arguments)

    with one_writer(tmp_path / "thing", "the thing"):
        monkeypatch.setattr(filelock.FileLock, "release", look)
    assert there[0] is False


def test_a_small_zip_that_unpacks_to_much_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("one", bytes(3 << 20))
        archive.writestr("other", bytes(1))
    assert path.stat().st_size < 1 << 13
    with pytest.raises(TrajWorldError, match=r"a\.zip unpacks to more than 3 MB"):
        open_zip(path, 3 << 20)
    with open_zip(path, (3 << 20) + 1) as archive:
        assert archive.namelist() == ["one", "other"]


def test_a_zip_archive_is_known_by_more_than_two_letters() -> None:
    assert kind_of_bytes(b"PK\x03\x04rest") == "it is a zip archive"
    assert kind_of_bytes(b"PK,weight\n1,2\n") == ""
