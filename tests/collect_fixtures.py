"""What the tests of collecting share: equal episodes, and the command line in another process."""

import subprocess
import sys

import numpy as np


def same(one, other):
    """Assert that two episodes are equal."""
    for part in ("observations", "actions", "rewards"):
        np.testing.assert_array_equal(getattr(one, part), getattr(other, part))
    assert (one.terminated, one.truncated) == (other.terminated, other.truncated)


def start_data(*arguments):
    """``trajworld data`` as a process of a group of its own."""
    code = "import sys; from trajworld.cli.main import main; main(sys.argv[1:])"
    command = [sys.executable, "-c", code, "data", *map(str, arguments)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
