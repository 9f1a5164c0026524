"""What a corpus holds, from the metadata of its datasets: no episode is read."""

import itertools
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from trajworld.charts import Look, save_figure, style_axes
from trajworld.collect.corpus import read_manifest
from trajworld.collect.corpus_table import PRETRAIN
from trajworld.data.minari_datasets import dataset_metadata, dataset_path, metadata_file
from trajworld.errors import DAMAGE, TrajWorldError, UsageError

# Apart from the sources' colours: they mean something else.
_KINDS = ("uniform", "ou", "constant", "gait", "policy")
_KIND_COLOURS = dict(zip(_KINDS, ("#f1c6b6", "#e29578", "#b7d5d0", "#5fa8a0", "#14504b"), strict=True))
_COLOURS = ("#334155", "#0e7490", "#d97706", "#65a30d", "#9333ea", "#be123c", "#a8a29e")
Entry = dict[str, Any]
_TICKS = (5, 10, 20, 50, 100)


def describe_corpus(name: str) -> tuple[list[Entry], list[str]]:
    """What the corpus of a name holds.

    For each existing dataset: ``dataset`` (its Minari id), ``environment``, ``source``, ``role``, ``weight`` (its share
    of pre-training's batches, of 1; 0 where it is unseen), ``variates`` (M), ``transitions``, ``episodes``,
    ``mean_length``, ``terminated`` (episodes), ``coverage`` (see ``corpus.coverage``) and ``behaviours`` (the share of
    the transitions by kind). And the ids of the missing datasets.
    """
    members = read_manifest(name)
    total = sum(member.weight for member in members if member.role == PRETRAIN)
    entries: list[Entry] = []
    missing = []
    for member in members:
        about = asdict(member)
        dataset_id = about.pop("dataset_id")
        if not dataset_path(dataset_id).exists():
            missing.append(dataset_id)
            continue
        metadata = dataset_metadata(dataset_id)
        try:
            held = metadata["corpus"]
            transitions, episodes = int(metadata["total_steps"]), int(metadata["total_episodes"])
            entry = {
                "dataset": dataset_id,
                **about,
                "weight": member.weight / total if member.role == PRETRAIN else 0.0,
                "variates": int(held["num_variates"]),
                "transitions": transitions,
                "episodes": episodes,
                "mean_length": transitions / episodes,
                "terminated": int(held["terminated"]),
                "coverage": float(held["coverage"]),
                "behaviours": {kind: count / transitions for kind, count in held["behaviours"].items()},
            }
        except DAMAGE as error:
            raise TrajWorldError(
                f"{metadata_file(dataset_path(dataset_id))} does not describe a corpus's dataset ({error!r})"
            ) from None
        entries.append(entry)
    return entries, missing


def draw_corpus(name: str, entries: list[Entry], path: str | Path) -> None:
    """Draw the pre-training transitions by M, the behaviours by source and the datasets' coverage; save the picture."""
    table = pd.DataFrame([entry for entry in entries if entry["role"] == PRETRAIN])
    if table.empty:
        raise UsageError(f"the corpus {name} has no pre-training dataset yet: there is nothing to draw")
    sources = list(table["source"].unique())
    colours = dict(zip(sources, itertools.cycle(_COLOURS), strict=False))
    figure = Figure(figsize=(10, 6.4), layout="constrained")
    figure.suptitle(
        f"{name}: {len(table)} environments to pre-train on, {table['variates'].nunique()} different M, "
        f"{table['transitions'].sum() / 1e6:.2f} million transitions",
        fontsize=11,
    )
    grid = figure.add_gridspec(2, 2)

    axes = figure.add_subplot(grid[0, :])
    by_size = table.pivot_table("transitions", "variates", "source", aggfunc="sum", fill_value=0)
    _stacked_bars(axes, by_size[sources] / 1000, colours)
    axes.set(xlabel="M, variates of a row", ylabel="thousand transitions")
    axes.legend(title="source", frameon=False, fontsize=8, title_fontsize=8)

    axes = figure.add_subplot(grid[1, 0])
    counts = pd.DataFrame(list(table["behaviours"])).mul(table["transitions"], axis=0)
    counts = counts.groupby(table["source"], sort=False).sum()
    shares = counts.div(counts.sum(axis=1), axis=0)
    _stacked_bars(axes, shares[[kind for kind in _KINDS if kind in shares]], _KIND_COLOURS)
    axes.set(ylim=(0, 1), ylabel="share of the transitions")
    axes.legend(ncols=len(shares.columns), frameon=False, fontsize=8, loc="lower center",
                bbox_to_anchor=(0.5, 1.0), handlelength=1.0, columnspacing=1.0)  # fmt: skip

    axes = figure.add_subplot(grid[1, 1])
    dots = table["source"].map(colours)
    axes.scatter(table["variates"], table["coverage"], 22, dots, edgecolors="white", linewidths=0.5)
    axes.set(xscale="log", ylim=(0, 1), xlabel="M, variates of a row", ylabel="coverage of the ranges")
    axes.set_xticks(_TICKS, [str(tick) for tick in _TICKS])
    axes.minorticks_off()
    axes.set_title("each dataset, in its source's colour", fontsize=9)
    _style(axes)
    save_figure(figure, path)


def _stacked_bars(axes: Axes, table: pd.DataFrame, colours: Mapping[str, str]) -> None:
    """A bar for each row, its columns stacked."""
    floors = table.cumsum(axis=1) - table
    for layer in table:
        axes.bar(table.index.map(str), table[layer], bottom=floors[layer], color=colours[layer], label=layer)
    _style(axes)


def _style(axes: Axes) -> None:
    style_axes(axes, Look())
    axes.tick_params(labelsize=8)
    axes.yaxis.label.set(fontsize=9, color=axes.xaxis.label.get_color())
