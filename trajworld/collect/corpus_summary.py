"""What a corpus holds, from what its datasets say of themselves: no episode is read."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trajworld.collect.corpus_manifest import Member, read_manifest
from trajworld.collect.corpus_table import PRETRAIN
from trajworld.data.minari_datasets import dataset_path
from trajworld.errors import TrajWorldError, UsageError
from trajworld.files import atomic_file, read_json

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


@dataclass(frozen=True)
class Entry:
    """One dataset of a corpus.

    Attributes:
        dataset: Its Minari id.
        environment: The environment's name.
        source: The group it belongs to.
        role: ``pre-train`` or ``unseen``.
        weight: Its share of pre-training's batches, of 1; 0 where it is unseen.
        variates: M.
        transitions: Their number.
        episodes: Their number.
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

    def of_role(self, role: str) -> list[Entry]:
        """The datasets of a role."""
        return [entry for entry in self.entries if entry.role == role]

    def as_json(self) -> dict[str, Any]:
        """The description as plain JSON values."""
        return asdict(self)


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
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    formats = FigureCanvasAgg.get_supported_filetypes()
    if Path(path).suffix.removeprefix(".").lower() not in formats:
        raise UsageError(f"{path}: a picture's name ends in one of .{', .'.join(sorted(formats))}")
    entries = description.of_role(PRETRAIN)
    if not entries:
        raise UsageError(
            f"the corpus {description.name} has no pre-training dataset yet: there is nothing to draw"
        )
    sources = list(dict.fromkeys(entry.source for entry in entries))
    figure = Figure(figsize=(10, 6.4), layout="constrained")
    FigureCanvasAgg(figure)
    total = sum(entry.transitions for entry in entries)
    figure.suptitle(
        f"{description.name}: {len(entries)} environments to pre-train on, "
        f"{len({entry.variates for entry in entries})} different M, {total / 1e6:.2f} million transitions",
        fontsize=11,
    )
    grid = figure.add_gridspec(2, 2)
    _draw_sizes(figure.add_subplot(grid[0, :]), entries, sources)
    _draw_behaviours(figure.add_subplot(grid[1, 0]), entries, sources)
    _draw_coverage(figure.add_subplot(grid[1, 1]), entries, sources)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, dpi=120)


def _draw_sizes(axes: "Axes", entries: Sequence[Entry], sources: Sequence[str]) -> None:
    sizes = sorted({entry.variates for entry in entries})
    floor = [0.0] * len(sizes)
    for source, colour in zip(sources, _cycle(sources), strict=True):
        heights = [
            sum(entry.transitions for entry in entries if (entry.variates, entry.source) == (size, source))
            / 1000
            for size in sizes
        ]
        axes.bar(range(len(sizes)), heights, bottom=floor, color=colour, label=source)
        floor = [low + height for low, height in zip(floor, heights, strict=True)]
    axes.set_xticks(range(len(sizes)), [str(size) for size in sizes])
    axes.set_xlabel("M, variates of a row")
    axes.set_ylabel("thousand transitions")
    axes.legend(title="source", frameon=False, fontsize=8, title_fontsize=8)
    _plain(axes)


def _draw_behaviours(axes: "Axes", entries: Sequence[Entry], sources: Sequence[str]) -> None:
    seen = {kind for entry in entries for kind in entry.behaviours}
    kinds = [kind for kind in _BEHAVIOUR_COLOURS if kind in seen]
    floor = [0.0] * len(sources)
    for kind in kinds:
        shares = []
        for source in sources:
            of_source = [entry for entry in entries if entry.source == source]
            total = sum(entry.transitions for entry in of_source)
            shares.append(
                sum(entry.behaviours.get(kind, 0.0) * entry.transitions for entry in of_source) / total
            )
        axes.barh(range(len(sources)), shares, left=floor, color=_BEHAVIOUR_COLOURS[kind], label=kind)
        floor = [low + share for low, share in zip(floor, shares, strict=True)]
    axes.set_yticks(range(len(sources)), sources)
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.set_xlabel("share of the transitions")
    axes.legend(ncols=len(kinds), frameon=False, fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0),
                handlelength=1.0, columnspacing=1.0)  # fmt: skip
    _plain(axes)


def _draw_coverage(axes: "Axes", entries: Sequence[Entry], sources: Sequence[str]) -> None:
    for source, colour in zip(sources, _cycle(sources), strict=True):
        of_source = [entry for entry in entries if entry.source == source]
        axes.plot(
            [entry.variates for entry in of_source],
            [entry.coverage for entry in of_source],
            "o",
            color=colour,
            markersize=4.5,
            markeredgecolor="white",
            markeredgewidth=0.5,
        )
    axes.set_xscale("log")
    ticks = [5, 10, 20, 50, 100]
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.set_ylim(0, 1)
    axes.set_xlabel("M, variates of a row")
    axes.set_ylabel("coverage of the ranges")
    axes.set_title("each dataset, in its source's colour", fontsize=9)
    _plain(axes)


def _cycle(names: Sequence[str]) -> list[str]:
    return [_COLOURS[number % len(_COLOURS)] for number in range(len(names))]


def _plain(axes: "Axes") -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    axes.xaxis.label.set_fontsize(9)
    axes.yaxis.label.set_fontsize(9)
