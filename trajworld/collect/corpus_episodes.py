"""What one environment of a corpus gives: episodes of varied behaviours, starts and endings, from a recipe alone."""

import contextlib
import itertools
import math
import time
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

_KINDS: dict[type, str] = {Uniform: "uniform", OrnsteinUhlenbeck: "ou", Constant: "constant", Gait: "gait"}

_COVERAGE_BINS = 64


@dataclass(frozen=True)
class Recipe:
    """Everything that the episodes of one environment are a function of, but for the versions of packages.

    The fields are those of a ``Row``, but ``search`` and ``transitions`` are numbers of transitions.
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
    """The episodes of a recipe, the kind of behaviour of each, the transitions by kind, their ``coverage``, and how
    long the search and the episodes took (seconds of one process).
    """

    description: Description
    episodes: list[Episode]
    kinds: list[str]
    tally: Tally
    behaviours: dict[str, int]
    coverage: float
    seconds: float


def recipe_of(row: Row, transitions: int, seed: int) -> Recipe:
    """The recipe of a table's row where ``transitions`` are asked for of an environment of size 1."""
    amount = max(1, round(transitions * row.size))
    # A small corpus has short searches too.
    search = round(min(row.search * 1000, 3 * amount))
    return Recipe(row.environment, row.variants, row.behaviour, search, amount, seed)


def gather(row: Row, recipe: Recipe) -> Gathered:
    """Search policies, where the recipe says so, and run the episodes; errors are those of ``collect``."""
    began = time.monotonic()
    with contextlib.ExitStack() as stack:
        environments = [
            stack.enter_context(contextlib.closing(open_environment(name))) for name in row.environments
        ]
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
        episodes = list(take_episodes(rollouts(), recipe.environment, tally, recipe.transitions))
    behaviours = dict.fromkeys(sorted(set(kinds)), 0)
    for kind, episode in zip(kinds, episodes, strict=True):
        behaviours[kind] += len(episode)
    even = coverage(np.concatenate([episode.observations for episode in episodes]))
    seconds = time.monotonic() - began
    return Gathered(description, episodes, kinds, tally, behaviours, even, seconds)


def coverage(observations: NDArray[np.floating]) -> float:
    """How evenly observations ``[N, observation_size]`` fill their ranges: 1 for uniform, near 0 for a point.

    The mean over variates that vary of ``exp(entropy)`` of a histogram of 64 bins, divided by 64.
    """
    shares = []
    for column in observations.T.astype(np.float64):
        if column.max() > column.min():
            counts = np.histogram(column, _COVERAGE_BINS)[0]
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
    return _KINDS[type(drawn)], drawn
