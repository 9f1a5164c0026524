"""Measuring every predictor at every length of context in every environment."""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from trajworld.data.padding import padded_sizes
from trajworld.data.summary import variate_names
from trajworld.data.windows import gather_windows
from trajworld.evaluation.prediction import Progress, each_error, scaled_errors, varying
from trajworld.evaluation.predictors import (
    OneStep,
    Predictor,
    compile_one_step,
    copying_predictor,
    model_predictor,
)
from trajworld.models.trajworld import TrajWorld
from trajworld.zero_shot.bootstrap import Errors, bootstrap
from trajworld.zero_shot.linear import choose_penalties, minimum_norm_predictor, ridge_predictor
from trajworld.zero_shot.protocol import Trial, with_context
from trajworld.zero_shot.unseen import check_unseen

COPY, MINIMUM_NORM, RIDGE, MODEL = "copy", "least squares", "ridge", "model"
PREDICTORS = (COPY, MINIMUM_NORM, RIDGE, MODEL)

Short = Literal["padded", "unpadded"]
"""How a model is given a context of fewer rows than its window holds."""

_BATCH_SIZE = 128
_LARGE_BATCH = 1024
_SIZES, _FEW_SIZES = 5, 3
_SHORT = 8


@dataclass(frozen=True, eq=False)
class Measured:
    """What was found in one environment.

    Attributes:
        trial: The environment, its windows and ranges.
        errors: Of all predictors by length of context.
        variates: Mean normalised errors at the longest context by predictor, ``[P]`` each; NaN where a variate does
            not vary.
        bin_error: The error that a model would make that always knew the true bin and answered with its centre: a
            quarter of a bin's width, averaged over the variates.
        change: Of each predicted variate, the mean absolute change from row to row in bins, ``[P]``.
    """

    trial: Trial
    errors: Errors
    variates: dict[str, NDArray[np.float64]]
    bin_error: float
    change: NDArray[np.float64]

    @property
    def names(self) -> list[str]:
        """``[P]``: the predicted variates' names."""
        dataset = self.trial.dataset
        return variate_names(dataset)[: dataset.observation_size + 1]


def measure_all(
    model: TrajWorld,
    trials: Sequence[Trial],
    contexts: Sequence[int],
    seed: int = 0,
    short: Short = "padded",
    progress: Progress | None = None,
) -> list[Measured]:
    """Measure a model and the baselines in every environment.

    Args:
        model: A pre-trained model.
        trials: The environments, of :func:`trajworld.zero_shot.protocol.set_up` with the model's window.
        contexts: Ascending lengths of context, of :func:`trajworld.zero_shot.protocol.check_contexts`.
        seed: Of the bootstrap.
        short: Whether a context of fewer than T - 1 rows is padded on the left.
        progress: Called after each batch of the model's predictions, of those in all environments.

    Raises:
        TrajWorldError: The model is not zero-shot in one of them, or its predictions are not finite.
    """
    check_unseen(model.identity, [trial.dataset.environment for trial in trials])
    one_step = compile_one_step(model, short)
    # Unpadded, every length of context is compiled anew for every size.
    most = _SIZES if short == "padded" else _FEW_SIZES
    sizes = padded_sizes([trial.dataset.num_variates for trial in trials], most=most)
    total = sum(len(trial.test) for trial in trials) * len(contexts)
    everything = f"{len(trials)} unseen environment{'s' * (len(trials) > 1)}"
    found, before = [], 0
    for trial in trials:

        def report(done: int, _: int | None, what: str, begun: int = before) -> None:
            if progress is not None:
                progress(begun + done, total, everything)

        size = min(size for size in sizes if size >= trial.dataset.num_variates)
        found.append(measure(model, trial, contexts, one_step, size, seed, short, report))
        before += len(trial.test) * len(contexts)
    return found


def measure(
    model: TrajWorld,
    trial: Trial,
    contexts: Sequence[int],
    one_step: OneStep | None = None,
    size: int | None = None,
    seed: int = 0,
    short: Short = "padded",
    progress: Progress | None = None,
) -> Measured:
    """Measure a model and the baselines in one environment; arguments as of :func:`measure_all`.

    Args:
        model: The model.
        trial: The environment.
        contexts: Ascending lengths of context.
        one_step: The model's prediction, compiled for ``short``, where it is there.
        size: How many variates the model's batches are padded to.
        seed: Of the bootstrap.
        short: Whether a context of fewer than T - 1 rows is padded on the left.
        progress: Called after each batch of the model's predictions.
    """
    dataset, window = trial.dataset, model.sizes.window
    modelled = model_predictor(
        model, dataset, trial.support, one_step or compile_one_step(model, short), size
    )
    other, _ = gather_windows(dataset, trial.other.ends, trial.other.first, window)
    scaled: list[list[NDArray[np.float64]]] = [[] for _ in PREDICTORS]
    variates: dict[str, NDArray[np.float64]] = {}
    std, varies = varying(dataset)
    for number, context in enumerate(contexts):
        if short == "unpadded":
            length = context + 1
        else:
            # Two lengths, each compiled once, save a third of the computations on rows that would be masked.
            length = min((cut for cut in (_SHORT, window) if cut > context), default=window)

        def report(done: int, count: int | None, what: str, begun: int = number) -> None:
            if progress is not None:
                progress(begun * len(trial.test) + done, None, what)

        for place, name in enumerate(PREDICTORS):
            predict = _predictor(name, trial, context, modelled, other)
            batch = _BATCH_SIZE if name == MODEL else _LARGE_BATCH
            parts = each_error(
                with_context(predict, context, length),
                dataset,
                trial.test.ends,
                trial.test.first,
                name,
                batch,
                window,
                report if name == MODEL else None,
            )
            absolute = np.concatenate([error for error, _ in parts])
            scaled[place].append(scaled_errors(dataset, absolute))
            variates[name] = np.where(varies, absolute.mean(axis=0) / np.where(varies, std, 1.0), np.nan)
    predicted = dataset.observation_size + 1
    bins = (trial.support.upper - trial.support.lower)[:predicted].astype(np.float64) / model.sizes.bins
    values, _ = gather_windows(dataset, trial.test.ends, trial.test.first, 2)
    return Measured(
        trial,
        bootstrap(
            np.array(scaled),
            trial.test.first,
            PREDICTORS,
            contexts,
            (seed, zlib.crc32(dataset.environment.encode())),
        ),
        variates,
        float(scaled_errors(dataset, bins / 4)),
        np.abs(np.diff(values[..., :predicted].astype(np.float64), axis=1)).mean(axis=(0, 1)) / bins,
    )


def _predictor(
    name: str, trial: Trial, context: int, modelled: Predictor, other: NDArray[np.float32]
) -> Predictor:
    if name == MODEL:
        return modelled
    if name == RIDGE:
        return ridge_predictor(
            trial,
            context,
            choose_penalties(other, trial.support, context, trial.dataset.observation_size + 1),
        )
    if name == MINIMUM_NORM:
        return minimum_norm_predictor(trial, context)
    return copying_predictor(trial.dataset)
