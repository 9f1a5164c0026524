"""What a dataset holds, for people: counts, each variate's values, the episodes' lengths and returns, a
picture.
"""

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trajworld.data.account import Account
from trajworld.data.dataset import Dataset
from trajworld.data.statistics import statistics
from trajworld.errors import UsageError
from trajworld.files import atomic_file

_BINS = 60
_ROWS_AT_ONCE = 65536


@dataclass(frozen=True)
class Spread:
    """Least, mean and greatest value and the standard deviation of a set of numbers."""

    minimum: float
    mean: float
    maximum: float
    std: float

    @classmethod
    def of(cls, values: NDArray[Any]) -> "Spread":
        """The spread of an array of at least one number."""
        return cls(float(values.min()), float(values.mean()), float(values.max()), float(values.std()))


@dataclass(frozen=True)
class Summary:
    """A dataset in numbers.

    ``variates`` holds one spread a variate, in row order, by its name; ``account`` says what became of the source's
    transitions, where the conversion counted them.
    """

    name: str
    path: str
    source: str
    environment: str
    episodes: int
    transitions: int
    num_variates: int
    observation_size: int
    action_size: int
    terminated_episodes: int
    episode_length: Spread
    episode_return: Spread
    variates: dict[str, Spread]
    account: Account | None

    def as_json(self) -> dict[str, Any]:
        """The summary as plain JSON values."""
        return asdict(self)


def variate_names(dataset: Dataset) -> list[str]:
    """A name for each variate, in row order: ``observation 0`` …, ``reward``, ``action 0`` …."""
    observations = [f"observation {i}" for i in range(dataset.observation_size)]
    return [*observations, "reward", *(f"action {i}" for i in range(dataset.action_size))]


def episode_returns(dataset: Dataset) -> NDArray[np.float64]:
    """The undiscounted return of each episode, ``[E]``."""
    rewards = np.asarray(dataset.rows[:, dataset.observation_size], np.float64)
    # An episode's first row holds reward 0, so its rows' rewards are its transitions'.
    return np.add.reduceat(rewards, dataset.episode_offsets[:-1])


def summarise(dataset: Dataset) -> Summary:
    """The dataset in numbers."""
    found = statistics(dataset)
    spreads = {
        name: Spread(
            float(found.minimum[i]), float(found.mean[i]), float(found.maximum[i]), float(found.std[i])
        )
        for i, name in enumerate(variate_names(dataset))
    }
    return Summary(
        name=dataset.name,
        path=str(dataset.path),
        source=dataset.source,
        environment=dataset.environment,
        episodes=dataset.num_episodes,
        transitions=dataset.num_transitions,
        num_variates=dataset.num_variates,
        observation_size=dataset.observation_size,
        action_size=dataset.action_size,
        terminated_episodes=int(dataset.terminated.sum()),
        episode_length=Spread.of(dataset.transitions_per_episode),
        episode_return=Spread.of(episode_returns(dataset)),
        variates=spreads,
        account=dataset.account,
    )


def variate_histograms(dataset: Dataset, bins: int = _BINS) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """How often each variate's real values fall in equal bins of its range: counts ``[M, bins]``, edges ``[M,
    bins + 1]``.

    The zeros that stand for an episode's missing first reward and last action are left out.
    """
    found = statistics(dataset)
    low, high = found.minimum.astype(np.float64), found.maximum.astype(np.float64)
    # A constant variate still gets a range that NumPy can cut, on either side of its value.
    room = np.where(high > low, 0.0, np.maximum(np.abs(low), 1.0) * 1e-3)
    edges = np.linspace(low - room, high + room, bins + 1, axis=1)
    counts = np.zeros((dataset.num_variates, bins), np.int64)
    for start in range(0, len(dataset.rows), _ROWS_AT_ONCE):
        block = np.asarray(dataset.rows[start : start + _ROWS_AT_ONCE])
        for variate in range(dataset.num_variates):
            counts[variate] += np.histogram(block[:, variate], edges[variate])[0]
    without = {dataset.observation_size: dataset.num_episodes}
    without |= dict.fromkeys(np.flatnonzero(dataset.is_action), dataset.num_episodes)
    for variate, zeros in without.items():
        counts[variate] -= zeros * np.histogram([0.0], edges[variate])[0]
    return counts, edges


def draw_summary(dataset: Dataset, path: str | Path) -> None:
    """Draw a histogram of each variate, the episodes' lengths and their returns, and save the picture.

    Raises:
        UsageError: The name's suffix is of no picture format.
        TrajWorldError: The picture cannot be written there.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    formats = FigureCanvasAgg.get_supported_filetypes()
    if Path(path).suffix.removeprefix(".").lower() not in formats:
        raise UsageError(f"{path}: a picture's name ends in one of .{', .'.join(sorted(formats))}")

    counts, edges = variate_histograms(dataset)
    extra = [
        ("episode length", *np.histogram(dataset.transitions_per_episode, _BINS)),
        ("episode return", *np.histogram(episode_returns(dataset), _BINS)),
    ]
    panels = [*zip(variate_names(dataset), counts, edges, strict=True), *extra]
    columns = min(5, len(panels))
    lines = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(2.6 * columns, 1.7 * lines), layout="constrained")
    FigureCanvasAgg(figure)
    title = f"{dataset.name}: {dataset.num_episodes} episodes, {dataset.num_transitions} transitions"
    figure.suptitle(title, fontsize=9)
    for place, (name, count, edge) in enumerate(panels, start=1):
        axes = figure.add_subplot(lines, columns, place)
        kind = place - 1 - dataset.observation_size
        colour = "tab:blue" if kind < 0 else "tab:green" if kind == 0 or place > len(counts) else "tab:orange"
        axes.stairs(count, edge, fill=True, color=colour)
        axes.set_title(name, fontsize=8)
        axes.set_yticks([])
        axes.tick_params(labelsize=6)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, dpi=120)
