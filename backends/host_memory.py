"""Keeping the memory that a step needs from one step to the next, on hosts with the GNU C library."""

import ctypes
import sys

# From <malloc.h>: the parameters of mallopt.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -2, -4, -8


def keep_freed_memory() -> bool:
    """Ask the allocator to reuse freed memory instead of returning it to the system; whether it could be asked.

    A training step on the CPU takes and frees hundreds of megabytes of temporary arrays in one piece. The allocator
    maps such a piece afresh each time, so that the kernel clears and faults in each of its pages again: two fifths of a
    step's processor time at width 64, measured. Must be called before the framework starts its threads, since a
    thread keeps the arena it first allocated from.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    settings = ((_M_ARENA_MAX, 1), (_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, -1), (_M_TOP_PAD, 64 << 20))
    return all(mallopt(parameter, value) == 1 for parameter, value in settings)
