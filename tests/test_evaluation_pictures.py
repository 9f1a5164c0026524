"""What the pictures show: the rows, tracks and variates that are drawn, and that a whole file comes of it."""

import io
from collections.abc import Callable

import keras
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from trajworld.charts import png
from trajworld.data.batch import variates_of
from trajworld.data.dataset import Dataset
from trajworld.data.statistics import value_range
from trajworld.data.windows import gather_windows
from trajworld.evaluation import pictures
from trajworld.evaluation.one_step import compile_one_step, copy_last_row_errors
from trajworld.evaluation.open_loop import Foresight, OpenLoopErrors
from trajworld.evaluation.pictures import shown_variates, typical_episodes, view_episode
from trajworld.models.ranges import training_support
from trajworld.models.sizes import TrajWorldSizes
from trajworld.models.trajworld import TrajWorld

pytestmark = pytest.mark.once


def pixels(figure: Figure) -> np.ndarray:
    return imread(io.BytesIO(png(figure)))


def test_a_view_holds_both_kinds_of_prediction_of_the_same_rows(
    memory_dataset: Callable[..., Dataset],
) -> None:
    keras.utils.set_random_seed(0)
    model = TrajWorld(TrajWorldSizes(blocks=1, width=16, heads=2, variates=10))
    dataset = memory_dataset([3, 60, 1])
    support = training_support(*value_range(dataset))
    one_step = compile_one_step(model)
    foresight = Foresight(model, dataset, support, horizon=12, batch_size=4)

    view = view_episode(dataset, 1, support, one_step, 20, foresight)
    # Ten rows of history, then twelve steps: rows 4 to 25 of the dataset.
    np.testing.assert_array_equal(view.real, dataset.rows[4:26, :4])
    assert view.one_step.steps.tolist() == list(range(1, 22))
    assert view.open_loop.steps.tolist() == list(range(10, 22))
    values, mask = gather_windows(dataset, np.array([4 + 15]), np.array([4]), 20)
    mean, std, _ = one_step(
        np.repeat(values, 64, 0), np.repeat(mask, 64, 0), variates_of(dataset, support.lower, support.upper)
    )
    np.testing.assert_allclose(view.one_step.mean[14], keras.ops.convert_to_numpy(mean)[0, :4], atol=1e-5)
    np.testing.assert_allclose(view.one_step.std[14], keras.ops.convert_to_numpy(std)[0, :4], atol=1e-5)
    np.testing.assert_array_equal(view.open_loop.mean, foresight(np.array([4 + 9])).mean[0])

    # An episode that ends before the horizon is drawn to its end; one of a single transition too.
    for episode, rows in ((0, 4), (2, 2)):
        short = view_episode(dataset, episode, support, one_step, 20, foresight)
        assert len(short.real) == rows
        assert short.open_loop.steps.tolist() == list(range(1, rows))
        panels = pictures.trajectories(short, dataset, "a model").axes
        for axes, track in zip(panels[:2], (short.one_step, short.open_loop), strict=True):
            real, predicted = (line.get_ydata() for line in axes.lines)
            np.testing.assert_array_equal(real, short.real[:, 0])
            np.testing.assert_array_equal(predicted, track.mean[:, 0])
    views = (view, view._replace(real=view.real + 1))
    drawn = [pixels(pictures.trajectories(shown, dataset, "a model")) for shown in views]
    assert min(drawn[0].shape[:2]) > 400
    assert drawn[0].shape == drawn[1].shape
    assert not np.array_equal(*drawn)


@pytest.mark.parametrize(("observations", "most"), [(1, 2), (3, 9), (40, 2), (40, 9)])
def test_the_reward_and_a_few_varying_observations_are_shown(
    memory_dataset: Callable[..., Dataset], observations: int, most: int
) -> None:
    dataset = memory_dataset([9], observations=observations)
    chosen = shown_variates(dataset, most)
    assert chosen[-1] == observations
    assert len(chosen) == min(most, observations + 1)
    assert chosen == sorted(set(chosen))
    dataset.rows[:, 0] = 1.5
    # One that stands still, where another varies, is not shown.
    assert (0 in shown_variates(dataset, most)) == (observations == 1)


def test_episodes_that_are_drawn_are_long_ones(memory_dataset: Callable[..., Dataset]) -> None:
    dataset = memory_dataset([2, 30, 4, 28, 31, 3, 29])
    assert [typical_episodes(dataset, count) for count in (2, 50, 0)] == [[1, 6], [1, 3, 4, 6], []]


def test_bars_and_growth_are_drawn_for_odd_data_too(memory_dataset: Callable[..., Dataset]) -> None:
    def drawn(dataset: Dataset) -> tuple[list[float], list[float], np.ndarray]:
        """The errors, the lengths of the bars, and the picture."""
        errors = copy_last_row_errors(dataset)
        figure = pictures.variate_errors(errors, [errors], "a model")
        found = [one["normalised_mae"] for one in errors.variates.values()]
        return found, [bar.get_width() for axes in figure.axes for bar in axes.patches], pixels(figure)

    # However many variates, a picture that fits on a screen.
    found, bars, picture = drawn(memory_dataset([12], observations=80))
    assert bars == sorted(found, reverse=True)[:20]
    assert picture.shape[0] < 1400
    dataset = memory_dataset([12], observations=1)
    found, bars, _ = drawn(dataset)
    assert bars == sorted(found, reverse=True)
    dataset.rows[:] = 3.0
    assert copy_last_row_errors(dataset).still == ("observation 0", "reward")
    assert drawn(dataset)[:2] == ([None, None], [])
    errors = OpenLoopErrors("d", "e", "given", 1, 1, (0.1,), (0.1,), (0.1,), (0.2,))
    (axes,) = pictures.growth(errors, "a model").axes
    assert [line.get_ydata().tolist() for line in axes.lines] == [[0.1], [0.2]]
