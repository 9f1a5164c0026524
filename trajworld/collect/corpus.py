"""Making a corpus: each dataset a function of its recipe, whatever was killed or ran beside it."""

import contextlib
import multiprocessing
import os
import shutil
import time
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

from trajworld.collect.collector import Tally
from trajworld.collect.corpus_episodes import Gathered, Recipe, gather, recipe_of
from trajworld.collect.corpus_manifest import corpus_folder, member_id, write_manifest
from trajworld.collect.corpus_table import Row
from trajworld.collect.datasets import DECIDING
from trajworld.data.minari_datasets import dataset_path, write_minari
from trajworld.environments.names import parse_name
from trajworld.environments.open import open_environment
from trajworld.errors import TrajWorldError, UsageError
from trajworld.files import read_json
from trajworld.processes import start_worker, starting_workers
from trajworld.versions import versions


@dataclass(frozen=True)
class Job:
    """A dataset that is to be made."""

    row: Row
    recipe: Recipe
    dataset_id: str


@dataclass(frozen=True)
class Made:
    """A dataset that was made, and how long its search and its episodes took (seconds of one process)."""

    job: Job
    tally: Tally
    seconds: float


def plan_corpus(name: str, rows: Sequence[Row], transitions: int, seed: int) -> tuple[list[Job], list[Job]]:
    """What is to be made, and what is there already.

    Raises:
        UsageError: A number is out of range.
        TrajWorldError: A dataset of the corpus is there, but of another recipe.
    """
    if transitions < 1 or seed < 0:
        raise UsageError(
            f"{transitions} transitions and seed {seed}: at least 1, and none below 0, can be used"
        )
    new: list[Job] = []
    there: list[Job] = []
    for row in rows:
        job = Job(row, recipe_of(row, transitions, seed), member_id(name, row))
        (there if dataset_path(job.dataset_id).exists() else new).append(job)
    for job in there:
        _check_recipe(name, job)
    return new, there


def check_families(jobs: Sequence[Job]) -> None:
    """Start one environment of each simulator, so that a package that is missing shows before hours of work.

    Raises:
        TrajWorldError: One cannot start.
    """
    for family in dict.fromkeys(parse_name(job.row.environment).family for job in jobs):
        first = next(job.row for job in jobs if parse_name(job.row.environment).family == family)
        open_environment(first.environment).close()


@contextlib.contextmanager
def open_corpus(name: str, rows: Sequence[Row], weights: dict[str, float]) -> Iterator[None]:
    """Hold a corpus for this process alone, with its list of datasets written.

    Half-written datasets of a process that was killed are removed.

    Args:
        name: The corpus's.
        rows: The whole table, of which only a part may be collected now.
        weights: Factors of the table's weights, by source.

    Raises:
        UsageError: The name is malformed, a weight is of no source or not above 0.
        TrajWorldError: Another process holds the corpus, or its folder cannot be written.
    """
    sources = {row.source for row in rows}
    for source, factor in weights.items():
        if source not in sources:
            raise UsageError(f"the table has no source {source!r}: there are {', '.join(sorted(sources))}")
        if not 0 < factor < float("inf"):
            raise UsageError(f"the weight of {source} must be above 0, not {factor:g}")
    folder = corpus_folder(name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TrajWorldError(f"cannot make {folder}: {error.strerror or error}") from None
    with _held(folder, name):
        for left in folder.rglob(".*.tmp*"):
            shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink(missing_ok=True)
        write_manifest(name, rows, weights)
        yield


def make_datasets(jobs: Sequence[Job], workers: int = 1) -> Iterator[Made]:
    """Make the datasets, several at a time, each written whole or not at all; gives each once it is on disk.

    Raises:
        UsageError: An environment or a variant of it is not possible.
        TrajWorldError: One cannot start or breaks at once, a worker died, or the disk is full.
    """
    # Closed at once when a dataset cannot be written: its processes must not go on.
    with contextlib.closing(gather_jobs(jobs, workers)) as stream:
        for job, gathered, seconds in stream:
            yield _write(job, gathered, seconds)


def gather_jobs(jobs: Sequence[Job], workers: int = 1) -> Generator[tuple[Job, Gathered, float], None, None]:
    """The episodes of each job and how long they took (seconds of one process), several jobs at a time.

    Raises:
        UsageError: An environment or a variant of it is not possible.
        TrajWorldError: One cannot start or breaks at once, or a worker died.
    """
    if workers < 1:
        raise UsageError(f"the number of workers must be at least 1, not {workers}")
    if workers == 1 or len(jobs) < 2:
        for job in jobs:
            yield job, *_run(job.row, job.recipe)
        return
    # spawn: a fork would copy the threads of a framework that the caller may have imported.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(workers, len(jobs)), mp_context=context, initializer=start_worker)
    try:
        running: dict[Future[tuple[Gathered, float]], Job] = {}
        left = list(reversed(jobs))
        while left or running:
            # Few at a time, so that finished episodes do not pile up in memory.
            while left and len(running) < workers + 2:
                job = left.pop()
                with starting_workers():
                    running[pool.submit(_run, job.row, job.recipe)] = job
            for done in wait(running, return_when=FIRST_COMPLETED).done:
                yield running.pop(done), *done.result()
    except BrokenProcessPool as error:
        names = ", ".join(job.row.environment for job in running.values())
        raise TrajWorldError(
            f"a worker process died (memory, or a crash) while it ran one of {names}"
        ) from error
    finally:
        # They only compute; what they would still give is not wanted any more, and a search takes long.
        for process in list((pool._processes or {}).values()):
            process.terminate()
        pool.shutdown(wait=True, cancel_futures=True)


def _run(row: Row, recipe: Recipe) -> tuple[Gathered, float]:
    began = time.monotonic()
    return gather(row, recipe), time.monotonic() - began


def _write(job: Job, gathered: Gathered, seconds: float) -> Made:
    row, description = job.row, gathered.description
    lengths = [len(episode) for episode in gathered.episodes]
    size = description.observation_size + 1 + description.action_size
    if size != row.num_variates:
        raise TrajWorldError(f"{row.environment} has {size} variates, but the table says {row.num_variates}")
    # Nothing here may depend on when or where it was made: the same recipe gives the same bytes.
    metadata = {
        "corpus": {
            "source": row.source,
            "role": row.role,
            "recipe": job.recipe.as_json(),
            "num_variates": size,
            "behaviours": gathered.behaviours,
            "mean_length": gathered.tally.transitions / len(lengths),
            "terminated": gathered.tally.terminated,
            "unstable": gathered.tally.unstable,
            "coverage": round(gathered.coverage, 4),
            "versions": {name: text for name, text in versions().items() if name in DECIDING},
        }
    }
    write_minari(
        job.dataset_id,
        gathered.episodes,
        environment=description.name,
        observation_space=description.observation_space,
        action_space=description.action_space,
        description=f"{description.name} of a corpus: {', '.join(gathered.behaviours)}; seed {job.recipe.seed}",
        metadata=metadata,
    )
    return Made(job, gathered.tally, seconds)


def _check_recipe(name: str, job: Job) -> None:
    path = dataset_path(job.dataset_id)
    described = read_json(path / "data" / "metadata.json")
    found = described.get("corpus", {}).get("recipe") if isinstance(described, dict) else None
    wanted = job.recipe.as_json()
    if found == wanted:
        return
    found = found if isinstance(found, dict) else {}
    differing = ", ".join(
        f"{key} {found.get(key, 'unknown')} instead of {value}"
        for key, value in wanted.items()
        if found.get(key) != value
    )
    raise TrajWorldError(
        f"{job.dataset_id} was made otherwise ({differing}): give the corpus another --name, or remove {path}"
    )


@contextlib.contextmanager
def _held(folder: Path, name: str) -> Iterator[None]:
    """A lock on the folder that ends with the process, however that ends; none where the system has none."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise TrajWorldError(
                f"another process is collecting the corpus {name}: wait until it ends"
            ) from None
        yield
    finally:
        os.close(descriptor)
