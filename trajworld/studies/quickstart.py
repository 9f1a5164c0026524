"""The quickstart: what pre-training buys on one robot, in minutes, with pictures of what the models predict."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import pandas as pd
from matplotlib.figure import Figure

from trajworld.charts import Look, lines, png
from trajworld.collect.collector import default_workers
from trajworld.collect.datasets import collect_datasets, dataset_targets
from trajworld.data.minari_datasets import dataset_metadata, dataset_path, datasets_in
from trajworld.data.resolve import open_dataset
from trajworld.environments.names import parse_name
from trajworld.errors import TrajWorldError, UsageError
from trajworld.evaluation.one_step import compile_one_step
from trajworld.evaluation.open_loop import Foresight, fitting_horizon
from trajworld.evaluation.pictures import trajectories, typical_episodes, view_episode
from trajworld.evaluation.ranges import support_for
from trajworld.files import nested
from trajworld.models.files import load_model
from trajworld.models.sizes import TrajWorldSizes
from trajworld.policies.behaviour import make_behaviour
from trajworld.studies import fine_tuning
from trajworld.studies.data import Pretrained, StudyData, pretrained
from trajworld.studies.fine_tuning import FINE_TUNED, FROM_SCRATCH, SIDES, WEIGHTS, rows_of
from trajworld.study.cells import Cell, Store
from trajworld.study.run import Say
from trajworld.text import number, short_name

_TINY_DATA = {"sizes": (200, 400), "pool": 600, "test": 200, "windows": 64}
_TINY_RUNS = {"learning_rates": (3e-3,), "steps": 6, "batch_size": 8, "horizon": 10}
SCALES: dict[str, dict[str, Any]] = {"small": {}, "tiny": {**_TINY_DATA, **_TINY_RUNS}}
"""Options by the name of a scale."""

_BEHAVIOUR = "mixed"
_DATA, _COPY, _ZERO = "transitions to fine-tune on", "copy the last row", "zero-shot"
# Columns of the table of all runs.
_SHOWN = ["side", "transitions", "learning_rate", "holdout_loss", "mae_std", "nll"]
_NAMES = ["run", "transitions", "learning rate", "holdout loss", "error", "NLL"]


@dataclass(frozen=True)
class Quickstart:
    """What pre-training buys on a robot that the model never saw.

    A pre-trained model is fine-tuned on several amounts of data of one robot, and a model of its sizes trained from
    scratch beside it, with the same data, steps and learning rates; both are tested on other episodes.

    - Data: random behaviours of many kinds ("mixed"), collected twice: a pool, from which each run draws whole
      episodes and holds a tenth of them out, and a test set.
    - Error: the mean absolute error of the one-step prediction of observation and reward, in standard deviations of
      each variate.
    - Learning rate: the one with the lowest loss on the run's own held-out episodes, for each side and amount of data.
    - Zero-shot: the pre-trained model without any update, given the variates' range in the least data.
    - It is a demonstration, not a benchmark: one seed, one robot, and so few steps that neither side is fully trained.

    Attributes:
        model: The pre-trained model.
        environment: One that the model never saw.
        sizes: Transitions to train on.
        pool: Transitions that are collected to draw from.
        test: Transitions that are collected to test on.
        windows: Windows of the test set to predict.
        learning_rates: Tried by both sides.
        steps: Steps of training.
        batch_size: Windows in a batch.
        horizon: Steps of the predicted trajectories that are drawn.
        seed: Of everything that is random.
        datasets: Folder for the datasets.  [default: Minari's]
    """

    name: ClassVar[str] = "quickstart"
    example: ClassVar[str] = "--sizes 1000,4000 --steps 100"

    model: str = "trajworld-small"
    environment: str = "gymnasium/Hopper-v5"
    sizes: tuple[int, ...] = (1000, 4000, 16_000)
    pool: int = 20_000
    test: int = 5000
    windows: int = 1024
    learning_rates: tuple[float, ...] = (5e-3, 1e-2)
    steps: int = 100
    batch_size: int = 16
    horizon: int = 50
    seed: int = 0
    datasets: str = ""

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise UsageError(f"the seed must be at least 0, not {self.seed}")
        counts = {name: getattr(self, name) for name in ("test", "windows", "steps", "batch_size", "horizon")}
        fine_tuning.check_plan(self.sizes, self.learning_rates, self.pool, **counts)

    @property
    def command(self) -> str:
        """``trajworld quickstart``, where it is one of its scales: it has a folder of its own for the datasets."""
        for scale, given in SCALES.items():
            if self.datasets and self == Quickstart(**given, seed=self.seed, datasets=self.datasets):
                return f"trajworld quickstart --scale {scale} --seed {self.seed}"
        return ""

    @cached_property
    def _model(self) -> Pretrained:
        return pretrained(self.model)

    @cached_property
    def _data(self) -> StudyData:
        with datasets_in(self.datasets):
            pool, test = (open_dataset(self._dataset_id(version)) for version in (0, 1))
        return StudyData(str(parse_name(self.environment)), pool, test, self.windows, self.seed)

    def _dataset_id(self, version: int) -> str:
        return f"unseen/{parse_name(self.environment).slug}-v{version}"

    def prepare(self, workers: int, say: Say) -> None:
        """Read the model and collect both datasets, if they are missing."""
        _ = self._model
        with datasets_in(self.datasets):
            for version, transitions in enumerate((self.pool, self.test)):
                most = min(workers, default_workers(transitions))
                self._collect(version, transitions, self.seed + 1 + version, most, say)

    def _collect(self, version: int, transitions: int, seed: int, workers: int, say: Say) -> None:
        path = dataset_path(self._dataset_id(version))
        if path.exists():
            found = dataset_metadata(self._dataset_id(version))
            made = nested(found, "collection")
            known = (nested(made, "behaviour").get("name"), made.get("seed"), found.get("total_steps"))
            if known != (_BEHAVIOUR, seed, transitions):
                raise TrajWorldError(f"{path} was collected otherwise: remove it, or name another --datasets")
            return
        for one in collect_datasets(
            dataset_targets([self.environment], _BEHAVIOUR, self._dataset_id(version)),
            behaviour=make_behaviour(_BEHAVIOUR),
            transitions=transitions,
            seed=seed,
            workers=workers,
        ):
            count, seconds = one["transitions"], one["seconds"]
            say(f"{one['environment']}: {count:,} transitions collected in {seconds:.0f} s")

    def cells(self, table: pd.DataFrame) -> list[Cell]:
        """Both sides at every size and rate, and what predicts without training."""
        given: dict[str, Any] = {"seed": self.seed, "batch_size": self.batch_size, "keep": True}
        given |= {"steps": (self.steps,), "decay_steps": self.steps}
        # Each side warms up as `trajworld train` does.
        sides: dict[str, Any] = {"init": self._model, "train": self._model.sizes}
        presets = {kind: TrajWorldSizes.runs["small", kind] for kind in sides}
        warm_up = {kind: self.steps * one["warmup_steps"] // one["steps"] for kind, one in presets.items()}
        runs = [
            fine_tuning.training_cell(
                self._data, start, transitions=size, learning_rate=rate, warmup_steps=warm_up[kind], **given
            )
            for size in self.sizes
            for kind, start in sides.items()
            for rate in self.learning_rates
        ]
        known = {"transitions": self.sizes[0], "seed": self.seed}
        zero = self._data.cell(fine_tuning.predict_zero_shot, "zero-shot", self._model, **known)
        return [self._data.cell(fine_tuning.copy_last_row, "copy"), zero, *runs]

    def tables(self, table: pd.DataFrame) -> dict[str, pd.DataFrame]:
        """The errors of the chosen runs, and all runs."""
        runs = rows_of(table)
        every = runs[_SHOWN].set_axis(_NAMES, axis="columns").astype({"transitions": int})
        every["learning rate"] = every["learning rate"].map("{:g}".format)
        every["chosen"] = runs["cell"].isin(self._chosen(table)["cell"]).map({True: "✓", False: ""})
        title = f"One-step error on {short_name(self.environment)}, in standard deviations"
        return {title: self._errors(table), "All runs": every}

    def _chosen(self, table: pd.DataFrame) -> pd.DataFrame:
        return fine_tuning.chosen_runs(table, rates=len(self.learning_rates), seeds=1)

    def _errors(self, table: pd.DataFrame) -> pd.DataFrame:
        """A row for each amount of data."""
        errors = self._chosen(table).pivot_table(index="transitions", columns="side", values="mae_std")
        errors = errors.reindex(index=list(self.sizes), columns=list(SIDES))
        for name, task in ((_ZERO, "predict_zero_shot"), (_COPY, "copy_last_row")):
            errors.insert(0, name, rows_of(table, task)["mae_std"].mean())
        errors["ratio"] = errors[FROM_SCRATCH] / errors[FINE_TUNED]
        return errors.rename_axis(index=_DATA, columns=None).reset_index()

    def charts(self, table: pd.DataFrame, look: Look) -> dict[str, Figure]:
        """Error against data."""
        errors = self._errors(table).rename(columns={_COPY: "copy", _DATA: "transitions"})
        rows = errors.melt("transitions", [*SIDES, "copy", _ZERO], "side", "error")
        rows["transitions"] = rows["transitions"].where(rows["side"].isin(SIDES))
        of = "" if look.narrow else f" of {short_name(self.environment)}"
        axes: dict[str, Any] = {"x": "transitions", "y": "error", "series": "side"}
        axes["x_title"] = f"transitions{of} to fine-tune on (log scale)"
        axes["y_title"] = "mean absolute one-step error, standard deviations"
        return {"Error against the amount of data": lines(rows.drop_duplicates(), look, **axes)}

    def tiles(self, table: pd.DataFrame) -> list[tuple[str, str, bool]]:
        """How many times less error the fine-tuned model has than the one from scratch."""
        errors, found = self._errors(table).dropna(subset="ratio"), []
        for size, ratio in zip(errors[_DATA], errors["ratio"], strict=True):
            less = bool(ratio >= 1)
            words = f"{'less' if less else 'more'} error than from scratch on {size:,} transitions"
            found.append((f"{number(max(ratio, 1 / ratio))}×", words, less))
        return found

    def pictures(self, table: pd.DataFrame, store: Store) -> dict[str, bytes]:
        """What both models of the least data predict of a typical episode, one step ahead and open-loop."""
        test, chosen, found = self._data.test, self._chosen(table), {}
        episode, horizon = typical_episodes(test, 1)[0], fitting_horizon(test, self.horizon)
        least = chosen[chosen["transitions"] == self.sizes[0]].drop_duplicates("side").set_index("side")
        for side, cell in least["cell"].items():
            model = load_model(store.file(cell, WEIGHTS))
            support, window = support_for(model, test).support, model.sizes.window
            foresight = Foresight(model, test, support, horizon, batch_size=1)
            view = view_episode(test, episode, support, compile_one_step(model), window, foresight)
            title = f"{str(side).capitalize()} on {self.sizes[0]:,} transitions"
            found[f"{title}: predicted and real"] = png(trajectories(view, test, title))
        return found
