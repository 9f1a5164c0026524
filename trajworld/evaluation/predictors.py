"""Predictors of windows' last rows: the interface that the metric takes, and a model behind it."""

import warnings
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trajworld.backend import active_backend
from trajworld.data.dataset import Dataset
from trajworld.data.padding import padded_frame
from trajworld.errors import TrajWorldError
from trajworld.models.ranges import Support
from trajworld.models.trajworld import TrajWorld, Variates


class Prediction(NamedTuple):
    """A predictor's answer for B windows; P = observation_size + 1, the predicted variates.

    Attributes:
        mean: ``[B, P]``.
        entropy: ``[B, P]``: negative log-likelihood of the true bin in nats; None for one without bins.
    """

    mean: NDArray[np.floating]
    entropy: NDArray[np.floating] | None = None


Predictor = Callable[[NDArray[np.float32], NDArray[np.float32]], Prediction]
"""From windows ``[B, T, M]`` and their time mask ``[B, T]`` to the prediction of each one's last row.

It is given the last row, for its likelihood, and must not use it otherwise.
"""

OneStep = Callable[[NDArray[np.float32], NDArray[np.float32], Variates], tuple[Any, Any, Any]]
"""What :func:`compile_one_step` returns."""


def copying_predictor(dataset: Dataset) -> Predictor:
    """The baseline that predicts the last row of a dataset's windows to equal the one before it."""
    predicted = dataset.observation_size + 1
    return lambda values, time_mask: Prediction(values[:, -2, :predicted])


def compile_one_step(model: TrajWorld, short: Literal["padded", "unpadded"] = "padded") -> OneStep:
    """Compile the prediction of each window's last row from the rows before it.

    Args:
        model: The model.
        short: What windows of fewer than T rows are: those that lack as many of their first rows, which would be
            ``padded``, or ``unpadded`` ones, whose first row is at the window's first position.

    Returns:
        A function of values ``[B, T, M]``, time mask ``[B, T]`` and variates, to expectation, standard
        deviation and cross-entropy of the true bin, each ``[B, M]`` float32 tensors; what it says of action
        variates is unspecified. It reads the model's weights as they are at the call.
    """
    from trajworld.models.bins import moments, onehot_cross_entropy

    def one_step(values: Any, time_mask: Any, variates: Variates) -> tuple[Any, Any, Any]:
        offset = max(model.sizes.window - values.shape[1], 0) if short == "padded" else 0
        with warnings.catch_warnings():
            # Keras doubts attention to a single row.
            warnings.filterwarnings("ignore", "You are using a softmax over axis")
            logits = model(values[:, :-1], time_mask[:, :-1], variates, rows=1, offset=offset)[:, 0]
        mean, std = moments(logits, variates.lower, variates.upper)
        return mean, std, onehot_cross_entropy(logits, values[:, -1], variates.lower, variates.upper)

    return active_backend().compile(one_step, model)


def variates_of(dataset: Dataset, support: Support, size: int | None = None) -> Variates:
    """What a model is told of a dataset's variates.

    Args:
        dataset: Whose variates.
        support: The range it bins over, arrays ``[M]``.
        size: M_pad, the variates of a padded batch; None for no padding.

    Raises:
        TrajWorldError: The support is not of the dataset's M.
    """
    if support.lower.shape != (dataset.num_variates,):
        raise TrajWorldError(
            f"a support of {support.lower.size} ranges does not fit the {dataset.num_variates} variates of "
            f"{dataset.name}"
        )
    if size is None:
        return Variates(dataset.is_action, support.lower, support.upper)
    frame = padded_frame(dataset, support.lower, support.upper, size)
    return Variates(frame.is_action, frame.lower, frame.upper, frame.variate_mask)


def model_predictor(
    model: TrajWorld,
    dataset: Dataset,
    support: Support,
    one_step: OneStep | None = None,
    size: int | None = None,
) -> Predictor:
    """The model's expectation and cross-entropy as a predictor of a dataset's windows.

    Args:
        model: The model.
        dataset: Whose windows.
        support: The range the model bins over, arrays ``[M]``.
        one_step: Of :func:`compile_one_step`, where there is one already.
        size: M_pad: pad the variates to so many, so that datasets of several M share a compilation; None for none.
    """
    import keras

    variates, predicted = variates_of(dataset, support, size), dataset.observation_size + 1
    missing = 0 if size is None else size - dataset.num_variates
    compiled = one_step or compile_one_step(model)

    def predict(values: NDArray[np.float32], time_mask: NDArray[np.float32]) -> Prediction:
        padded = np.pad(values, ((0, 0), (0, 0), (0, missing))) if missing else values
        mean, _, entropy = compiled(padded, time_mask, variates)
        return Prediction(*(keras.ops.convert_to_numpy(array)[:, :predicted] for array in (mean, entropy)))

    return predict
