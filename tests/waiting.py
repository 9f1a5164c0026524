"""The command line in another process, and waiting for what should happen, with a bound."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def start(*arguments: object, folder: Path | None = None, **environment: str) -> subprocess.Popen[str]:
    """``trajworld`` as a process of a group of its own, in a folder and with further environment variables."""
    code = "import sys; from trajworld.cli.main import main; sys.exit(main(sys.argv[1:]))"
    # -P: the checkout's own trajworld/ must not stand before the installed package. One thread: PyTorch's starve each
    # other where tests run side by side.
    return subprocess.Popen(
        [sys.executable, "-P", "-c", code, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        cwd=folder,
        start_new_session=True,
    )


def wait_for(condition: Callable[[], Any], *processes: subprocess.Popen[str], seconds: float = 240) -> None:
    """Return when ``condition`` is true; fail where one of ``processes`` ends before, or it takes too long."""
    deadline = time.monotonic() + seconds
    while not condition():
        for process in processes:
            assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def runs(process: int) -> bool:
    """Whether a process runs: one that nobody has waited for yet stays in the list."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
