"""Ridge regressions fitted on a dataset, against a loop over its windows and NumPy's solver."""

import numpy as np
import pytest
from data_fixtures import DatasetMaker

from trajworld.data.split import split_episodes
from trajworld.data.statistics import statistics
from trajworld.evaluation.fitted_ridge import fitted_ridge

pytestmark = pytest.mark.once

WINDOW, PREDICTED = 4, 4


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_predictions_are_those_of_each_variates_best_penalty(memory_dataset: DatasetMaker, rows: int) -> None:
    dataset = memory_dataset([25, 1, 30, 18, 22, 2])
    dataset.rows[1:, 0] = dataset.rows[:-1, 1]  # Exactly what the last row says: the least penalty is best.
    dataset.rows[:, 2] = 5
    found = statistics(dataset)
    scale = np.where(found.std > 0, found.std, 1)

    def inputs_of(values: np.ndarray, first: int) -> list[float]:
        before = [values[max(WINDOW - 1 - back, first)] for back in range(rows, 0, -1)]
        return [*np.concatenate([(row - found.mean) / scale for row in before]), 1.0]

    def windows_of(episode: int) -> list[tuple[np.ndarray, int]]:
        """Each window with its first real row; junk stands before it."""
        start, end = dataset.episode_offsets[[episode, episode + 1]]
        made = []
        for last in range(start + 1, end):
            first = max(WINDOW - 1 - (last - start), 0)
            values = np.full((WINDOW, dataset.num_variates), 9.0)
            values[first:] = dataset.rows[last - WINDOW + 1 + first : last + 1]
            made.append((values, first))
        return made

    def equations_of(episodes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        made = [window for episode in episodes for window in windows_of(episode)]
        changes = [(values[-1] - values[-2])[:PREDICTED] / scale[:PREDICTED] for values, _ in made]
        return np.array([inputs_of(*window) for window in made]), np.array(changes)

    fit, held = split_episodes(6, 0.2, 0)
    (x, y), (x_held, y_held) = equations_of(fit), equations_of(held)
    shrunk = np.diag([1.0] * (x.shape[1] - 1) + [0.0])
    every = [np.linalg.solve(x.T @ x + 10.0**p * len(x) * shrunk, x.T @ y) for p in range(-9, 2)]
    best = np.argmin([np.abs(x_held @ one - y_held).mean(axis=0) for one in every], axis=0)
    assert best[0] == 0
    assert best[1] > 0
    chosen = np.stack([every[place][:, variate] for variate, place in enumerate(best)], axis=1)

    windows = [window for episode in range(6) for window in windows_of(episode)]
    expected = [w[-2, :PREDICTED] + inputs_of(w, first) @ chosen * scale[:PREDICTED] for w, first in windows]
    values = np.array([values for values, _ in windows], np.float32)
    values[:, -1] = -7  # What is to be predicted is not looked at.
    mask = np.array([np.arange(WINDOW) >= first for _, first in windows], np.float32)
    predicted = fitted_ridge(dataset, WINDOW, rows)(values, mask).mean
    np.testing.assert_allclose(predicted, expected, rtol=1e-5, atol=1e-6)
