"""Everything that is measured and drawn of one model on one dataset."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from trajworld.data.dataset import Dataset
from trajworld.errors import UsageError
from trajworld.evaluation.one_step import OneStep, PredictionErrors, copy_last_row_errors, prediction_errors
from trajworld.evaluation.open_loop import BATCH_SIZE, Foresight, OpenLoopErrors, open_loop_errors
from trajworld.evaluation.ranges import Ranges
from trajworld.models.interface import WorldModel
from trajworld.processes import Progress


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
    """One-step errors of a model, those of copying the last row of the same windows, open-loop ones, if any, one-step
    ones of ridge regressions, where data to fit them on were named, and those of the model's other ways to predict.
    """

    prediction: PredictionErrors
    copy_last_row: PredictionErrors
    open_loop: OpenLoopErrors | None
    ridges: tuple[PredictionErrors, ...] = ()
    others: tuple[PredictionErrors, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        one_step = {name: getattr(self, name).as_json() for name in ("prediction", "copy_last_row")}
        lists = {"ridges": self.ridges, "other_predictions": self.others}
        more = {name: [one.as_json() for one in errors] for name, errors in lists.items() if errors}
        return one_step | {"open_loop": self.open_loop and asdict(self.open_loop)} | more


def evaluate(
    model: WorldModel,
    dataset: Dataset,
    ranges: Ranges,
    compiled: Mapping[str, OneStep],
    settings: Settings,
    *,
    folder: Path | None = None,
    name: str = "The model",
    progress: Progress | None = None,
    fitted: Dataset | None = None,
) -> Evaluation:
    """Measure a model on a dataset, and draw it into ``folder``, if any, with its ``name`` in the titles.

    ``ranges`` and ``compiled``, what ``compile_predictions`` returns, are of :mod:`trajworld.evaluation.one_step`; on
    ``fitted`` ridge regressions are fitted that are measured too. A ``TrajWorldError`` is raised where the predictions
    are not finite, or a picture cannot be written.
    """
    # Imported here: the Python interface does not wait for Matplotlib.
    from trajworld.charts import save_figure
    from trajworld.evaluation import pictures
    from trajworld.evaluation.fitted_ridge import ridge_errors

    seed, batch_size, window = settings.seed, settings.batch_size, model.sizes.window
    choice: dict[str, Any] = {"limit": settings.windows or None, "seed": seed}
    copy = copy_last_row_errors(dataset, window=window, **choice)
    ridges = () if fitted is None else ridge_errors(dataset, fitted, window, **choice)
    choice |= {"batch_size": batch_size, "progress": progress}
    prediction, *others = (
        prediction_errors(model, dataset, support=ranges, one_step=one_step, predictor=predictor, **choice)
        for predictor, one_step in compiled.items()
    )
    if folder is not None:
        save_figure(
            pictures.variate_errors(prediction, [*others, copy, *ridges], name), folder / "variates.png"
        )
    if not settings.horizon:
        return Evaluation(prediction, copy, None, ridges, tuple(others))
    foresight = Foresight(model, dataset, ranges.support, settings.horizon, min(batch_size, BATCH_SIZE))
    growth = open_loop_errors(foresight, ranges=ranges.origin, seed=seed, progress=progress)
    if folder is not None:
        save_figure(pictures.growth(growth, name), folder / "open-loop.png")
        for episode in pictures.typical_episodes(dataset, settings.pictures):
            predict = next(iter(compiled.values()))
            view = pictures.view_episode(dataset, episode, ranges.support, predict, window, foresight)
            save_figure(pictures.trajectories(view, dataset, name), folder / f"episode-{episode}.png")
    return Evaluation(prediction, copy, growth, ridges, tuple(others))
