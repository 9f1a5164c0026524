"""The study of transition prediction: each model trained on each dataset, and tested on all of its environment."""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from trajworld.charts import Look, heatmap
from trajworld.data.dataset import Dataset
from trajworld.data.resolve import open_dataset
from trajworld.data.split import set_aside
from trajworld.errors import UsageError
from trajworld.evaluation.one_step import prediction_errors
from trajworld.evaluation.ranges import support_for
from trajworld.models.files import describe_model
from trajworld.models.interface import Sizes, kind_of, kind_of_sizes
from trajworld.studies.data import shown_names
from trajworld.studies.fine_tuning import tester_of
from trajworld.studies.pairs import by_pair, cost, relative, summary, wins
from trajworld.studies.training_cells import (
    TEST_FRACTION,
    TrainedOnEach,
    corpus_content,
    model_cell,
    pretraining_cell,
    trained_model,
)
from trajworld.study.cells import Cell, Row
from trajworld.study.run import Say
from trajworld.text import short_name


class Variant(NamedTuple):
    """A kind of model; what it starts from: ``scratch``, the ``shipped`` model, a ``corpus``; its published error."""

    kind: str
    start: str
    published: float | None = None


_SCRATCH = "TrajWorld from scratch"
VARIANTS = {
    "TrajWorld fine-tuned": Variant("trajworld", "shipped", 0.91),
    _SCRATCH: Variant("trajworld", "scratch", 1.0),
    "MLP ensemble from scratch": Variant("mlp-ensemble", "scratch", 18.85),
    "MLP ensemble fine-tuned": Variant("mlp-ensemble", "corpus", 36.07),
    "TDM from scratch": Variant("tdm", "scratch", 2.08),
    "TDM fine-tuned": Variant("tdm", "corpus", 1.35),
    "TrajWorld of equal time": Variant("trajworld", "corpus"),
}
"""The models by name, in the order in which they are trained. Published are mean absolute errors relative to TrajWorld
from scratch, of Yin et al. (2025), of TDM with teacher forcing."""
MEASURES = {
    f"{name}{part}": (group, metric)
    for part, group in {"": "all", " of observations": "observations"}.items()
    for name, metric in {
        "MAE": "mae",
        "MSE": "mse",
        "MAE in std": "normalised_mae",
        "MSE in variances": "normalised_mse",
    }.items()
}
"""The errors of a row, and where they are in the table of errors."""
_FIRST = tuple(name for name, one in VARIANTS.items() if one.kind == "trajworld" and one.start != "corpus")


@dataclass(frozen=True)
class Grid(TrainedOnEach):
    """How well world models predict transitions, in and out of the distribution that they were trained on.

    Each model is trained on each dataset of a suite, and tested on all datasets of the same environment: on five levels
    of skill in each of three environments these are 75 pairs.

    - Error: mean absolute and squared error of the last row of a window, from the at most 19 rows before it: of
      observation and reward, and of the observation alone, raw (as published) and in standard deviations of each
      variate of the dataset that is tested on. A model reads a dataset over the range that it was trained on.
    - Episodes: a tenth of each dataset's, the same for all models and seeds, is set aside, and tested on; a tenth of
      the others, by the seed, is held out to choose the best weights. No model is tested on an episode that it saw,
      except where datasets share episodes.
    - Relative: the error divided by the mean error of TrajWorld from scratch on the same pair, then averaged over
      pairs. In distribution are the pairs of a dataset with itself.
    - Intervals: by seed the least and the greatest, of the cost those of all trainings; else 95 % of a bootstrap over
      the datasets that are trained on, each with all its pairs.
    - TrajWorld fine-tuned starts from the model that is named. The other fine-tuned models are pre-trained here on the
      corpus, each for the same time, TrajWorld of equal time with them.
    - Published: on other versions of the datasets, with models of 9.6 million weights and many more steps.

    Attributes:
        models: The models.
        corpus: Datasets to pre-train the others on, as for trajworld pretrain.
        pretrain_minutes: Minutes for each of them.
        pretrained_width: Hidden units of a layer of the pre-trained ensemble.
        seeds: Seeds of TrajWorld fine-tuned and from scratch.
        baseline_seeds: Seeds of the other models.
        windows: Windows of each dataset to predict.
    """

    name: ClassVar[str] = "grid"
    example: ClassVar[str] = '--suite dope --models "TrajWorld fine-tuned,TrajWorld from scratch" --steps 600'

    suite: str = "dope"
    models: tuple[str, ...] = tuple(VARIANTS)
    corpus: tuple[str, ...] = ("corpus:corpus",)
    pretrain_minutes: float = 60.0
    pretrained_width: int = 640
    seeds: int = 2
    baseline_seeds: int = 1
    windows: int = 2048

    def __post_init__(self) -> None:
        super().__post_init__()
        if unknown := [one for one in self.models if one not in VARIANTS]:
            raise UsageError(f"no model is called {unknown[0]!r}: there are {', '.join(VARIANTS)}")
        if min(self.seeds, self.baseline_seeds, self.windows, len(self.models)) < 1:
            raise UsageError("at least 1 model, seed and window are needed")
        if not 0 < self.pretrain_minutes < np.inf:
            raise UsageError("--pretrain-minutes must be above 0")

    @cached_property
    def _corpus(self) -> str:
        return corpus_content(self.corpus)

    def _sizes(self, variant: Variant) -> Sizes:
        if variant.kind == "trajworld":
            return self._model.sizes
        sizes = kind_of(variant.kind).preset("small")
        wide = variant.kind == "mlp-ensemble" and variant.start == "corpus"
        return replace(sizes, width=self.pretrained_width) if wide else sizes

    def prepare(self, workers: int, say: Say) -> None:
        """Read the datasets, the model and what is pre-trained on."""
        environments = dict[str, Dataset]()
        for one in self._data:
            other = environments.setdefault(one.environment, one)
            if (one.observation_size, one.action_size) != (other.observation_size, other.action_size):
                raise UsageError(f"{one.name} has other variates than {other.name}, of the same environment")
            if one.num_episodes < 3:
                raise UsageError(
                    f"{one.name} has {one.num_episodes} episodes, but 3 are needed: to train, hold out and test"
                )
        say(f"{len(self._data)} datasets of {', '.join(map(short_name, environments)) or 'no environment'}")
        # The same first state and the same action in it.
        begun = [{row.tobytes() for row in one.rows[one.episode_offsets[:-1]]} for one in self._data]
        for (one, its), (other, others) in itertools.combinations(zip(self._data, begun, strict=True), 2):
            if one.environment == other.environment and its & others:
                say(
                    f"Warning: {one.name} and {other.name} share {len(its & others)} episodes: models of the one are "
                    "tested on some that they saw"
                )
        if (kind := kind_of_sizes(self._model.sizes).name) != "trajworld":
            raise UsageError(f"{self.model} is a {kind}: the grid compares a TrajWorld with the others")
        own = {one["content"] for one in describe_model(self._model.path)["sources"]}
        for one in self._data:
            if one.content and one.content in own:
                say(f"Warning: {self.model} saw the episodes of {one.name} in pre-training")
        if any(VARIANTS[one].start == "corpus" for one in self.models):
            say(f"pre-training on {', '.join(self.corpus)} of content {self._corpus}")

    def cells(self, table: pd.DataFrame) -> list[Cell]:
        """Training, and the tests of what is trained: the first seed of the TrajWorlds, the others, the other seeds."""
        finished = set(table.get("cell", ()))
        first, others = ([one for one in self.models if (one in _FIRST) == own] for own in (True, False))
        groups = [(first, 0), *(([one], 0) for one in others)]
        groups += [(first, seed) for seed in range(1, self.seeds)]
        groups += [([one], seed) for seed in range(1, self.baseline_seeds) for one in others]
        cells = list[Cell]()
        for names, seed in groups:
            training, tests = list[Cell](), list[Cell]()
            for data, name in itertools.product(self._data, names):
                variant = VARIANTS[name]
                start: Any = self._model if variant.start == "shipped" else self._sizes(variant)
                if variant.start == "corpus":
                    start = pretraining_cell(start, self.corpus, self._corpus, self.pretrain_minutes)
                    training.append(start)
                    if start.key not in finished:
                        continue
                cell = model_cell(data, start, seed, self)
                training.append(cell)
                if cell.key in finished:
                    tests += self._tests(name, seed, data, cell)
            cells += [*tests, *training]
        return cells

    def _tests(self, model: str, seed: int, data: Dataset, trained: Cell) -> Iterator[Cell]:
        for other in self._data:
            if other.environment == data.environment:
                about: dict[str, Any] = {"model": model, "environment": data.environment}
                about |= {
                    "seed": seed,
                    "windows": self.windows,
                    "test_fraction": TEST_FRACTION,
                    "trained": trained.key,
                }
                about["data"] = {"content": other.content}
                labels = {"trained on": data.name, "tested on": other.name}
                yield Cell(measure_model, about, {"dataset": str(other.path)}, labels)

    def tables(self, table: pd.DataFrame) -> dict[str, pd.DataFrame]:
        """Relative errors, raw and in standard deviations, wins, errors themselves, every measure, and the cost."""
        pairs = _pairs(table)
        if not len(pairs):
            return {}
        raw, scaled = (relative(pairs, measure, _SCRATCH) for measure in ("MAE", "MAE in std"))
        found = {}
        if len(raw):
            published = {name: one.published for name, one in VARIANTS.items() if one.kind != "tdm"}
            forced = {_shown(name, "teacher-forced"): one.published for name, one in VARIANTS.items()}
            means = summary(raw, "value")
            means["published"] = means["model"].map(published | forced)
            found["Relative error (MAE, observation and reward)"] = means
            found["Relative error in standard deviations"] = summary(scaled, "value")
            robots = by_pair(raw).assign(environment=lambda rows: rows["environment"].map(short_name))
            robots = robots.groupby(["model", "environment"], sort=False)["value"].mean().unstack()
            found["Relative error by environment"] = robots.reset_index()
            if len(won := wins(raw, scaled, _SCRATCH)):
                won["published sets, of 15"] = won["model"].map({"TrajWorld fine-tuned": 12})
                found["Wins over TrajWorld from scratch"] = won
            each = {
                measure: by_pair(relative(pairs, measure, _SCRATCH))
                .groupby("model", sort=False)["value"]
                .mean()
                for measure in MEASURES
            }
            found["Relative error by every measure"] = pd.DataFrame(each).reset_index()
        absolute = pairs.assign(value=pairs["MAE in std"])
        found["Error in standard deviations (MAE, observation and reward)"] = summary(absolute, "value")
        found["Cost"] = cost(table, table[table["task"] == measure_model.__name__])
        return found

    def charts(self, table: pd.DataFrame, look: Look) -> dict[str, Figure]:
        """Of each environment the relative error of each pair, a panel for each model."""
        pairs = _pairs(table)
        rows = relative(pairs, "MAE", _SCRATCH) if len(pairs) else pairs
        charts, keys = {}, ["model", "trained on", "tested on"]
        for environment, own in rows.groupby("environment", sort=False) if len(rows) else ():
            means = own[own["model"] != _SCRATCH].groupby(keys, sort=False)["value"].mean().reset_index()
            shown = shown_names((*means[keys[1]], *means[keys[2]]))
            means[keys[1:]] = means[keys[1:]].replace(shown)
            title = f"Error relative to TrajWorld from scratch: {short_name(str(environment))}"
            charts[title] = heatmap(means, look, x=keys[2], y=keys[1], value="value", panel="model")
        return charts


def measure_model(settings: Mapping[str, Any], places: Mapping[str, str]) -> list[Row]:
    """The errors of a model on the episodes of a dataset that are set aside, a row for each way of prediction."""
    data, model = open_dataset(places["dataset"]), trained_model(settings["trained"], places)
    tester, compiled = tester_of(model.sizes)
    tester.set_weights(model.get_weights())
    _, episodes = set_aside(data.num_episodes, settings["test_fraction"])
    choice: Any = {"support": support_for(model, data), "limit": settings["windows"], "episodes": episodes}
    rows = []
    for label, one_step in compiled.items():
        found = prediction_errors(tester, data, one_step=one_step, **choice)
        errors = {name: found.table[group][metric] for name, (group, metric) in MEASURES.items()}
        rows.append({"prediction": label.removesuffix(" model"), **errors, "predicted": found.windows})
    return rows


def _shown(model: str, prediction: str = "model") -> str:
    return model if prediction == "model" else f"{model}, {prediction}"


def _pairs(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of tests; ``model`` says the way of prediction, too, where there are several."""
    if "task" not in table or not (table["task"] == measure_model.__name__).any():
        return pd.DataFrame()
    rows = table[table["task"] == measure_model.__name__]
    order = {name: place for place, name in enumerate(VARIANTS)}
    rows = rows.sort_values("model", key=lambda names: names.map(order), kind="stable")
    return rows.assign(model=[_shown(*pair) for pair in zip(rows["model"], rows["prediction"], strict=True)])
