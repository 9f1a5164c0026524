"""What a corpus holds, from the metadata of its datasets: no episode is read."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from trajworld.collect.corpus import Member, read_manifest
from trajworld.collect.corpus_table import PRETRAIN
from trajworld.data.minari_datasets import dataset_path
from trajworld.errors import TrajWorldError, UsageError
from trajworld.files import read_json

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Apart from the sources' colours: they mean something else.
_BEHAVIOUR_COLOURS = {
    "uniform": "#f1c6b6",
    "ou": "#e29578",
    "constant": "#b7d5d0",
    "gait": "#5fa8a0",
    "policy": "#14504b",
}
_COLOURS = ("#334155", "#0e7490", "#d97706", "#65a30d", "#9333ea", "#be123c", "#a8a29e")
_TICKS = (5, 10, 20, 50, 100)


@dataclass(frozen=True)
class Entry:
    """One dataset of a corpus.

    Attributes:
        dataset: Its Minari id.
        environment, source, role: As in the corpus's table.
        weight: Its share of pre-training's batches, of 1; 0 where it is unseen.
        variates: M.
        transitions, episodes: Their numbers.
        mean_length: Transitions of an episode.
        terminated: Episodes that ended in a terminal state.
        coverage: How evenly observations fill their ranges, in (0, 1]; see ``corpus_episodes.coverage``.
        behaviours: The share of the transitions by kind of behaviour.
    """

    dataset: str
    environment: str
    source: str
    role: str
    weight: float
    variates: int
    transitions: int
    episodes: int
    mean_length: float
    terminated: int
    coverage: float
    behaviours: dict[str, float]


@dataclass(frozen=True)
class Description:
    """A corpus: the datasets that are there, and the ids of those that are still to be made."""

    name: str
    entries: tuple[Entry, ...]
    missing: tuple[str, ...]


def describe_corpus(name: str) -> Description:
    """What the corpus of a name holds.

    Raises:
        TrajWorldError: There is no such corpus, or a dataset's metadata are damaged.
    """
    members = read_manifest(name)
    total = sum(member.weight for member in members if member.role == PRETRAIN)
    there = [member for member in members if dataset_path(member.dataset_id).exists()]
    missing = [member.dataset_id for member in members if member not in there]
    return Description(name, tuple(_entry(member, total) for member in there), tuple(missing))


def _entry(member: Member, total_weight: float) -> Entry:
    path = dataset_path(member.dataset_id) / "data" / "metadata.json"
    metadata = read_json(path)
    try:
        held = metadata["corpus"]
        transitions = int(metadata["total_steps"])
        return Entry(
            dataset=member.dataset_id,
            environment=member.environment,
            source=member.source,
            role=member.role,
            weight=member.weight / total_weight if member.role == PRETRAIN else 0.0,
            variates=int(held["num_variates"]),
            transitions=transitions,
            episodes=int(metadata["total_episodes"]),
            mean_length=float(held["mean_length"]),
            terminated=int(held["terminated"]),
            coverage=float(held["coverage"]),
            behaviours={kind: count / transitions for kind, count in held["behaviours"].items()},
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise TrajWorldError(f"{path} does not describe a corpus's dataset ({error!r})") from None


def draw_corpus(description: Description, path: str | Path) -> None:
    """Draw the pre-training transitions by M, the behaviours by source and the datasets' coverage; save the picture.

    Raises:
        UsageError: The name's suffix is of no picture format, or nothing was collected yet.
        TrajWorldError: The picture cannot be written there.
    """
    from matplotlib.figure import Figure

    from trajworld.charts import save_figure

    entries = [entry for entry in description.entries if entry.role == PRETRAIN]
    if not entries:
        raise UsageError(
            f"the corpus {description.name} has no pre-training dataset yet: there is nothing to draw"
        )
    sources: dict[str, list[Entry]] = {}
    for entry in entries:
        sources.setdefault(entry.source, []).append(entry)
    colours = dict(zip(sources, itertools.cycle(_COLOURS), strict=False))
    sizes = sorted({entry.variates for entry in entries})
    total = sum(entry.transitions for entry in entries)
    figure = Figure(figsize=(10, 6.4), layout="constrained")
    figure.suptitle(
        f"{description.name}: {len(entries)} environments to pre-train on, {len(sizes)} different M, "
        f"{total / 1e6:.2f} million transitions",
        fontsize=11,
    )
    grid = figure.add_gridspec(2, 2)

    axes = figure.add_subplot(grid[0, :])
    layers = {
        source: [sum(one.transitions for one in of_source if one.variates == size) / 1000 for size in sizes]
        for source, of_source in sources.items()
    }
    _stacked_bars(axes, [str(size) for size in sizes], layers, colours)
    axes.set(xlabel="M, variates of a row", ylabel="thousand transitions")
    axes.legend(title="source", frameon=False, fontsize=8, title_fontsize=8)

    axes = figure.add_subplot(grid[1, 0])
    seen = {kind for entry in entries for kind in entry.behaviours}
    layers = {
        kind: [_share(kind, of_source) for of_source in sources.values()]
        for kind in _BEHAVIOUR_COLOURS
        if kind in seen
    }
    _stacked_bars(axes, list(sources), layers, _BEHAVIOUR_COLOURS)
    axes.set(ylim=(0, 1), ylabel="share of the transitions")
    axes.legend(ncols=len(layers), frameon=False, fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0),
                handlelength=1.0, columnspacing=1.0)  # fmt: skip

    axes = figure.add_subplot(grid[1, 1])
    for source, of_source in sources.items():
        variates, coverages = [one.variates for one in of_source], [one.coverage for one in of_source]
        axes.scatter(variates, coverages, 22, colours[source], edgecolors="white", linewidths=0.5)
    axes.set(xscale="log", ylim=(0, 1), xlabel="M, variates of a row", ylabel="coverage of the ranges")
    axes.set_xticks(_TICKS, [str(tick) for tick in _TICKS])
    axes.minorticks_off()
    axes.set_title("each dataset, in its source's colour", fontsize=9)
    _style(axes)
    save_figure(figure, path)


def _share(kind: str, entries: Sequence[Entry]) -> float:
    """The share of the entries' transitions that are of a kind of behaviour."""
    of_kind = sum(entry.behaviours.get(kind, 0.0) * entry.transitions for entry in entries)
    return of_kind / sum(entry.transitions for entry in entries)


def _stacked_bars(
    axes: "Axes", names: Sequence[str], layers: Mapping[str, Sequence[float]], colours: Mapping[str, str]
) -> None:
    """A bar for each name, of one layer on the other."""
    floor = np.zeros(len(names))
    for layer, heights in layers.items():
        axes.bar(names, heights, bottom=floor, color=colours[layer], label=layer)
        floor += heights
    _style(axes)


def _style(axes: "Axes") -> None:
    from trajworld.charts import Look, style_axes

    style_axes(axes, Look())
    axes.tick_params(labelsize=8)
    axes.yaxis.label.set(fontsize=9, color=axes.xaxis.label.get_color())
