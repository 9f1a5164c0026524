"""The zero-shot study: a pre-trained model in environments that it never saw, by length of context."""

import itertools
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter

from trajworld.charts import Look, lines
from trajworld.collect.corpus import (
    check_families,
    make_datasets,
    member_of,
    open_corpus,
    plan_corpus,
    read_manifest,
)
from trajworld.collect.corpus_table import UNSEEN, Member, read_table, select
from trajworld.data.minari_datasets import dataset_path
from trajworld.data.resolve import open_dataset
from trajworld.errors import TrajWorldError, UsageError
from trajworld.evaluation.contexts import check_contexts
from trajworld.models.files import load_model, weights_digest
from trajworld.models.names import find_model
from trajworld.models.seen import check_unseen
from trajworld.studies.tasks_zero_shot import MODEL, PREDICTORS, RIDGE, predict_unseen
from trajworld.study.cells import Cell
from trajworld.study.tables import HIGH, LOW, bootstrap, interval
from trajworld.text import short_name

CONTEXTS = (1, 2, 3, 5, 7, 10, 13, 16, 19)
TRANSITIONS = 20_000
FEWEST = 10
"""Tested episodes below which no interval is given: from a few it is too narrow, and from one it has no width."""

_FAMILIES = (
    ("pendulum, unseen gravity", ("gymnasium/Pendulum-*",)),
    ("cart with three poles", ("dm_control/cartpole-three_poles*",)),
    ("unseen robots", ("robot/*",)),
    (
        "hopper, walker2d, half-cheetah",
        ("gymnasium/Hopper-*", "gymnasium/Walker2d-*", "gymnasium/HalfCheetah-*"),
    ),
)
# Between two names on the vertical axis, as a share of its height.
_ROOM = 0.06


@dataclass(frozen=True)
class ZeroShot:
    """A pre-trained model in environments that it never saw, without an update, by length of context.

    It predicts the next observation and reward: on pendulums of unseen gravity, a cart with three poles, unseen robots,
    and Gymnasium's hopper, walker2d and half-cheetah. What it knows of an environment is its context, and the range of
    each variate. Datasets that are not there yet are collected first.

    - Episodes: half of an environment's episodes, drawn by seed, are for ranges, the other half for the test. The
      ranges (the scaling of each variate to [0, 1]) are the least and greatest value in the first half alone;
      what lies outside them in the tested half is clipped, as in pre-training.
    - Windows: those of the tested half that have as many real rows before the predicted row as the model's window
      takes, so that no context is short of rows; at most --windows of them, drawn by seed. All predictors and all
      lengths of context are tested on the same windows.
    - Context: the last c rows before the predicted one. Earlier rows are masked, as in windows that begin at an
      episode's start; positions stay right-aligned. In training, padding precedes only the first rows of an
      episode, so with padding a model takes a short context for a start, and its error tells of that too. With
      --unpadded the same rows are given without padding, at the window's first positions. Of each row the
      predictors see observation, reward and action; the last row's action is the one that leads to the predicted
      row.
    - Errors: absolute, divided by each variate's standard deviation in the whole dataset, averaged over the
      predicted variates that vary. Of an environment: the mean over windows. Of a family: the mean over its
      environments.
    - Predictors: the model's expectation; copying the last row; and linear least squares, fitted anew on the
      transitions inside each context: by minimum norm, and by a ridge whose penalties are chosen on windows of
      the episodes for ranges, which is knowledge of the environment beyond the context, in this baseline's
      favour.
    - Intervals: 95 %, by a bootstrap over the tested episodes, which are the independent unit, paired between
      predictors and contexts. They say how sure the mean over these very environments is, for this one model.
      From fewer than ten tested episodes in one of the environments no interval is given.
    - Columns: "episodes" is the number of tested episodes, of a family in the environment that has the fewest. "¼
      bin" is the error of a model that knows the right bin and answers with its centre: where it is near the
      others, bins are too wide to tell much. "change, bins" is how many bins a variate moves from row to row.
      "outside" is the share of tested values outside the ranges, which are clipped for all but copying. "unseen"
      is "not known" where the model's file does not tell all environments that it was trained on.

    Attributes:
        model: A model that ships, hf://USER/REPO or a file.
        corpus: Take the unseen datasets of this corpus of `data collect-corpus`; without one, those that are needed are
            collected.
        only: Patterns of environments or sources, such as legged or gymnasium/Pendulum*.
        contexts: Rows of context, fewer than the model's window has.  [default: 1,2,3,5,7,10,13,16,19; for another
            window, up to its last]
        unpadded: Give short contexts without padding, at the window's first positions.
        windows: Predict at most n transitions of each environment, drawn at random.
        transitions: Collect as many of each environment, without --corpus.
        seed: Of the episodes' split, the windows and the bootstrap.
    """

    name: ClassVar[str] = "zero-shot"

    model: str = "trajworld-small"
    corpus: str = ""
    only: tuple[str, ...] = ()
    contexts: tuple[int, ...] = ()
    unpadded: bool = False
    windows: int = 1024
    transitions: int = TRANSITIONS
    seed: int = 0

    def __post_init__(self) -> None:
        if self.windows < 1 or self.transitions < 1 or self.seed < 0:
            raise UsageError("--windows and --transitions must be at least 1, and --seed at least 0")
        if self.corpus and self.transitions != TRANSITIONS:
            raise UsageError("--transitions is for collecting, and --corpus was collected already")

    def prepare(self, workers: int, say: Callable[[str], None]) -> None:
        """Refuse a model that has seen one of the environments, then collect and convert what is not there yet."""
        for member in self._members:
            check_unseen(self._model.identity, member.environment)
        _ = self._common
        if not self.corpus:
            self._collect(workers, say)
        _ = self._cells

    def cells(self, table: pd.DataFrame) -> list[Cell]:
        """One cell for each environment, families together."""
        return self._cells

    def tables(self, table: pd.DataFrame) -> dict[str, pd.DataFrame]:
        """Errors at the longest context by family and by environment, and the model's at every context."""
        groups = list(_groups(table, self.seed))
        contexts, families = groups[0].contexts, [group for group in groups if group.is_family]
        last = _rows(contexts[-1])
        by_context = {
            _rows(one): [group.errors[MODEL, one].iloc[0] for group in families] for one in contexts
        }
        return {
            f"Error by family, {last} of context": pd.DataFrame([group.row() for group in families]),
            f"Error by environment, {last} of context": pd.DataFrame(
                [group.row() for group in groups if not group.is_family]
            ),
            "Error of the model by rows of context": pd.DataFrame(
                {"family": [group.title for group in families], **by_context}
            ),
        }

    def charts(self, table: pd.DataFrame, look: Look) -> dict[str, Figure]:
        """Error against rows of context, a panel for each family, with the number of its environments."""
        groups = [group for group in _groups(table, self.seed) if group.is_family]
        rows = [
            {
                "panel": group.title + (f" ({group.members})" if group.members > 1 else ""),
                "predictor": predictor,
                "context": context,
                **group.value("error", (predictor, context)),
            }
            for group in groups
            for predictor, context in itertools.product(PREDICTORS, group.contexts)
        ]
        figure = lines(
            pd.DataFrame(rows),
            look,
            x="context",
            y="error",
            series="predictor",
            x_title="rows of context",
            y_title="One-step error in standard deviations",
            panel="panel",
            log_x=False,
        )
        for axes, group in zip(figure.axes, groups, strict=True):
            _mark(axes, group.facts["bin_error"], look)
        return {"Error by rows of context": figure}

    @cached_property
    def _model(self) -> Any:
        return load_model(find_model(self.model))

    @cached_property
    def _common(self) -> dict[str, Any]:
        """The settings that all cells have in common."""
        window = self._model.sizes.window
        default = (*(context for context in CONTEXTS if context < window - 1), window - 1)
        return {
            "init": {"digest": weights_digest(self._model)},
            "contexts": list(check_contexts(self.contexts or default, window)),
            "unpadded": self.unpadded,
            "most_windows": self.windows,
            "seed": self.seed,
        }

    @cached_property
    def _cells(self) -> list[Cell]:
        families: dict[str, list[Cell]] = {}
        for member in self._members:
            dataset, family = open_dataset(member.dataset_id), family_of(member.environment, member.source)
            unseen = "yes" if check_unseen(self._model.identity, member.environment) else "not known"
            settings = {"environment": member.environment, "family": family, "unseen": unseen, **self._common}
            settings |= {"variates": dataset.num_variates, "data": {"content": dataset.content}}
            places = {"init": str(find_model(self.model)), "data": str(dataset.path)}
            families.setdefault(family, []).append(Cell(predict_unseen, settings, places))
        return list(itertools.chain(*families.values()))

    @cached_property
    def _members(self) -> list[Member]:
        """The datasets: of the corpus, where they must be there, or of the study's own one."""
        if not self.corpus:
            rows = select(read_table(), self.only, UNSEEN)
            return [member_of(self._own_corpus, row) for row in rows]
        members = select(read_manifest(self.corpus), self.only, UNSEEN)
        missing = [one.dataset_id for one in members if not dataset_path(one.dataset_id).exists()]
        if missing or not members:
            raise TrajWorldError(
                f"the corpus {self.corpus} lacks {len(missing)} of {len(members)} unseen datasets"
                f"{f', {missing[0]} among them' if missing else ''}: `trajworld data collect-corpus --name "
                f"{self.corpus} --role {UNSEEN}` makes them"
            )
        return members

    @property
    def _own_corpus(self) -> str:
        """The corpus of the study's own datasets, of as many transitions each."""
        return "zero-shot" if self.transitions == TRANSITIONS else f"zero-shot-{self.transitions}"

    def _collect(self, workers: int, say: Callable[[str], None]) -> None:
        rows = select(read_table(), (), UNSEEN)
        jobs, _ = plan_corpus(self._own_corpus, select(rows, self.only), self.transitions, seed=0)
        if not jobs:
            return
        check_families(jobs)
        with open_corpus(self._own_corpus, rows, {}):
            for number, made in enumerate(make_datasets(jobs, workers), start=1):
                say(
                    f"{number} of {len(jobs)}: collected {made['transitions']:,} transitions of "
                    f"{made['environment']} in {made['seconds']:.1f} s"
                )


def family_of(environment: str, source: str) -> str:
    """The family that an environment is reported with; its ``source`` in the corpus's table where it is of none."""
    for family, patterns in _FAMILIES:
        if any(fnmatchcase(environment, pattern) for pattern in patterns):
            return family
    return source


@dataclass(frozen=True, eq=False)
class Group:
    """The errors in one environment, or their means over the environments of a family, which has no ``variates``.

    The columns of ``errors`` are (predictor, context); its first row are the means, the others the bootstrap's
    replicates. ``episodes`` are those of the environment that has the fewest; ``facts`` are means over variates.
    """

    title: str
    members: int
    errors: pd.DataFrame
    episodes: int
    facts: "pd.Series[float]"
    unseen: str
    variates: int | None = None

    @property
    def is_family(self) -> bool:
        """Whether it stands for a family."""
        return self.variates is None

    @property
    def contexts(self) -> list[int]:
        """Ascending numbers of rows."""
        return sorted(set(self.errors.columns.get_level_values("context")))

    def value(self, name: str, one: tuple[str, int], over: tuple[str, int] | None = None) -> dict[str, float]:
        """An error, or one error over another, and its interval: three columns of a table for people."""
        found = self.errors[one] if over is None else self.errors[one] / self.errors[over]
        low, high = interval(found.to_numpy()[1:]) if self.episodes >= FEWEST else (np.nan, np.nan)
        return {name: float(found.iloc[0]), name + LOW: float(low), name + HIGH: float(high)}

    def row(self) -> dict[str, Any]:
        """A row of a table for people: errors at the longest context, and the model's at the shortest."""
        first, last = self.contexts[0], self.contexts[-1]
        row: dict[str, Any] = {"family" if self.is_family else "environment": self.title}
        row |= {"environments": self.members} if self.is_family else {"M": self.variates}
        row["episodes"] = self.episodes
        for predictor in PREDICTORS:
            row |= self.value(predictor, (predictor, last))
        row |= self.value("model / ridge", (MODEL, last), (RIDGE, last))
        if first != last:
            row |= self.value(f"model, {_rows(first)}", (MODEL, first))
        row["¼ bin"] = self.facts["bin_error"]
        if not self.is_family:
            row |= {"change, bins": self.facts["change"], "outside": self.facts["outside"]}
        return row | {"unseen": self.unseen}


def _groups(table: pd.DataFrame, seed: int) -> Iterator[Group]:
    """The family and then its environments, one family after another."""
    for family, rows in table.groupby("family", sort=False):
        members = [
            _environment(str(name), part, seed) for name, part in rows.groupby("environment", sort=False)
        ]
        yield Group(
            str(family) if len(members) > 1 else members[0].title,
            len(members),
            # Replicate by replicate: the environments' draws are independent, the environments are fixed.
            _average([member.errors for member in members]),
            min(member.episodes for member in members),
            _average([member.facts for member in members]),
            members[0].unseen,
        )
        yield from members


def _environment(environment: str, rows: pd.DataFrame, seed: int) -> Group:
    by_episode = rows[rows["episode"].notna()]
    errors = by_episode.pivot(index="episode", columns=["predictor", "context"], values="error")
    counts = by_episode.groupby("episode")["windows"].first()
    sums = errors.mul(counts, axis=0)
    drawn = bootstrap(sums.to_numpy(), counts.to_numpy(), (seed, zlib.crc32(environment.encode())))
    means = (sums.sum() / counts.sum()).to_numpy()
    by_variate = rows[rows["variate"].notna() & (rows["predictor"] == MODEL)]
    return Group(
        short_name(environment),
        1,
        pd.DataFrame(np.vstack([means, drawn]), columns=sums.columns),
        len(counts),
        by_variate[["bin_error", "change", "outside"]].astype(float).mean(),
        str(rows["unseen"].iloc[0]),
        int(rows["variates"].iloc[0]),
    )


def _rows(count: int) -> str:
    return f"{count} row{'s' * (count > 1)}"


def _average(parts: Sequence[Any]) -> Any:
    return sum(parts[1:], start=parts[0]) / len(parts)


def _mark(axes: Axes, bin_error: float, look: Look) -> None:
    """Mark a quarter of a bin, where it is within the panel; its name is on the axis, where no line is in the way."""
    bottom, top = axes.get_ylim()
    # A model without bins has none.
    if not bottom < bin_error < top:
        return
    axes.axhline(bin_error, color=look.colour("faint text"), linewidth=0.9, zorder=1)
    to_axes = axes.transData + axes.transAxes.inverted()

    def height(value: float) -> float:
        return float(to_axes.transform((1.0, value))[1])

    ticks = [tick for tick in axes.get_yticks() if bottom <= tick <= top]
    kept = [tick for tick in ticks if abs(height(tick) - height(bin_error)) > _ROOM]
    axes.yaxis.set_major_locator(FixedLocator(kept))
    axes.yaxis.set_minor_locator(FixedLocator([bin_error]))
    axes.yaxis.set_minor_formatter(FuncFormatter(lambda value, _: "¼ bin"))
    axes.tick_params(axis="y", which="minor", colors=look.colour("faint text"), labelsize=8, length=0)
