"""A corpus of Minari datasets: which ones, and how each is made from its recipe alone."""

import contextlib
import itertools
import math
import re
import time
from collections.abc import Generator, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trajworld.collect.collector import Tally, take_episodes
from trajworld.collect.corpus_table import PRETRAIN, Member, Row
from trajworld.collect.datasets import check_recipe, deciding_versions
from trajworld.collect.episodes import Rollout, episode_seeds, run_episode
from trajworld.data.episode import Episode
from trajworld.data.minari_datasets import dataset_metadata, dataset_path, datasets_folder, write_minari
from trajworld.environments.interface import Description, Environment
from trajworld.environments.names import parse_name
from trajworld.environments.open import open_environment
from trajworld.errors import DAMAGE, TrajWorldError, UsageError
from trajworld.files import nested, one_writer, read_json, remove_leftovers, write_json
from trajworld.policies.behaviour import Behaviour, log_uniform, make_behaviour
from trajworld.policies.search import SHORT, STAGED, ClockedPolicy, Search, search_policies
from trajworld.processes import Progress, finished_tasks

PREFIX = "corpus:"
"""Pre-training takes a corpus as ``corpus:NAME``."""

DEFAULT_NAME = "corpus"
_LIST = "corpus.json"
# Minari refuses a namespace of a single letter.
_NAME = re.compile(r"[\w-]{2,}", re.ASCII)

# Incremented whenever a recipe gives other episodes, so that no corpus mixes both.
_VERSION = 1
# Episodes are cut at a length drawn log-uniformly from this range (steps): many starts, and some long runs.
_LENGTHS = (60.0, 500.0)
# If policies were found, the share of the episodes that follow one, with noise of a scale in this range (half boxes).
_POLICY_SHARE, _RUNNING_SHARE = 0.4, 0.75
_POLICY_NOISE = (0.02, 0.6)
# The number of the first episode of a search for policies.
_FIRST_TRIAL = 2**40
# Running is searched for this many gaits, each from clumsy to fast.
_RUNNING = "running"
_GAITS = 2
_COVERAGE_BINS = 64


@dataclass(frozen=True)
class Job:
    """A dataset to make: ``transitions`` of a row's environment, and how many a policy search may use first."""

    dataset_id: str
    row: Row
    search: int
    transitions: int
    seed: int

    @property
    def recipe(self) -> dict[str, Any]:
        """Everything that determines the episodes except the packages' versions, in JSON's types."""
        return {
            "environment": self.row.environment,
            "variants": list(self.row.variants),
            "behaviour": self.row.behaviour,
            "search": self.search,
            "transitions": self.transitions,
            "seed": self.seed,
            "version": _VERSION,
        }


@dataclass(frozen=True)
class Gathered:
    """The episodes of a job, the kind of behaviour of each, their ``coverage``, and how long the search and the
    episodes took (seconds of one process).
    """

    description: Description
    episodes: list[Episode]
    kinds: list[str]
    tally: Tally
    coverage: float
    seconds: float


def corpus_folder(name: str) -> Path:
    """The folder of a corpus among Minari's datasets; a ``UsageError`` if no corpus can have that name."""
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
            f"there is no corpus {name} in {datasets_folder()}: `trajworld data collect-corpus --name {name}` "
            "makes one"
        )
    found = read_json(path)
    try:
        members = [Member(**entry) for entry in found["datasets"]]
        for one in members:
            dataset_path(one.dataset_id)
            if not isinstance(one.environment, str) or not 0 < one.weight < math.inf:
                raise ValueError(one)
        return members
    except (*DAMAGE, UsageError) as error:
        raise TrajWorldError(f"{path} is damaged ({error!r}): collect-corpus writes it anew") from None


def training_members(name: str) -> list[Member]:
    """The datasets of a corpus that pre-training uses; a ``TrajWorldError`` where some are missing."""
    members = [member for member in read_manifest(name) if member.role == PRETRAIN]
    missing = [member for member in members if not dataset_path(member.dataset_id).exists()]
    if missing or not members:
        lack = f"{len(missing)} of its {len(members)} pre-training datasets" if members else "any to train on"
        raise TrajWorldError(
            f"the corpus {name} lacks {lack}: `trajworld data collect-corpus --name {name}`, with the options of its "
            "first run, makes the rest"
        )
    return members


def plan_corpus(name: str, rows: Sequence[Row], transitions: int, seed: int) -> tuple[list[Job], list[Job]]:
    """The datasets to make, with ``transitions`` of an environment of size 1, and those that exist already.

    A ``TrajWorldError`` is raised where one exists with another recipe.
    """
    jobs = []
    for row in rows:
        amount = max(1, round(transitions * row.size))
        # A small corpus has short searches too.
        search = round(min(row.search * 1000, _search_of(row).dearest * amount))
        jobs.append(Job(member_of(name, row).dataset_id, row, search, amount, seed))
    there = [job for job in jobs if dataset_path(job.dataset_id).exists()]
    for job in there:
        found = nested(dataset_metadata(job.dataset_id), "corpus", "recipe")
        check_recipe(job.dataset_id, found, job.recipe)
    return [job for job in jobs if job not in there], there


def check_families(jobs: Sequence[Job]) -> None:
    """Start one environment of each simulator, so that a missing package shows before hours of work."""
    for name in {parse_name(job.row.environment).family: job.row.environment for job in jobs}.values():
        open_environment(name).close()


@contextlib.contextmanager
def open_corpus(
    name: str, rows: Sequence[Row], weights: dict[str, float], chosen: Sequence[Row] | None = None
) -> Iterator[None]:
    """Lock a corpus for this process, and write the list of its datasets.

    Half-written datasets of a killed process are removed. ``rows`` are the whole table; those ``chosen`` (by default
    all) or in earlier runs are listed; ``weights`` are factors of its weights, by source, added to those of earlier
    runs. A ``TrajWorldError`` is raised where another process holds the corpus.
    """
    sources = {row.source for row in rows}
    for source, factor in weights.items():
        if source not in sources:
            raise UsageError(f"the table has no source {source!r}: there are {', '.join(sorted(sources))}")
        if not 0 < factor < math.inf:
            raise UsageError(f"the weight of {source} must be above 0, not {factor:g}")
    folder = corpus_folder(name)
    with one_writer(folder, f"the corpus {name}"):
        for place in folder.glob("*/"):
            remove_leftovers(place)
        before = set[str]()
        with contextlib.suppress(TrajWorldError):  # Missing or damaged: it is written anew.
            before = {member.dataset_id for member in read_manifest(name)}
            old = nested(read_json(folder / _LIST), "weights").items()
            weights = {source: one for source, one in old if isinstance(one, float) and one > 0} | weights
        members = [member_of(name, row, weights.get(row.source, 1.0)) for row in rows]
        listed = [
            asdict(one)
            for one, row in zip(members, rows, strict=True)
            if chosen is None or row in chosen or one.dataset_id in before
        ]
        write_json(folder / _LIST, {"name": name, "weights": weights, "datasets": listed})
        yield


def make_datasets(
    jobs: Sequence[Job], workers: int = 1, progress: Progress = lambda done, total, what: None
) -> Iterator[dict[str, Any]]:
    """Make the datasets, several at a time, each written whole or not at all.

    Yields a row of each once it is on disk: ``dataset``, ``environment``, those of ``Tally.row``, and ``seconds``.
    """
    done, total = 0, sum(job.transitions for job in jobs)
    # Closed at once when a dataset cannot be written: its processes must not continue.
    with contextlib.closing(gather_jobs(jobs, workers)) as stream:
        for job, gathered in stream:
            _write(job, gathered)
            done += gathered.tally.transitions
            progress(done, total, f"{len(jobs)} environments")
            named = {"dataset": job.dataset_id, "environment": job.row.environment}
            yield {**named, **gathered.tally.row(), "seconds": round(gathered.seconds, 3)}


def gather_jobs(jobs: Sequence[Job], workers: int = 1) -> Generator[tuple[Job, Gathered], None, None]:
    """The episodes of each job, several jobs at a time, in the order in which they are finished."""
    workers = min(workers, max(1, len(jobs)))
    return finished_tasks(gather, [(job, (job,)) for job in jobs], workers, lambda job: job.row.environment)


def gather(job: Job) -> Gathered:
    """Search for policies, if the job says so, and run the episodes."""
    began, name, kinds = time.monotonic(), job.row.environment, list[str]()
    with contextlib.ExitStack() as stack:
        environments = [
            stack.enter_context(contextlib.closing(open_environment(one))) for one in job.row.environments
        ]
        policies = _searched(environments[0], job)

        def rollouts() -> Iterator[Rollout]:
            for index in itertools.count():
                _, generator = episode_seeds(job.seed, f"{name} corpus", index)
                environment = environments[int(generator.integers(len(environments)))]
                limit = round(log_uniform(generator, *_LENGTHS))
                kind, behaviour = _drawn(job.row.behaviour, policies, generator)
                rollout = run_episode(environment, behaviour, job.seed, index, limit)
                if rollout.episode is not None:
                    kinds.append(kind)
                yield rollout

        tally = Tally()
        episodes = list(take_episodes(rollouts(), name, tally, job.transitions))
    even = coverage(np.concatenate([episode.observations for episode in episodes]))
    return Gathered(environments[0].description, episodes, kinds, tally, even, time.monotonic() - began)


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


def _search_of(row: Row) -> Search:
    return STAGED if row.behaviour == _RUNNING else SHORT


def _searched(environment: Environment, job: Job) -> list[ClockedPolicy]:
    """The policies of searches, whose seeds are not those of the kept episodes: these count from 0 upwards."""
    description, search = environment.description, _search_of(job.row)
    sizes = description.observation_size, description.action_size
    gaits = _GAITS if search is STAGED else 1
    found: list[ClockedPolicy] = []
    for gait in range(gaits):
        _, generator = episode_seeds(job.seed, f"{description.name} search", gait)

        def run(policy: ClockedPolicy, trial: int, gait: int = gait) -> Episode | None:
            return run_episode(
                environment, policy, job.seed, _FIRST_TRIAL * (gait + 1) + trial, search.trial
            ).episode

        found += search_policies(run, *sizes, job.search // gaits, generator, search)
    return found


def _drawn(name: str, policies: list[ClockedPolicy], generator: np.random.Generator) -> tuple[str, Behaviour]:
    """The kind and the behaviour of one episode."""
    if policies and generator.random() < (_RUNNING_SHARE if name == _RUNNING else _POLICY_SHARE):
        noise = log_uniform(generator, *_POLICY_NOISE)
        return "policy", replace(policies[int(generator.integers(len(policies)))], noise=noise)
    drawn = make_behaviour(name).draw(generator)
    return drawn.name, drawn


def _write(job: Job, gathered: Gathered) -> None:
    row, description, tally = job.row, gathered.description, gathered.tally
    size = description.num_variates
    if size != row.num_variates:
        raise TrajWorldError(f"{row.environment} has {size} variates, but the table says {row.num_variates}")
    behaviours = dict.fromkeys(sorted(gathered.kinds), 0)
    for kind, episode in zip(gathered.kinds, gathered.episodes, strict=True):
        behaviours[kind] += len(episode)
    # Nothing here may depend on when or where it was made: the same recipe gives the same bytes.
    metadata = {
        "source": row.source,
        "role": row.role,
        "recipe": job.recipe,
        "num_variates": size,
        "behaviours": behaviours,
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
        description=f"{description.name} of a corpus: {', '.join(behaviours)}; seed {job.seed}",
        metadata={"corpus": metadata},
    )
