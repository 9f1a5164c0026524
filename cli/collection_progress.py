"""Progress of a corpus's collection."""

import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


class CollectionProgress:
    """A bar over the datasets on a terminal, a line for each elsewhere."""

    def __init__(self, console: Console, datasets: int, transitions: int) -> None:
        self._console, self._datasets, self._transitions = console, datasets, transitions
        self._done = self._collected = 0
        self._began = time.monotonic()
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("datasets", total=datasets, rate="")

    def __enter__(self) -> "CollectionProgress":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def add(self, environment: str, transitions: int, seconds: float) -> None:
        """A dataset is on disk."""
        self._done += 1
        self._collected += transitions
        elapsed = max(time.monotonic() - self._began, 1e-9)
        rate = self._collected / elapsed
        left = f"{(self._transitions - self._collected) / rate:,.0f} s left"
        if self._console.is_terminal:
            self._bar.update(self._task, completed=self._done, rate=f"{rate:,.0f} transitions/s, {left}")
        else:
            self._console.print(
                f"{self._done} of {self._datasets}: {environment}, {transitions:,} transitions in {seconds:.1f} s; "
                + left,
                highlight=False,
                markup=False,
                soft_wrap=True,
            )
