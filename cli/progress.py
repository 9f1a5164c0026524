"""Progress of long jobs: a bar on a terminal, plain lines elsewhere, both on standard error."""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from rich import progress as rich_progress
from rich.console import Console

from trajworld.processes import Progress
from trajworld.text import duration, number

from .output import console, say

if TYPE_CHECKING:
    from trajworld.study.run import Progress as CellProgress
    from trajworld.training.loop import Report
    from trajworld.training.run import Run

_SECONDS_BETWEEN_LINES = 10.0


def _bars(out: Console, *more: rich_progress.ProgressColumn) -> rich_progress.Progress:
    """Bars that are shown on a terminal only; a task's own text is its field ``news``."""
    what, news = (rich_progress.TextColumn(text) for text in ("{task.description}", "{task.fields[news]}"))
    done = rich_progress.BarColumn(), rich_progress.MofNCompleteColumn()
    columns = what, *done, news, rich_progress.TimeElapsedColumn(), *more
    return rich_progress.Progress(*columns, console=out, transient=True, disable=not out.is_terminal)


@contextlib.contextmanager
def job_progress(verb: str, unit: str = "transitions") -> Iterator[Progress]:
    """Yield a function (done, total or None, of what) that shows a job's progress.

    The label may change: one job begins where the one before it ended. Without a terminal it prints a line every ten
    seconds.
    """
    out = console(stderr=True)
    with _bars(out, rich_progress.TimeRemainingColumn()) as bars:
        current, task = "", rich_progress.TaskID(-1)
        began = last = printed = time.monotonic()

        def show(done: int, total: int | None, what: str) -> None:
            nonlocal current, task, began, last, printed
            if what != current:
                if current:
                    bars.remove_task(task)
                current, task, began = what, bars.add_task(f"{verb} {what}", total=total, news=""), last
            last = time.monotonic()
            rate = done / max(last - began, 1e-9)
            bars.update(task, completed=done, news=f"{number(rate)} {unit}/s")
            if out.is_terminal or last - printed < _SECONDS_BETWEEN_LINES:
                return
            printed = last
            of = "" if total is None else f" of {total:,}"
            left = "" if total is None else f", {duration((total - done) / max(rate, 1e-9))} left"
            say(out, f"{verb} {what}: {done:,}{of} {unit}, {number(rate)}/s{left}")

        yield show


@contextlib.contextmanager
def cell_progress(out: Console) -> "Iterator[Callable[[CellProgress], None]]":
    """Yield an observer of :func:`trajworld.study.run.run_study`: a line for each cell, and on a terminal a bar."""
    with _bars(out) as bars:
        task = bars.add_task("cells", total=None, news="")

        def show(progress: "CellProgress") -> None:
            left = f"about {duration(progress.seconds_left)} left" if progress.done < progress.total else ""
            bars.update(task, completed=progress.done, total=progress.total, news=left)
            news = "finished" if progress.problem is None else f"FAILED: {progress.problem}"
            more = f"; {left}" if left and not out.is_terminal else ""
            say(out, f"{progress.done} of {progress.total}: {progress.cell}: {news}{more}")

        yield show


@contextlib.contextmanager
def training_progress(run: "Run", out: Console) -> "Iterator[Callable[[Report], None]]":
    """Yield an observer of :func:`trajworld.training.loop.train`; of several processes one shows itself."""
    layout, parts, config = run.layout, run.parts, run.config
    if not layout.leads:
        yield lambda report: None
        return
    names = ", ".join(part.dataset.name for part in parts[:3]) + (", …" if len(parts) > 3 else "")
    where = f", on {layout.devices} devices" * (layout.devices > 1)
    where += f" of {layout.processes} processes" * (layout.processes > 1)
    say(
        out,
        f"{config.kind}: {run.model.count_params():,} parameters on {sum(part.transitions for part in parts):,} "
        f"transitions of {len(parts)} dataset{'s' * (len(parts) > 1)} ({names}), "
        f"M padded to {list(run.mixture.sizes)}{where}",
    )
    for part in parts:
        account = part.dataset.account
        for line in account.lines() if account is not None and (account.left_out or account.notes) else ():
            say(out, f"{part.dataset.name}: {line}")
    with _bars(out, rich_progress.TimeRemainingColumn()) as bars:
        task = bars.add_task(config.kind, total=config.steps, completed=run.state.step, news="compiling")
        loss = holdout = ""

        def show(report: "Report") -> None:
            nonlocal loss, holdout
            rate = report.rate or 0.0
            if report.loss is not None:
                loss = f"loss {report.loss:.4f}  {rate:.1f} steps/s"
            if report.holdout_loss is not None:
                holdout = f"  holdout {report.holdout_loss:.4f}" + "  best" * report.best
            bars.update(task, completed=report.step, news=loss + holdout)
            if report.loss is None or out.is_terminal:
                return
            left = duration((report.steps - report.step) / rate) if rate else "unknown"
            say(out, f"step {report.step:,} of {report.steps:,}  {loss}  {left} left{holdout}")
            holdout = ""

        yield show
