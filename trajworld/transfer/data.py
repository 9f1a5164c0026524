"""The data of a study of transfer: of each environment a pool to train on and a set to test on, collected once.

Both come from one gathering (``corpus_episodes``): behaviours of many kinds, and policies that a search found
before, 40 % of the episodes. Each episode has a seed of its own; the first of them are the pool, the others the test.
"""

import contextlib
import hashlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trajworld.collect.corpus import Job, check_families, gather_jobs
from trajworld.collect.corpus_episodes import Gathered, Recipe
from trajworld.collect.corpus_table import UNSEEN, Row, read_table
from trajworld.collect.datasets import DECIDING
from trajworld.data.dataset import Dataset
from trajworld.data.episode import Episode
from trajworld.data.minari_datasets import dataset_path, write_minari
from trajworld.data.resolve import open_dataset
from trajworld.environments.names import parse_name
from trajworld.errors import TrajWorldError
from trajworld.files import read_json
from trajworld.transfer.plan import TransferPlan
from trajworld.versions import versions

_NAMESPACE = "transfer"
_KEY = "transfer"
_SEED = 0

# A search of a minute or two finds gaits; the corpus's, of a few seconds, finds little more than falling forwards.
_SEARCH = 1_000_000
# A small pool has a short search too.
_SEARCH_PER_TRANSITION = 12.5


@dataclass(frozen=True)
class BehaviourReturns:
    """What the episodes of one kind of behaviour are like.

    Attributes:
        kind: ``policy``, ``uniform``, ``ou``, ``constant`` or ``gait``.
        episodes: Their number.
        transitions: Of all of them.
        mean_length: Transitions of an episode.
        mean_return: The sum of an episode's rewards.
        reward: Per transition.
    """

    kind: str
    episodes: int
    transitions: int
    mean_length: float
    mean_return: float
    reward: float


@dataclass(frozen=True, eq=False)
class EnvironmentData:
    """What a study has of one environment.

    Attributes:
        environment: Canonical name.
        pool: The episodes that training data are drawn from.
        test: Other episodes, of the same behaviours.
        behaviours: What the episodes of the pool are like, by kind.
    """

    environment: str
    pool: Dataset
    test: Dataset
    behaviours: tuple[BehaviourReturns, ...]

    @property
    def digest(self) -> str:
        """Of the contents of both, on which every trial depends."""
        return hashlib.sha256((self.pool.content + self.test.content).encode()).hexdigest()[:16]


def study_data(
    plan: TransferPlan, workers: int, say: Callable[[str], None] = lambda line: None
) -> list[EnvironmentData]:
    """Open what the plan needs, collecting what is not there yet.

    Where only one of the two datasets of an environment is there, both are made again: they are parts of one
    gathering, and an episode that is in both would leak.

    Args:
        plan: Which environments and how much.
        workers: Processes that collect; any number gives the same data.
        say: Told of each environment that was collected.

    Raises:
        UsageError: There is no such environment.
        TrajWorldError: It cannot start, a dataset is there but was made otherwise, the two were made with different
            versions, or the disk is full.
    """
    jobs = [_job(name, plan.pool, plan.test) for name in plan.environments]
    missing = [job for job in jobs if not _is_there(job)]
    check_families(missing)
    with contextlib.closing(gather_jobs(missing, max(1, min(workers, len(missing))))) as stream:
        for job, gathered, seconds in stream:
            _write(job, gathered, plan.pool)
            say(
                f"{job.row.environment}: {gathered.tally.transitions:,} transitions collected in {seconds:.0f} s of "
                "one process"
            )
    return [_open(job) for job in jobs]


def returns_by_behaviour(episodes: Sequence[Episode], kinds: Sequence[str]) -> list[BehaviourReturns]:
    """What the episodes of each kind are like; as many kinds as episodes."""
    found = []
    for kind in sorted(set(kinds)):
        mine = [episode for episode, other in zip(episodes, kinds, strict=True) if other == kind]
        returns = [float(episode.rewards.sum(dtype=np.float64)) for episode in mine]
        transitions = sum(len(episode) for episode in mine)
        found.append(
            BehaviourReturns(
                kind,
                len(mine),
                transitions,
                transitions / len(mine),
                sum(returns) / len(mine),
                sum(returns) / transitions,
            )
        )
    return found


def _job(environment: str, pool: int, test: int) -> Job:
    row = next((row for row in read_table() if row.environment == environment), None)
    # Not of the table: no variants are known of it.
    row = row or Row(environment, "", 0, UNSEEN, 1.0, 1.0, "varied", 0.0)
    search = round(min(_SEARCH, _SEARCH_PER_TRANSITION * pool))
    recipe = Recipe(environment, row.variants, row.behaviour, search, pool + test, _SEED)
    return Job(row, recipe, f"{_NAMESPACE}/{parse_name(environment).slug}/pool-{pool}-v0")


def _test_id(job: Job) -> str:
    return job.dataset_id.replace("/pool-", "/test-")


def _is_there(job: Job) -> bool:
    """Whether both datasets are there, and are of one gathering of this recipe.

    Raises:
        TrajWorldError: One that is there, whatever is with the other, is not of this recipe; or they are of different
            versions of what decides which episodes a recipe gives.
    """
    ids = (_test_id(job), job.dataset_id)
    found = {one: _metadata(one) for one in ids if dataset_path(one).exists()}
    remove = f"remove {' and '.join(str(dataset_path(one)) for one in ids)}"
    for dataset_id, metadata in found.items():
        if metadata.get("recipe") != job.recipe.as_json():
            raise TrajWorldError(f"{dataset_id} was made otherwise: {remove}")
    if len(found) < len(ids):
        return False
    test, pool = (_versions(found[one]) for one in ids)
    if test != pool:
        differing = ", ".join(
            f"{name} {test.get(name, 'none')} and {pool.get(name, 'none')}"
            for name in DECIDING
            if test.get(name) != pool.get(name)
        )
        raise TrajWorldError(
            f"{ids[0]} and {ids[1]} were made with different versions ({differing}), so that an episode may be in "
            f"both: {remove}"
        )
    return True


def _versions(metadata: dict[str, Any]) -> dict[str, Any]:
    found = metadata.get("versions")
    return {name: found[name] for name in DECIDING if name in found} if isinstance(found, dict) else {}


def _metadata(dataset_id: str) -> dict[str, Any]:
    described = read_json(dataset_path(dataset_id) / "data" / "metadata.json")
    found = described.get(_KEY) if isinstance(described, dict) else None
    return found if isinstance(found, dict) else {}


def _write(job: Job, gathered: Gathered, pool: int) -> None:
    lengths = np.cumsum([len(episode) for episode in gathered.episodes])
    first = int(np.searchsorted(lengths, pool, side="right"))
    if not 0 < first < len(lengths):
        raise TrajWorldError(
            f"{job.row.environment}: {len(lengths)} episodes are too few to train and test on: collect more"
        )
    ids = (_test_id(job), job.dataset_id)
    # What is there of an earlier gathering goes first, so that whatever stops this leaves no pair of two gatherings.
    for dataset_id in ids:
        _remove(dataset_path(dataset_id))
    for dataset_id, chosen in zip(ids, (slice(first, None), slice(0, first)), strict=True):
        episodes, kinds = gathered.episodes[chosen], gathered.kinds[chosen]
        write_minari(
            dataset_id,
            episodes,
            environment=gathered.description.name,
            observation_space=gathered.description.observation_space,
            action_space=gathered.description.action_space,
            description=f"{gathered.description.name} of a study of transfer",
            metadata={
                _KEY: {
                    "recipe": job.recipe.as_json(),
                    "behaviours": [asdict(one) for one in returns_by_behaviour(episodes, kinds)],
                    "versions": {name: text for name, text in versions().items() if name in DECIDING},
                }
            },
        )


def _remove(path: Path) -> None:
    try:
        if path.exists():
            shutil.rmtree(path)
    except OSError as error:
        raise TrajWorldError(f"cannot remove {path}: {error.strerror or error}") from None


def _open(job: Job) -> EnvironmentData:
    return EnvironmentData(
        job.row.environment,
        open_dataset(job.dataset_id),
        open_dataset(_test_id(job)),
        tuple(_behaviours(job.dataset_id)),
    )


def _behaviours(dataset_id: str) -> Iterator[BehaviourReturns]:
    try:
        for values in _metadata(dataset_id)["behaviours"]:
            yield BehaviourReturns(**values)
    except (KeyError, TypeError):
        path = dataset_path(dataset_id)
        raise TrajWorldError(
            f"{path}/data/metadata.json does not describe its behaviours: remove {path}"
        ) from None
