"""Pictures of what a model predicts: real and predicted trajectories, errors by variate, errors by horizon."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from trajworld.data.batch import variates_of
from trajworld.data.dataset import Dataset
from trajworld.data.summary import variate_names
from trajworld.data.windows import gather_windows
from trajworld.errors import UsageError
from trajworld.evaluation.one_step import BATCH_SIZE, OneStep, PredictionErrors, varying
from trajworld.evaluation.open_loop import Foresight, OpenLoopErrors
from trajworld.files import atomic_file
from trajworld.models.ranges import Support

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_REAL, _PREDICTED, _BASELINE = "black", "tab:blue", "tab:gray"
_MOST_TRAJECTORIES = 6
_MOST_BARS = 30
_BAND = "±{} std of each step's distribution"


@dataclass(frozen=True)
class Track:
    """Predictions of consecutive rows of one episode; P = observation_size + 1.

    Attributes:
        steps: ``[n]``: rows' numbers in their episode.
        mean: ``[n, P]``.
        std: ``[n, P]``: standard deviation of each predicted distribution.
    """

    steps: NDArray[np.int64]
    mean: NDArray[np.floating]
    std: NDArray[np.floating]


@dataclass(frozen=True)
class EpisodeView:
    """A stretch of an episode, as it was and as a model saw it coming.

    Attributes:
        episode: Its number.
        real: ``[n, P]``: rows 0 to n - 1 of the episode.
        one_step: Every row but the first, each predicted from the real rows before it.
        open_loop: The rows after ``open_loop.steps[0] - 1``, predicted from the actions alone.
    """

    episode: int
    real: NDArray[np.float32]
    one_step: Track
    open_loop: Track


def view_episode(
    dataset: Dataset, episode: int, support: Support, one_step: OneStep, window: int, foresight: Foresight
) -> EpisodeView:
    """Predict the start of an episode one step at a time, and open-loop from its first rows on.

    Args:
        dataset: Where the episode is.
        episode: Its number.
        support: The range the model bins over.
        one_step: Of :func:`trajworld.evaluation.one_step.compile_one_step`.
        window: The model's window, T.
        foresight: Of the same model and dataset; its horizon is how far the open loop goes.

    Raises:
        UsageError: There is no such episode.
    """
    import keras

    if not 0 <= episode < dataset.num_episodes:
        raise UsageError(f"{dataset.name} has episodes 0 to {dataset.num_episodes - 1}, not {episode}")
    first, stop = dataset.episode_offsets[episode : episode + 2]
    predicted, variates = dataset.observation_size + 1, variates_of(dataset, support.lower, support.upper)
    begin = min(foresight.context, max(1, int(stop - first) // 4)) - 1
    seen = foresight([first + begin])
    ahead = int(seen.present[0].sum())
    shown = begin + 1 + ahead
    ends = first + np.arange(1, shown)
    means: list[NDArray[np.floating]] = []
    stds: list[NDArray[np.floating]] = []
    for start in range(0, len(ends), BATCH_SIZE):
        chosen = ends[start : start + BATCH_SIZE]
        filled = np.concatenate([chosen, np.full(BATCH_SIZE - len(chosen), chosen[0])])
        values, mask = gather_windows(dataset, filled, np.full(len(filled), first), window)
        mean, std, _ = one_step(values, mask, variates)
        for found, parts in ((mean, means), (std, stds)):
            parts.append(keras.ops.convert_to_numpy(found)[: len(chosen), :predicted])
    return EpisodeView(
        episode=episode,
        real=np.array(dataset.rows[first : first + shown, :predicted]),
        one_step=Track(np.arange(1, shown), np.concatenate(means), np.concatenate(stds)),
        open_loop=Track(np.arange(begin + 1, shown), seen.mean[0, :ahead], seen.std[0, :ahead]),
    )


def typical_episodes(dataset: Dataset, count: int) -> list[int]:
    """The numbers of ``count`` episodes, evenly spread over those of at least the median length."""
    lengths = dataset.transitions_per_episode
    long = np.flatnonzero(lengths >= np.median(lengths))
    places = np.linspace(0, len(long) - 1, min(count, len(long))).round().astype(int)
    return [int(episode) for episode in long[np.unique(places)]]


def shown_variates(dataset: Dataset, most: int = _MOST_TRAJECTORIES) -> list[int]:
    """At most ``most`` predicted variates to draw: the reward, and varying observations evenly spread."""
    varies = np.flatnonzero(varying(dataset)[1][: dataset.observation_size])
    if not len(varies):
        varies = np.arange(dataset.observation_size)
    places = np.linspace(0, len(varies) - 1, min(most - 1, len(varies))).round().astype(int)
    return [*(int(place) for place in varies[places]), dataset.observation_size]


def draw_trajectories(
    path: str | Path, view: EpisodeView, dataset: Dataset, model: str, variates: Sequence[int] | None = None
) -> None:
    """Draw predicted beside real values of one episode, one step ahead on the left and open-loop on the right.

    Args:
        path: The picture's file.
        view: What is drawn.
        dataset: Where it is from.
        model: The model's name, for the title.
        variates: Which of the predicted variates, a panel each; :func:`shown_variates` where not given.
    """
    chosen = shown_variates(dataset) if variates is None else list(variates)
    names = variate_names(dataset)
    figure = _figure(10, 1.1 + 1.35 * len(chosen))
    panels = figure.subplots(len(chosen), 2, sharex=True, sharey="row", squeeze=False)
    tracks = (view.one_step, view.open_loop)
    real = view.real.astype(np.float64)
    # The 0 in an episode's first row stands for a reward that nobody received.
    real[0, dataset.observation_size] = np.nan
    for line, variate in zip(panels, chosen, strict=True):
        for axes, track in zip(line, tracks, strict=True):
            _draw_track(axes, real[:, variate], track, variate)
        line[0].set_ylabel(names[variate], fontsize=9)
        _limit(line[0], real[:, variate], tracks, variate)
    start = int(view.open_loop.steps[0])
    panels[0, 0].set_title("one step ahead, from the real rows before", fontsize=10)
    panels[0, 1].set_title(f"open loop from step {start - 1}, from the actions alone", fontsize=10)
    for axes in panels[:, 1]:
        axes.axvspan(0, start - 1, color="0.92", zorder=0, label="real history")
    for axes in panels[-1]:
        axes.set_xlabel("step of the episode", fontsize=9)
    figure.align_ylabels(panels[:, 0])
    figure.suptitle(
        f"{model} predicts {_environment(dataset)}\nepisode {view.episode} of {dataset.name}", fontsize=11
    )
    entries = dict(zip(*reversed(panels[0, 1].get_legend_handles_labels()), strict=True))
    labels = ["real", "predicted", *(_BAND.format(width) for width in (1, 2)), "real history"]
    handles = [entries[label] for label in labels]
    figure.legend(handles, labels, loc="outside lower center", ncols=len(handles), fontsize=9, frameon=False)
    _save(figure, path)


def draw_variate_errors(path: str | Path, model: PredictionErrors, copy: PredictionErrors, name: str) -> None:
    """Draw each predicted variate's one-step error beside that of copying the last row, the worst on top.

    Errors are in standard deviations of the variate; those that do not vary are left out. Many variates are cut to
    the ones that the model predicts worst.
    """
    pairs = [
        (name, row["normalised_mae"] or 0.0, copy.table[name]["normalised_mae"] or 0.0)
        for name, row in model.variates.items()
        if name not in model.still
    ]
    left_out = f"; {len(model.still)} that do not vary left out" if model.still else ""
    pairs.sort(key=lambda pair: pair[1])
    cut = f"; the worst {_MOST_BARS} of {len(pairs)}" if len(pairs) > _MOST_BARS else ""
    pairs = pairs[-_MOST_BARS:]
    figure = _figure(8, 1.7 + 0.3 * max(len(pairs), 2))
    axes = figure.add_subplot()
    places = np.arange(len(pairs))
    axes.barh(places - 0.2, [pair[2] for pair in pairs], 0.38, color=_BASELINE, label="copy of the last row")
    axes.barh(places + 0.2, [pair[1] for pair in pairs], 0.38, color=_PREDICTED, label="model")
    axes.set_yticks(places, [pair[0] for pair in pairs], fontsize=9)
    axes.set_ylim(-0.6, max(len(pairs), 1) - 0.4)
    axes.set_xlabel(f"mean absolute error, standard deviations{left_out}{cut}", fontsize=9)
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    _strip(axes)
    figure.suptitle(
        f"{name} predicts {model.environment or model.dataset} one step ahead\n"
        f"{model.windows:,} windows of {model.dataset}",
        fontsize=11,
    )
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles[::-1], labels[::-1], loc="outside lower center", ncols=2, fontsize=9, frameon=False)
    _save(figure, path)


def draw_growth(path: str | Path, errors: OpenLoopErrors, name: str) -> None:
    """Draw how the error of open-loop rollouts grows with the steps ahead, beside holding the starting row."""
    steps = np.arange(1, errors.horizon + 1)
    figure = _figure(8, 4.4)
    axes = figure.add_subplot()
    # A single step would be an invisible line.
    marker = "o" if errors.horizon < 3 else ""
    axes.fill_between(
        steps,
        errors.lower_quartile,
        errors.upper_quartile,
        color=_PREDICTED,
        alpha=0.2,
        linewidth=0,
        label="model, middle half of the rollouts",
    )
    axes.plot(steps, errors.mae, color=_PREDICTED, marker=marker, label="model, mean")
    axes.plot(
        steps,
        errors.held_row,
        color=_BASELINE,
        marker=marker,
        linestyle="--",
        label="starting row held, mean",
    )
    axes.set_xlabel("steps ahead", fontsize=9)
    axes.set_ylabel("mean absolute error, standard deviations", fontsize=9)
    axes.set_ylim(bottom=0)
    axes.set_xlim(1 if errors.horizon > 1 else 0.5, max(errors.horizon, 1.5))
    axes.grid(alpha=0.3)
    _strip(axes)
    figure.suptitle(
        f"{name} predicts {errors.environment or errors.dataset} open-loop\n"
        f"{errors.starts} rollouts along the real actions of {errors.dataset}",
        fontsize=11,
    )
    figure.legend(loc="outside lower center", ncols=3, fontsize=9, frameon=False)
    _save(figure, path)


def _draw_track(axes: "Axes", real: NDArray[np.floating], track: Track, variate: int) -> None:
    mean, std = track.mean[:, variate], track.std[:, variate]
    for width, alpha in ((2, 0.15), (1, 0.25)):
        axes.fill_between(
            track.steps,
            mean - width * std,
            mean + width * std,
            color=_PREDICTED,
            alpha=alpha,
            linewidth=0,
            label=_BAND.format(width),
        )
    axes.plot(np.arange(len(real)), real, color=_REAL, linewidth=1.4, label="real")
    marker = "o" if len(track.steps) < 3 else ""
    axes.plot(
        track.steps, mean, color=_PREDICTED, linewidth=1.2, marker=marker, markersize=3, label="predicted"
    )
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.3)
    axes.margins(x=0.01)
    _strip(axes)


def _limit(axes: "Axes", real: NDArray[np.floating], tracks: Sequence[Track], variate: int) -> None:
    """Fit the panels of a variate to its lines and 1-deviation bands: a wide outer band would flatten them."""
    ends = [real]
    for track in tracks:
        ends += [track.mean[:, variate] + sign * track.std[:, variate] for sign in (-1, 1)]
    values = np.concatenate(ends)
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    room = 0.08 * (high - low) or max(abs(low), 1.0) * 0.1
    axes.set_ylim(low - room, high + room)


def _figure(width: float, height: float) -> "Figure":
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _save(figure: "Figure", path: str | Path) -> None:
    with atomic_file(path) as temporary:
        figure.savefig(temporary, dpi=120)


def _strip(axes: "Axes") -> None:
    """Without the frame's upper and right sides."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _environment(dataset: Dataset) -> str:
    return dataset.environment or dataset.name
