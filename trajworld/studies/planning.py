"""The study of planning: how well a model chooses actions, beside the policy that it plans around."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import pandas as pd
from matplotlib.figure import Figure

from trajworld.charts import Look, bars
from trajworld.collect.datasets import deciding_versions
from trajworld.data.dataset import Dataset
from trajworld.data.resolve import open_dataset
from trajworld.errors import UsageError
from trajworld.evaluation.ope import policies_by_environment, robot_of
from trajworld.evaluation.ranges import support_for
from trajworld.files import file_digest
from trajworld.planning.episodes import PLANNER, PROPOSAL, RANDOM, alone, episode_returns
from trajworld.planning.planner import Planner
from trajworld.planning.settings import SHOOTING, PlannerSettings
from trajworld.policies.files import read_policy
from trajworld.policies.policy import Policy
from trajworld.studies.fine_tuning import FINE_TUNED, FROM_SCRATCH
from trajworld.studies.pairs import cost
from trajworld.studies.training_cells import ENSEMBLE, TrainedOnEach, trained_model
from trajworld.study.cells import Cell, Row
from trajworld.study.run import Say
from trajworld.study.tables import HIGH, LOW, over_seeds
from trajworld.text import short_name

MODELS = (FINE_TUNED, FROM_SCRATCH, ENSEMBLE)
PUBLISHED = {"Hopper": (50, 0.05), "Walker2d": (25, 0.2), "HalfCheetah": (25, 0.025)}
"""Steps ahead and the noise around a proposal, by robot."""


@dataclass(frozen=True)
class Planning(TrainedOnEach):
    """How much planning inside a model improves on the policy that it plans around.

    On each dataset a pre-trained model is fine-tuned, and others are trained from scratch: a model of its sizes, and an
    ensemble of multilayer perceptrons. A tenth of the episodes is set aside for other studies. Then each plans in its
    dataset's environment, around the actions of a proposal policy inside the model, plus noise.

    - Return: the mean undiscounted return of the episodes. In brackets the least and the greatest of the seeds; with
      one seed a 95 % interval over its episodes; of the cost those of all trainings.
    - Score: 0 is the return of random actions, 1 that of the proposal alone.
    - Steps ahead and noise are the published ones of hopper (50 and 0.05), walker2d (25 and 0.2) and half-cheetah (25
      and 0.025), of other robots 25 and 0.1.

    Attributes:
        proposals: Files of policies, or such as zoo/hopper-05: one of each environment.
        deterministic: Let the proposals take their mean actions, without their own noise.
        models: Any of fine-tuned, from scratch and MLP ensemble.
        method: Planning method: shooting, cem or mppi.
        candidates: Action sequences that are imagined at once.
        horizon: Steps ahead; 0 for the published ones.
        noise: Around the proposal's actions, in half boxes; 0 for the published one.
        episodes: Episodes of each model.
        baseline_episodes: Episodes of each proposal alone and of random actions.
        episode_steps: The most steps of an episode.
        seeds: Seeds of training.
    """

    name: ClassVar[str] = "planning"
    example: ClassVar[str] = "--datasets zoo/hopper-v5-medium-v0 --proposals zoo/hopper-05 --episodes 1"

    proposals: tuple[str, ...] = ()
    deterministic: bool = False
    models: tuple[str, ...] = MODELS
    method: Literal["shooting", "cem", "mppi"] = SHOOTING
    candidates: int = 128
    horizon: int = 0
    noise: float = 0.0
    episodes: int = 3
    baseline_episodes: int = 50
    episode_steps: int = 1000
    seeds: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.suite or self.datasets) or not self.proposals:
            raise UsageError("name datasets with --suite or --datasets and a policy of each with --proposals")
        if unknown := [one for one in self.models if one not in MODELS]:
            raise UsageError(f"no model is called {unknown[0]!r}: there are {', '.join(MODELS)}")
        if min(self.seeds, self.episodes, self.baseline_episodes, self.episode_steps) < 1:
            raise UsageError("at least 1 seed, episode and step are needed")
        self._settings("")

    def _settings(self, environment: str) -> PlannerSettings:
        robot = short_name(robot_of(environment))
        horizon, noise = PUBLISHED.get(robot, (25, 0.1))
        given: Any = {
            "method": self.method,
            "candidates": self.candidates,
            "elites": min(16, self.candidates),
        }
        return PlannerSettings(**given, horizon=self.horizon or horizon, noise=self.noise or noise)

    @cached_property
    def _proposals(self) -> dict[str, Path]:
        """The file of each environment's proposal."""
        found = policies_by_environment(self.proposals, self._data)
        for environment, files in found.items():
            if len(files) > 1:
                raise UsageError(f"--proposals names {len(files)} policies for {environment}: give one")
        return {environment: next(iter(files.values())) for environment, files in found.items()}

    def prepare(self, workers: int, say: Say) -> None:
        """Read the datasets, the policies and the model."""
        say(f"{len(self._data)} datasets, around {', '.join(map(str, self._proposals.values()))}")
        _ = self._model

    def cells(self, table: pd.DataFrame) -> list[Cell]:
        """What the proposals and random actions reach, planning in the models that are trained, and training."""
        trained = set(table.get("cell", ()))
        common: dict[str, Any] = {
            "episode_steps": self.episode_steps,
            "deterministic": self.deterministic,
            "versions": deciding_versions(),
        }
        others = [
            Cell(
                act_alone,
                {
                    "environment": one,
                    "proposal": file_digest(path),
                    "episodes": self.baseline_episodes,
                    **common,
                },
                {"proposal": str(path)},
            )
            for one, path in self._proposals.items()
        ]
        plans, training = list[Cell](), list[Cell]()
        for seed in range(self.seeds):
            for data in self._data:
                for model in self.models:
                    training.append(cell := self._training(data, model, seed))
                    if cell.key in trained:
                        plans.append(self._plan(data, model, seed, cell, common))
        return [*others, *plans, *training]

    def _plan(self, data: Dataset, model: str, seed: int, trained: Cell, common: dict[str, Any]) -> Cell:
        proposal = self._proposals[data.environment]
        about: dict[str, Any] = {"environment": data.environment, "content": data.content}
        about |= {"model": model, "seed": seed, "trained": trained.key, "proposal": file_digest(proposal)}
        about |= asdict(self._settings(data.environment)) | common | {"episodes": self.episodes}
        places = {"dataset": str(data.path), "proposal": str(proposal)}
        return Cell(plan_episodes, about, places, {"dataset": data.name})

    def tables(self, table: pd.DataFrame) -> dict[str, pd.DataFrame]:
        """The returns of each environment, and what training cost."""
        if not len(rows := _returns(table)):
            return {}
        by = ["environment", "dataset", "acting"]
        means = over_seeds(rows, by, "return")
        firsts = rows.groupby(by, sort=False, dropna=False)[["return" + LOW, "return" + HIGH]].first()
        for end in ("return" + LOW, "return" + HIGH):
            means[end] = means[end].fillna(firsts[end].reset_index(drop=True))
        more = {"score": ("score", "mean"), "episodes": ("episodes", "sum")}
        more |= {name: (name, "mean") for name in ("steps", "terminated")}
        counted = rows.groupby(by, sort=False, dropna=False).agg(**more).astype({"episodes": int})
        found = means.merge(counted.reset_index(), on=by)
        plans = table[table["task"] == plan_episodes.__name__]
        return {
            "Returns": found.assign(environment=found["environment"].map(short_name)),
            "Cost": cost(table, plans.reindex(columns=["trained", "model"])),
        }

    def charts(self, table: pd.DataFrame, look: Look) -> dict[str, Figure]:
        """The scores on each dataset."""
        rows = _returns(table)
        if not len(rows) or rows["dataset"].isna().all():
            return {}
        rows = rows[rows["dataset"].notna()]
        means = over_seeds(rows, ["dataset", "acting"], "score")
        given = {"label": "dataset", "value": "score", "series": "acting"}
        return {"Scores of planning": bars(means, look, **given, title="score: 0 is random, 1 the proposal")}


def _returns(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of returns: ``acting`` is the model that is planned in, or what acts alone."""
    if "acting" not in table:
        return pd.DataFrame()
    rows = table[table["acting"].notna()]
    planned = rows["acting"] == PLANNER
    # Where nothing is trained yet, there are only those that act alone.
    rows = rows.reindex(columns=list(dict.fromkeys([*rows.columns, "model", "dataset"])))
    rows = rows.assign(acting=rows["acting"].mask(planned, rows["model"]))
    each = [rows[rows["acting"] == one].groupby("environment")["return"].mean() for one in (RANDOM, PROPOSAL)]
    low, high = (rows["environment"].map(one) for one in each)
    return rows.assign(score=(rows["return"] - low) / (high - low))


def plan_episodes(settings: Mapping[str, Any], places: Mapping[str, str]) -> list[Row]:
    """The returns of planning in a trained model."""
    data, model = open_dataset(places["dataset"]), trained_model(settings["trained"], places)
    known = PlannerSettings(**{one.name: settings[one.name] for one in fields(PlannerSettings)})
    policy = _proposal(settings, places)
    planner = Planner(model, support_for(model, data).support, data, known, policy)
    given = data.environment, settings["episodes"], settings["episode_steps"]
    return episode_returns({PLANNER: planner}, *given).to_dict("records")


def act_alone(settings: Mapping[str, Any], places: Mapping[str, str]) -> list[Row]:
    """The returns of the proposal and of random actions."""
    given = settings["environment"], settings["episodes"], settings["episode_steps"]
    return episode_returns(alone(_proposal(settings, places)), *given).to_dict("records")


def _proposal(settings: Mapping[str, Any], places: Mapping[str, str]) -> Policy:
    return read_policy(places["proposal"], deterministic=settings["deterministic"])
