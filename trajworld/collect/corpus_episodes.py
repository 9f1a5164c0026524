"""What one environment of a corpus gives: episodes of varied behaviours, starts and endings, from a recipe alone."""

import contextlib
import itertools
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trajworld.collect.collector import Tally, take_episodes
from trajworld.collect.corpus_table import Row
from trajworld.collect.episodes import Rollout, episode_seeds, run_episode
from trajworld.data.episode import Episode
from trajworld.environments.interface import Description, Environment
from trajworld.environments.open import open_environment
from trajworld.policies.behaviour import (
    Behaviour,
    Constant,
    Drawn,
    Gait,
    OrnsteinUhlenbeck,
    Uniform,
    log_uniform,
    make_behaviour,
)
from trajworld.policies.search import ClockedPolicy, search_policies

# Raised whenever the same recipe gives other episodes, so that no corpus is mixed of both.
_VERSION = 1

# Episodes are cut at a length drawn log-uniformly from here (steps): many starts, and some long runs.
_LENGTHS = (60.0, 500.0)
# Where policies were found, the share of the episodes that follow one, with noise of a scale from here (half boxes).
_POLICY_SHARE = 0.4
_POLICY_NOISE = (0.02, 0.6)

# The episodes of a search for policies: the number of the first, and how long each is (steps).
_FIRST_TRIAL = 2**40
_TRIAL_STEPS = 200

_KINDS: dict[str, type] = {"uniform": Uniform, "ou": OrnsteinUhlenbeck, "constant": Constant, "gait": Gait}

_COVERAGE_BINS = 64


@dataclass(frozen=True)
class Recipe:
    """Everything that the episodes of one environment are a function of, but for the versions of packages.

    Attributes:
        environment: Its name.
        variants: Changes under which further episodes are run.
        behaviour: What acts where no policy does.
        search: Transitions for the search for policies.
        transitions: How many to give in all.
        seed: Another seed, other episodes.
        version: Of the collection itself.
    """

    environment: str
    variants: tuple[str, ...]
    behaviour: str
    search: int
    transitions: int
    seed: int
    version: int = _VERSION

    def as_json(self) -> dict[str, Any]:
        """The recipe as plain JSON values."""
        return {**asdict(self), "variants": list(self.variants)}


@dataclass(frozen=True)
class Gathered:
    """The episodes of a recipe.

    Attributes:
        description: The environment's.
        episodes: In order.
        kinds: The kind of behaviour of each.
        tally: What is in them and what broke.
        behaviours: Transitions by kind of behaviour.
        coverage: See ``coverage``.
    """

    description: Description
    episodes: list[Episode]
    kinds: list[str]
    tally: Tally
    behaviours: dict[str, int]
    coverage: float


def recipe_of(row: Row, transitions: int, seed: int) -> Recipe:
    """The recipe of a table's row where ``transitions`` are asked for of an environment of size 1."""
    amount = max(1, round(transitions * row.size))
    # A small corpus has short searches too.
    search = round(min(row.search * 1000, 3 * amount))
    return Recipe(row.environment, row.variants, row.behaviour, search, amount, seed)


def gather(row: Row, recipe: Recipe) -> Gathered:
    """Search policies, where the recipe says so, and run the episodes.

    Raises:
        UsageError: The environment or a variant is not possible.
        TrajWorldError: It cannot start, or its episodes break from their first step on.
    """
    with contextlib.ExitStack() as stack:
        environments = [open_environment(name) for name in row.environments]
        for environment in environments:
            stack.callback(environment.close)
        description = environments[0].description
        policies = _searched(environments[0], recipe)
        kinds: list[str] = []

        def rollouts() -> Iterator[Rollout]:
            for index in itertools.count():
                _, generator = episode_seeds(recipe.seed, f"{recipe.environment} corpus", index)
                environment = environments[int(generator.integers(len(environments)))]
                limit = round(log_uniform(generator, *_LENGTHS))
                kind, behaviour = _drawn(recipe.behaviour, policies, generator)
                rollout = run_episode(environment, behaviour, recipe.seed, index, limit)
                if rollout.episode is not None:
                    kinds.append(kind)
                yield rollout

        tally = Tally()
        episodes = list(take_episodes(rollouts(), recipe.environment, tally, transitions=recipe.transitions))
    behaviours = {
        kind: sum(len(episode) for episode, other in zip(episodes, kinds, strict=True) if other == kind)
        for kind in sorted(set(kinds))
    }
    even = coverage(np.concatenate([episode.observations for episode in episodes]))
    return Gathered(description, episodes, kinds, tally, behaviours, even)


def coverage(observations: NDArray[np.floating]) -> float:
    """How evenly observations ``[N, observation_size]`` fill their ranges: 1 for uniform, near 0 for a point.

    The mean over variates that vary of ``exp(entropy)`` of a histogram of 64 bins, divided by 64.
    """
    shares = []
    for column in observations.T.astype(np.float64):
        low, high = column.min(), column.max()
        if not high > low:
            continue
        counts = np.histogram(column, _COVERAGE_BINS, (low, high))[0]
        probability = counts[counts > 0] / counts.sum()
        shares.append(math.exp(-float(np.sum(probability * np.log(probability)))) / _COVERAGE_BINS)
    return float(np.mean(shares)) if shares else 0.0


def _searched(environment: Environment, recipe: Recipe) -> list[ClockedPolicy]:
    """The policies of a search of its own seeds: those of the episodes that are kept count from 0 upwards."""
    description = environment.description
    _, generator = episode_seeds(recipe.seed, f"{description.name} search", 0)

    def run(policy: ClockedPolicy, trial: int) -> Episode | None:
        return run_episode(environment, policy, recipe.seed, _FIRST_TRIAL + trial, _TRIAL_STEPS).episode

    sizes = description.observation_size, description.action_size
    return search_policies(run, *sizes, recipe.search, generator)


def _drawn(name: str, policies: list[ClockedPolicy], generator: np.random.Generator) -> tuple[str, Behaviour]:
    """The kind and the behaviour of one episode."""
    if policies and generator.random() < _POLICY_SHARE:
        noise = log_uniform(generator, *_POLICY_NOISE)
        return "policy", replace(policies[int(generator.integers(len(policies)))], noise=noise)
    behaviour = make_behaviour(name)
    drawn = behaviour.draw(generator) if isinstance(behaviour, Drawn) else behaviour
    return next(kind for kind, of in _KINDS.items() if isinstance(drawn, of)), drawn
