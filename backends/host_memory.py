"""The host's memory: kept from one step to the next, given back when asked, and how much it was at most."""

import contextlib
import ctypes
import gc
import sys
from pathlib import Path

# From <malloc.h>: the parameters of mallopt.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -2, -4, -8
_SETTINGS = ((_M_ARENA_MAX, 2), (_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, -1), (_M_TOP_PAD, 64 << 20))


def keep_freed_memory() -> None:
    """Ask the allocator to reuse freed memory instead of returning it to the system.

    A training step on the CPU takes and frees hundreds of megabytes of temporary arrays in one piece. The allocator
    maps such a piece afresh each time, so that the kernel clears and faults in each of its pages again: two fifths of a
    step's processor time at width 64, measured. Must be called before the framework starts its threads, since a
    thread keeps the arena it first allocated from. There are two arenas, for what other threads allocate must not come
    to lie between such pieces: the next larger one would need room of its own (8.1 GB instead of 4.5 GB in a run with
    six sizes of M, measured).
    """
    for parameter, value in _SETTINGS:
        _call("mallopt", parameter, value)


def release_freed_memory() -> None:
    """Collect what nothing refers to, and return to the system what :func:`keep_freed_memory` holds back."""
    gc.collect()
    _call("malloc_trim", 0)


def _call(name: str, *arguments: int) -> None:
    """Call a function of the C library, where it has it: that of Linux usually does."""
    if sys.platform.startswith("linux"):
        with contextlib.suppress(AttributeError, OSError):
            getattr(ctypes.CDLL(None), name)(*arguments)


def peak_resident_memory() -> int | None:
    """The most bytes of this process that were in memory at once; None where the system does not tell."""
    status = Path("/proc/self/status")
    if status.is_file():
        # Not getrusage: its maximum begins with that of the process which started this one.
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    try:
        import resource
    except ImportError:
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
