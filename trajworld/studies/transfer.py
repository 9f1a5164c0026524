"""The study of transfer: what a pre-trained model saves in data and steps on environments that it never saw."""

import itertools
import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from trajworld.charts import Look, lines
from trajworld.environments.names import parse_name
from trajworld.errors import UsageError
from trajworld.models.interface import DEFAULT, kind_of
from trajworld.studies import fine_tuning
from trajworld.studies.data import Pretrained, StudyData, check_draws, collect_data, open_data, pretrained
from trajworld.studies.fine_tuning import FINE_TUNED, FROM_SCRATCH, GROUP, SIDES, rows_of
from trajworld.study.cells import Cell
from trajworld.study.run import Say
from trajworld.study.tables import HIGH, LOW, over_seeds
from trajworld.text import short_name

_ORDER = (FINE_TUNED, FROM_SCRATCH, "copy", "zero-shot")
_POOLS = ["environment", "kind", "episodes", "transitions", "mean_length", "mean_return", "reward"]
_ENVIRONMENTS = ("gymnasium/Hopper-v5", "gymnasium/HalfCheetah-v5", "gymnasium/Walker2d-v5")
# Transitions that are collected of an environment, unless more are needed.
_LEAST_POOL = 80_000
# The cosine's end, so far away that the rate stays constant: the errors of one run at its steps are those that shorter
# runs would have had at their ends.
_SCHEDULE: dict[str, Any] = {"warmup_steps": 20, "decay_steps": 10**9, "holdout_windows": 512}


@dataclass(frozen=True)
class Transfer:
    """What a pre-trained model saves in data and steps on environments that it never saw.

    On each environment a pre-trained model is fine-tuned, and a model of its sizes trained from scratch, on several
    amounts of data, with the same data, steps, batches and learning rates; the error is measured as they train.

    - Data: one collection of each environment, with behaviours of many kinds and policies that a short search found;
      every run draws whole episodes from the pool, by its seed, and holds a tenth of them out. Two seeds share about
      the fraction of their episodes that each draws of the pool.
    - Error: the mean absolute error of the one-step prediction of observation and reward on other episodes, in standard
      deviations of each variate; in brackets the least and the greatest of the seeds.
    - Learning rate: each side tries every rate with the first seed, at each amount of data; the one with the lowest
      loss on the run's own held-out episodes is used for the other seeds, too. If a seed diverges at the chosen rate,
      the next best rate is used.
    - Zero-shot: the fine-tuned model before its first step, which knows only the data's range.
    - Factors: how much less data, or how many fewer steps, fine-tuning needs to reach the error of training from
      scratch on the most data, after the last step and at its best step: for each side, the smallest measured amount at
      which its mean error reaches that value. A factor of 0 is an error that fine-tuning never reaches, an infinite one
      an error that it has without a step; ≈ is an estimate between the measured amounts.

    Attributes:
        model: The model to fine-tune: a name that ships, such as trajworld-small, a file, or hf://USER/REPO.
        environments: Environments to test on.
        sizes: Transitions of data.
        steps: Steps where the error is measured; training ends at the last.
        learning_rates: Tried by both sides, with the first seed.
        seeds: Number of seeds.
        batch_size: Windows in a batch.
        targets: Of the loss.
        optimizer: Of both sides.
        windows: Windows of the test set to predict.
        pool: Transitions that are collected of each environment to draw from; the test set has a tenth more.
            [default: 80000, or 1.25 times the largest size]
        preset: Of the model from scratch, where there is no model to fine-tune.  [default: small]
        side: Run and show only one side; a later run of both finds its cells.
        weights: Keep each run's final weights beside its results.
    """

    name: ClassVar[str] = "transfer"
    example: ClassVar[str] = "--model trajworld-small --sizes 1000,4000 --seeds 1"

    model: str = ""
    environments: tuple[str, ...] = _ENVIRONMENTS
    sizes: tuple[int, ...] = (1000, 4000, 16_000, 64_000)
    steps: tuple[int, ...] = (0, 25, 50, 100, 200, 500, 1000)
    learning_rates: tuple[float, ...] = (2e-3, 5e-3, 1e-2)
    seeds: int = 3
    batch_size: int = 16
    targets: Literal["onehot", "gauss"] = "gauss"
    optimizer: Literal["adamw", "muon"] = "muon"
    windows: int = 1024
    pool: int | None = None
    preset: Literal["tiny", "small", "paper"] | None = None
    side: Literal["both", "scratch", "fine-tuned"] = "both"
    weights: bool = False

    def __post_init__(self) -> None:
        if not self.model and self.side != "scratch":
            raise UsageError("name the model to fine-tune with --model, or choose --side scratch")
        if self.model and self.preset:
            raise UsageError("the model from scratch has the sizes of --model: leave out --preset")
        if not self._names or len(set(self._names)) < len(self._names):
            raise UsageError("name at least one environment, and each once")
        fine_tuning.check_ascending("steps", self.steps, 0)
        counts = {"seeds": self.seeds, "batch_size": self.batch_size, "windows": self.windows}
        counts["last_of_the_steps"] = self.steps[-1]
        fine_tuning.check_plan(self.sizes, self.learning_rates, self._pool, **counts)

    @property
    def _names(self) -> tuple[str, ...]:
        return tuple(str(parse_name(name)) for name in self.environments)

    @property
    def _pool(self) -> int:
        """Enough that seeds draw different episodes at the largest size."""
        return self.pool or max(_LEAST_POOL, math.ceil(1.25 * max(self.sizes, default=1)))

    @property
    def _sides(self) -> tuple[str, ...]:
        return {"scratch": (FROM_SCRATCH,), FINE_TUNED: (FINE_TUNED,)}.get(self.side, SIDES)

    @cached_property
    def _model(self) -> Pretrained | None:
        return pretrained(self.model) if self.model else None

    @cached_property
    def _data(self) -> dict[str, StudyData]:
        return {name: open_data(name, self._pool, self.windows) for name in self._names}

    def prepare(self, workers: int, say: Say) -> None:
        """Read the model and collect the data, and refuse what would fail after hours of work."""
        _ = self._model
        collect_data(self._names, self._pool, workers, say)
        for data in self._data.values():
            check_draws(data, self.sizes, self.seeds)

    def cells(self, table: pd.DataFrame) -> list[Cell]:
        """Every learning rate with the first seed; then the best one with the others."""
        groups = list(itertools.product(self.sizes, self._names, self._sides))
        first = [self._run(*group, rate, 0) for group in groups for rate in self.learning_rates]
        finished, others = dict(iter(rows_of(table).groupby(GROUP))), []
        for group in groups:
            if group not in finished:
                continue
            rows = finished[group]
            rate = fine_tuning.chosen_rate(rows, len(self.learning_rates))
            # Those that are finished stay, the diverged ones, too.
            runs = {(one, int(seed)) for one, seed in zip(rows["learning_rate"], rows["seed"], strict=True)}
            runs |= {(rate, seed) for seed in range(self.seeds) if rate is not None}
            others += [self._run(*group, *run) for run in sorted(runs) if run[1]]
        copies = [data.cell(fine_tuning.copy_last_row, "copy") for data in self._data.values()]
        behaviours = [data.behaviours(self._pool) for data in self._data.values()]
        return [*copies, *behaviours, *first, *others]

    def _run(self, transitions: int, environment: str, side: str, rate: float, seed: int) -> Cell:
        sizes = kind_of(DEFAULT).preset(self.preset or "small") if self._model is None else self._model.sizes
        start = self._model if side == FINE_TUNED and self._model else sizes
        run = {"transitions": transitions, "learning_rate": rate, "seed": seed, "keep": self.weights}
        own = ("steps", "batch_size", "targets", "optimizer")
        given: dict[str, Any] = {**{name: getattr(self, name) for name in own}, **run, **_SCHEDULE}
        return fine_tuning.training_cell(self._data[environment], start, **given)

    def tables(self, table: pd.DataFrame) -> dict[str, pd.DataFrame]:
        """Errors, what fine-tuning needs for the error from scratch, and statistics of the pools."""
        runs, most = self._chosen(table), f"{self.sizes[-1]:,}"
        pools = rows_of(table, "describe_behaviours").reindex(columns=_POOLS)
        pools = pools.astype({"episodes": int, "transitions": int})
        pools["environment"] = pools["environment"].map(short_name)
        after = f"One-step error after {self.steps[-1]:,} steps, in standard deviations"
        found = {
            after: self._errors(table, runs),
            "Transitions that reach the error from scratch": self._needs(runs, "transitions"),
            f"Steps on {most} transitions that reach the error from scratch": self._needs(runs, "steps"),
            "Behaviours of the pools": pools.rename(columns=lambda name: name.replace("_", " ")),
        }
        return {title: one for title, one in found.items() if len(one)}

    def charts(self, table: pd.DataFrame, look: Look) -> dict[str, Figure]:
        """Error against data, and against steps."""
        runs = self._chosen(table)
        if not len(runs):
            return {}
        errors, copies = over_seeds(runs, [*GROUP, "step"], "mae_std"), rows_of(table, "copy_last_row")
        tuned = errors[(errors["step"] == 0) & (errors["side"] == FINE_TUNED)]
        zero = tuned.assign(side="zero-shot").drop(columns=[f"mae_std{LOW}", f"mae_std{HIGH}"])
        last, most = self.steps[-1], self.sizes[-1]
        by_data = pd.concat([errors[errors["step"] == last], zero])
        by_steps = errors[errors["transitions"] == most]

        def chart(rows: pd.DataFrame, x: str, x_title: str, where: str) -> Figure:
            shown = pd.concat([rows, copies.assign(**{x: np.nan})])
            shown["panel"] = shown["environment"].map(short_name)
            shown = shown.sort_values("side", key=lambda sides: sides.map(_ORDER.index), kind="stable")
            axes: dict[str, Any] = {"x": x, "x_title": f"{x_title} (log scale)", "y": "mae_std"}
            axes["y_title"] = f"mean absolute one-step error {where}, standard deviations"
            return lines(shown, look, series="side", panel="panel", **axes)

        data = chart(by_data, "transitions", "transitions of data", f"after {last:,} steps")
        steps = chart(by_steps, "step", "steps of training", f"on {most:,} transitions")
        return {"Error against data": data, "Error against steps": steps}

    def _chosen(self, table: pd.DataFrame) -> pd.DataFrame:
        return fine_tuning.chosen_runs(table, len(self.learning_rates), self.seeds)

    def _errors(self, table: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
        """A row for each environment, amount of data, and way to predict; ``runs`` are the chosen ones."""
        copies = rows_of(table, "copy_last_row").groupby("environment")["mae_std"].mean()
        diverged = rows_of(table).query("diverged").groupby(GROUP)["learning_rate"].nunique()
        rows = []
        columns = fine_tuning.error_columns(runs)
        for environment, size, predictor in itertools.product(self._names, self.sizes, columns):
            column = columns[predictor]
            mine = runs[(runs["environment"] == environment) & (runs["transitions"] == size)]
            zero = mine[(mine["step"] == 0) & (mine["side"] == FINE_TUNED)][column].mean()
            row: dict[str, Any] = {"environment": short_name(environment), "transitions": size}
            row |= {"predictor": predictor} if len(columns) > 1 else {}
            row |= {"copy": copies.get(environment), "zero-shot": zero}
            rates = []
            for side in SIDES:
                last = mine[(mine["side"] == side) & (mine["step"] == self.steps[-1])]
                row[side] = last[column].mean()
                ends = {side + LOW: last[column].min(), side + HIGH: last[column].max()}
                row |= ends if len(last) > 1 else {}
                none_left = diverged.get((size, environment, side)) == len(self.learning_rates)
                without = "diverged" if none_left else "–"
                rates.append(f"{last['learning_rate'].iloc[0]:g}" if len(last) else without)
            row["ratio"] = row[FROM_SCRATCH] / row[FINE_TUNED]
            row["rates, scratch and tuned"] = ", ".join(rates)
            tuned = mine.loc[mine["side"] == FINE_TUNED, "seen"]
            row["seen before"] = ("yes" if tuned.eq(True).any() else "no") if len(tuned) else "–"
            rows.append(row)
        return pd.DataFrame(rows)

    def _needs(self, runs: pd.DataFrame, kind: str) -> pd.DataFrame:
        """Of transitions or steps, a row for each of the two targets in each environment of which all is finished."""
        rows = []
        for environment in self._names:
            mine = runs[runs["environment"] == environment]
            if mine.groupby(["transitions", "side"]).ngroups < len(self.sizes) * len(SIDES):
                continue
            of_seeds = [fine_tuning.savings(one) for _, one in mine.groupby("seed")]
            last, least = fine_tuning.savings(mine)
            for place, (error, found) in enumerate([last, least] if least[0] < last[0] else [last]):
                factors = [one[place][1][kind]["factor"] for one in of_seeds]
                low, high = (min(factors), max(factors)) if len(set(factors)) > 1 else (np.nan, np.nan)
                row = {"environment": short_name(environment), "scratch's error": ("last", "least")[place]}
                rows.append(row | {"error": error, **found[kind], f"factor{LOW}": low, f"factor{HIGH}": high})
        needs = pd.DataFrame(rows)
        for name in needs.columns.intersection([*SIDES, "≈", "at any step"]):
            needs[name] = needs[name].replace(math.inf, np.nan).round().astype("Int64")
        return needs
