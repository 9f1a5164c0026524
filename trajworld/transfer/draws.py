"""The episodes that the trials of a study are given: whether they are enough, and how many two seeds have in common."""

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from trajworld.data.dataset import Dataset
from trajworld.data.split import limit_transitions, split_episodes
from trajworld.errors import TrajWorldError, UsageError
from trajworld.evaluation.prediction import varying
from trajworld.transfer.data import EnvironmentData
from trajworld.transfer.plan import FROM_SCRATCH, TransferPlan, Trial
from trajworld.transfer.trials import trial_config


def check_draws(plan: TransferPlan, data: Sequence[EnvironmentData]) -> None:
    """Refuse at once what would fail hours later, in whatever trial comes to it.

    Args:
        plan: Of which every amount of data is drawn with every seed, as the trials will.
        data: Of the plan's environments.

    Raises:
        UsageError: Some draw is too few episodes to hold one out.
        TrajWorldError: Nothing varies in a test set, so that an error in standard deviations has no meaning.
    """
    for one in data:
        if not varying(one.test)[1].any():
            raise TrajWorldError(
                f"{one.environment}: nothing varies in the test set, so that there is no error in standard deviations: "
                "leave it out"
            )
        for size, seed in itertools.product(plan.sizes, range(plan.seeds)):
            trial = Trial(FROM_SCRATCH, one.environment, size, plan.learning_rates[0], seed)
            fraction = trial_config(trial, plan.settings).holdout_fraction
            try:
                split_episodes(len(_drawn(one.pool, size, seed)), fraction, seed)
            except UsageError:
                raise UsageError(
                    f"{one.environment}: {size:,} transitions with seed {seed} are one episode, which cannot be split "
                    f"into training and holdout: {_remedy(one.pool, plan.seeds)}"
                ) from None


def shared_part(pool: Dataset, size: int, seeds: int) -> float | None:
    """The part of one seed's transitions that another seed has too, on average over pairs of seeds.

    Args:
        pool: What is drawn from.
        size: Transitions to draw.
        seeds: From 0 to so many.

    Returns:
        Between 0 and 1; None of one seed.
    """
    lengths = pool.transitions_per_episode
    draws = [_drawn(pool, size, seed) for seed in range(seeds)]
    parts = [
        float(lengths[np.intersect1d(one, other)].sum() / lengths[one].sum())
        for one, other in itertools.permutations(draws, 2)
    ]
    return sum(parts) / len(parts) if parts else None


def _drawn(pool: Dataset, size: int | None, seed: int) -> NDArray[np.int64]:
    """The episodes that a trial is given, holdout included."""
    return limit_transitions(pool, np.arange(pool.num_episodes), size, seed)


def _remedy(pool: Dataset, seeds: int) -> str:
    if pool.num_episodes < 2:
        return "collect more with --pool"
    # What a seed's first two episodes hold is enough for that seed.
    least = max(
        int(pool.transitions_per_episode[_drawn(pool, None, seed)[:2]].sum()) for seed in range(seeds)
    )
    return f"let --sizes begin with at least {least}"
