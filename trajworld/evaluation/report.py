"""Everything that is measured and drawn of one model on one dataset."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from trajworld.data.dataset import Dataset
from trajworld.errors import UsageError
from trajworld.evaluation.one_step import (
    OneStep,
    PredictionErrors,
    Progress,
    Ranges,
    copy_last_row_errors,
    prediction_errors,
)
from trajworld.evaluation.open_loop import BATCH_SIZE, Foresight, OpenLoopErrors, open_loop_errors
from trajworld.models.interface import WorldModel


@dataclass(frozen=True)
class Settings:
    """How much of a dataset is measured and drawn.

    Attributes:
        windows: The most transitions of each dataset to predict, drawn at random; 0 for all.
        horizon: Steps of the open-loop rollouts, fewer in short episodes; 0 for none.
        pictures: Episodes of each dataset to draw.
        batch_size: Windows at once.
        seed: Of the random draws.
    """

    windows: int = 5000
    horizon: int = 100
    pictures: int = 2
    batch_size: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("windows", "horizon", "pictures", "seed"):
            if getattr(self, name) < 0:
                raise UsageError(f"{name} must be at least 0, not {getattr(self, name)}")
        if self.batch_size < 1:
            raise UsageError(f"batch_size must be at least 1, not {self.batch_size}")


class Evaluation(NamedTuple):
    """What was measured of a model on a dataset.

    Attributes:
        prediction: Its one-step errors.
        copy_last_row: Those of copying the last row, on the same windows.
        open_loop: How open-loop errors grow; None where no horizon was asked for.
        ridges: One-step errors of ridge regressions, on the same windows, where data to fit them on were named.
    """

    prediction: PredictionErrors
    copy_last_row: PredictionErrors
    open_loop: OpenLoopErrors | None
    ridges: tuple[PredictionErrors, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        found = {name: one and one.as_json() for name, one in self._asdict().items() if name != "ridges"}
        return found | ({"ridges": [one.as_json() for one in self.ridges]} if self.ridges else {})


def evaluate(
    model: WorldModel,
    dataset: Dataset,
    ranges: Ranges,
    one_step: OneStep,
    settings: Settings,
    *,
    folder: Path | None = None,
    name: str = "The model",
    progress: Progress | None = None,
    fitted: Dataset | None = None,
) -> Evaluation:
    """Measure a model on a dataset, and draw it into ``folder``, if any, with its ``name`` in the titles.

    ``ranges`` and ``one_step`` are of :mod:`trajworld.evaluation.one_step`; on ``fitted`` ridge regressions are fitted
    that are measured too.

    Raises:
        TrajWorldError: The model does not fit the dataset, its predictions are not finite, or a picture cannot be
            written.
    """
    # Imported here: without pictures nothing waits for Matplotlib and pandas.
    from trajworld.evaluation import pictures
    from trajworld.evaluation.fitted_ridge import ridge_errors

    limit, seed, batch_size = settings.windows or None, settings.seed, settings.batch_size
    copy = copy_last_row_errors(dataset, window=model.sizes.window, limit=limit, seed=seed)
    prediction = prediction_errors(
        model,
        dataset,
        support=ranges,
        one_step=one_step,
        limit=limit,
        seed=seed,
        batch_size=batch_size,
        progress=progress,
    )
    ridges = (
        () if fitted is None else ridge_errors(dataset, fitted, model.sizes.window, limit=limit, seed=seed)
    )
    if folder is not None:
        pictures.draw_variate_errors(folder / "variates.png", prediction, [copy, *ridges], name)
    if not settings.horizon:
        return Evaluation(prediction, copy, None, ridges)
    foresight = Foresight(model, dataset, ranges.support, settings.horizon, min(batch_size, BATCH_SIZE))
    growth = open_loop_errors(foresight, ranges=ranges.origin, seed=seed, progress=progress)
    if folder is not None:
        pictures.draw_growth(folder / "open-loop.png", growth, name)
        for episode in pictures.typical_episodes(dataset, settings.pictures):
            view = pictures.view_episode(
                dataset, episode, ranges.support, one_step, model.sizes.window, foresight
            )
            pictures.draw_trajectories(folder / f"episode-{episode}.png", view, dataset, name)
    return Evaluation(prediction, copy, growth, ridges)
