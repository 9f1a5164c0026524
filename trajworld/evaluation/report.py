"""Everything that is measured and drawn of one model on one dataset."""

from pathlib import Path
from typing import Any, NamedTuple

from trajworld.data.dataset import Dataset
from trajworld.evaluation.one_step import (
    Choice,
    OneStep,
    PredictionErrors,
    Progress,
    Ranges,
    compile_one_step,
    copy_last_row_errors,
    prediction_errors,
)
from trajworld.evaluation.open_loop import BATCH_SIZE, Foresight, OpenLoopErrors, open_loop_errors
from trajworld.evaluation.pictures import (
    draw_growth,
    draw_trajectories,
    draw_variate_errors,
    typical_episodes,
    view_episode,
)
from trajworld.models.interface import WorldModel


class Evaluation(NamedTuple):
    """What was measured of a model on a dataset.

    Attributes:
        prediction: Its one-step errors.
        copy_last_row: Those of copying the last row, on the same windows.
        open_loop: How open-loop errors grow; None where no horizon was asked for.
    """

    prediction: PredictionErrors
    copy_last_row: PredictionErrors
    open_loop: OpenLoopErrors | None

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {name: one and one.as_json() for name, one in self._asdict().items()}


def evaluate(
    model: WorldModel,
    dataset: Dataset,
    ranges: Ranges,
    *,
    windows: int | None,
    horizon: int,
    batch_size: int,
    seed: int = 0,
    one_step: OneStep | None = None,
    pictures: Path | None = None,
    drawn_episodes: int = 2,
    name: str = "The model",
    progress: Progress | None = None,
) -> Evaluation:
    """Measure a model on a dataset, and draw it.

    Args:
        model: The model.
        dataset: What it predicts.
        ranges: Of :func:`trajworld.evaluation.one_step.support_for`.
        windows: The most windows, drawn at random; None for all.
        horizon: Steps of the open loop; 0 for none, and then no trajectory is drawn.
        batch_size: Windows at once.
        seed: Of what is drawn at random.
        one_step: Of :func:`trajworld.evaluation.one_step.compile_one_step`, where there is one already.
        pictures: The folder to draw into; None for no picture.
        drawn_episodes: How many episodes to draw.
        name: The model's, in the pictures' titles.
        progress: Called after each batch.

    Raises:
        TrajWorldError: The model does not fit the dataset, its predictions are not finite, or a picture cannot be
            written.
    """
    one_step = one_step or compile_one_step(model)
    choice: Choice = {"limit": windows, "seed": seed}
    copy = copy_last_row_errors(dataset, window=model.sizes.window, **choice)
    choice |= {"batch_size": batch_size, "progress": progress}
    prediction = prediction_errors(model, dataset, support=ranges, one_step=one_step, **choice)
    if pictures is not None:
        draw_variate_errors(pictures / "variates.png", prediction, copy, name)
    if not horizon:
        return Evaluation(prediction, copy, None)
    foresight = Foresight(model, dataset, ranges.support, horizon, min(batch_size, BATCH_SIZE))
    growth = open_loop_errors(foresight, ranges=ranges.origin, seed=seed, progress=progress)
    if pictures is not None:
        draw_growth(pictures / "open-loop.png", growth, name)
        for episode in typical_episodes(dataset, drawn_episodes):
            view = view_episode(dataset, episode, ranges.support, one_step, model.sizes.window, foresight)
            draw_trajectories(pictures / f"episode-{episode}.png", view, dataset, name)
    return Evaluation(prediction, copy, growth)
