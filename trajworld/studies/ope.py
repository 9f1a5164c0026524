"""The study of off-policy evaluation: which of several policies is best, without running one."""

import itertools
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from trajworld.charts import Look, scatter
from trajworld.collect.datasets import deciding_versions
from trajworld.data.resolve import open_dataset
from trajworld.errors import UsageError
from trajworld.evaluation.ope import fitted_values, imagined_values, policies_by_environment, within_limit
from trajworld.evaluation.ope_metrics import METRICS, ope_metrics
from trajworld.evaluation.ope_settings import FittedQSettings, OpeSettings
from trajworld.evaluation.ranges import support_for
from trajworld.evaluation.true_values import simulated_values
from trajworld.files import file_digest
from trajworld.policies.files import read_policy
from trajworld.policies.policy import Policy
from trajworld.studies.data import shown_names
from trajworld.studies.fine_tuning import FINE_TUNED, FROM_SCRATCH
from trajworld.studies.pairs import cost
from trajworld.studies.training_cells import ENSEMBLE, TrainedOnEach, trained_model
from trajworld.study.cells import Cell, Row
from trajworld.study.run import Say
from trajworld.study.tables import over_seeds
from trajworld.text import short_name

FITTED_Q = "fitted Q"
METHODS = (FINE_TUNED, FROM_SCRATCH, ENSEMBLE, FITTED_Q)
_POLICY = "policy: "


@dataclass(frozen=True)
class Ope(TrainedOnEach):
    """How well models say which of several policies is best, without running one (off-policy evaluation).

    On each behaviour dataset a pre-trained model is fine-tuned, and others are trained from scratch: a model of its
    sizes, and an ensemble of multilayer perceptrons. A tenth of the episodes, the same for all, is set aside as a test
    set for other studies, and not trained on. Each policy of the dataset's environment then acts inside each
    model, from the first states of the dataset's episodes.

    - Estimate: the mean discounted return of the rollouts. Predictions are expectations, the ensemble's samples of an
      elite for each step, clipped to the dataset's range; the environment's rule decides on the unclipped prediction
      whether a rollout ends.
    - Truth: the mean discounted return of the policy in the simulator.
    - Fitted Q: fitted Q evaluation, which needs no model, on all episodes of the same dataset.
    - Policies: how many have a finite estimate, of the seed with the fewest; the metrics leave out the others.
    - Error / range, regret: in units of the difference of the best and the worst true value of the policies.
    - In brackets the least and the greatest of the seeds; of the cost, of all trainings.

    Attributes:
        policies: Files of policies, folders of them, or zoo, those that ship.
        methods: Any of fine-tuned, from scratch, MLP ensemble and fitted Q.
        iterations: Iterations of fitted Q evaluation, which has no horizon.
        seeds: Number of seeds.
        discount: γ.
        horizon: The most steps of a rollout.
        states: Initial states of each estimate.
        sample: Sample the models' predictions, as the ensemble's always are; else use expectations.
        episodes: Episodes of each policy in the simulator.
    """

    name: ClassVar[str] = "ope"
    example: ClassVar[str] = "--datasets zoo/hopper-v5-medium-v0 --policies zoo --steps 600"

    policies: tuple[str, ...] = ()
    methods: tuple[str, ...] = METHODS
    iterations: int = 200
    seeds: int = 2
    discount: float = 0.995
    horizon: int = 1000
    states: int = 64
    sample: bool = False
    episodes: int = 50

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.suite or self.datasets) or not self.policies:
            raise UsageError(
                "name behaviour datasets with --suite or --datasets and the policies with --policies"
            )
        if unknown := [method for method in self.methods if method not in METHODS]:
            raise UsageError(f"no method is called {unknown[0]!r}: there are {', '.join(METHODS)}")
        if self.seeds < 1 or self.episodes < 2:
            raise UsageError("at least 1 seed and 2 episodes are needed")
        _ = self._settings, FITTED_Q in self.methods and self._fitting

    @property
    def _fitting(self) -> FittedQSettings:
        return FittedQSettings(self.discount, self.iterations)

    @property
    def _settings(self) -> OpeSettings:
        given = {name: getattr(self, name) for name in ("discount", "horizon", "states", "sample")}
        return OpeSettings(**given)

    @cached_property
    def _policies(self) -> dict[str, dict[str, Path]]:
        """The files of each environment's policies, by their names."""
        return policies_by_environment(self.policies, self._data)

    def prepare(self, workers: int, say: Say) -> None:
        """Read the datasets, the policies and the model."""
        say(f"{len(self._data)} datasets, {sum(map(len, self._policies.values()))} policies")
        _ = self._model

    def cells(self, table: pd.DataFrame) -> list[Cell]:
        """True values, estimates of the models that are trained, and training, a seed after the other."""
        known = {"discount": self.discount, "horizon": self.horizon}
        truths = []
        for one in self._policies:
            about = {"environment": one, "episodes": self.episodes, **known, **self._named[one]}
            about["versions"] = deciding_versions()
            truths.append(Cell(simulate, about, self._places(one)))
        trained = set(table.get("cell", ()))
        training, estimates = [], []
        for seed, data, method in itertools.product(range(self.seeds), self._data, self.methods):
            about = {"content": data.content, "method": method, "seed": seed, **known}
            about |= self._named[data.environment]
            labels = {"dataset": data.name}
            places = {"dataset": str(data.path), **self._places(data.environment)}
            if method == FITTED_Q:
                # It has no horizon.
                del about["horizon"]
                fitting = {**asdict(self._fitting), "states": self.states, "seed": seed}
                estimates.append(Cell(fit, about | fitting, places, labels))
                continue
            training.append(cell := self._training(data, method, seed))
            if cell.key in trained:
                about |= self._rollouts[data.environment] | {"seed": seed, "trained": cell.key}
                # An ensemble's rollouts are samples.
                about["sample"] |= method == ENSEMBLE
                estimates.append(Cell(estimate, about, places, labels))
        return [*truths, *estimates, *training]

    @cached_property
    def _rollouts(self) -> dict[str, dict[str, Any]]:
        """The settings in each environment."""
        found = {one: asdict(within_limit(self._settings, one)) for one in self._policies}
        return {
            one: {name: known[name] for name in known if name != "compact"} for one, known in found.items()
        }

    @cached_property
    def _named(self) -> dict[str, dict[str, Any]]:
        """The digests of each environment's policies."""
        found = self._policies.items()
        return {one: {"policies": {name: file_digest(own[name]) for name in own}} for one, own in found}

    def _places(self, environment: str) -> dict[str, str]:
        return {_POLICY + name: str(path) for name, path in self._policies[environment].items()}

    def _scored(self, table: pd.DataFrame) -> pd.DataFrame:
        """Each estimate with its true value and its dataset's environment."""
        known, of = ["truth", "truth error"], ["environment", "policy"]
        columns = ["task", "estimate", "dataset", "method", "seed", *known, *of]
        table = table.reindex(columns=list(dict.fromkeys([*table.columns, *columns])))
        truths = table.loc[table["task"] == simulate.__name__, [*of, *known]]
        estimates = table[table["task"].isin([estimate.__name__, fit.__name__])].drop(columns=known)
        return estimates.merge(truths, on=of)

    def tables(self, table: pd.DataFrame) -> dict[str, pd.DataFrame]:
        """The metrics' means over datasets, the metrics on each dataset, and what training cost."""
        found, of = [], ["method", "dataset", "seed"]
        for key, rows in self._scored(table).groupby(of, sort=False):
            metrics = ope_metrics(rows["estimate"], rows["truth"])
            estimated = int(np.isfinite(rows["estimate"]).sum())
            found.append({**dict(zip(of, key, strict=True)), "policies": estimated, **metrics})
        if not found:
            return {}
        each = pd.DataFrame(found)
        whole = _of_equal_datasets(each)
        counts = whole.groupby("method", sort=False)["dataset"].nunique().rename("datasets").reset_index()
        means = whole.groupby(["method", "seed"], sort=False)[list(METRICS)].mean().reset_index()
        fewest = each.groupby(["dataset", "method"], sort=False)["policies"].min().reset_index()
        # Fitted Q trains nothing.
        models = table[table["task"] == estimate.__name__].rename(columns={"method": "model"})
        return {
            "Mean over the datasets": _together(means, ["method"]).merge(counts, on="method"),
            "Each dataset": _together(each, ["dataset", "method"]).merge(fewest, on=["dataset", "method"]),
            "Cost": cost(table, models.reindex(columns=["trained", "model"])),
        }

    def charts(self, table: pd.DataFrame, look: Look) -> dict[str, Figure]:
        """Estimates of the first seed against the truth: of each environment, a panel for each dataset."""
        scored = self._scored(table)
        scored = scored[scored["seed"] == 0]
        order = scored["method"].map(METHODS.index)
        charts = {}
        for environment, rows in scored.loc[order.sort_values(kind="stable").index].groupby("environment"):
            title = f"Estimates and true returns: {short_name(str(environment))}"
            rows = rows.assign(dataset=rows["dataset"].map(shown_names(rows["dataset"])))
            charts[title] = scatter(rows, look, x="truth", y="estimate", series="method", panel="dataset")
        return charts


def _of_equal_datasets(each: pd.DataFrame) -> pd.DataFrame:
    """The rows of seeds that have all datasets of their method; where none has, those of the datasets that all have.

    Means over datasets of seeds that are not finished would differ by their datasets.
    """

    def count(by: str, of: str) -> "pd.Series[Any]":
        return each.groupby(["method", by])[of].transform("nunique")

    names, seeds = (each.groupby("method")[one].transform("nunique") for one in ("dataset", "seed"))
    whole = count("seed", "dataset") == names
    none = ~whole.groupby(each["method"]).transform("any")
    return each[whole | (none & (count("dataset", "seed") == seeds))]


def _together(rows: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Each metric's mean over seeds, with the least and greatest."""
    found = [over_seeds(rows, by, metric) for metric in METRICS]
    return pd.concat([found[0], *(one.drop(columns=by) for one in found[1:])], axis=1)


def simulate(settings: Mapping[str, Any], places: Mapping[str, str]) -> list[Row]:
    """The true values of policies: ``truth`` and its standard error ``truth error``."""
    known = OpeSettings(settings["discount"], settings["horizon"])
    given = settings["environment"], _read(places), None, known, settings["episodes"]
    found = simulated_values(*given, workers=1)
    renamed = found.rename(columns={"estimate": "truth", "standard error": "truth error"})
    return renamed[["policy", "truth", "truth error", "steps", "ended", "problem"]].to_dict("records")


def estimate(settings: Mapping[str, Any], places: Mapping[str, str]) -> list[Row]:
    """The estimates of policies inside a trained model."""
    data, model = open_dataset(places["dataset"]), trained_model(settings["trained"], places)
    known = {one.name: settings[one.name] for one in fields(OpeSettings) if one.name in settings}
    support = support_for(model, data).support
    found = imagined_values([(model, support)], data, _read(places), OpeSettings(**known))
    return found.assign(environment=data.environment).to_dict("records")


def fit(settings: Mapping[str, Any], places: Mapping[str, str]) -> list[Row]:
    """The estimates of fitted Q evaluation."""
    known = {name: settings[name] for name in ("discount", "states", "seed")}
    fitting = FittedQSettings(**{one.name: settings[one.name] for one in fields(FittedQSettings)})
    data = open_dataset(places["dataset"])
    found = fitted_values(data, _read(places), OpeSettings(**known), fitting)
    return found.assign(environment=data.environment).to_dict("records")


def _read(places: Mapping[str, str]) -> dict[str, Policy]:
    return {
        name.removeprefix(_POLICY): read_policy(path)
        for name, path in places.items()
        if name.startswith(_POLICY)
    }
