"""What the tests of a study of transfer share: settings so small that they take milliseconds, and made-up results."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from training_fixtures import store

from trajworld.data.resolve import open_dataset
from trajworld.evaluation.brief import Errors
from trajworld.models.sizes import ModelSizes
from trajworld.transfer.data import BehaviourReturns, EnvironmentData
from trajworld.transfer.plan import FINE_TUNED, FROM_SCRATCH, TransferPlan, TrialSettings
from trajworld.transfer.results import Curve, EnvironmentResults, Results, compared
from trajworld.transfer.trials import Point, TrialResult

SIZES = ModelSizes(blocks=1, width=8, heads=2, window=4, bins=16)
SETTINGS = TrialSettings(
    SIZES, steps=(0, 2, 5), batch_size=4, warmup_steps=2, holdout_windows=16, test_windows=20
)


def study_plan(**changes: Any) -> TransferPlan:
    """A plan of one environment, two sizes, two rates and two seeds."""
    values: dict[str, Any] = {
        "environments": ("test/pool",),
        "sizes": (20, 40),
        "learning_rates": (1e-3, 1e-2),
        "seeds": 2,
        "settings": SETTINGS,
        "pool": 100,
    }
    return TransferPlan(**{**values, **changes})


def study_data_in(folder: Path) -> EnvironmentData:
    """A pool and a test set of random episodes."""
    pool = open_dataset(store(folder / "pool", lengths=(9, 7, 8, 9, 6, 9, 5, 8)))
    test = open_dataset(store(folder / "test", lengths=(9, 7, 8), seed=1))
    behaviours = (BehaviourReturns("gait", 8, 61, 61 / 8, 2.0, 16 / 61),)
    return EnvironmentData("test/pool", pool, test, behaviours)


def errors(value: float) -> Errors:
    """Errors of which only the one that is compared matters."""
    return Errors(value, value, value, value, None)


def made_up_trial(value: float, loss: float = 1.0, settings: TrialSettings = SETTINGS) -> TrialResult:
    """A trial whose error is ``value`` divided by a step more than was done."""
    points = [Point(step, errors(value / (1 + step)), None if step == 0 else loss) for step in settings.steps]
    return TrialResult(tuple(points), 900, 100, 1.5)


def curve(
    side: str, transitions: int, steps: tuple[int, ...], means: list[float], spread: float = 0.1
) -> Curve:
    """A curve of three seeds around means."""
    seeds = tuple((mean * (1 - spread), mean, mean * (1 + spread)) for mean in means)
    losses: dict[str, float | None] = {"0.001": 1.5, "0.003": 1.25}
    return Curve(side, transitions, 3e-3, losses, steps, seeds, seeds, seeds)


def made_up_results(
    scratch: Mapping[int, list[float]],
    tuned: Mapping[int, list[float]],
    steps: tuple[int, ...] = (0, 50, 200, 1000, 2000),
    copying: float = 0.25,
    names: tuple[str, ...] = ("gymnasium/Hopper-v5",),
    seen: bool = False,
) -> Results:
    """Results with the given mean errors by amount of data, the same on every environment."""
    settings = TrialSettings(SIZES, steps, 16)
    sizes = tuple(sorted({*scratch, *tuned}))
    plan = TransferPlan(names, sizes, (1e-3, 3e-3), 3, settings, 80_000)
    curves = tuple(
        curve(side, size, steps, means)
        for side, given in ((FROM_SCRATCH, scratch), (FINE_TUNED, tuned))
        for size, means in given.items()
    )
    found, of_seeds = compared(plan, curves)
    environments = tuple(
        EnvironmentResults(name, 80_000, 8000, "0" * 16, (), errors(copying), curves, found, seen, of_seeds)
        for name in names
    )
    return Results(plan, {"name": "m.keras", "digest": "1" * 16, "history": {}}, environments, {}, {}, 60.0)
