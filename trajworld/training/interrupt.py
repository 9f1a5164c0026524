"""Ctrl-C between steps rather than inside one, so that the state that is saved is whole."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

from trajworld.backend import Layout, active_backend

# Agreeing waits for the device, as a step alone need not.
_STEPS_BETWEEN_AGREEMENTS = 10


@contextlib.contextmanager
def deferred_interrupt() -> Iterator[Callable[[], bool]]:
    """Yield a function that tells whether Ctrl-C or SIGTERM came; a second Ctrl-C acts at once, as usual."""
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    came: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if came and number == signal.SIGINT:
            raise KeyboardInterrupt
        came.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(came)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def stop_agreed(layout: Layout, step: int, due: bool, interrupted: Callable[[], bool]) -> bool:
    """Whether all processes are to stop after ``step``; ``due`` where the run waits for the device anyway."""
    if layout.processes == 1:
        return interrupted()
    return (due or step % _STEPS_BETWEEN_AGREEMENTS == 0) and active_backend().any_process(interrupted())
