"""What training studies start from: a model and datasets, or a pool and a test set of each environment.

Training data are drawn from the pool. Both come from one collection: behaviours of many kinds, and policies that a
search found before, 40 % of the episodes. Each episode has its own seed; the first are the pool, the others the test
set.
"""

import contextlib
import itertools
import re
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from trajworld.collect.corpus import Gathered, Job, check_families, gather_jobs
from trajworld.collect.corpus_table import UNSEEN, Row, read_table
from trajworld.collect.datasets import deciding_versions
from trajworld.collect.suites import LEVELS
from trajworld.data.dataset import Dataset
from trajworld.data.episode import Episode
from trajworld.data.minari_datasets import dataset_path, datasets_folder, metadata_file, write_minari
from trajworld.data.resolve import open_dataset
from trajworld.data.split import limit_transitions
from trajworld.environments.names import parse_name
from trajworld.errors import TrajWorldError, UsageError
from trajworld.evaluation.one_step import varying
from trajworld.files import nested, read_json
from trajworld.models.files import load_model, weights_digest
from trajworld.models.interface import Sizes
from trajworld.models.names import find_model
from trajworld.study.cells import Cell, Task
from trajworld.text import short_name

_KEY = "transfer"
_LEVEL = re.compile(rf"-({'|'.join(sorted(LEVELS, key=len, reverse=True))})-v\d+$")

# A search of a minute or two finds gaits; one of a few seconds finds little more than falling forwards.
_SEARCH = 1_000_000
# A small pool has a short search too.
_SEARCH_PER_TRANSITION = 12.5


class Pretrained(NamedTuple):
    """A model that a study starts from: its file, the digest of its sizes and weights, and its sizes."""

    path: Path
    digest: str
    sizes: Sizes


def open_datasets(specs: Sequence[str], suite: str = "") -> list[Dataset]:
    """Open datasets, or a suite's where none is named, by environment and level; they must differ by their names."""
    found = [open_dataset(spec) for spec in specs or _suite(suite)]
    if len({one.name for one in found}) < len(found):
        raise UsageError("two of the datasets have one name: import one of them under another id")
    order = [
        (one.environment, LEVELS.index(level) if (level := _level(one.name)) in LEVELS else -1)
        for one in found
    ]
    return [found[place] for place in sorted(range(len(found)), key=lambda place: order[place])]


def shown_names(names: Iterable[str]) -> dict[str, str]:
    """What to call datasets of one environment in a chart: their levels where these differ, else their names."""
    names = dict.fromkeys(names)
    levels = {name: _level(name) for name in names}
    return levels if len(set(levels.values())) == len(levels) else {name: name for name in names}


def _suite(name: str) -> list[str]:
    """The ids of a suite's datasets."""
    found = sorted(path.name for path in (datasets_folder() / name).glob("*-v*") if _LEVEL.search(path.name))
    if not found:
        raise UsageError(
            f"no dataset of a suite {name} is here: trajworld data collect-suite makes one; or --datasets"
        )
    return [f"{name}/{one}" for one in found]


def _level(name: str) -> str:
    """The level that a dataset's name ends with, or its short name."""
    found = _LEVEL.search(name)
    return found[1] if found else short_name(name)


def pretrained(name: str) -> Pretrained:
    """Read a model by its name; see :func:`trajworld.models.names.find_model`."""
    path = find_model(name)
    model = load_model(path)
    return Pretrained(path, weights_digest(model), model.sizes)


@dataclass(frozen=True, eq=False)
class StudyData:
    """What a study has of one environment: episodes to draw training data from, and others to test on.

    Of the latter at most ``windows`` are predicted, drawn by ``windows_seed``.
    """

    environment: str
    pool: Dataset
    test: Dataset
    windows: int = 1024
    windows_seed: int = 0

    @property
    def digests(self) -> dict[str, str]:
        """Of the contents of both."""
        return {"pool": self.pool.content[:16], "test": self.test.content[:16]}

    def cell(self, task: Task, side: str, start: Pretrained | None = None, /, **settings: Any) -> Cell:
        """A cell of a task that is given these data, and a model to start from, if any."""
        about = {"environment": self.environment, "side": side, **settings, "data": self.digests}
        about["test"] = {"windows": self.windows, "seed": self.windows_seed}
        places = {"pool": str(self.pool.path), "test": str(self.test.path)}
        if start is not None:
            about["init"], places["init"] = {"digest": start.digest}, str(start.path)
        return Cell(task, about, places)

    def behaviours(self, pool: int) -> Cell:
        """A cell of :func:`describe_behaviours`, of a pool of ``pool`` transitions."""
        metadata = metadata_file(dataset_path(_pool_id(self.environment, pool)))
        about = {"environment": self.environment, "data": self.digests}
        return Cell(describe_behaviours, about, {"metadata": str(metadata)})


def open_data(environment: str, pool: int, windows: int = 1024) -> StudyData:
    """Open the pool of ``pool`` transitions and the test set of an environment, which :func:`collect_data` made."""
    found = _pool_id(environment, pool)
    return StudyData(environment, open_dataset(found), open_dataset(_test_id(found)), windows)


def collect_data(
    environments: Sequence[str], pool: int, workers: int, say: Callable[[str], None] = lambda line: None
) -> None:
    """Collect the missing pools and test sets; any number of workers gives the same data.

    If only one of the two exists, both are made again: an episode that is in both would leak.
    """
    missing = [job for job in (_job(name, pool) for name in environments) if not _is_there(job)]
    check_families(missing)
    with contextlib.closing(gather_jobs(missing, max(1, min(workers, len(missing))))) as stream:
        for job, gathered in stream:
            _write(job, gathered, pool)
            count, seconds = gathered.tally.transitions, gathered.seconds
            say(f"{job.row.environment}: {count:,} transitions collected in {seconds:.0f} s of one process")


def check_draws(data: StudyData, sizes: Sequence[int], seeds: int) -> None:
    """Refuse at once what would fail hours later: draws that cannot be split, a test set in which nothing varies."""
    if not varying(data.test)[1].any():
        raise TrajWorldError(
            f"{data.environment}: nothing varies in the test set, so that there is no error in standard deviations: "
            "leave it out"
        )
    pool, every = data.pool, np.arange(data.pool.num_episodes)
    for size, seed in itertools.product(sizes, range(seeds)):
        if len(limit_transitions(pool, every, size, seed)) > 1:
            continue
        raise UsageError(
            f"{data.environment}: {size:,} transitions with seed {seed} are one episode, which cannot be split into "
            "training and holdout: collect more with --pool, or begin --sizes with more"
        )


def describe_behaviours(settings: Mapping[str, Any], places: Mapping[str, str]) -> list[dict[str, Any]]:
    """Statistics of a pool's episodes: the rows of :func:`returns_by_behaviour`."""
    return list(read_json(Path(places["metadata"]))[_KEY]["behaviours"])


def returns_by_behaviour(episodes: Sequence[Episode], kinds: Sequence[str]) -> list[dict[str, Any]]:
    """A row for each kind of behaviour: ``kind``, ``episodes``, ``transitions``, ``mean_length``, ``mean_return``,
    and ``reward``, the mean of one transition.
    """
    returns = [float(episode.rewards.sum(dtype=np.float64)) for episode in episodes]
    each = pd.DataFrame({"kind": kinds, "transitions": map(len, episodes), "mean_return": returns})
    groups = each.groupby("kind")
    rows = groups["transitions"].agg(episodes="size", transitions="sum", mean_length="mean")
    rows["mean_return"] = groups["mean_return"].mean()
    rows["reward"] = groups["mean_return"].sum() / rows["transitions"]
    return rows.reset_index().to_dict("records")


def _job(environment: str, pool: int) -> Job:
    row = next((row for row in read_table() if row.environment == environment), None)
    # Not of the table: no variants are known of it.
    row = row or Row(environment, "", 0, UNSEEN, 1.0, 1.0, "varied", 0.0)
    search, total = round(min(_SEARCH, _SEARCH_PER_TRANSITION * pool)), pool + max(1, pool // 10)
    return Job(_pool_id(environment, pool), row, search, total, 0)


def _pool_id(environment: str, transitions: int) -> str:
    return f"{_KEY}/{parse_name(environment).slug}/pool-{transitions}-v0"


def _test_id(pool: str) -> str:
    return pool.replace("/pool-", "/test-")


def _is_there(job: Job) -> bool:
    """Whether both datasets exist; existing ones must be of one collection of this recipe."""
    paths = [dataset_path(one) for one in (_test_id(job.dataset_id), job.dataset_id)]
    found = [nested(read_json(metadata_file(path)), _KEY) for path in paths if path.exists()]
    recipes, versions = ([one.get(name) for one in found] for name in ("recipe", "versions"))
    if any(one != job.recipe for one in recipes) or versions[:1] != versions[-1:]:
        raise TrajWorldError(
            f"the pool and test set of {job.row.environment} were collected with other settings, or other versions of "
            f"packages, so that an episode may be in both: remove {' and '.join(map(str, paths))}"
        )
    return len(found) == len(paths)


def _write(job: Job, gathered: Gathered, pool: int) -> None:
    lengths = np.cumsum([len(episode) for episode in gathered.episodes])
    first, about = int(np.searchsorted(lengths, pool, side="right")), gathered.description
    if not 0 < first < len(lengths):
        raise TrajWorldError(
            f"{about.name}: {len(lengths)} episodes are too few to train and test on: collect more"
        )
    parts = {_test_id(job.dataset_id): slice(first, None), job.dataset_id: slice(0, first)}
    # Datasets of an earlier collection are removed first: an interrupted run never mixes datasets of two collections.
    for path in filter(Path.exists, map(dataset_path, parts)):
        shutil.rmtree(path)
    for dataset_id, chosen in parts.items():
        episodes = gathered.episodes[chosen]
        recorded = {
            "recipe": job.recipe,
            "behaviours": returns_by_behaviour(episodes, gathered.kinds[chosen]),
            "versions": deciding_versions(),
        }
        write_minari(
            dataset_id,
            episodes,
            environment=about.name,
            observation_space=about.observation_space,
            action_space=about.action_space,
            description=f"{about.name} of a study of transfer",
            metadata={_KEY: recorded},
        )
