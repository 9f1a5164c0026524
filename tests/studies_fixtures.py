"""What the tests of studies share: cells that are answered at once, and the error of a model computed anew."""

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
from keras import ops

from trajworld.data.dataset import Dataset
from trajworld.models.bins import moments
from trajworld.models.files import load_model
from trajworld.models.trajworld import Variates
from trajworld.study.cells import Cell, Result, Row

Answer = Callable[[str, Mapping[str, Any]], list[Row]]


class AnsweringEngine:
    """Answers cells with made-up rows, by the name of their task and their settings; ``ran`` are their settings."""

    def __init__(self, answer: Answer, slots: int = 1) -> None:
        self.slots, self._answer, self.ran = slots, answer, list[Mapping[str, Any]]()

    def __enter__(self) -> "AnsweringEngine":
        return self

    def __exit__(self, *_: object) -> None: ...

    def submit(self, cell: Cell) -> Future[tuple[Result, dict[str, Any]]]:
        """Answer a cell."""
        if cell.task.__name__ == "train_and_measure":
            self.ran.append(cell.settings)
        rows = self._answer(cell.task.__name__, cell.settings)
        future: Future[tuple[Result, dict[str, Any]]] = Future()
        origin = {"seconds": 1.0, "backend": "jax", "device": "cpu", "versions": {}}
        future.set_result((Result(rows), origin))
        return future


def error_of(file: Path, test: Dataset, windows: int, seed: int) -> float:
    """The mean absolute one-step error of a model of one dataset, in standard deviations, in plain NumPy."""
    model = load_model(file)
    window, predicted, rows = model.sizes.window, test.observation_size + 1, np.asarray(test.rows)
    bounds = list(zip(test.episode_offsets[:-1], test.episode_offsets[1:], strict=True))
    places = [(first, end) for first, stop in bounds for end in range(first + 1, stop)]
    drawn = range(len(places))
    if windows < len(places):
        drawn = np.sort(np.random.default_rng(seed).choice(len(places), windows, replace=False))
    values = np.zeros((len(drawn), window, rows.shape[1]), np.float32)
    mask = np.zeros((len(drawn), window), np.float32)
    for line, (first, end) in enumerate(places[one] for one in drawn):
        shown = rows[max(first, end - window + 1) : end + 1]
        values[line, window - len(shown) :], mask[line, window - len(shown) :] = shown, 1
    support = model.identity.support
    is_action = np.arange(rows.shape[1]) >= predicted
    variates = Variates(is_action.astype(np.int32), support.lower, support.upper)
    logits = model(values[:, :-1], mask[:, :-1], variates)[:, -1]
    mean = ops.convert_to_numpy(moments(logits, support.lower, support.upper)[0])[:, :predicted]
    # The reward of an episode's first row is nobody's.
    real = np.array(rows[:, :predicted], np.float64)
    real[test.episode_offsets[:-1], -1] = np.nan
    std = np.nanstd(real, axis=0)
    varies = std > 1e-6 * np.nanmax(np.abs(real), axis=0)
    return float((np.abs(mean - values[:, -1, :predicted])[:, varies] / std[varies]).mean())
