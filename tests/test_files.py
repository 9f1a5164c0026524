"""A folder is held by one process at a time, and by none that has ended."""

import importlib.util
import subprocess
import sys

import pytest

from trajworld.errors import TrajWorldError
from trajworld.files import held_folder

HOLDER = """
import sys
from trajworld.files import held_folder
with held_folder(sys.argv[1], "held elsewhere"):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.mark.skipif(importlib.util.find_spec("fcntl") is None, reason="no locks here")
def test_a_folder_is_held_by_one_process_until_that_ends(tmp_path):
    folder = tmp_path / "new" / "folder"
    command = [sys.executable, "-c", HOLDER, folder]
    holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(TrajWorldError, match="this is in use"), held_folder(folder, "this is in use"):
        pass
    holder.kill()
    holder.communicate()
    with held_folder(folder, "this is in use"):
        with pytest.raises(TrajWorldError, match="in use"), held_folder(folder, "this is in use"):
            pass
        second = subprocess.run(command, capture_output=True, text=True)
        assert "TrajWorldError: held elsewhere" in second.stderr
    with held_folder(folder, "this is in use"):
        pass


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(TrajWorldError, match="cannot write"),
        held_folder(tmp_path / "file", "this is in use"),
    ):
        pass
