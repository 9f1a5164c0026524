"""What a study of transfer found, as plain records that become its table, its JSON file and its pictures."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from trajworld.backend import active_backend
from trajworld.evaluation.brief import Errors, brief_errors
from trajworld.evaluation.prediction import copy_last_row_errors
from trajworld.transfer.data import BehaviourReturns, EnvironmentData
from trajworld.transfer.draws import shared_part
from trajworld.transfer.factors import Factors, factors
from trajworld.transfer.plan import FINE_TUNED, FROM_SCRATCH, SIDES, TransferPlan
from trajworld.transfer.study import Group, Study
from trajworld.transfer.trials import Origin, TrialResult
from trajworld.versions import versions

KIND = "transfer"


@dataclass(frozen=True)
class Curve:
    """The errors of one side on one amount of data, by steps.

    Attributes:
        side: ``fine-tuned`` or ``from scratch``.
        transitions: Of the data, holdout included.
        learning_rate: The one that was chosen.
        holdout_losses: Of the first seed after the last step, by learning rate: what the choice was made by. None of a
            rate with which training diverged, with whatever seed.
        steps: Where the errors were measured.
        errors: For each of the steps each seed's mean absolute error, in standard deviations of each variate.
        mae: The same in raw units.
        nll: Each seed's negative log-likelihood of the true bins, nats.
        mean_transitions: That the trials really had, holdout included, on average over the seeds: whole episodes of at
            most ``transitions``.
    """

    side: str
    transitions: int
    learning_rate: float
    holdout_losses: dict[str, float | None]
    steps: tuple[int, ...]
    errors: tuple[tuple[float, ...], ...]
    mae: tuple[tuple[float, ...], ...]
    nll: tuple[tuple[float | None, ...], ...]
    mean_transitions: float | None = None

    @property
    def mean(self) -> tuple[float, ...]:
        """Over the seeds, at each of the steps."""
        return tuple(sum(one) / len(one) for one in self.errors)

    @property
    def low(self) -> tuple[float, ...]:
        """The least of the seeds, at each of the steps."""
        return tuple(min(one) for one in self.errors)

    @property
    def high(self) -> tuple[float, ...]:
        """The greatest of the seeds, at each of the steps."""
        return tuple(max(one) for one in self.errors)


@dataclass(frozen=True)
class EnvironmentResults:
    """What was found on one environment.

    Attributes:
        environment: Canonical name.
        pool_transitions: That training data were drawn from.
        test_transitions: Of the test set, of which some windows are predicted.
        digest: Of both.
        behaviours: What the pool's episodes are like, by kind of behaviour.
        copy_last_row: The baseline that predicts no change.
        curves: Those that are finished, by side and amount of data.
        factors: What the pre-trained model saves; None where a side is not finished.
        seen: Whether the pre-trained model's training had this environment.
        seed_factors: The same of each seed alone, whose two sides have the same data; in the order of the seeds.
        diverged: (side, amount of data) of the curves that cannot be, since training diverged with every rate.
        shared: The part of one seed's transitions that another has too, on the largest amount; None of one seed.
    """

    environment: str
    pool_transitions: int
    test_transitions: int
    digest: str
    behaviours: tuple[BehaviourReturns, ...]
    copy_last_row: Errors
    curves: tuple[Curve, ...]
    factors: Factors | None
    seen: bool
    seed_factors: tuple[Factors, ...] = ()
    diverged: tuple[tuple[str, int], ...] = ()
    shared: float | None = None

    def curve(self, side: str, transitions: int) -> Curve | None:
        """The curve of a side on an amount of data, where it is finished."""
        found = (one for one in self.curves if (one.side, one.transitions) == (side, transitions))
        return next(found, None)

    def of_side(self, side: str) -> list[Curve]:
        """The finished curves of a side, by amount of data."""
        return sorted((one for one in self.curves if one.side == side), key=lambda one: one.transitions)


@dataclass(frozen=True)
class Results:
    """Everything that a study shows.

    Attributes:
        plan: What was to be done.
        model: The pre-trained model, as ``PretrainedModel.as_json`` says it; None without one.
        environments: What was found on each.
        machine: ``backend`` and ``device`` that wrote these results.
        versions: Of the libraries.
        seconds: That the trials took, all together.
        findings: What was found, in sentences, good or bad.
        origins: What ran the trials, each once.
    """

    plan: TransferPlan
    model: dict[str, Any] | None
    environments: tuple[EnvironmentResults, ...]
    machine: dict[str, str]
    versions: dict[str, str]
    seconds: float
    findings: tuple[str, ...] = ()
    origins: tuple[Origin, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As plain values, and ``kind``: what study they are of."""
        return {"kind": KIND, **dataclasses.asdict(self)}


def results_of(study: Study) -> Results:
    """What the finished trials of a study say, whichever sides it was to run."""
    device = active_backend().device()
    model = study.model
    every = {trial: found for group in study.groups for trial, found in study.results(group).items()}
    return Results(
        study.plan,
        None if model is None else model.as_json(),
        tuple(_environment(study, study.data[name]) for name in study.plan.environments),
        {"backend": active_backend().name, "device": f"{device.count} x {device.name} ({device.kind})"},
        versions(),
        sum(found.seconds for found in every.values()),
        origins=_origins(every.values()),
    )


def _origins(results: Iterable[TrialResult]) -> tuple[Origin, ...]:
    found: list[Origin] = []
    for result in results:
        if result.origin not in found:
            found.append(result.origin)
    return tuple(sorted(found, key=repr))


def compared(plan: TransferPlan, curves: Sequence[Curve]) -> tuple[Factors | None, tuple[Factors, ...]]:
    """What an environment's curves say of the pre-trained model: by their means, and by each seed alone.

    Args:
        plan: What was to be done.
        curves: Those of the environment that are finished.

    Returns:
        None and nothing where a curve of either side is missing.
    """
    sides = {side: [curve for curve in curves if curve.side == side] for side in SIDES}
    if any(len(found) < len(plan.sizes) for found in sides.values()):
        return None, ()

    def of(errors: Callable[[Curve], Sequence[float]]) -> Factors:
        by_size = {
            side: {curve.transitions: errors(curve) for curve in found} for side, found in sides.items()
        }
        return factors(plan.settings.steps, by_size[FROM_SCRATCH], by_size[FINE_TUNED])

    def of_seed(seed: int) -> Factors:
        return of(lambda curve: [at[seed] for at in curve.errors])

    return of(lambda curve: curve.mean), tuple(of_seed(seed) for seed in range(plan.seeds))


def _environment(study: Study, data: EnvironmentData) -> EnvironmentResults:
    plan = study.plan
    groups = [Group(data.environment, size, side) for side in SIDES for size in plan.sizes]
    curves = tuple(curve for group in groups if (curve := _curve(study, group)) is not None)
    copying = copy_last_row_errors(
        data.test, limit=plan.settings.test_windows, window=plan.settings.model.window
    )
    found, of_seeds = compared(plan, curves)
    seen = study.model is not None and data.environment in study.model.environments
    return EnvironmentResults(
        data.environment,
        data.pool.num_transitions,
        data.test.num_transitions,
        data.digest,
        data.behaviours,
        brief_errors(copying),
        curves,
        found,
        seen,
        of_seeds,
        tuple((group.side, group.transitions) for group in groups if study.all_diverged(group)),
        shared_part(data.pool, plan.sizes[-1], plan.seeds),
    )


def _curve(study: Study, group: Group) -> Curve | None:
    """The curve of a group whose trials are all finished; None, too, where training diverged with every rate."""
    rate, found = study.chosen_rate(group), study.results(group)
    mine = {trial.seed: result for trial, result in found.items() if trial.learning_rate == rate}
    if rate is None or len(mine) < study.plan.seeds:
        return None
    diverged = study.diverged_rates(group)
    points = list(zip(*(mine[seed].points for seed in sorted(mine)), strict=True))
    return Curve(
        group.side,
        group.transitions,
        rate,
        {
            f"{trial.learning_rate:g}": None if trial.learning_rate in diverged else result.holdout_loss
            for trial, result in found.items()
            if trial.seed == 0
        },
        study.plan.settings.steps,
        tuple(tuple(point.errors.normalised_mae for point in at) for at in points),
        tuple(tuple(point.errors.mae for point in at) for at in points),
        tuple(tuple(point.errors.nll for point in at) for at in points),
        sum(one.training_transitions + one.holdout_transitions for one in mine.values()) / len(mine),
    )
