"""Transition prediction: errors of the one-step prediction of each window's last row.

The metric is written once, for any predictor: a model, or the baseline that copies the last row.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from trajworld.backend import active_backend
from trajworld.data.batch import Batch, Variates, variates_of
from trajworld.data.dataset import Dataset
from trajworld.data.statistics import statistics
from trajworld.data.summary import variate_names
from trajworld.data.windows import WindowIndex, gather_windows
from trajworld.errors import TrajWorldError, UsageError
from trajworld.evaluation.ranges import Ranges
from trajworld.models.interface import Predicted, Short, WorldModel, predictions_of
from trajworld.models.ranges import Support
from trajworld.processes import Progress

WINDOW = 20
BATCH_SIZE = 64
METRICS = ("mae", "mse", "normalised_mae", "normalised_mse", "nll")
_STILL = 1e-6


class Prediction(NamedTuple):
    """A predictor's answer for B windows; P = ``Dataset.num_predicted``.

    ``entropy`` is the negative log-likelihood of the true values in nats; None of a predictor without one.
    """

    mean: NDArray[np.floating]
    entropy: NDArray[np.floating] | None = None


Predictor = Callable[[NDArray[np.float32], NDArray[np.float32]], Prediction]
"""From windows ``[B, T, M]`` and their time mask ``[B, T]`` to the prediction of each one's last row.

It is given the last row, for its likelihood, and must not use it otherwise.
"""

OneStep = Callable[[NDArray[np.float32], NDArray[np.float32], Variates], Predicted]
"""What :func:`compile_one_step` returns."""


@dataclass(frozen=True)
class PredictionErrors:
    """How well a ``predictor`` predicted the last rows of a dataset's ``windows``, over which ``ranges``, if any.

    The ``table`` has a row for each predicted variate, then the means over ``observations`` and over ``all`` (with the
    reward). Its columns are ``std`` over the dataset, None in the means; ``mae`` and ``mse`` in the data's own units;
    ``normalised_mae`` and ``normalised_mse`` in standard deviations and variances, None of a variate that does not
    vary, which has no part in the means either; and ``nll``, the negative log-likelihood in nats of the bin that holds
    the true value, of an ensemble that of the value itself, None for a predictor that gives none.
    """

    dataset: str
    environment: str
    predictor: str
    ranges: str
    windows: int
    table: dict[str, dict[str, float | None]]

    @property
    def variates(self) -> dict[str, dict[str, float | None]]:
        """The table without its means."""
        return dict(list(self.table.items())[:-2])

    @property
    def rewarded(self) -> bool:
        """Whether the dataset records a reward; if not, the table has no row for it, and ``all`` is the observation."""
        return "reward" in self.table

    @property
    def still(self) -> tuple[str, ...]:
        """The predicted variates that do not vary."""
        return tuple(name for name, row in self.variates.items() if row["normalised_mae"] is None)

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values: each metric's means, and the variates' own errors."""
        found: dict[str, Any] = {name: value for name, value in vars(self).items() if name != "table"}
        found["reward"] = self.rewarded
        for metric in METRICS:
            observation, predicted = (self.table[part][metric] for part in ("observations", "all"))
            means = {"observation": observation, "predicted": predicted}
            found[metric] = None if metric == "nll" and predicted is None else means
        own = ("std", "mae", "mse", "nll")
        variates = [{"name": name, **{key: row[key] for key in own}} for name, row in self.variates.items()]
        return {**found, "still": self.still, "variates": variates}


def compile_one_step(model: WorldModel, short: Short = "padded") -> OneStep:
    """Compile the prediction of each window's last row, as tensors, from the rows before it.

    It takes values ``[B, T, M]``, time mask ``[B, T]`` and variates, and reads the weights as they are at the call.
    """
    return active_backend().compile(
        lambda values, mask, variates: model.predict(Batch(values, mask, variates), short), model
    )


def compile_predictions(model: WorldModel) -> dict[str, OneStep]:
    """As :func:`compile_one_step`, for each way in which a model predicts rows, by predictor; that one's first."""

    def compiled(predict: Callable[..., Predicted]) -> OneStep:
        return active_backend().compile(lambda *arrays: predict(Batch(*arrays)), model)

    return {predictor: compiled(predict) for predictor, predict in predictions_of(model).items()}


def copying_predictor(dataset: Dataset) -> Predictor:
    """The baseline that predicts the last row of a dataset's windows to equal the one before it."""
    predicted = dataset.num_predicted
    return lambda values, time_mask: Prediction(values[:, -2, :predicted])


def model_predictor(
    model: WorldModel, dataset: Dataset, support: Support, one_step: OneStep | None = None
) -> Predictor:
    """The model's expectation and negative log-likelihood as a predictor of a dataset's windows, read over ``support``.

    ``one_step`` is that of :func:`compile_one_step`, where there is one already.
    """
    import keras

    variates = variates_of(dataset, support.lower, support.upper)
    compiled = one_step or compile_one_step(model)

    def numpy(tensor: Any) -> NDArray[np.floating]:
        return keras.ops.convert_to_numpy(tensor)[:, : dataset.num_predicted]

    def predict(values: NDArray[np.float32], time_mask: NDArray[np.float32]) -> Prediction:
        mean, _, nll = compiled(values, time_mask, variates)
        return Prediction(numpy(mean), None if nll is None else numpy(nll))

    return predict


def prediction_errors(
    model: WorldModel,
    dataset: Dataset,
    *,
    support: Support | Ranges,
    one_step: OneStep | None = None,
    predictor: str = "model",
    **choice: Any,
) -> PredictionErrors:
    """The errors of the model's expectation of each window's last row, from the at most T - 1 rows before it.

    The model reads them over ``support``, arrays ``[M]``: see :func:`support_for`. ``one_step`` is what
    :func:`compile_one_step` made of it, where it is evaluated more than once, and ``predictor`` its name; ``choice`` is
    that of :func:`errors_of`.

    Raises:
        UsageError: The limit is less than 1.
        TrajWorldError: The support has another M, or the model's predictions are not finite.
    """
    ranges = support if isinstance(support, Ranges) else Ranges(support, "given")
    predict = model_predictor(model, dataset, ranges.support, one_step)
    about: dict[str, Any] = {"ranges": ranges.origin, "window": model.sizes.window}
    return errors_of(predict, dataset, predictor=predictor, **about, **choice)


def copy_last_row_errors(dataset: Dataset, **choice: Any) -> PredictionErrors:
    """The errors of the baseline that predicts the last row to equal the one before it; see :func:`errors_of`.

    With the same dataset, window, limit and seed it is measured on the same windows as a model.
    """
    choice = {"batch_size": 4096, **choice}
    return errors_of(copying_predictor(dataset), dataset, predictor="copy of the last row", **choice)


def errors_of(
    predict: Predictor,
    dataset: Dataset,
    *,
    predictor: str,
    ranges: str = "",
    window: int = WINDOW,
    limit: int | None = None,
    batch_size: int = BATCH_SIZE,
    seed: int = 0,
    episodes: ArrayLike | None = None,
    progress: Progress | None = None,
) -> PredictionErrors:
    """The metric itself: errors of any ``predictor`` (its name) of the last row of windows of length ``window``.

    Of the windows of ``episodes`` (all if not given) at most ``limit``, drawn by ``seed``, are predicted, all if it is
    None; ``batch_size`` at once; the last batch is padded to this size, so that one shape is compiled. ``progress`` is
    called after each.
    """
    index = WindowIndex.of(dataset, episodes)
    if limit is not None and limit < 1:
        raise UsageError(f"at least 1 window must be predicted, not {limit}")
    ranks = drawn(np.arange(len(index)), limit, seed)
    mae, mse, nll = (np.zeros(dataset.num_predicted) for _ in range(3))
    places = index.locate(ranks)
    for error, entropy in each_error(predict, dataset, *places, predictor, batch_size, window, progress):
        mae += error.sum(axis=0)
        mse += np.square(error).sum(axis=0)
        nll += np.nan if entropy is None else entropy.sum(axis=0, dtype=np.float64)
    mae, mse, nll = (total / len(ranks) for total in (mae, mse, nll))
    std, varies = varying(dataset)
    scale = np.where(varies, std, np.nan)
    columns = dict(zip(METRICS, (mae, mse, mae / scale, mse / scale**2, nll), strict=True))
    names = variate_names(dataset)[: len(mae)]
    groups = {name: slice(place, place + 1) for place, name in enumerate(names)}
    table: dict[str, dict[str, float | None]] = {}
    observations = slice(dataset.observation_size)
    for name, group in {**groups, "observations": observations, "all": slice(None)}.items():
        own = {"std": float(std[group][0]) if name in groups else None}
        table[name] = own | {metric: _mean(values[group]) for metric, values in columns.items()}
    return PredictionErrors(dataset.name, dataset.environment, predictor, ranges, len(ranks), table)


def drawn(candidates: NDArray[np.int64], most: int | None, seed: int) -> NDArray[np.int64]:
    """At most ``most`` of ascending numbers (all where it is None), drawn by ``seed`` without replacement."""
    count = len(candidates) if most is None else min(most, len(candidates))
    return np.sort(np.random.default_rng(seed).choice(candidates, count, replace=False))


def each_error(
    predict: Predictor,
    dataset: Dataset,
    ends: NDArray[np.int64],
    first: NDArray[np.int64],
    predictor: str,
    batch_size: int = BATCH_SIZE,
    window: int = WINDOW,
    progress: Progress | None = None,
) -> Iterator[tuple[NDArray[np.float64], NDArray[np.floating] | None]]:
    """The absolute errors of the last row of the windows that end at the rows ``ends [N]``, a batch at a time.

    ``first [N]`` are the first rows of their episodes; ``predictor`` is its name, for errors.

    Yields:
        ``[<= batch_size, P]`` absolute errors in the data's own units, and the negative log-likelihoods in
        nats, or None for a predictor that gives none.

    Raises:
        TrajWorldError: The predictions are not finite.
    """
    size, predicted = min(batch_size, len(ends)), dataset.num_predicted
    for start in range(0, len(ends), size):
        # A short last batch repeats its first window: another shape would be compiled anew.
        places = np.arange(start, start + size)
        places[places >= len(ends)] = start
        count = min(size, len(ends) - start)
        values, time_mask = gather_windows(dataset, ends[places], first[places], window)
        answer = predict(values, time_mask)
        error = np.abs(answer.mean[:count].astype(np.float64) - values[:count, -1, :predicted])
        entropy = None if answer.entropy is None else answer.entropy[:count]
        if not (np.all(np.isfinite(error)) and (entropy is None or np.all(np.isfinite(entropy)))):
            raise TrajWorldError(
                f"the {predictor} predicts NaN or infinite values on {dataset.name}: its weights are damaged"
            )
        yield error, entropy
        if progress is not None:
            progress(start + count, len(ends), dataset.name)


def scaled_errors(dataset: Dataset, difference: NDArray[np.floating]) -> NDArray[np.float64]:
    """Absolute errors of ``[..., P]`` in standard deviations over the dataset, averaged over the variates: ``[...]``.

    Over those that vary; over all, undivided, where none does.
    """
    std, varies = varying(dataset)
    counted = varies if varies.any() else np.ones_like(varies)
    return (np.abs(difference.astype(np.float64)) / np.where(varies, std, 1.0))[..., counted].mean(axis=-1)


def varying(dataset: Dataset) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Of each predicted variate, its standard deviation over the dataset, and whether it varies at all.

    A deviation within float32's rounding of the values themselves is no variation.
    """
    predicted = dataset.num_predicted
    found = statistics(dataset)
    scale = np.maximum(np.abs(found.minimum), np.abs(found.maximum))[:predicted].astype(np.float64)
    std = found.std[:predicted]
    return std, std > _STILL * scale


def _mean(values: NDArray[np.float64]) -> float | None:
    """The mean of the values that are not NaN, if any."""
    there = values[~np.isnan(values)]
    return float(there.mean()) if len(there) else None
