"""Progress of long jobs: a bar with rate and time left on a terminal, a plain line now and then elsewhere."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from trajworld.text import duration

if TYPE_CHECKING:
    from trajworld.study.run import Progress as CellProgress

_SECONDS_BETWEEN_LINES = 10.0


@contextlib.contextmanager
def job_progress(verb: str, unit: str = "transitions") -> Iterator[Callable[[int, int | None, str], None]]:
    """Yield a function (done, total or None, of what) that shows a job's progress on standard error.

    What is worked on may change: one thing begins where the one before it ended.
    """
    if not sys.stderr.isatty():
        yield _plain_lines(verb, unit)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        task: TaskID | None = None
        current, rate = None, _Rate()

        def show(done: int, total: int | None, what: str) -> None:
            nonlocal task, current
            per_second = rate(done, what)
            if what != current:
                if task is not None:
                    bars.update(task, visible=False)
                task, current = bars.add_task(f"{verb} {what}", total=total, rate=""), what
            assert task is not None
            bars.update(task, completed=done, rate=f"{per_second:,.0f} {unit}/s")

        yield show


def _plain_lines(verb: str, unit: str) -> Callable[[int, int | None, str], None]:
    """A function that prints a line at most every few seconds."""
    printed, rate = time.monotonic(), _Rate()

    def show(done: int, total: int | None, what: str) -> None:
        nonlocal printed
        per_second = rate(done, what)
        if time.monotonic() - printed < _SECONDS_BETWEEN_LINES:
            return
        printed = time.monotonic()
        left = "" if total is None else f", {duration((total - done) / max(per_second, 1e-9))} left"
        of = "" if total is None else f" of {total:,}"
        print(f"{verb} {what}: {done:,}{of} {unit}, {per_second:,.0f}/s{left}", file=sys.stderr, flush=True)

    return show


@contextlib.contextmanager
def cell_progress(console: Console) -> "Iterator[Callable[[CellProgress], None]]":
    """Yield an observer of :func:`trajworld.study.run.run_study`: a line for each cell, and on a terminal a bar."""
    columns = (
        TextColumn("cells"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}"),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("cells", total=None, left="")

        def show(progress: "CellProgress") -> None:
            left = f"about {duration(progress.seconds_left)} left" if progress.done < progress.total else ""
            bar.update(task, completed=progress.done, total=progress.total, left=left)
            news = "finished" if progress.problem is None else f"FAILED: {progress.problem}"
            text = f"{progress.done} of {progress.total}: {progress.cell}: {news}"
            if left and not console.is_terminal:
                text += f"; {left}"
            console.print(text, highlight=False, markup=False, soft_wrap=True)

        yield show


class _Rate:
    """What is done of a thing in a second, since the last call for the thing before it."""

    def __init__(self) -> None:
        self._what: str | None = None
        self._began = self._last = time.monotonic()

    def __call__(self, done: int, what: str) -> float:
        if what != self._what:
            self._what, self._began = what, self._last
        self._last = time.monotonic()
        return done / max(self._last - self._began, 1e-9)
