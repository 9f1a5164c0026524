"""Minari datasets of collected episodes, each with the recipe that made it."""

import dataclasses
import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from trajworld.collect.collector import Tally, collect
from trajworld.data.episode import Episode
from trajworld.data.minari_datasets import dataset_path, is_dataset_id, write_minari
from trajworld.environments.interface import Description
from trajworld.environments.names import parse_name
from trajworld.environments.open import open_environment
from trajworld.errors import TrajWorldError, UsageError
from trajworld.policies.behaviour import Blind
from trajworld.processes import Progress, started_workers
from trajworld.versions import versions

DEFAULT_ID = "trajworld/{environment}/{behaviour}-v0"

# The packages whose versions decide what a collection produces.
DECIDING = ("trajworld", "python", "numpy", "gymnasium", "mujoco", "dm_control", "minari")


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

    Yields a row of each once it is on disk: ``dataset``, ``environment``, ``path``, those of ``Tally.row``, and
    ``seconds``; a later error leaves the dataset there. ``progress`` is called after each episode; the other arguments
    are those of ``collect``.

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
