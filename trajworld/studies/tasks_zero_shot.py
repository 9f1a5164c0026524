"""The task of the zero-shot study: the errors of a model and of baselines in one unseen environment."""

import functools
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from trajworld.data.resolve import open_dataset
from trajworld.data.summary import variate_names
from trajworld.data.windows import gather_windows
from trajworld.evaluation.contexts import Halves, halves_of, with_context
from trajworld.evaluation.linear import choose_penalties, minimum_norm_predictor, ridge_predictor
from trajworld.evaluation.one_step import (
    OneStep,
    Predictor,
    compile_one_step,
    copying_predictor,
    each_error,
    model_predictor,
    scaled_errors,
    varying,
)
from trajworld.models.files import load_model
from trajworld.study.cells import Row

COPY, MINIMUM_NORM, RIDGE, MODEL = PREDICTORS = ("copy", "least squares", "ridge", "model")

_BATCH_SIZE, _LARGE_BATCH = 128, 1024
_SHORT = 8


def predict_unseen(settings: Mapping[str, Any], places: Mapping[str, str]) -> list[Row]:
    """Predict the same windows of one environment from contexts of several lengths, by the model and by baselines.

    A row for each predictor, context and tested episode: ``windows``, and their mean ``error`` in standard deviations
    of each variate, averaged over the variates that vary. And at the longest context a row for each predictor and
    predicted variate: its mean ``error`` over all windows, the error of a predictor that knows the right bin and
    answers with its centre (``bin_error``, a quarter of a bin), both in standard deviations; the mean absolute
    ``change`` from row to row in bins; and, the same in all of them, the share of the tested values ``outside`` the
    ranges. Of a model without bins ``bin_error`` and ``change`` are NaN.
    """
    model, one_step = _loaded(places["init"], settings["init"]["digest"], settings["unpadded"])
    dataset = open_dataset(places["data"])
    halves = halves_of(dataset, model.sizes.window, settings["most_windows"], settings["seed"])
    episodes, episode = np.unique(halves.tested.first, return_inverse=True)
    numbers = np.searchsorted(dataset.episode_offsets, episodes)
    counts = np.bincount(episode)
    std, varies = varying(dataset)
    scale = np.where(varies, std, np.nan)
    rows: list[Row] = []
    by_variate: dict[str, NDArray[np.float64]] = {}
    for context in settings["contexts"]:
        for name, absolute in _absolute_errors(halves, model, one_step, context, settings["unpadded"]):
            sums = np.bincount(episode, weights=scaled_errors(dataset, absolute))
            rows += [
                {"predictor": name, "context": context, "episode": number, "windows": count, "error": error}
                for number, count, error in zip(numbers, counts, sums / counts, strict=True)
            ]
            by_variate[name] = absolute.mean(axis=0) / scale
    predicted, bins = dataset.observation_size + 1, getattr(model.sizes, "bins", math.nan)
    ranges = (halves.support.upper - halves.support.lower)[:predicted].astype(np.float64)
    values, _ = gather_windows(dataset, halves.tested.ends, halves.tested.first, 2)
    change = np.abs(np.diff(values[..., :predicted].astype(np.float64), axis=1)).mean(axis=(0, 1))
    facts = pd.DataFrame({
        "context": settings["contexts"][-1],
        "variate": variate_names(dataset)[:predicted],
        "bin_error": ranges / bins / 4 / scale,
        "change": change / (ranges / bins),
        "outside": halves.outside,
    })  # fmt: skip
    for predictor, errors in by_variate.items():
        rows += facts.assign(predictor=predictor, error=errors).to_dict("records")
    return rows


def _absolute_errors(
    halves: Halves, model: Any, one_step: OneStep, context: int, unpadded: bool
) -> Iterator[tuple[str, NDArray[np.float64]]]:
    """Each predictor's name and absolute errors ``[N, P]`` with a context of so many rows."""
    dataset, support, window = halves.dataset, halves.support, model.sizes.window
    other, _ = gather_windows(dataset, halves.other.ends, halves.other.first, window)
    penalties = choose_penalties(other, support, context, dataset.observation_size + 1)
    predictors: dict[str, Predictor] = {
        COPY: copying_predictor(dataset),
        MINIMUM_NORM: minimum_norm_predictor(dataset, support, context),
        RIDGE: ridge_predictor(dataset, support, context, penalties),
        MODEL: model_predictor(model, dataset, support, one_step),
    }
    # Padded, two lengths, each compiled once, save a third of the computations on rows that would be masked.
    lengths = (context + 1,) if unpadded else (_SHORT, window)
    length = min((cut for cut in lengths if cut > context), default=window)
    for name, predict in predictors.items():
        batch = _BATCH_SIZE if name == MODEL else _LARGE_BATCH
        ends, first = halves.tested.ends, halves.tested.first
        shown = with_context(predict, context, length)
        parts = each_error(shown, dataset, ends, first, name, batch, window)
        yield name, np.concatenate([error for error, _ in parts])


@functools.lru_cache(maxsize=1)
def _loaded(file: str, digest: str, unpadded: bool) -> tuple[Any, OneStep]:
    """The model and its compiled prediction, kept in a process from one environment to the next."""
    model = load_model(file)
    return model, compile_one_step(model, "unpadded" if unpadded else "padded")
