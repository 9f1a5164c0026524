"""The few numbers of an evaluation that reports compare."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trajworld.evaluation.prediction import PredictionErrors


@dataclass(frozen=True)
class Errors:
    """One-step errors on a test set.

    Attributes:
        mae: Mean absolute error over observation and reward, raw units.
        mse: Mean squared error, raw units.
        normalised_mae: Mean absolute error in standard deviations of each variate.
        normalised_mae_observation: The same over observation variates alone; None where none of them varies.
        nll: Mean negative log-likelihood of the true bins, nats; None for a predictor without bins.
    """

    mae: float
    mse: float
    normalised_mae: float
    normalised_mae_observation: float | None
    nll: float | None


def brief_errors(errors: "PredictionErrors") -> Errors:
    """The numbers of a report; ``normalised_mae`` is NaN where no variate varies at all."""

    def known(value: float | None) -> float:
        return float("nan") if value is None else value

    return Errors(
        mae=known(errors.mae.predicted),
        mse=known(errors.mse.predicted),
        normalised_mae=known(errors.normalised_mae.predicted),
        normalised_mae_observation=errors.normalised_mae.observation,
        nll=None if errors.nll is None else errors.nll.predicted,
    )
