"""Waiting for what should happen, with a bound."""

import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


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
