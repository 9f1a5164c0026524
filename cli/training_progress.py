"""How a training run shows itself: a bar on a terminal, a line for each row of the log elsewhere."""

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

if TYPE_CHECKING:
    from trajworld.training.loop import Report
    from trajworld.training.run import Run


@contextlib.contextmanager
def training_progress(run: "Run", console: Console) -> "Iterator[Callable[[Report], None]]":
    """Yield an observer of :func:`trajworld.training.loop.train`; of several processes one shows itself."""
    layout = run.layout
    if not layout.leads:
        yield lambda report: None
        return
    parts = ", ".join(part.dataset.name for part in run.parts[:3]) + (", …" if len(run.parts) > 3 else "")
    transitions = sum(part.transitions for part in run.parts)
    console.print(
        f"{run.config.kind}: {run.model.count_params():,} parameters on {transitions:,} transitions of "
        f"{len(run.parts)} dataset{'s' * (len(run.parts) > 1)} ({parts}), M padded to {list(run.mixture.sizes)}"
        + (f", on {layout.devices} devices" if layout.devices > 1 else "")
        + (f" of {layout.processes} processes" if layout.processes > 1 else ""),
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
    if not console.is_terminal:
        yield lambda report: _line(report, console)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TextColumn("{task.fields[losses]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(
            run.config.kind, total=run.config.steps, completed=run.state.step, rate="compiling", losses=""
        )
        loss, holdout = "", ""

        def show(report: "Report") -> None:
            nonlocal loss, holdout
            progress.update(task, completed=report.step)
            if report.loss is not None:
                loss = f"loss {report.loss:.4f}"
                progress.update(task, rate=f"{report.rate:.1f} steps/s")
            if report.holdout_loss is not None:
                holdout = f" holdout {report.holdout_loss:.4f}" + (" (best)" if report.best else "")
            progress.update(task, losses=loss + holdout)

        yield show


def _line(report: "Report", console: Console) -> None:
    if report.loss is None:
        return
    rate = report.rate or 0.0
    left = (report.steps - report.step) / rate if rate else 0.0
    text = f"step {report.step:,} of {report.steps:,}  loss {report.loss:.4f}  {rate:.1f} steps/s  {left:,.0f} s left"
    if report.holdout_loss is not None:
        text += f"  holdout {report.holdout_loss:.4f}" + ("  best" if report.best else "")
    console.print(text, highlight=False, markup=False, soft_wrap=True)
