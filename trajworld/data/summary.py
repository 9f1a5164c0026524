"""What a dataset holds, for people: counts, each variate's values, the episodes' lengths and returns, a picture."""

import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trajworld.data.dataset import Dataset
from trajworld.data.statistics import statistics

_BINS = 60


def variate_names(dataset: Dataset) -> list[str]:
    """A name for each variate, in row order: ``observation 0`` …, ``reward``, ``action 0`` …."""
    observations = [f"observation {i}" for i in range(dataset.observation_size)]
    return [*observations, "reward", *(f"action {i}" for i in range(dataset.action_size))]


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
    found, lengths, returns = statistics(dataset), dataset.transitions_per_episode, episode_returns(dataset)
    described = ("name", "source", "environment", "num_variates", "observation_size", "action_size")
    variates = zip(variate_names(dataset), found.minimum, found.mean, found.maximum, found.std, strict=True)
    spreads = {name: _spread(*numbers) for name, *numbers in variates if dataset.reward or name != "reward"}
    given = _spread(returns.min(), returns.mean(), returns.max(), returns.std())
    return {
        **{key: getattr(dataset, key) for key in described},
        "path": str(dataset.path),
        "episodes": dataset.num_episodes,
        "transitions": dataset.num_transitions,
        "terminated_episodes": int(dataset.terminated.sum()),
        "episode_length": _spread(lengths.min(), lengths.mean(), lengths.max(), lengths.std()),
        **({"episode_return": given} if dataset.reward else {"reward": False}),
        "variates": spreads,
        "account": None if dataset.account is None else dataset.account.as_json(),
    }


def _spread(minimum: float, mean: float, maximum: float, std: float) -> dict[str, float]:
    return {"minimum": float(minimum), "mean": float(mean), "maximum": float(maximum), "std": float(std)}


def variate_histograms(dataset: Dataset, bins: int = _BINS) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """How often each variate's real values fall in equal bins of its range.

    Counts ``[M, bins]`` and edges ``[M, bins + 1]``, without the zeros that stand for an episode's missing first
    reward and last action.
    """
    found = statistics(dataset)
    low, high = found.minimum.astype(np.float64), found.maximum.astype(np.float64)
    # A constant variate still gets a range that NumPy can cut, on either side of its value.
    room = np.where(high > low, 0.0, np.maximum(np.abs(low), 1.0) * 1e-3)
    edges = np.linspace(low - room, high + room, bins + 1, axis=1)
    counts = np.stack([np.histogram(dataset.rows[:, v], edges[v])[0] for v in range(dataset.num_variates)])
    for variate in range(dataset.observation_size, dataset.num_variates):
        counts[variate] -= dataset.num_episodes * np.histogram([0.0], edges[variate])[0]
    return counts, edges


def draw_summary(dataset: Dataset, path: str | Path) -> None:
    """Draw a histogram of each variate, the episodes' lengths and their returns, and save the picture.

    Raises:
        UsageError: The name's suffix is of no picture format.
        TrajWorldError: The picture cannot be written there.
    """
    from matplotlib.figure import Figure

    from trajworld.charts import save_figure

    counts, edges = variate_histograms(dataset)
    panels = [
        *zip(variate_names(dataset), counts, edges, strict=True),
        ("episode length", *np.histogram(dataset.transitions_per_episode, _BINS)),
        ("episode return", *np.histogram(episode_returns(dataset), _BINS)),
    ]
    panels = [panel for panel in panels if dataset.reward or panel[0] not in ("reward", "episode return")]
    columns = min(5, len(panels))
    lines = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(2.6 * columns, 1.7 * lines), layout="constrained")
    title = f"{dataset.name}: {dataset.num_episodes} episodes, {dataset.num_transitions} transitions"
    figure.suptitle(title, fontsize=9)
    colours = {"observation": "tab:blue", "action": "tab:orange"}
    for place, (name, count, edge) in enumerate(panels, start=1):
        axes = figure.add_subplot(lines, columns, place)
        axes.stairs(count, edge, fill=True, color=colours.get(name.split()[0], "tab:green"))
        axes.set_title(name, fontsize=8)
        axes.set_yticks([])
        axes.tick_params(labelsize=6)
    save_figure(figure, path)
