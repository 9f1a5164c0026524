"""What the tests of studies share: the error of a model file, by the metric that test_one_step checks by hand."""

from pathlib import Path

from trajworld.data.dataset import Dataset
from trajworld.evaluation.one_step import prediction_errors
from trajworld.evaluation.ranges import support_for
from trajworld.models.files import load_model


def error_of(file: Path, test: Dataset, windows: int) -> float:
    """The mean absolute one-step error of a model of one dataset, in standard deviations."""
    model = load_model(file)
    found = prediction_errors(model, test, support=support_for(model, test), limit=windows)
    return found.table["all"]["normalised_mae"] or 0.0
