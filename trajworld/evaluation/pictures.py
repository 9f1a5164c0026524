"""Pictures of what a model predicts: real and predicted trajectories, errors by variate, errors by horizon."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from numpy.typing import NDArray

from trajworld.charts import Look, bars, blank, lines, save_figure, style_axes
from trajworld.data.batch import variates_of
from trajworld.data.dataset import Dataset
from trajworld.data.summary import variate_names
from trajworld.data.windows import gather_windows
from trajworld.errors import UsageError
from trajworld.evaluation.one_step import BATCH_SIZE, OneStep, PredictionErrors, varying
from trajworld.evaluation.open_loop import Foresight, OpenLoopErrors
from trajworld.models.ranges import Support

_MOST_TRAJECTORIES = 6
_MOST_BARS = 20
_BAND = "±{} std of each step's distribution"


@dataclass(frozen=True)
class Track:
    """Predictions of consecutive rows of one episode; P = ``Dataset.num_predicted``.

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

    ``window`` is the model's T; the horizon of ``foresight`` is how far the open loop goes.

    Raises:
        UsageError: There is no such episode.
    """
    if not 0 <= episode < dataset.num_episodes:
        raise UsageError(f"{dataset.name} has episodes 0 to {dataset.num_episodes - 1}, not {episode}")
    first, stop = dataset.episode_offsets[episode : episode + 2]
    predicted, variates = dataset.num_predicted, variates_of(dataset, support.lower, support.upper)
    begin = min(foresight.context, max(1, int(stop - first) // 4)) - 1
    seen = foresight([first + begin])
    ahead = int(seen.present[0].sum())
    shown = begin + 1 + ahead
    ends = first + np.arange(1, shown)
    # Whole batches: another shape would be compiled anew.
    batches = np.resize(ends, (-(-len(ends) // BATCH_SIZE), BATCH_SIZE))
    answers = [
        one_step(*gather_windows(dataset, batch, np.full(BATCH_SIZE, first), window), variates)[:2]
        for batch in batches
    ]
    mean, std = (
        np.concatenate([keras.ops.convert_to_numpy(part) for part in parts])[: len(ends), :predicted]
        for parts in zip(*answers, strict=True)
    )
    return EpisodeView(
        episode=episode,
        real=np.array(dataset.rows[first : first + shown, :predicted]),
        one_step=Track(np.arange(1, shown), mean, std),
        open_loop=Track(np.arange(begin + 1, shown), seen.mean[0, :ahead], seen.std[0, :ahead]),
    )


def typical_episodes(dataset: Dataset, count: int) -> list[int]:
    """The numbers of ``count`` episodes, evenly spread over those of at least the median length."""
    lengths = dataset.transitions_per_episode
    long = np.flatnonzero(lengths >= np.median(lengths))
    return [int(episode) for episode in _spread(long, count)]


def shown_variates(dataset: Dataset, most: int = _MOST_TRAJECTORIES) -> list[int]:
    """At most ``most`` predicted variates to draw: the reward, and varying observations evenly spread."""
    varies = np.flatnonzero(varying(dataset)[1][: dataset.observation_size])
    if not len(varies):
        varies = np.arange(dataset.observation_size)
    return [
        *(int(variate) for variate in _spread(varies, most - 1)),
        *[dataset.observation_size] * dataset.reward,
    ]


def draw_trajectories(path: str | Path, view: EpisodeView, dataset: Dataset, model: str) -> None:
    """Draw predicted beside real values of one episode, one step ahead on the left and open-loop on the right.

    A row of panels for each of :func:`shown_variates`; ``model`` is its name, for the title.
    """
    look, chosen, names = Look(), shown_variates(dataset), variate_names(dataset)
    figure = blank(look, 10, 1.1 + 1.35 * len(chosen))
    panels = figure.subplots(len(chosen), 2, sharex=True, sharey="row", squeeze=False)
    real = view.real.astype(np.float64)
    # The 0 in an episode's first row stands for a reward that nobody received.
    real[0, dataset.observation_size :] = np.nan
    for line, variate in zip(panels, chosen, strict=True):
        tracks = list(zip(line, (view.one_step, view.open_loop), strict=True))
        for axes, track in tracks:
            _draw_track(axes, look, real[:, variate], track, variate)
        # As high as the lines and the narrower bands: a wide outer band would flatten them.
        limits = line[0].get_ylim()
        for axes, track in tracks:
            _draw_band(axes, look, track, variate, 2)
        line[0].set_ylim(limits)
        line[0].set_ylabel(names[variate], fontsize=9, color=look.colour("text"))
    start = int(view.open_loop.steps[0])
    titles = (
        "one step ahead, from the real rows before",
        f"open loop from step {start - 1}, from the actions alone",
    )
    for axes, title in zip(panels[0], titles, strict=True):
        axes.set_title(title, loc="left", fontsize=10, color=look.colour("text"))
    for axes in panels[:, 1]:
        axes.axvspan(0, start - 1, color=look.colour("grid"), zorder=0, label="real history")
    for axes in panels[-1]:
        axes.set_xlabel("step of the episode")
    figure.align_ylabels(panels[:, 0])
    title = (
        f"{model} predicts {dataset.environment or dataset.name}\nepisode {view.episode} of {dataset.name}"
    )
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, color=look.colour("text"))
    entries = dict(zip(*reversed(panels[0, 1].get_legend_handles_labels()), strict=True))
    labels = ["real", "predicted", _BAND.format(1), _BAND.format(2), "real history"]
    figure.legend(
        [entries[label] for label in labels],
        labels,
        loc="outside lower left",
        ncols=5,
        fontsize=9,
        frameon=False,
    )
    save_figure(figure, path)


def draw_variate_errors(
    path: str | Path, model: PredictionErrors, baselines: Sequence[PredictionErrors], name: str
) -> None:
    """Draw each predicted variate's one-step error beside those of baselines, the worst on top.

    Errors are in standard deviations of the variate; those that do not vary are left out. Many variates are cut to
    the ones that the model predicts worst.
    """
    pairs = [
        (row["normalised_mae"] or 0.0, variate)
        for variate, row in model.variates.items()
        if variate not in model.still
    ]
    notes = [f"the worst {_MOST_BARS} of {len(pairs)}"] * (len(pairs) > _MOST_BARS)
    notes += [f"{len(model.still)} that do not vary left out"] * bool(model.still)
    rows = [
        row
        for ours, variate in sorted(pairs, reverse=True)[:_MOST_BARS]
        for row in (
            (variate, "model", ours),
            *((variate, side.predictor, side.table[variate]["normalised_mae"] or 0.0) for side in baselines),
        )
    ]
    table = pd.DataFrame(rows, columns=["variate", "side", "error"])
    title = (
        f"{name} predicts {model.environment or model.dataset} one step ahead\n"
        f"{model.windows:,} windows of {model.dataset}\n"
        f"{'; '.join(['mean absolute error, standard deviations', *notes])}"
    )
    figure = bars(table, Look(), label="variate", value="error", series="side", title=title)
    save_figure(figure, path)


def draw_growth(path: str | Path, errors: OpenLoopErrors, name: str) -> None:
    """Draw how the error of open-loop rollouts grows with the steps ahead, beside holding the starting row."""
    steps = np.arange(1, errors.horizon + 1)
    model = pd.DataFrame({"steps": steps, "error": errors.mae, "side": "model"})
    model = model.assign(**{"error low": errors.lower_quartile, "error high": errors.upper_quartile})
    held = pd.DataFrame({"steps": steps, "error": errors.held_row, "side": "copy of the starting row"})
    title = (
        f"{name} predicts {errors.environment or errors.dataset} open-loop\n"
        f"{errors.starts} rollouts along the real actions of {errors.dataset}\n"
        "mean absolute error, standard deviations; shaded: the middle half of the rollouts"
    )
    figure = lines(
        pd.concat([model, held]),
        Look(),
        x="steps",
        y="error",
        series="side",
        x_title="steps ahead",
        y_title=title,
        log_x=False,
        log_y=False,
    )
    save_figure(figure, path)


def _spread(values: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """At most ``count`` of the values, evenly spread."""
    places = np.linspace(0, len(values) - 1, min(count, len(values))).round().astype(int)
    return values[np.unique(places)]


def _draw_track(axes: Axes, look: Look, real: NDArray[np.floating], track: Track, variate: int) -> None:
    style_axes(axes, look)
    axes.tick_params(labelsize=8)
    axes.margins(x=0.01, y=0.08)
    mean, colour = track.mean[:, variate], look.colour("fine-tuned")
    axes.plot(np.arange(len(real)), real, color=look.colour("text"), linewidth=1.4, label="real")
    marker = "o" if len(track.steps) < 3 else ""
    axes.plot(track.steps, mean, color=colour, linewidth=1.2, marker=marker, markersize=3, label="predicted")
    _draw_band(axes, look, track, variate, 1)


def _draw_band(axes: Axes, look: Look, track: Track, variate: int, width: int) -> None:
    mean, std, colour = track.mean[:, variate], width * track.std[:, variate], look.colour("fine-tuned")
    label, alpha = _BAND.format(width), 0.35 - 0.1 * width
    axes.fill_between(
        track.steps, mean - std, mean + std, color=colour, alpha=alpha, linewidth=0, label=label
    )
