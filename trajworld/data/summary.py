"""What a dataset holds, for people: counts, each variate's values, the episodes' lengths and returns, a picture."""

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trajworld.data.dataset import Dataset, named_variates
from trajworld.data.statistics import real_values, statistics

_BINS = 60
_SPREAD = ("minimum", "mean", "maximum", "std")


def variate_names(dataset: Dataset) -> list[str]:
    """A name for each variate, in row order: the source's, or ``observation 0`` …, ``reward``, ``action 0`` …."""
    return named_variates(dataset.names, dataset.observation_size, dataset.action_size)


def episode_returns(dataset: Dataset) -> NDArray[np.float64]:
    """The undiscounted return of each episode, ``[E]``."""
    rewards = np.asarray(dataset.rows[:, dataset.observation_size], np.float64)
    # An episode's first row holds reward 0, so its rows' rewards are its transitions'.
    return np.add.reduceat(rewards, dataset.episode_offsets[:-1])


def summarise(dataset: Dataset) -> dict[str, Any]:
    """The dataset in numbers, as plain JSON values.

    ``episode_length``, ``episode_return`` and each of ``variates`` are ``{"minimum", "mean", "maximum", "std"}``;
    ``account`` says what became of the source's transitions, None where the conversion did not count them. Without
    recorded rewards ``reward`` is false, and there is no ``episode_return`` and no variate of that name.
    """
    found = vars(statistics(dataset))
    spreads = [{key: float(found[key][v]) for key in _SPREAD} for v in range(dataset.num_variates)]
    named = zip(variate_names(dataset), spreads, strict=True)
    described = ("name", "source", "environment", "num_variates", "observation_size", "action_size")
    return {
        **{key: getattr(dataset, key) for key in described},
        "path": str(dataset.path),
        "episodes": dataset.num_episodes,
        "transitions": dataset.num_transitions,
        "terminated_episodes": int(dataset.terminated.sum()),
        "episode_length": _spread(dataset.transitions_per_episode),
        **({"episode_return": _spread(episode_returns(dataset))} if dataset.reward else {"reward": False}),
        "variates": {name: one for name, one in named if dataset.reward or name != "reward"},
        "account": dataset.account and vars(dataset.account),
    }


def _spread(values: NDArray[Any]) -> dict[str, float]:
    return {key: float(getattr(values, key[:3] if key.endswith("imum") else key)()) for key in _SPREAD}


def draw_summary(dataset: Dataset, path: str | Path) -> None:
    """Draw a histogram of each variate, the episodes' lengths and their returns, and save the picture."""
    from matplotlib.figure import Figure

    from trajworld.charts import save_figure

    panels = [
        *((name, real_values(dataset, variate)) for variate, name in enumerate(variate_names(dataset))),
        ("episode length", dataset.transitions_per_episode),
        ("episode return", episode_returns(dataset)),
    ]
    panels = [panel for panel in panels if dataset.reward or panel[0] not in ("reward", "episode return")]
    columns = min(5, len(panels))
    lines = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(2.6 * columns, 1.7 * lines), layout="constrained")
    title = f"{dataset.name}: {dataset.num_episodes} episodes, {dataset.num_transitions} transitions"
    figure.suptitle(title, fontsize=9)
    colours = ["tab:blue"] * dataset.observation_size + ["tab:green"] * dataset.reward
    colours += ["tab:orange"] * dataset.action_size + ["tab:green"] * 2
    for place, (name, values) in enumerate(panels, start=1):
        axes = figure.add_subplot(lines, columns, place)
        axes.stairs(*_histogram(values), fill=True, color=colours[place - 1])
        axes.set_title(name, fontsize=8)
        axes.set_yticks([])
        axes.tick_params(labelsize=6)
    save_figure(figure, path)


def _histogram(values: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Counts and edges of bins, which are wider than rounding where all values are the same large number."""
    values = values.astype(np.float64)
    low, high = values.min(), values.max()
    most = max(abs(low), abs(high))
    margin = max(most, 1.0) / 2 if high - low <= 1e-9 * most else 0.0
    return np.histogram(values, _BINS, (low - margin, high + margin))
