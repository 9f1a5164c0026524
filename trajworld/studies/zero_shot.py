"""The zero-shot study: a pre-trained model in environments that it never saw, by length of context."""

import functools
import itertools
import math
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from trajworld.charts import Look, lines
from trajworld.collect import corpus as corpora
from trajworld.collect.corpus_table import UNSEEN, Member, read_table, select
from trajworld.data.minari_datasets import dataset_path
from trajworld.data.resolve import open_dataset
from trajworld.data.summary import variate_names
from trajworld.data.windows import gather_windows
from trajworld.errors import TrajWorldError, UsageError
from trajworld.evaluation import one_step
from trajworld.evaluation.contexts import Halves, halves_of, with_context
from trajworld.evaluation.linear import choose_penalties, linear_predictor
from trajworld.models.files import load_model, weights_digest
from trajworld.models.names import find_model
from trajworld.models.seen import check_unseen
from trajworld.study.cells import Cell, Row
from trajworld.study.run import Say
from trajworld.study.tables import HIGH, LOW, bootstrap, interval
from trajworld.text import short_name

COPY, MINIMUM_NORM, RIDGE, MODEL = PREDICTORS = ("copy", "least squares", "ridge", "model")
CONTEXTS = (1, 2, 3, 5, 7, 10, 13, 16, 19)
TRANSITIONS = 20_000
FEWEST = 10
"""Tested episodes below which no interval is given: from a few it is too narrow, and from one it has no width."""

_FAMILIES = {
    "gymnasium/Pendulum-*": "pendulum, unseen gravity",
    "dm_control/cartpole-three_poles*": "cart with three poles",
    "robot/runner-*": "unseen runners",
    "robot/*": "unseen robots",
    **{
        f"gymnasium/{name}-*": "hopper, walker2d, half-cheetah"
        for name in ("Hopper", "Walker2d", "HalfCheetah")
    },
}
BIN = "¼ bin"
# Columns of rows by variate, and what they are called in a table for people.
_FACTS = {"bin_error": BIN, "change": "change, bins", "outside": "outside"}
_BATCH_SIZE, _LARGE_BATCH = 128, 1024
_SHORT = 8


@dataclass(frozen=True)
class ZeroShot:
    """A pre-trained model in environments that it never saw, without an update, by length of context.

    It predicts the next observation and reward: on pendulums of unseen gravity, a cart with three poles, unseen robots
    and runners, and Gymnasium's hopper, walker2d and half-cheetah. What it knows of an environment is its context, and
    the range of each variate. Missing datasets are collected first.

    - Episodes: half of an environment's episodes, drawn by seed, are for ranges, the other half for the test. The
      ranges (the scaling of each variate to [0, 1]) are the least and greatest value in the first half only; what lies
      outside them in the tested half is clipped, as in pre-training.
    - Windows: those of the tested half that have as many real rows before the predicted row as the model's window
      takes, so that no context is short of rows; at most --windows of them, drawn by seed. All predictors and contexts
      are tested on the same windows.
    - Context: the last c rows before the predicted one: observation, reward, and the action that leads to the next row.
      Earlier rows are masked, as in windows that begin at an episode's start; positions stay right-aligned. In
      training, padding precedes only the first rows of an episode, so with padding a model mistakes a short context for
      a start, and its error includes that. With --unpadded the same rows stand at the window's first positions.
    - Errors: absolute, divided by each variate's standard deviation in the whole dataset, averaged over the
      predicted variates that vary. Of an environment: the mean over windows. Of a family: the mean over its
      environments.
    - Predictors: the model's expectation; copying the last row; and linear least squares, fitted anew on the
      transitions inside each context: by minimum norm, and by a ridge whose penalties are chosen on windows of
      the episodes for ranges, which is knowledge of the environment beyond the context, in this baseline's favour.
    - Intervals: 95 %, by a bootstrap over the tested episodes, which are the independent unit, paired between
      predictors and contexts. They give the uncertainty of the mean over these environments, for this one model.
      From fewer than ten tested episodes in one of the environments no interval is given.
    - Columns: "episodes" is the number of tested episodes, of a family in the environment that has the fewest. "¼ bin"
      is the error of a model that knows the right bin and answers with its centre: where it is near the others, bins
      are too wide to compare them. "change, bins" is how many bins a variate moves from row to row. "outside" is the
      share of tested values outside the ranges, which are clipped for all but copying. "unseen" is "not known" where
      the model's file does not list all environments that it was trained on.

    Attributes:
        model: A model that ships, hf://USER/REPO or a file.
        corpus: Take the unseen datasets of this corpus of `data collect-corpus`; without one, those that are needed are
            collected.
        only: Patterns of environments or sources, such as legged or gymnasium/Pendulum*.
        contexts: Rows of context, fewer than the model's window has.  [default: 1,2,3,5,7,10,13,16,19; for another
            window, up to its last]
        unpadded: Give short contexts without padding, at the window's first positions.
        windows: Predict at most n transitions of each environment, drawn at random.
        transitions: Transitions to collect of each environment, without --corpus.
        seed: Of the episodes' split, the windows and the bootstrap.
    """

    name: ClassVar[str] = "zero-shot"
    example: ClassVar[str] = '--only "gymnasium/Pendulum*"'

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

    def prepare(self, workers: int, say: Say) -> None:
        """Refuse a model that has seen one of the environments, then collect and convert what is missing."""
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
        families = [group for group in groups if "family" in group.about]
        environments = [group.row() for group in groups if "environment" in group.about]
        by_context = pd.DataFrame({"family": [group.about["family"] for group in families]})
        for context in groups[0].contexts:
            by_context[_rows(context)] = [group.errors[MODEL, context].iloc[0] for group in families]
        last = by_context.columns[-1]
        return {
            f"Error by family, {last} of context": pd.DataFrame([group.row() for group in families]),
            f"Error by environment, {last} of context": pd.DataFrame(environments),
            "Error of the model by rows of context": by_context,
        }

    def charts(self, table: pd.DataFrame, look: Look) -> dict[str, Figure]:
        """Error against rows of context, a panel for each family, with the number of its environments."""
        rows: list[Row] = []
        for group in _groups(table, self.seed):
            if (count := group.about.get("environments", 0)) == 0:
                continue
            panel = {"panel": group.about["family"] + (f" ({count})" if count > 1 else "")}
            for name, context in itertools.product(PREDICTORS, group.contexts):
                place = {"predictor": name, "context": context}
                rows.append({**panel, **place, **group.value("error", (name, context))})
            # A level line, where it is among the others; a model without bins has none.
            level, errors = group.facts[BIN], group.errors.iloc[0]
            if errors.min() < level < errors.max():
                rows.append({**panel, "predictor": BIN, "error": level})
        axes: dict[str, Any] = {"x": "context", "x_title": "rows of context", "log_x": False}
        axes |= {"y": "error", "y_title": "One-step error in standard deviations"}
        figure = lines(pd.DataFrame(rows), look, series="predictor", panel="panel", **axes)
        return {"Error by rows of context": figure}

    @cached_property
    def _model(self) -> Any:
        return load_model(find_model(self.model))

    @cached_property
    def _common(self) -> dict[str, Any]:
        """The settings that all cells have in common."""
        last = self._model.sizes.window - 1
        contexts = sorted({*(self.contexts or (*(one for one in CONTEXTS if one < last), last))})
        if contexts[0] < 1 or contexts[-1] > last:
            shown = ", ".join(map(str, contexts))
            raise UsageError(f"a context has 1 to {last} rows with this model; {shown} was asked for")
        return {
            "init": {"digest": weights_digest(self._model)},
            "contexts": contexts,
            "unpadded": self.unpadded,
            "most_windows": self.windows,
            "seed": self.seed,
        }

    @cached_property
    def _cells(self) -> list[Cell]:
        families: dict[str, list[Cell]] = {}
        for member in self._members:
            dataset, name = open_dataset(member.dataset_id), member.environment
            known = (family for pattern, family in _FAMILIES.items() if fnmatchcase(name, pattern))
            family = next(known, member.source)
            unseen = "yes" if check_unseen(self._model.identity, name) else "not known"
            settings = {"environment": name, **self._common}
            settings |= {"variates": dataset.num_variates, "data": {"content": dataset.content}}
            places = {"init": str(find_model(self.model)), "data": str(dataset.path)}
            labels = {"family": family, "unseen": unseen}
            families.setdefault(family, []).append(Cell(predict_unseen, settings, places, labels))
        return list(itertools.chain(*families.values()))

    @cached_property
    def _members(self) -> list[Member]:
        """The datasets: of the corpus, where they must be there, or of the study's own one."""
        if not self.corpus:
            rows = select(read_table(), self.only, UNSEEN)
            return [corpora.member_of(self._own_corpus, row) for row in rows]
        members = select(corpora.read_manifest(self.corpus), self.only, UNSEEN)
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
        """The corpus of the study's own datasets, of ``transitions`` each."""
        return "zero-shot" if self.transitions == TRANSITIONS else f"zero-shot-{self.transitions}"

    def _collect(self, workers: int, say: Say) -> None:
        rows = select(read_table(), (), UNSEEN)
        jobs, _ = corpora.plan_corpus(self._own_corpus, select(rows, self.only), self.transitions, seed=0)
        if not jobs:
            return
        corpora.check_families(jobs)
        with corpora.open_corpus(self._own_corpus, rows, {}):
            for number, made in enumerate(corpora.make_datasets(jobs, workers), start=1):
                what = f"{made['transitions']:,} transitions of {made['environment']}"
                say(f"{number} of {len(jobs)}: collected {what} in {made['seconds']:.1f} s")


class Group(NamedTuple):
    """The errors in one environment, or their means over the environments of a family.

    ``about`` are the first columns of its row. The columns of ``errors`` are (predictor, context); its first row are
    the means, the others the bootstrap's replicates. ``episodes`` are those of the environment that has the fewest;
    ``facts`` are further columns, means over variates.
    """

    about: dict[str, Any]
    errors: pd.DataFrame
    episodes: int
    facts: "pd.Series[float]"
    unseen: str

    @property
    def contexts(self) -> list[int]:
        """Ascending numbers of rows."""
        return sorted(set(self.errors.columns.get_level_values("context")))

    def value(self, name: str, one: tuple[str, int], over: tuple[str, int] | None = None) -> dict[str, float]:
        """An error, or one error over another, and its interval: three columns of a table for people."""
        found = self.errors[one] if over is None else self.errors[one] / self.errors[over]
        low, high = interval(found.to_numpy()[1:]) if self.episodes >= FEWEST else (np.nan, np.nan)
        return {name: float(found.iloc[0]), name + LOW: float(low), name + HIGH: float(high)}

    def row(self) -> Row:
        """A row of a table for people: errors at the longest context, and the model's at the shortest."""
        first, last = self.contexts[0], self.contexts[-1]
        row = {**self.about, "episodes": self.episodes}
        for predictor in PREDICTORS:
            row |= self.value(predictor, (predictor, last))
        row |= self.value("model / ridge", (MODEL, last), (RIDGE, last))
        if first != last:
            row |= self.value(f"model, {_rows(first)}", (MODEL, first))
        return {**row, **self.facts, "unseen": self.unseen}


def _groups(table: pd.DataFrame, seed: int) -> Iterator[Group]:
    """The family and then its environments, one family after another."""
    for family, rows in table.groupby("family", sort=False):
        each = [_environment(str(name), part, seed) for name, part in rows.groupby("environment", sort=False)]
        # Replicate by replicate: the environments' draws are independent, the environments are fixed.
        errors, facts = (
            sum(parts) / len(each)
            for parts in zip(*((one.errors, one.facts[[BIN]]) for one in each), strict=True)
        )
        title = family if len(each) > 1 else each[0].about["environment"]
        about = {"family": title, "environments": len(each)}
        yield Group(about, errors, min(one.episodes for one in each), facts, each[0].unseen)
        yield from each


def _environment(environment: str, rows: pd.DataFrame, seed: int) -> Group:
    by_episode = rows[rows["episode"].notna()]
    errors = by_episode.pivot(index="episode", columns=["predictor", "context"], values="error")
    counts = by_episode.groupby("episode")["windows"].first()
    sums = errors.mul(counts, axis=0)
    drawn = bootstrap(sums.to_numpy(), counts.to_numpy(), (seed, zlib.crc32(environment.encode())))
    means = (sums.sum() / counts.sum()).to_numpy()
    facts = rows.loc[rows["variate"].notna() & (rows["predictor"] == MODEL), [*_FACTS]].astype(float).mean()
    return Group(
        {"environment": short_name(environment), "M": int(rows["variates"].iloc[0])},
        pd.DataFrame(np.vstack([means, drawn]), columns=sums.columns),
        len(counts),
        facts.rename(_FACTS),
        str(rows["unseen"].iloc[0]),
    )


def _rows(count: int) -> str:
    return f"{count} row{'s' * (count > 1)}"


def predict_unseen(settings: Mapping[str, Any], places: Mapping[str, str]) -> list[Row]:
    """Predict the same windows of one environment from contexts of several lengths, by the model and by baselines.

    A row for each predictor, context and tested episode: ``windows``, and their mean ``error`` in standard deviations
    of each variate, averaged over the variates that vary. And at the longest context a row for each predictor and
    predicted variate: its mean ``error`` over all windows, the error of a predictor that knows the right bin and
    answers with its centre (``bin_error``, a quarter of a bin), both in standard deviations; the mean absolute
    ``change`` from row to row in bins; and, the same in all of them, the share of the tested values ``outside`` the
    ranges. Of a model without bins ``bin_error`` and ``change`` are NaN.
    """
    model, compiled = _loaded(places["init"], settings["init"]["digest"], settings["unpadded"])
    dataset = open_dataset(places["data"])
    halves = halves_of(dataset, model.sizes.window, settings["most_windows"], settings["seed"])
    episodes, episode = np.unique(halves.tested.first, return_inverse=True)
    numbers = np.searchsorted(dataset.episode_offsets, episodes)
    counts = np.bincount(episode)
    std, varies = one_step.varying(dataset)
    scale = np.where(varies, std, np.nan)
    rows: list[Row] = []
    by_variate: dict[str, NDArray[np.float64]] = {}
    for context in settings["contexts"]:
        for name, absolute in _absolute_errors(halves, model, compiled, context, settings["unpadded"]):
            sums = np.bincount(episode, weights=one_step.scaled_errors(dataset, absolute))
            rows += [
                {"predictor": name, "context": context, "episode": number, "windows": count, "error": error}
                for number, count, error in zip(numbers, counts, sums / counts, strict=True)
            ]
            by_variate[name] = absolute.mean(axis=0) / scale
    predicted, bins = dataset.observation_size + 1, getattr(model.sizes, "bins", math.nan)
    ranges = (halves.support.upper - halves.support.lower)[:predicted].astype(np.float64)
    values, _ = gather_windows(dataset, *halves.tested, 2)
    change = np.abs(np.diff(values[..., :predicted].astype(np.float64), axis=1)).mean(axis=(0, 1))
    facts = pd.DataFrame({
        "context": settings["contexts"][-1],
        "variate": variate_names(dataset)[:predicted],
        "bin_error": ranges / bins / 4 / scale,
        "change": change / (ranges / bins),
        "outside": halves.outside,
    })  # fmt: skip
    for predictor, errors in by_variate.items():
        rows += facts.assign(predictor=predictor, error=errors).to_dict("records")
    return rows


def _absolute_errors(
    halves: Halves, model: Any, compiled: one_step.OneStep, context: int, unpadded: bool
) -> Iterator[tuple[str, NDArray[np.float64]]]:
    """Each predictor's name and absolute errors ``[N, P]`` with a context of ``context`` rows."""
    dataset, support, window = halves.dataset, halves.support, model.sizes.window
    other, _ = gather_windows(dataset, *halves.other, window)
    penalties = choose_penalties(other, support, context, dataset.observation_size + 1)
    predictors: dict[str, one_step.Predictor] = {
        COPY: one_step.copying_predictor(dataset),
        MINIMUM_NORM: linear_predictor(dataset, support, context),
        RIDGE: linear_predictor(dataset, support, context, penalties),
        MODEL: one_step.model_predictor(model, dataset, support, compiled),
    }
    # Padded, two lengths, each compiled once, save a third of the computations on rows that would be masked.
    lengths = (context + 1,) if unpadded else (_SHORT, window)
    length = min((cut for cut in lengths if cut > context), default=window)
    for name, predict in predictors.items():
        batch, shown = _BATCH_SIZE if name == MODEL else _LARGE_BATCH, with_context(predict, context, length)
        parts = one_step.each_error(shown, dataset, *halves.tested, name, batch, window)
        yield name, np.concatenate([error for error, _ in parts])


@functools.lru_cache(maxsize=1)
def _loaded(file: str, digest: str, unpadded: bool) -> tuple[Any, one_step.OneStep]:
    """The model and its compiled prediction, kept in a process from one environment to the next."""
    model = load_model(file)
    return model, one_step.compile_one_step(model, "unpadded" if unpadded else "padded")
