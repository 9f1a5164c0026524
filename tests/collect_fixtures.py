"""What the tests of collecting share: equal episodes, and the command line in this process and in another."""

import subprocess
import sys

import numpy as np

from trajworld.cli.main import main


def same(one, other):
    """Assert that two episodes are equal."""
    for part in ("observations", "actions", "rewards"):
        np.testing.assert_array_equal(getattr(one, part), getattr(other, part))
    assert (one.terminated, one.truncated) == (other.terminated, other.truncated)


def run_data(capsys, *arguments):
    """Exit code, output and errors of ``trajworld data``."""
    try:
        code = main(["data", *arguments])
    except SystemExit as exit_:
        code = exit_.code
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def start_data(*arguments):
    """``trajworld data`` as a process of a group of its own."""
    code = "import sys; from trajworld.cli.main import main; main(sys.argv[1:])"
    command = [sys.executable, "-c", code, "data", *map(str, arguments)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
