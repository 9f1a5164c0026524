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

if TYPE_CHECKING:
    from trajworld.study.run import Progress as CellProgress

_SECONDS_BETWEEN_LINES = 10.0


@contextlib.contextmanager
def conversion_progress(verb: str) -> Iterator[Callable[[int, int | None, str], None]]:
    """Yield a function (done, total or None, of what) that shows how a conversion goes on, on standard
    error.
    """
    if not sys.stderr.isatty():
        yield _plain_lines(verb)
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
        tasks: dict[str, tuple[TaskID, float]] = {}

        def show(done: int, total: int | None, what: str) -> None:
            if what not in tasks:
                for task, _ in tasks.values():
                    bars.update(task, visible=False)
                tasks[what] = (bars.add_task(f"{verb} {what}", total=total, rate=""), time.monotonic())
            task, started = tasks[what]
            seconds = max(time.monotonic() - started, 1e-9)
            bars.update(task, completed=done, rate=f"{done / seconds:,.0f} transitions/s")

        yield show


def _plain_lines(verb: str) -> Callable[[int, int | None, str], None]:
    """A function that prints a line at most every few seconds."""
    started = last = time.monotonic()

    def show(done: int, total: int | None, what: str) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last < _SECONDS_BETWEEN_LINES:
            return
        last = now
        rate = done / (now - started)
        left = f", {(total - done) / rate:,.0f} s left" if total is not None and rate > 0 else ""
        of = f" of {total:,}" if total is not None else ""
        print(f"{verb} {what}: {done:,}{of} transitions, {rate:,.0f}/s{left}", file=sys.stderr, flush=True)

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
            from trajworld.text import duration

            left = f"about {duration(progress.seconds_left)} left" if progress.done < progress.total else ""
            bar.update(task, completed=progress.done, total=progress.total, left=left)
            news = "finished" if progress.problem is None else f"FAILED: {progress.problem}"
            text = f"{progress.done} of {progress.total}: {progress.cell}: {news}"
            if left and not console.is_terminal:
                text += f"; {left}"
            console.print(text, highlight=False, markup=False, soft_wrap=True)

        yield show
