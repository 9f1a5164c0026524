"""A corpus among Minari's datasets: which they are, and how they are made, each a function of its recipe alone."""

import contextlib
import itertools
import math
import re
import shutil
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from pathlib import Path

from trajworld.collect.corpus_episodes import Gathered, Recipe, gather, recipe_of
from trajworld.collect.corpus_table import PRETRAIN, Member, Row
from trajworld.collect.datasets import Progress, deciding_versions
from trajworld.data.minari_datasets import dataset_path, datasets_folder, write_minari
from trajworld.environments.names import parse_name
from trajworld.environments.open import open_environment
from trajworld.errors import TrajWorldError, UsageError
from trajworld.files import nested, one_writer, read_json, write_json
from trajworld.processes import started_workers, worker_died

PREFIX = "corpus:"
"""Pre-training takes a corpus as ``corpus:NAME``."""

DEFAULT_NAME = "corpus"
_LIST = "corpus.json"
# Minari refuses a namespace of a single letter.
_NAME = re.compile(r"[\w-]{2,}", re.ASCII)


@dataclass(frozen=True)
class Job:
    """A dataset that is to be made."""

    row: Row
    recipe: Recipe
    dataset_id: str


def corpus_folder(name: str) -> Path:
    """The folder of a corpus among Minari's datasets; a ``UsageError`` where no corpus can have that name."""
    if not _NAME.fullmatch(name):
        raise UsageError(f"a corpus's name is two or more letters, digits, - and _, not {name!r}")
    return datasets_folder() / name


def member_of(name: str, row: Row, factor: float = 1.0) -> Member:
    """A row's dataset, ``NAME/pre-train/robot-legged-17-v0``, of its weight times a factor."""
    dataset_id = f"{name}/{row.role}/{row.slug}-v0"
    return Member(dataset_id, row.environment, row.source, row.role, row.weight * factor)


def read_manifest(name: str) -> list[Member]:
    """The datasets of a corpus; a ``TrajWorldError`` where there is none, or its list is damaged."""
    path = corpus_folder(name) / _LIST
    if not path.is_file():
        raise TrajWorldError(
            f"there is no corpus {name} in {datasets_folder()}: `trajworld data collect-corpus` makes one"
        )
    found = read_json(path)
    try:
        members = [Member(**entry) for entry in found["datasets"]]
        for one in members:
            dataset_path(one.dataset_id)
            if not isinstance(one.environment, str) or not 0 < one.weight < math.inf:
                raise ValueError(one)
        return members
    except (KeyError, TypeError, ValueError, UsageError) as error:
        raise TrajWorldError(f"{path} is damaged ({error!r}): collect-corpus writes it anew") from None


def training_members(name: str) -> list[Member]:
    """The datasets of a corpus that pre-training uses; a ``TrajWorldError`` where some are still to be made."""
    members = [member for member in read_manifest(name) if member.role == PRETRAIN]
    missing = [member for member in members if not dataset_path(member.dataset_id).exists()]
    if missing or not members:
        lack = f"{len(missing)} of its {len(members)} pre-training datasets" if members else "any to train on"
        raise TrajWorldError(
            f"the corpus {name} lacks {lack}: `trajworld data collect-corpus` makes the rest"
        )
    return members


def plan_corpus(name: str, rows: Sequence[Row], transitions: int, seed: int) -> tuple[list[Job], list[Job]]:
    """What is to be made, and what is there already; a ``TrajWorldError`` where that is of another recipe."""
    jobs = [Job(row, recipe_of(row, transitions, seed), member_of(name, row).dataset_id) for row in rows]
    there = [job for job in jobs if dataset_path(job.dataset_id).exists()]
    for job in there:
        _check_recipe(job)
    return [job for job in jobs if job not in there], there


def check_families(jobs: Sequence[Job]) -> None:
    """Start one environment of each simulator, so that a package that is missing shows before hours of work."""
    for name in {parse_name(job.row.environment).family: job.row.environment for job in jobs}.values():
        open_environment(name).close()


@contextlib.contextmanager
def open_corpus(name: str, rows: Sequence[Row], weights: dict[str, float]) -> Iterator[None]:
    """Hold a corpus for this process alone, and write the list of its datasets.

    Half-written datasets of a process that was killed are removed. ``rows`` are the whole table, of which only a part
    may be collected now; ``weights`` are factors of its weights, by source. A ``TrajWorldError`` is raised where
    another process holds the corpus.
    """
    sources = {row.source for row in rows}
    for source, factor in weights.items():
        if source not in sources:
            raise UsageError(f"the table has no source {source!r}: there are {', '.join(sorted(sources))}")
        if not 0 < factor < float("inf"):
            raise UsageError(f"the weight of {source} must be above 0, not {factor:g}")
    members = [member_of(name, row, weights.get(row.source, 1.0)) for row in rows]
    folder = corpus_folder(name)
    with one_writer(folder, f"the corpus {name}"):
        for left in folder.rglob(".*.tmp*"):
            shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink(missing_ok=True)
        write_json(folder / _LIST, {"name": name, "datasets": [asdict(member) for member in members]})
        yield


def make_datasets(
    jobs: Sequence[Job], workers: int = 1, progress: Progress = lambda done, total, what: None
) -> Iterator[tuple[Job, Gathered]]:
    """Make the datasets, several at a time, each written whole or not at all; gives each once it is on disk.

    Errors are those of ``gather_jobs`` and ``write_minari``.
    """
    done, total = 0, sum(job.recipe.transitions for job in jobs)
    # Closed at once when a dataset cannot be written: its processes must not go on.
    with contextlib.closing(gather_jobs(jobs, workers)) as stream:
        for job, gathered in stream:
            _write(job, gathered)
            done += gathered.tally.transitions
            progress(done, total, f"{len(jobs)} environments")
            yield job, gathered


def gather_jobs(jobs: Sequence[Job], workers: int = 1) -> Generator[tuple[Job, Gathered], None, None]:
    """The episodes of each job, several jobs at a time, in the order in which they are finished.

    Raises:
        UsageError: An environment or a variant of it is not possible.
        TrajWorldError: One cannot start or breaks at once, or a worker died.
    """
    with started_workers(min(workers, max(1, len(jobs)))) as pool:
        if pool is None:
            for job in jobs:
                yield job, gather(job.row, job.recipe)
            return
        left, running = iter(jobs), dict[Future[Gathered], Job]()
        try:
            while True:
                # Few at a time, so that finished episodes do not pile up in memory.
                for job in itertools.islice(left, workers + 2 - len(running)):
                    running[pool.submit(gather, job.row, job.recipe)] = job
                if not running:
                    return
                for done in wait(running, return_when=FIRST_COMPLETED).done:
                    gathered = done.result()
                    yield running.pop(done), gathered
        except BrokenProcessPool as error:
            names = ", ".join(job.row.environment for job in running.values())
            raise worker_died(f"one of {names}") from error


def _write(job: Job, gathered: Gathered) -> None:
    row, description, tally = job.row, gathered.description, gathered.tally
    size = description.num_variates
    if size != row.num_variates:
        raise TrajWorldError(f"{row.environment} has {size} variates, but the table says {row.num_variates}")
    # Nothing here may depend on when or where it was made: the same recipe gives the same bytes.
    metadata = {
        "source": row.source,
        "role": row.role,
        "recipe": job.recipe.as_json(),
        "num_variates": size,
        "behaviours": gathered.behaviours,
        "mean_length": tally.transitions / tally.episodes,
        "terminated": tally.terminated,
        "unstable": tally.unstable,
        "coverage": round(gathered.coverage, 4),
        "versions": deciding_versions(),
    }
    write_minari(
        job.dataset_id,
        gathered.episodes,
        environment=description.name,
        observation_space=description.observation_space,
        action_space=description.action_space,
        description=f"{description.name} of a corpus: {', '.join(gathered.behaviours)}; seed {job.recipe.seed}",
        metadata={"corpus": metadata},
    )


def _check_recipe(job: Job) -> None:
    path = dataset_path(job.dataset_id)
    found = nested(read_json(path / "data" / "metadata.json"), "corpus", "recipe")
    differing = [
        f"{key} {found.get(key, 'unknown')} instead of {value}"
        for key, value in job.recipe.as_json().items()
        if found.get(key) != value
    ]
    if differing:
        raise TrajWorldError(
            f"{job.dataset_id} was made otherwise ({', '.join(differing)}): give the corpus another --name, or "
            f"remove {path}"
        )
