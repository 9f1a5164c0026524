"""The host's memory: kept from one step to the next, released when asked, and its peak."""

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

    A training step on the CPU takes and frees hundreds of megabytes in one piece, which the allocator would map afresh
    each time: two fifths of a step's processor time at width 64, measured. To be called before the framework starts its
    threads, since a thread keeps its first arena. Two arenas keep what other threads allocate from lying between such
    pieces (4.5 GB instead of 8.1 GB in a run with six sizes of M, measured).
    """
    for parameter, value in _SETTINGS:
        _call("mallopt", parameter, value)


def release_freed_memory() -> None:
    """Collect garbage, and return to the system what :func:`keep_freed_memory` holds back."""
    gc.collect()
    _call("malloc_trim", 0)


def _call(name: str, *arguments: int) -> None:
    """Call a function that Linux's C library usually has."""
    if sys.platform.startswith("linux"):
        with contextlib.suppress(AttributeError, OSError):
            getattr(ctypes.CDLL(None), name)(*arguments)


def peak_resident_memory() -> int | None:
    """The peak resident memory of this process in bytes; None if the system does not report it."""
    with contextlib.suppress(OSError, StopIteration):
        # Not getrusage: its maximum begins with that of the process which started this one.
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) * 1024
    try:
        import resource
    except ImportError:
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
