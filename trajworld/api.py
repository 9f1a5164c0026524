"""The library for notebooks and scripts; everything here is also an attribute of ``trajworld``.

A *row* is ``[observation, reward, action]``: the reward received on arriving in the observation, the action taken in
it. A model reads rows and predicts the observation and the reward of the next one.
"""

import dataclasses
import functools
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from trajworld.data.batch import Variates, variates_of
from trajworld.data.dataset import Dataset
from trajworld.data.resolve import open_dataset
from trajworld.data.windows import WindowIndex, gather_windows
from trajworld.errors import UsageError
from trajworld.models.identity import action_mask
from trajworld.models.names import load, save

if TYPE_CHECKING:
    import pandas

    from trajworld.models.rollout import Controller, Rollout
    from trajworld.planning.planner import Planner
    from trajworld.policies.policy import Policy
    from trajworld.training.loop import Report

__all__ = ["evaluate", "load", "open_dataset", "planner", "predict", "rollout", "save", "train"]

Data = Dataset | str | os.PathLike[str]
"""A dataset, or what :func:`open_dataset` takes."""

_WINDOWS_AT_ONCE = 64


def train(
    data: Data | Sequence[Data],
    *,
    init: str | os.PathLike[str] | None = None,
    run: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    preset: str | None = None,
    observe: "Callable[[Report], None] | None" = None,
    **settings: Any,
) -> Any:
    """Train a model: on one dataset over its own range, or pre-train one on several, each scaled to [0, 1].

    >>> tuned = tw.train(data, init="trajworld-small", steps=2)
    >>> fresh = tw.train(data, preset="tiny", steps=2, model={"blocks": 1}, run="runs/fresh")

    Args:
        data: One dataset, or a sequence of datasets to pre-train on.
        init: The model whose weights training starts from, as :func:`load` takes it; None for random weights.
        run: The run directory to make (``trajworld train --resume`` continues it); by default a temporary one.
        overwrite: Whether to remove an existing run first.
        preset: ``tiny``, ``small`` (the default), ``paper`` or ``wide`` (of an ensemble), for the settings not given.
        observe: Called after every step.
        settings: Any of :class:`trajworld.training.config.TrainingConfig`; ``model`` is a mapping of sizes, optionally
            with the ``kind``.

    Returns the model of the lowest holdout loss; the last one if no episode is held out.

    Raises:
        UsageError: A setting is unknown or out of range, or ``run`` already exists.
        TrajWorldError: A dataset or the initial model is missing or damaged, or the loss is no longer finite.
        KeyboardInterrupt: Ctrl-C; a ``run`` can be continued.
    """
    from trajworld.training.config import resolve_config
    from trajworld.training.loop import train as train_run
    from trajworld.training.run import start_run

    several = isinstance(data, Sequence) and not isinstance(data, str)
    many: Any = data if several else [data]
    names = [str(one.path) if isinstance(one, Dataset) else os.fspath(one) for one in many]
    options = {**settings, "datasets": names}
    options |= {} if init is None else {"init": os.fspath(init)}
    config = resolve_config("pretrain" if several else "train", preset=preset, options=options)
    with tempfile.TemporaryDirectory() as temporary:
        started = start_run(run or Path(temporary, "run"), config, overwrite=overwrite)
        outcome = train_run(started, observe or (lambda report: None))
        if not outcome.finished:
            raise KeyboardInterrupt(f"training stopped after step {outcome.state.step}")
        best = started.path / "best.keras"
        return load(best if best.exists() else started.path / "last.keras")


def predict(
    model: Any, history: Data | ArrayLike, *, episode: int = 0, ranges: Data | None = None
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Predict the next observation and reward.

    >>> mean, std = tw.predict(tuned, history)
    >>> mean.shape == (len(history), data.observation_size + 1)
    True
    >>> mean, std = tw.predict(tuned, data, episode=1)  # rows 1 to L of the episode, each from the rows before it

    Args:
        model: As :func:`load` returns it; or what it takes, which each call then loads and compiles anew.
        history: ``[B, T, M]`` rows (the last that fit the model's window are read); or a dataset, to predict every row
            but the first of an ``episode`` from the real rows before it.
        episode: Its number.
        ranges: A dataset of the same environment whose range is used if the model, pre-trained on others, has none;
            when a dataset is predicted, also the name of one of the model's datasets.

    Returns expectation and standard deviation, each ``[B, O + 1]`` float32: the observation, then the reward, which is
    NaN where the data have none.

    Raises:
        UsageError: The history has another shape, holds NaN or infinite values, or no range is known.
        TrajWorldError: The model is for data of another size.
    """
    from keras import ops

    model = _loaded(model)
    window = model.sizes.window
    if isinstance(history, Dataset | str | os.PathLike):
        data = _opened(history)
        if _whole("episode", episode) >= data.num_episodes:
            raise UsageError(f"{data.name} has episodes 0 to {data.num_episodes - 1}, not {episode}")
        variates, observations = _known(model, ranges, data.num_variates, data)
        index = WindowIndex.of(data, [episode])
        values, mask = gather_windows(data, *index.locate(np.arange(len(index))), window)
    else:
        rows = _numbers("history", history)[:, 1 - window :]
        variates, observations = _known(model, ranges, rows.shape[2])
        # The last row of a window is predicted; its values are not read.
        before = window - 1 - rows.shape[1]
        values = np.pad(rows, [(0, 0), (before, 1), (0, 0)])
        mask = np.pad(np.ones(rows.shape[:2], np.float32), [(0, 0), (before, 1)])
    parts, size, predict = [], min(_WINDOWS_AT_ONCE, len(values)), next(iter(_compiled(model).values()))
    for begin in range(0, len(values), size):
        # The last of several batches repeats its last window: another shape would be compiled anew.
        places = np.arange(begin, begin + size).clip(max=len(values) - 1)
        mean_std = predict(values[places], mask[places], variates)[:2]
        parts.append([ops.convert_to_numpy(array)[:, : observations + 1] for array in mean_std])
    means, stds = np.concatenate(parts, axis=1, dtype=np.float32)[:, : len(values)]
    if variates.mask is not None and not variates.mask[observations]:
        means[:, observations] = stds[:, observations] = np.nan
    return means, stds


def rollout(
    model: Any,
    history: ArrayLike,
    actions: "ArrayLike | Controller",
    *,
    seed: int | None = None,
    ranges: Data | None = None,
) -> "Rollout":
    """Predict h steps ahead, feeding each prediction back.

    >>> future = tw.rollout(tuned, history, actions)
    >>> future.observations.shape == (*actions.shape[:2], data.observation_size)
    True
    >>> sampled = tw.rollout(tuned, history, actions, seed=1)

    Rollouts start from the last row of ``history [B, T, M]``; the first of ``actions``, ``[B, h, A]``, replaces its
    action. These may also be a controller of :mod:`trajworld.models.rollout`, such as a policy that reads each
    predicted observation. A ``seed`` samples the predictions; None takes their expectations. ``model``, ``ranges`` and
    errors are as in :func:`predict`.

    Returns ``observations [B, h, O]`` and ``rewards [B, h]``, ``observation_std`` and ``reward_std``, and ``actions``.
    """
    from trajworld.models.rollout import GivenActions, draw_uniforms

    model, rows = _loaded(model), _numbers("history", history)
    variates, observations = _known(model, ranges, rows.shape[2])
    wanted = int(variates.is_action.sum())
    controller: Any = actions
    if not hasattr(actions, "act"):
        controller = GivenActions(_numbers("actions", actions, empty=not wanted))
    if isinstance(controller, GivenActions) and (shape := controller.actions.shape)[2] != wanted:
        raise UsageError(f"actions of shape {shape} must be [B, h, {wanted}]")
    shape = (controller.horizon, rows.shape[0], rows.shape[2])
    draws = None if seed is None else draw_uniforms(*shape, _whole("seed", seed))
    return _compiled(model, observations)(rows, np.ones(rows.shape[:2]), variates, controller, draws)


def planner(
    model: Any,
    data: Data,
    *,
    proposal: "Policy | str | os.PathLike[str] | None" = None,
    environment: str = "",
    ranges: Data | None = None,
    **settings: Any,
) -> "Planner":
    """Act by planning inside a model (model predictive control).

    >>> planner = tw.planner(tuned, data, method="cem", horizon=5, candidates=32)
    >>> act = planner.controller(low, high, np.random.default_rng(0))  # in one episode, within these [A] each
    >>> action = act(observation, 0.0)  # then of each further observation and the reward received on arriving in it
    >>> action.shape == low.shape
    True

    Args:
        model: As in :func:`predict`.
        data: A dataset of the environment, with rewards.
        proposal: A policy to plan around, or its file, or the name of one that ships.
        environment: Where it acts, if the data do not name it: its termination rule holds in the model.
        ranges: As in :func:`evaluate`.
        settings: Any of :class:`trajworld.planning.settings.PlannerSettings`.

    Returns a planner for any number of episodes; its model is compiled once.

    Raises:
        UsageError: A setting is unknown or out of range, or when acting, the sizes of the observation or the bounds are
            not the data's.
        TrajWorldError: The model or the policy is for data of another size, the data have no rewards, or when acting,
            no prediction is finite.
    """
    from trajworld.evaluation.ranges import named_ranges, support_for
    from trajworld.planning.planner import Planner
    from trajworld.planning.settings import PlannerSettings
    from trajworld.policies.files import read_policy

    if unknown := settings.keys() - {one.name for one in dataclasses.fields(PlannerSettings)}:
        raise UsageError(f"no setting of planning is called {min(unknown)!r}")
    model, dataset = _loaded(model), _opened(data)
    policy: Any = read_policy(proposal) if isinstance(proposal, str | os.PathLike) else proposal
    support = support_for(model, dataset, named_ranges(ranges, [model])).support
    return Planner(model, support, dataset, PlannerSettings(**settings), policy, environment)


def evaluate(
    model: Any, data: Data, *, windows: int | None = 5000, seed: int = 0, ranges: Data | None = None
) -> "pandas.DataFrame":
    """Measure the one-step predictions of a dataset's transitions, beside the baseline that copies the last row.

    >>> table = tw.evaluate(tuned, data, windows=50)
    >>> bool(table.loc["all", "mae"] > 0)
    True

    At most ``windows`` transitions are drawn at random by ``seed``; None takes all. ``model`` and ``ranges`` are as in
    :func:`predict`; without ``ranges``, an environment that a pre-trained model never saw has the range of ``data``.

    Returns a row for each observation variate and the reward, if any, then the means ``observations`` and ``all`` (with
    the reward). Columns: ``std`` over the dataset, ``mae``, ``mse``, ``normalised_mae`` and ``normalised_mse`` (in
    standard deviations and variances, of variates that vary), ``nll`` in nats, the baseline's ``copy_mae``, …, and for
    a model that predicts in several ways, more such as a TDM's ``teacher_forced_mae``, ….

    Raises:
        UsageError: A number is out of range.
        TrajWorldError: The model is for data of another size, or its predictions are not finite.
    """
    import pandas

    from trajworld.evaluation.one_step import copy_last_row_errors, prediction_errors
    from trajworld.evaluation.ranges import named_ranges, support_for

    model, dataset = _loaded(model), _opened(data)
    support = support_for(model, dataset, named_ranges(ranges, [model]))
    limit = None if windows is None else _whole("windows", windows)
    choice: Any = {"limit": limit, "seed": _whole("seed", seed)}
    found, *others = (
        prediction_errors(model, dataset, support=support, one_step=one, predictor=name, **choice)
        for name, one in _compiled(model).items()
    )
    copied = copy_last_row_errors(dataset, window=model.sizes.window, **choice)
    table = pandas.DataFrame(found.table).T
    for prefix, each in [("copy", copied), *((one.predictor.removesuffix(" model"), one) for one in others)]:
        more = pandas.DataFrame(each.table).T.drop(columns=["std", "nll"] if each is copied else ["std"])
        table = table.join(more.add_prefix(f"{prefix.replace('-', '_')}_"))
    return table.astype(float).rename_axis("variate")


def _opened(data: Data) -> Dataset:
    return data if isinstance(data, Dataset) else open_dataset(data)


def _loaded(model: Any) -> Any:
    return load(model) if isinstance(model, str | os.PathLike) else model


def _known(
    model: Any, ranges: Data | None, variates: int, data: Dataset | None = None
) -> tuple[Variates, int]:
    """The variates with the range that a model uses, and O."""
    from trajworld.evaluation.ranges import named_ranges, support_for

    own, identity = model.identity.support, model.identity
    if ranges is not None or data is not None:
        dataset = data or _opened(ranges)  # type: ignore[arg-type]
        support = support_for(model, dataset, named_ranges(ranges, [model])).support
        found = variates_of(dataset, support.lower, support.upper), dataset.observation_size
    elif own.shared or identity.observation_size is None:
        raise UsageError(
            "the model has no ranges for these rows: name a dataset of their environment, ranges=..."
        )
    else:
        is_action = action_mask(identity.observation_size, identity.action_size)
        recorded = (np.arange(len(is_action)) != identity.observation_size).astype(np.float32)
        mask = None if identity.reward else recorded
        found = Variates(is_action, own.lower, own.upper, mask), identity.observation_size
    if (count := len(found[0].lower)) != variates:
        raise UsageError(f"rows of {variates} variates do not fit the model or data of {count}")
    return found


def _whole(name: str, value: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 0:
        raise UsageError(f"{name} must be a whole number of at least 0, not {value!r}")
    return int(value)


def _numbers(name: str, array: ArrayLike, empty: bool = False) -> NDArray[np.float32]:
    """An array of finite numbers with three non-empty axes; with ``empty`` the last may be empty."""
    try:
        found = np.asarray(array, np.float32)
    except (TypeError, ValueError) as error:
        raise UsageError(f"{name} must be an array of numbers: {error}") from None
    if found.ndim != 3 or 0 in found.shape[: 3 - empty]:
        raise UsageError(f"{name} of shape {found.shape} must have 3 axes, none of them empty")
    if not np.isfinite(found).all():
        raise UsageError(f"{name} holds NaN or infinite values")
    return found


@functools.lru_cache(maxsize=8)
def _compiled(model: Any, observation_size: int | None = None) -> Any:
    """One-step predictions by predictor; or rollouts in data of one observation size."""
    from trajworld.evaluation.one_step import compile_predictions
    from trajworld.models.rollout import compile_rollout

    return (
        compile_predictions(model) if observation_size is None else compile_rollout(model, observation_size)
    )
