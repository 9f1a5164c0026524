"""Collecting several environments into one Minari dataset each."""

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trajworld.collect.collector import Tally, collect
from trajworld.data.episode import Episode
from trajworld.data.minari_datasets import dataset_path, is_dataset_id, write_minari
from trajworld.environments.interface import Description
from trajworld.environments.names import parse_name
from trajworld.environments.open import open_environment
from trajworld.errors import TrajWorldError, UsageError
from trajworld.policies.behaviour import Behaviour
from trajworld.processes import started_workers
from trajworld.versions import versions

DEFAULT_ID = "trajworld/{environment}/{behaviour}-v0"

# The packages whose versions decide what a collection gives.
DECIDING = ("trajworld", "python", "numpy", "gymnasium", "mujoco", "dm_control", "minari")

# Called with how much is collected (in the unit that was asked for), of how much, and of which environment.
Progress = Callable[[int, int | None, str], None]


@dataclass(frozen=True)
class Target:
    """A dataset that is to be collected: the description of its environment, and the Minari id it gets."""

    description: Description
    dataset_id: str

    @property
    def exists(self) -> bool:
        """Whether Minari's folder has a dataset of that id."""
        return dataset_path(self.dataset_id).exists()


@dataclass(frozen=True)
class Collected:
    """A dataset that was collected: its Minari id and folder, what is in it, and how long it took."""

    environment: str
    dataset_id: str
    path: Path
    tally: Tally
    seconds: float


def dataset_targets(
    environments: Sequence[str], behaviour_name: str, template: str = DEFAULT_ID
) -> list[Target]:
    """Open each environment once, so that every mistake shows before the first step is taken.

    Args:
        environments: Names.
        behaviour_name: What ``{behaviour}`` stands for in the template.
        template: A Minari id in which ``{environment}`` stands for the environment (``gymnasium-hopper-v5``).

    Raises:
        UsageError: A name or the template is wrong, or two environments get the same id.
        TrajWorldError: An environment cannot start.
    """
    targets: dict[str, Target] = {}
    for text in environments:
        environment = open_environment(text)
        environment.close()
        description = environment.description
        names = {"environment": parse_name(description.name).slug, "behaviour": behaviour_name}
        try:
            dataset_id = template.format(**names)
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
                f"{targets[dataset_id].description.name} and {description.name} would both be {dataset_id}: name "
                "each environment once, and put {environment} in the id template"
            )
        targets[dataset_id] = Target(description, dataset_id)
    return list(targets.values())


def collect_datasets(
    targets: Sequence[Target],
    *,
    behaviour_name: str,
    behaviour: Behaviour,
    transitions: int | None = None,
    episodes: int | None = None,
    seed: int = 0,
    workers: int = 1,
    replace: bool = False,
    progress: Progress | None = None,
) -> Iterator[Collected]:
    """Collect one dataset after another, each written whole or not at all.

    Args:
        targets: What to collect, from ``dataset_targets``.
        behaviour_name: The behaviour's name, recorded with its numbers.
        behaviour: What draws the actions.
        transitions: How many transitions each dataset gets; or
        episodes: how many episodes.
        seed: What every episode is a function of, with the environment's name and its number.
        workers: How many processes to use.
        replace: Whether datasets of the same id give way.
        progress: Called after each episode.

    Yields:
        Each dataset once it is on disk; an error later on leaves it there.

    Raises:
        TrajWorldError: As ``collect`` and ``write_minari`` do; an id that is taken is refused before anything
            runs.
    """
    if taken := [target.dataset_id for target in targets if target.exists and not replace]:
        raise TrajWorldError(
            f"Minari has {', '.join(taken)} already: replace what is there, skip it, or choose another id"
        )
    with started_workers(workers) as pool:
        for target in targets:
            description, tally, began = target.description, Tally(), time.monotonic()
            stream = collect(
                description.name,
                behaviour=behaviour,
                transitions=transitions,
                episodes=episodes,
                seed=seed,
                workers=pool or 1,
                tally=tally,
            )
            if progress is not None:
                stream = _reported(stream, description.name, transitions, episodes, tally, progress)
            recorded = {
                "behaviour": {"name": behaviour_name, **_numbers(behaviour)},
                "seed": seed,
                "time_limit": description.time_limit,
                "versions": deciding_versions(),
            }
            path = write_minari(
                target.dataset_id,
                stream,
                environment=description.name,
                observation_space=description.observation_space,
                action_space=description.action_space,
                description=f"{description.name}: {behaviour_name} actions, seed {seed}",
                metadata={"collection": recorded},
                replace=replace,
            )
            yield Collected(description.name, target.dataset_id, path, tally, time.monotonic() - began)


def deciding_versions() -> dict[str, str]:
    """The versions of the packages that decide which episodes a seed gives."""
    return {name: text for name, text in versions().items() if name in DECIDING}


def _reported(
    stream: Iterator[Episode],
    environment: str,
    transitions: int | None,
    episodes: int | None,
    tally: Tally,
    progress: Progress,
) -> Iterator[Episode]:
    for episode in stream:
        yield episode
        done = tally.episodes if transitions is None else tally.transitions
        progress(done, transitions or episodes, environment)


def _numbers(behaviour: Behaviour) -> dict[str, Any]:
    return dataclasses.asdict(behaviour) if dataclasses.is_dataclass(behaviour) else {}
