"""Collecting datasets: episode i is a function of the seed, the environment and i, in any number of processes."""

import contextlib
import dataclasses
import functools
import hashlib
import itertools
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from trajworld.data.episode import Episode
from trajworld.data.minari_datasets import dataset_path, is_dataset_id, write_minari
from trajworld.environments.interface import Description, Environment, first_line
from trajworld.environments.names import parse_name
from trajworld.environments.open import open_environment
from trajworld.errors import TrajWorldError, UsageError
from trajworld.policies.behaviour import Behaviour, Blind
from trajworld.processes import Workers, available_cores, started_workers, worker_died
from trajworld.versions import versions

DEFAULT_ID = "trajworld/{environment}/{behaviour}-v0"

# The packages whose versions decide what a collection gives.
DECIDING = ("trajworld", "python", "numpy", "gymnasium", "mujoco", "dm_control", "minari")

_T = TypeVar("_T")

# Called with how much is collected (in the unit that was asked for), of how much, and of which environment.
Progress = Callable[[int, int | None, str], None]

# The transitions that a task is worth: enough to hide its overhead, few enough to stop soon.
_TASK_TRANSITIONS = 2000
_MOST_EPISODES = 256

# An environment is given up after this many episodes in a row that broke in their first step.
_HOPELESS = 100

# A process keeps environments open between tasks: some take seconds to start.
_kept = functools.lru_cache(maxsize=8)(open_environment)


@dataclass(frozen=True)
class Rollout:
    """One episode in float32, None if its first transition was bad already, and why it was cut, if it was."""

    episode: Episode | None
    unstable: str = ""


@dataclass
class Tally:
    """What a collection has given so far: episodes, their transitions and rewards, and how many terminated.

    ``unstable`` episodes were cut before a bad step or lost to one, the first of them for a ``reason``; those of them
    that had no good transition were ``dropped``.
    """

    episodes: int = 0
    transitions: int = 0
    total_return: float = 0.0
    terminated: int = 0
    unstable: int = 0
    dropped: int = 0
    reason: str = ""

    def row(self) -> dict[str, Any]:
        """What commands print of it."""
        return {
            "episodes": self.episodes,
            "transitions": self.transitions,
            "mean_length": self.transitions / self.episodes,
            "mean_return": self.total_return / self.episodes,
            "terminated": self.terminated,
            "unstable": self.unstable,
            "dropped": self.dropped,
            "unstable_reason": self.reason,
        }


def dataset_targets(
    environments: Sequence[str], behaviour: str, template: str = DEFAULT_ID
) -> dict[str, Description]:
    """The Minari id that each environment's dataset gets, and the environment's description.

    Each is opened once, so that every mistake shows before the first step is taken. In the template ``{environment}``
    stands for ``gymnasium-hopper-v5``.
    """
    targets: dict[str, Description] = {}
    for text in environments:
        environment = open_environment(text)
        environment.close()
        description = environment.description
        try:
            slug = parse_name(description.name).slug
            dataset_id = template.format(environment=slug, behaviour=behaviour)
        except (LookupError, ValueError, AttributeError) as error:
            raise UsageError(
                f"the id template {template!r} is malformed ({error}): {{environment}} and {{behaviour}} are replaced"
            ) from None
        if not is_dataset_id(dataset_id):
            raise UsageError(
                f"{dataset_id!r} is no Minari id: write (namespace/)name-v0, with letters, digits, - and _"
            )
        if dataset_id in targets:
            raise UsageError(
                f"{targets[dataset_id].name} and {description.name} would both be {dataset_id}: name "
                "each environment once, and put {environment} in the id template"
            )
        targets[dataset_id] = description
    return targets


def collect_datasets(
    targets: Mapping[str, Description],
    *,
    behaviour: Blind,
    transitions: int | None = None,
    episodes: int | None = None,
    seed: int = 0,
    workers: int = 1,
    replace: bool = False,
    progress: Progress = lambda done, total, environment: None,
) -> Iterator[dict[str, Any]]:
    """Collect one dataset after another, each written whole or not at all, from what ``dataset_targets`` gives.

    A row is given of each once it is on disk: ``dataset``, ``environment``, ``path``, what ``Tally.row`` tells, and
    ``seconds``; an error later on leaves the dataset there. ``progress`` is called after each episode; the other
    arguments are those of ``collect``.

    Raises:
        TrajWorldError: As ``collect`` and ``write_minari`` do; an id that is taken is refused before anything
            runs.
    """
    if taken := [one for one in targets if dataset_path(one).exists() and not replace]:
        raise TrajWorldError(
            f"Minari has {', '.join(taken)} already: replace what is there, skip it, or choose another id"
        )
    numbers: dict[str, float] = dataclasses.asdict(behaviour) if dataclasses.is_dataclass(behaviour) else {}
    with started_workers(workers) as pool:
        run = functools.partial(
            collect, behaviour=behaviour, transitions=transitions, episodes=episodes, seed=seed, workers=pool
        )

        def reported(environment: str, tally: Tally) -> Iterator[Episode]:
            for episode in run(environment, tally=tally):
                yield episode
                done = tally.episodes if transitions is None else tally.transitions
                progress(done, transitions or episodes, environment)

        for dataset_id, description in targets.items():
            given = functools.partial(reported, description.name)
            recipe = {"behaviour": {"name": behaviour.name, **numbers}, "seed": seed}
            words = f"{behaviour.name} actions, seed {seed}"
            yield write_collected(dataset_id, description, given, words, recipe, replace)


def write_collected(
    dataset_id: str,
    description: Description,
    episodes: Callable[[Tally], Iterator[Episode]],
    words: str,
    recipe: Mapping[str, Any],
    replace: bool = False,
) -> dict[str, Any]:
    """Write a Minari dataset of ``episodes``, which a tally counts, by a recipe; a row as of ``collect_datasets``."""
    tally, began = Tally(), time.monotonic()
    recorded = {**recipe, "time_limit": description.time_limit, "versions": deciding_versions()}
    path = write_minari(
        dataset_id,
        episodes(tally),
        environment=description.name,
        observation_space=description.observation_space,
        action_space=description.action_space,
        description=f"{description.name}: {words}",
        metadata={"collection": recorded},
        replace=replace,
    )
    named = {"dataset": dataset_id, "environment": description.name, "path": str(path)}
    return {**named, **tally.row(), "seconds": round(time.monotonic() - began, 3)}


def check_recipe(dataset_id: str, found: Mapping[str, Any], recipe: Mapping[str, Any]) -> None:
    """Raise a ``TrajWorldError`` where the recipe that a dataset records is not the one that is asked for."""
    if differing := [
        f"{key} {found.get(key, 'unknown')} instead of {value}"
        for key, value in recipe.items()
        if found.get(key) != value
    ]:
        raise TrajWorldError(
            f"{dataset_id} was made otherwise ({', '.join(differing)}): give another --name, or remove "
            f"{dataset_path(dataset_id)}"
        )


def deciding_versions() -> dict[str, str]:
    """The versions of the packages that decide which episodes a seed gives."""
    return {name: text for name, text in versions().items() if name in DECIDING}


def collect(
    environment: str,
    *,
    behaviour: Behaviour,
    transitions: int | None = None,
    episodes: int | None = None,
    seed: int = 0,
    workers: Workers | None = None,
    tally: Tally | None = None,
) -> Iterator[Episode]:
    """Run an environment (``Pendulum-v1?g=5``) and give its episodes in order, the same for any number of workers.

    Episode i, in float32, depends on the seed, the environment's name and i alone. The last one is cut where the number
    of ``transitions`` is reached. One that breaks (an exception, NaN) ends before its first bad step, and is left out
    if that was its first; ``tally``, brought up to date as episodes are taken, counts both.
    """
    if (transitions is None) == (episodes is None):
        raise UsageError("give either a number of transitions or a number of episodes")
    amount = episodes if transitions is None else transitions
    if not amount or amount < 1 or seed < 0:
        raise UsageError(
            f"{amount} and seed {seed}: at least 1 transition or episode, and a seed of at least 0"
        )
    tally = tally or Tally()
    with contextlib.closing(open_environment(environment)) as opened:
        name = opened.description.name
        if workers is None:
            rollouts = (run_episode(opened, behaviour, seed, index) for index in itertools.count())
        else:
            rollouts = _from_workers(workers, functools.partial(run_episodes, name, behaviour, seed))
        # Closed on the way out, so that its tasks are cancelled even if the consumer stops early.
        with contextlib.closing(rollouts):
            try:
                yield from take_episodes(rollouts, name, tally, transitions, episodes)
            except BrokenProcessPool as error:
                raise worker_died(name) from error


def take_episodes(
    rollouts: Iterable[Rollout],
    where: str,
    tally: Tally,
    transitions: int | None = None,
    episodes: int | None = None,
) -> Iterator[Episode]:
    """The good episodes of ``rollouts`` until there are enough transitions (the last is cut) or episodes.

    A ``TrajWorldError`` that begins with ``where`` is raised when a hundred in a row broke in their first step.
    """
    hopeless = 0
    for rollout in rollouts:
        tally.unstable += bool(rollout.unstable)
        tally.reason = tally.reason or rollout.unstable
        if rollout.episode is None:
            tally.dropped += 1
            hopeless += 1
            if hopeless >= _HOPELESS:
                raise TrajWorldError(
                    f"{where}: {hopeless} episodes in a row broke in their first step ({tally.reason})"
                )
            continue
        hopeless = 0
        episode = rollout.episode
        if transitions is not None:
            episode = cut_episode(episode, transitions - tally.transitions)
        tally.episodes += 1
        tally.transitions += len(episode)
        tally.total_return += float(np.sum(episode.rewards, dtype=np.float64))
        tally.terminated += episode.terminated
        yield episode
        if tally.episodes == episodes or tally.transitions == transitions:
            return


def cut_episode(episode: Episode, length: int) -> Episode:
    """At most the first ``length`` transitions of an episode, as if a time limit had ended it there."""
    if len(episode) <= length:
        return episode
    return Episode(
        episode.observations[: length + 1], episode.actions[:length], episode.rewards[:length], False, True
    )


def _from_workers(workers: Workers, run: Callable[[int, int], list[Rollout]]) -> Generator[Rollout]:
    """Rollouts in order from tasks of consecutive episodes; how they are grouped changes no episode."""
    waiting: deque[Future[list[Rollout]]] = deque()
    # Until an episode has been seen, tasks of one: it may last a step or the whole time limit.
    first, size = 0, 1
    try:
        while True:
            while len(waiting) < 2 * workers.count:
                waiting.append(workers.submit(run, first, size))
                first += size
            rollouts = waiting.popleft().result()
            yield from rollouts
            steps = sum(len(rollout.episode) for rollout in rollouts if rollout.episode is not None)
            size = min(max(_TASK_TRANSITIONS * len(rollouts) // max(steps, 1), 1), _MOST_EPISODES)
    finally:
        for task in waiting:
            task.cancel()


def default_workers(transitions: int) -> int:
    """How many processes a collection of this size should use: one a core, but only one for a few thousand."""
    return max(1, min(len(available_cores()), transitions // 5000))


def run_episodes(
    name: str,
    behaviour: Behaviour,
    seed: int,
    first: int,
    count: int,
    limit: int | None = None,
    starts: NDArray[np.floating] | None = None,
) -> list[Rollout]:
    """Run ``count`` episodes from number ``first``; the process keeps the environment for the next call.

    Where there are ``starts``, episode i begins in the observation ``starts[i % len(starts)]``.
    """
    numbers = range(first, first + count)
    begins = [None if starts is None else starts[number % len(starts)] for number in numbers]
    return [
        run_episode(_kept(name), behaviour, seed, number, limit, start)
        for number, start in zip(numbers, begins, strict=True)
    ]


def episode_seeds(seed: int, environment: str, index: int) -> tuple[int, np.random.Generator]:
    """The environment's seed in [0, 2³²) and the behaviour's generator, of one episode."""
    # Not Python's hash(), which differs from process to process.
    name = int.from_bytes(hashlib.sha256(environment.encode()).digest()[:16], "little")
    sequence = np.random.SeedSequence([seed, name, index])
    return int(sequence.generate_state(1)[0]), np.random.default_rng(sequence.spawn(1)[0])


def run_episode(
    environment: Environment,
    behaviour: Behaviour,
    seed: int,
    index: int,
    limit: int | None = None,
    start: NDArray[np.floating] | None = None,
) -> Rollout:
    """Run episode ``index`` to its end, or to ``limit`` steps; one that breaks ends before its first bad step."""
    description = environment.description
    environment_seed, generator = episode_seeds(seed, description.name, index)
    box = description.action_space
    act = behaviour.controller(box.low, box.high, generator)
    limit = min(limit or description.time_limit, description.time_limit)
    observations = np.empty((limit + 1, description.observation_size), np.float32)
    actions = np.empty((limit, description.action_size), np.float32)
    rewards = np.empty(limit, np.float32)
    terminated, length, reward = False, 0, 0.0
    first, unstable = _attempt(_begin, environment, environment_seed, start)
    if first is None:
        return Rollout(None, unstable)
    observations[0] = first
    if not np.all(np.isfinite(observations[0])):
        return Rollout(None, "the first observation holds NaN or infinite values")
    with np.errstate(over="ignore", invalid="ignore"):
        while length < limit and not terminated:
            actions[length] = action = act(observations[length], reward)
            step, unstable = _attempt(environment.step, action)
            if step is None:
                break
            observations[length + 1], rewards[length] = step.observation, step.reward
            if not (np.isfinite(rewards[length]) and np.all(np.isfinite(observations[length + 1]))):
                unstable = "an observation or reward is NaN or infinite"
                break
            length, reward, terminated = length + 1, step.reward, step.terminated
            if step.truncated:
                break
    if length == 0:
        return Rollout(None, unstable)
    parts = observations[: length + 1].copy(), actions[:length].copy(), rewards[:length].copy()
    return Rollout(Episode(*parts, terminated, not terminated), unstable)


def _begin(environment: Environment, seed: int, start: NDArray[np.floating] | None) -> NDArray[np.floating]:
    first = environment.reset(seed)
    if start is None:
        return first
    environment.place(start)
    return start


def _attempt(simulate: Callable[..., _T], *arguments: Any) -> tuple[_T | None, str]:
    """What a simulator gives, or why it broke: it may raise anything when its state breaks."""
    try:
        return simulate(*arguments), ""
    except TrajWorldError:
        raise
    except Exception as error:
        return None, f"{type(error).__name__}: {first_line(error)}"
