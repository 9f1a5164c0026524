"""Fresh Python processes, for what can only be measured in one."""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence

from trajworld.errors import TrajWorldError


def run_fresh(arguments: Sequence[str], environment: Mapping[str, str] | None = None) -> str:
    """Run ``python -P`` with these arguments to its end.

    Args:
        arguments: After ``python -P``: the working folder, which may be a checkout, must not be imported from.
        environment: Added to this process's.

    Returns:
        What it printed.

    Raises:
        TrajWorldError: It failed.
    """
    done = subprocess.run(
        [sys.executable, "-P", *arguments],
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **(environment or {})},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise TrajWorldError(f"a fresh process failed: {last}")
    return done.stdout
