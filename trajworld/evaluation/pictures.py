"""Pictures of what a model predicts: real and predicted trajectories, errors by variate, errors by horizon."""

from collections.abc import Sequence
from typing import NamedTuple

import keras
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from trajworld.charts import Look, bars, blank, lines, style_axes
from trajworld.data.batch import variates_of
from trajworld.data.dataset import Dataset
from trajworld.data.summary import variate_names
from trajworld.data.windows import gather_windows
from trajworld.evaluation.one_step import BATCH_SIZE, OneStep, PredictionErrors, varying
from trajworld.evaluation.open_loop import Foresight, OpenLoopErrors
from trajworld.models.ranges import Support

_MOST_TRAJECTORIES = 6
_MOST_BARS = 20


class Track(NamedTuple):
    """Predictions of consecutive rows of one episode; P = ``Dataset.num_predicted``.

    ``steps [n]`` are the rows' numbers in it, ``mean [n, P]`` and ``std [n, P]`` those of the predicted distributions.
    """

    steps: NDArray[np.int64]
    mean: NDArray[np.floating]
    std: NDArray[np.floating]


class EpisodeView(NamedTuple):
    """A stretch of an episode, as it was, ``real [n, P]``, and as a model saw it coming.

    ``one_step`` is every row but the first, each predicted from the real rows before it; ``open_loop`` the rows after
    ``open_loop.steps[0] - 1``, predicted from the actions alone.
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
    """
    first, stop = dataset.episode_offsets[episode : episode + 2]
    predicted, variates = dataset.num_predicted, variates_of(dataset, support.lower, support.upper)
    begin = min(foresight.context, max(1, int(stop - first) // 4)) - 1
    seen = foresight(np.array([first + begin]))
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
    return [*map(int, _spread(varies, most - 1)), *[dataset.observation_size] * dataset.reward]


def trajectories(view: EpisodeView, dataset: Dataset, model: str) -> Figure:
    """Predicted beside real values of one episode, one step ahead on the left and open-loop on the right.

    A row of panels for each of :func:`shown_variates`; ``model`` is its name, for the title.
    """
    look, chosen, names = Look(), shown_variates(dataset), variate_names(dataset)
    figure = blank(look, 10, 1.1 + 1.35 * len(chosen))
    panels = figure.subplots(len(chosen), 2, sharex=True, sharey="row", squeeze=False)
    real = view.real.astype(np.float64)
    # The 0 in an episode's first row is not a reward.
    real[0, dataset.observation_size :] = np.nan
    for line, variate in zip(panels, chosen, strict=True):
        for axes, track in zip(line, (view.one_step, view.open_loop), strict=True):
            _draw_track(axes, look, real[:, variate], track, variate)
        line[0].set_ylabel(names[variate], fontsize=9, color=look.colour("text"))
    start = int(view.open_loop.steps[0])
    ahead = f"open loop from step {start - 1}, from the actions alone"
    for axes, title in zip(panels[0], ("one step ahead, from the real rows before", ahead), strict=True):
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
    handles, labels = panels[0, 1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower left", ncols=4, fontsize=9, frameon=False)
    return figure


def variate_errors(model: PredictionErrors, baselines: Sequence[PredictionErrors], name: str) -> Figure:
    """Each predicted variate's one-step error beside those of baselines, the worst on top.

    Errors are in standard deviations of the variate; those that do not vary are left out. Many variates are cut to
    the ones that the model predicts worst.
    """
    sides = {one.predictor: one for one in (model, *baselines)}
    errors = {
        name: pd.DataFrame(one.variates).T["normalised_mae"].astype(float) for name, one in sides.items()
    }
    table = pd.DataFrame(errors).dropna().rename_axis("variate")
    shown = table.reset_index().sort_values([*table.columns, "variate"], ascending=False)
    shown = shown.head(_MOST_BARS).melt("variate", var_name="side", value_name="error")
    notes = [f"the worst {_MOST_BARS} of {len(table)}"] * (len(table) > _MOST_BARS)
    notes += [f"{len(model.still)} that do not vary left out"] * bool(model.still)
    title = (
        f"{name} predicts {model.environment or model.dataset} one step ahead\n"
        f"{model.windows:,} windows of {model.dataset}\n"
        f"{'; '.join(['mean absolute error, standard deviations', *notes])}"
    )
    return bars(shown, Look(), label="variate", value="error", series="side", title=title)


def growth(errors: OpenLoopErrors, name: str) -> Figure:
    """How the error of open-loop rollouts grows with the steps ahead, beside holding the starting row."""
    steps = np.arange(1, errors.horizon + 1)
    model = pd.DataFrame({"steps": steps, "error": errors.mae, "side": "model"})
    model = model.assign(**{"error low": errors.lower_quartile, "error high": errors.upper_quartile})
    held = pd.DataFrame({"steps": steps, "error": errors.held_row, "side": "copy of the starting row"})
    title = (
        f"{name} predicts {errors.environment or errors.dataset} open-loop\n"
        f"{errors.starts} rollouts along the real actions of {errors.dataset}\n"
        "mean absolute error, standard deviations; shaded: the middle half of the rollouts"
    )
    axes = {"x": "steps", "y": "error", "x_title": "steps ahead", "y_title": title}
    return lines(pd.concat([model, held]), Look(), series="side", **axes, log_x=False, log_y=False)


def _spread(values: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """At most ``count`` of the values, evenly spread."""
    places = np.linspace(0, len(values) - 1, min(count, len(values))).round().astype(int)
    return values[np.unique(places)]


def _draw_track(axes: Axes, look: Look, real: NDArray[np.floating], track: Track, variate: int) -> None:
    style_axes(axes, look)
    axes.tick_params(labelsize=8)
    axes.margins(x=0.01, y=0.08)
    mean, std, colour = track.mean[:, variate], track.std[:, variate], look.colour("fine-tuned")
    axes.plot(np.arange(len(real)), real, color=look.colour("text"), linewidth=1.4, label="real")
    marker = "o" if len(track.steps) < 3 else ""
    axes.plot(track.steps, mean, color=colour, linewidth=1.2, marker=marker, markersize=3, label="predicted")
    band = axes.fill_between(track.steps, mean - std, mean + std, color=colour, alpha=0.25, linewidth=0)
    band.set_label("±1 std of each step's distribution")
