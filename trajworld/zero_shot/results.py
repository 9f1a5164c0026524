"""What a zero-shot study found, by environment and by family, as tables, sentences and files need it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from trajworld.files import file_digest
from trajworld.models.trajworld import TrajWorld
from trajworld.text import short_name
from trajworld.zero_shot.bootstrap import Errors, Ratio, average
from trajworld.zero_shot.study import COPY, MINIMUM_NORM, MODEL, PREDICTORS, RIDGE, Measured
from trajworld.zero_shot.unseen import training_of

KIND = "zero-shot"
"""What ``results.json`` says that it holds."""

_VERDICTS = {-1: "smaller", 0: "not distinguishable", 1: "larger"}

BASELINES = (COPY, MINIMUM_NORM, RIDGE)


@dataclass(frozen=True, eq=False)
class Group:
    """An environment, or a family of them, with its errors.

    Attributes:
        name: What to call it: the family's name only where several of its environments were measured.
        errors: Of all predictors by length of context; of a family, the mean over its environments.
        members: The environments.
        family: Their family; empty where it is of no interest.
    """

    name: str
    errors: Errors
    members: tuple[Measured, ...] = ()
    family: str = ""

    @property
    def shortest(self) -> int:
        """The shortest context."""
        return self.errors.contexts[0]

    @property
    def longest(self) -> int:
        """The longest context."""
        return self.errors.contexts[-1]

    def against(self, baseline: str) -> Ratio:
        """The model's error over a baseline's, both at the longest context."""
        return self.errors.ratio((MODEL, self.longest), (baseline, self.longest))

    @property
    def improvement(self) -> Ratio:
        """The model's error at the longest context over that at the shortest."""
        return self.errors.ratio((MODEL, self.longest), (MODEL, self.shortest))

    def best_context(self, predictor: str) -> int:
        """The length of context at which a predictor errs least."""
        return self.errors.contexts[int(self.errors.curve(predictor)[0].argmin())]


@dataclass(frozen=True)
class ModelFacts:
    """The model that was studied.

    Attributes:
        name: What it was called.
        file: SHA-256 of its file's bytes, hex.
        step: The step of training that its weights are of; None where the file does not say.
        parameters: How many it has.
        training_known: Whether its file tells all environments that it was trained on; where it does not, one that is
            tested may be among them.
    """

    name: str
    file: str
    step: int | None
    parameters: int
    training_known: bool

    @classmethod
    def of(cls, name: str, file: Path, model: TrajWorld) -> "ModelFacts":
        """What is said of a model that was read from ``file``.

        Raises:
            TrajWorldError: The file cannot be read any more.
        """
        step = model.identity.history.get("step")
        return cls(
            name,
            file_digest(file),
            step if isinstance(step, int) else None,
            model.count_params(),
            training_of(model.identity).known,
        )


@dataclass(frozen=True, eq=False)
class Results:
    """A whole study.

    Attributes:
        model: Which model.
        settings: What it was measured with, as plain JSON values.
        measured: Each environment's results, those of a family together.
        families: The family of each of them.
        backend: Keras's, that computed the model's predictions.
        versions: Of the libraries.
    """

    model: ModelFacts
    settings: Mapping[str, Any]
    measured: tuple[Measured, ...]
    families: tuple[str, ...]
    backend: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def by_family(self) -> dict[str, list[Measured]]:
        """The environments of each family, in order."""
        found: dict[str, list[Measured]] = {}
        for family, each in zip(self.families, self.measured, strict=True):
            found.setdefault(family, []).append(each)
        return found

    @property
    def family_groups(self) -> list[Group]:
        """Each family's mean over its environments; one that was measured alone goes by its own name."""
        return [
            Group(family, average([each.errors for each in members]), tuple(members), family)
            if len(members) > 1
            else group_of(members[0], family)
            for family, members in self.by_family.items()
        ]

    def as_json(self, findings: Sequence[str]) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "kind": KIND,
            "model": asdict(self.model),
            "settings": dict(self.settings),
            "backend": self.backend,
            "versions": dict(self.versions),
            "families": [
                {
                    "family": group.family,
                    "environments": [each.trial.dataset.environment for each in group.members],
                    **_group(group),
                }
                for group in self.family_groups
            ],
            "environments": [
                _environment(family, each) for family, each in zip(self.families, self.measured, strict=True)
            ],
            "findings": list(findings),
        }


def group_of(measured: Measured, family: str = "") -> Group:
    """One environment as a group of its own, by its name without the suite."""
    return Group(short_name(measured.trial.dataset.environment), measured.errors, (measured,), family)


def _environment(family: str, measured: Measured) -> dict[str, Any]:
    trial = measured.trial
    dataset = trial.dataset
    return {
        "environment": dataset.environment,
        "family": family,
        "dataset": dataset.name,
        "variates": dataset.num_variates,
        "windows": len(trial.test),
        "test_episodes": trial.test_episodes,
        "range_episodes": trial.range_episodes,
        "share_outside_ranges": trial.outside,
        "error_of_the_true_bin": measured.bin_error,
        **_group(group_of(measured)),
        "by_variate_at_longest_context": [
            {
                "name": name,
                "change_in_bins": _known(measured.change[place]),
                **{predictor: _known(measured.variates[predictor][place]) for predictor in PREDICTORS},
            }
            for place, name in enumerate(measured.names)
        ],
    }


def _group(group: Group) -> dict[str, Any]:
    curves = {}
    for predictor in group.errors.predictors:
        mean, low, high = group.errors.curve(predictor).tolist()
        curves[predictor] = {"mean": mean, "low": low, "high": high}
    return {
        "errors": curves,
        "model_over_baseline_at_longest_context": {
            baseline: _ratio(group.against(baseline)) for baseline in BASELINES
        },
        "model_longest_over_shortest_context": _ratio(group.improvement),
    }


def _ratio(ratio: Ratio) -> dict[str, Any]:
    return {
        "ratio": _known(ratio.value),
        "low": _known(ratio.low),
        "high": _known(ratio.high),
        "verdict": _VERDICTS[ratio.sign] if ratio.enough else "too few test episodes to tell",
    }


def _known(value: float) -> float | None:
    """None for what JSON cannot hold: an error over none at all, or a variate that does not vary."""
    return float(value) if math.isfinite(value) else None
