"""Suites of behaviour datasets after D4RL's recipe: five levels of skill in each environment, from policies at hand."""

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trajworld.collect.collector import Tally, collect, take_episodes
from trajworld.collect.datasets import check_recipe, write_collected
from trajworld.collect.episodes import Rollout
from trajworld.collect.returns import policy_returns
from trajworld.data.episode import Episode
from trajworld.data.minari_datasets import dataset_metadata, dataset_path
from trajworld.environments.names import parse_name
from trajworld.environments.open import open_environment
from trajworld.errors import UsageError
from trajworld.files import nested
from trajworld.policies.behaviour import Behaviour, Controller, Uniform, in_box, in_unit
from trajworld.policies.policy import Policy
from trajworld.policies.train import find_training, stream_episodes
from trajworld.processes import Progress, started_workers

LEVELS = ("random", "medium", "medium-replay", "medium-expert", "expert")
NOISES = (0.0, 0.2, 0.5)
"""Action noise of medium-replay: a third of the episodes each."""

_RANKING_EPISODES = 10


@dataclass(frozen=True)
class Noisy:
    """A behaviour with Gaussian noise on its actions, in half boxes; each episode draws its scale."""

    behaviour: Behaviour
    scales: tuple[float, ...] = NOISES

    def controller(
        self, low: NDArray[np.float32], high: NDArray[np.float32], generator: np.random.Generator
    ) -> Controller:
        """Of one episode; see ``Behaviour``."""
        scale = self.scales[generator.integers(len(self.scales))]
        act = self.behaviour.controller(low, high, generator)

        def noisy(observation: NDArray[np.float32], reward: float) -> NDArray[np.float32]:
            unit = in_unit(act(observation, reward), low, high) + scale * generator.standard_normal(len(low))
            return in_box(unit, low, high)

        return noisy


@dataclass(frozen=True)
class Stream:
    """A training's transitions up to a policy: the folder, and how many segments of it."""

    folder: Path
    segments: int

    def episodes(self, transitions: int, seed: int) -> list[Episode]:
        """All its episodes in order; if there are more than enough, a random choice of them."""
        episodes = list(stream_episodes(self.folder, 0, self.segments))
        order = np.random.default_rng(seed).permutation(len(episodes))
        lengths = np.array([len(episode) for episode in episodes])[order]
        enough = 1 + int(np.searchsorted(lengths.cumsum(), transitions))
        return [episodes[number] for number in sorted(order[:enough])]


@dataclass(frozen=True)
class SuiteDataset:
    """One dataset of a suite: its Minari id, environment and level, and what acts in which share of it."""

    dataset: str
    environment: str
    level: str
    parts: tuple[tuple[str, Behaviour | Stream], ...]

    def recipe(self, transitions: int, seed: int) -> dict[str, Any]:
        """What determines its episodes, in JSON's types."""
        parts = [f"{name} {_digest(behaviour)}".rstrip() for name, behaviour in self.parts]
        return {"behaviour": {"name": self.level, "parts": parts}, "transitions": transitions, "seed": seed}

    @property
    def acting(self) -> str:
        """What acts, in words."""
        noises = ", ".join(f"{scale:g}" for scale in NOISES)
        noisy = any(isinstance(behaviour, Noisy) for _, behaviour in self.parts)
        names = ", ".join(name for name, _ in self.parts)
        return names + (f"; a third of the episodes each with action noise of {noises}" if noisy else "")


def _digest(behaviour: Behaviour | Stream) -> str:
    """A policy's own; empty for what has no weights."""
    inner = behaviour.behaviour if isinstance(behaviour, Noisy) else behaviour
    return inner.digest if isinstance(inner, Policy) else ""


def plan_suite(
    name: str,
    policies: Mapping[str, Policy],
    *,
    streams: Path | None = None,
    seed: int = 0,
    workers: int = 1,
    progress: Progress,
) -> list[SuiteDataset]:
    """The datasets of a suite: five for each environment that the policies were made for.

    Expert samples the policy of the greatest mean return over ten episodes, medium the one nearest a third of it;
    medium-expert is half of each, random is uniform actions. Medium-replay is equal parts of all policies up to medium
    and of uniform actions, a third of the episodes with noise of each of :data:`NOISES`; or, with ``streams``, a folder
    of the training runs that made the policies, all transitions of the one up to medium.
    """
    by_environment: dict[str, dict[str, Policy]] = {}
    for policy_name, policy in policies.items():
        if not policy.environment:
            raise UsageError(
                f"{policy_name} does not say its environment: `trajworld policy import --environment` writes it"
            )
        by_environment.setdefault(str(parse_name(policy.environment)), {})[policy_name] = policy
    planned: list[SuiteDataset] = []
    for own in by_environment.values():
        found = policy_returns(
            own, episodes=_RANKING_EPISODES, seed=seed, workers=workers, progress=progress, gamma=1.0
        )
        returns = {one["policy"]: one["return"] for one in found}
        ranked = sorted(own, key=lambda one: returns[one])
        expert = ranked[-1]
        if len(ranked) < 2:
            raise UsageError(
                f"{expert} is the only policy of its environment: at least 2 are needed, of different skill"
            )
        best, worst = returns[expert], returns[ranked[0]]
        # A third of a negative return would be more than the return.
        third = best / 3 if best > 0 else worst + (best - worst) / 3
        medium = min(ranked[:-1], key=lambda one: abs(returns[one] - third))
        weaker = ranked[: ranked.index(medium) + 1]
        uniform: tuple[str, Behaviour] = ("uniform", Uniform())
        replay: list[tuple[str, Behaviour | Stream]] = [
            (one, Noisy(behaviour)) for one, behaviour in [uniform, *((w, own[w]) for w in weaker)]
        ]
        if streams is not None:
            if (training := find_training(own[medium], streams)) is None:
                raise UsageError(f"{streams} holds no training run that made {medium}, the medium policy")
            replay = [(f"the training of {medium} ({own[medium].source})", Stream(*training))]
        of: dict[str, list[tuple[str, Behaviour | Stream]]] = {
            "random": [uniform],
            "medium": [(medium, own[medium])],
            "medium-replay": replay,
            "medium-expert": [(medium, own[medium]), (expert, own[expert])],
            "expert": [(expert, own[expert])],
        }
        place = parse_name(found[0]["environment"])
        short = place.slug.removeprefix("gymnasium-")
        planned += [
            SuiteDataset(f"{name}/{short}-{level}-v0", str(place), level, tuple(of[level]))
            for level in LEVELS
        ]
    return planned


def suite_there(planned: Sequence[SuiteDataset], transitions: int, seed: int) -> list[str]:
    """The ids of a suite's datasets that exist already.

    Raises:
        TrajWorldError: One has another seed, other policies or another number of transitions.
    """
    there = [one for one in planned if dataset_path(one.dataset).exists()]
    for one in there:
        found = nested(dataset_metadata(one.dataset), "collection")
        check_recipe(one.dataset, {"transitions": transitions, **found}, one.recipe(transitions, seed))
    return [one.dataset for one in there]


def collect_suite(
    planned: list[SuiteDataset], *, transitions: int, seed: int, workers: int, progress: Progress
) -> Iterator[dict[str, Any]]:
    """Collect what is missing of a suite, each dataset whole or not at all, and yield a row of each once it is on disk.

    A dataset depends only on its parts, its size and the seed. A shorter training gives all that it has.
    """
    there = suite_there(planned, transitions, seed)
    with started_workers(workers) as pool:
        for one in planned:
            if one.dataset in there:
                continue
            sizes = np.diff(np.linspace(0, transitions, len(one.parts) + 1).astype(int)).tolist()
            if min(sizes) < 1:
                raise UsageError(
                    f"{one.dataset} has {len(sizes)} parts: more than {transitions} transitions are needed"
                )
            opened = open_environment(one.environment)
            opened.close()
            episodes = functools.partial(_episodes, one, sizes, seed, pool, progress)
            words, recipe = f"{one.level}: {one.acting}; seed {seed}", one.recipe(transitions, seed)
            row = write_collected(one.dataset, opened.description, episodes, words, recipe)
            yield {**row, "level": one.level, "parts": one.acting}


def _episodes(
    one: SuiteDataset, sizes: list[int], seed: int, pool: Any, progress: Progress, tally: Tally
) -> Iterator[Episode]:
    """The episodes of a dataset, ``sizes`` transitions of its parts; the tally counts them."""
    for number, ((_, behaviour), size) in enumerate(zip(one.parts, sizes, strict=True)):
        # Other episodes in each part of each level.
        words = [seed, LEVELS.index(one.level), number]
        own = int(np.random.SeedSequence(words).generate_state(1)[0])
        goal = tally.transitions + size
        if isinstance(behaviour, Stream):
            rollouts = map(Rollout, behaviour.episodes(size, own))
            found = take_episodes(rollouts, one.environment, tally, goal)
        else:
            given: dict[str, Any] = {"transitions": goal, "seed": own, "workers": pool, "tally": tally}
            found = collect(one.environment, behaviour=behaviour, **given)
        for episode in found:
            yield episode
            progress(tally.transitions, sum(sizes), one.dataset)
