"""From a name (an id, a file, a folder) to a dataset that training can read."""

import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from trajworld.data.account import Account
from trajworld.data.d4rl import read_d4rl
from trajworld.data.dataset import Dataset
from trajworld.data.episode import Episode
from trajworld.data.home import stores_folder
from trajworld.data.lerobot import is_lerobot, read_lerobot
from trajworld.data.minari_datasets import (
    dataset_path,
    datasets_folder,
    is_dataset_id,
    metadata_file,
    read_minari,
    write_minari,
)
from trajworld.data.robomimic import is_robomimic, read_robomimic
from trajworld.data.source import Source
from trajworld.data.store import VERSION, is_store, open_store, store_description, write_store
from trajworld.data.table_columns import columns_path
from trajworld.data.tables import SUFFIXES, read_table
from trajworld.data.tdmpc2 import read_tdmpc2
from trajworld.data.unitraj import (
    UniTrajEnvironment,
    is_unitraj_root,
    read_unitraj,
    unitraj_datasets,
    unitraj_environment,
)
from trajworld.environments.names import parse_name
from trajworld.errors import TrajWorldError, UsageError
from trajworld.files import kind_of_file, user_path
from trajworld.processes import Progress


@dataclass(frozen=True)
class Imported:
    """A Minari dataset of a source; ``account`` is None if it existed already."""

    path: Path
    account: Account | None


_FORMS = (
    "a D4RL or robomimic .hdf5 file, a CSV or Parquet table, a TD-MPC2 .pt file, or a folder of LeRobot data or "
    "UniTraj episodes"
)


def open_dataset(spec: str | os.PathLike[str], *, progress: Progress | None = None) -> Dataset:
    """Open the dataset that ``spec`` names.

    That is ``minari:ID`` (downloaded where it is not local), the ID of a local Minari dataset, a store's folder; a D4RL
    or robomimic ``.hdf5`` file, a CSV or Parquet table with its TOML beside it, a TD-MPC2 ``.pt`` file of one task, or
    a folder of LeRobot data or of UniTraj episodes of one environment. A source outside the store is converted once
    into the library's own folder and opened from there afterwards, as long as its files keep their sizes and times.

    Raises:
        UsageError: ``spec`` is none of these.
        TrajWorldError: The source is missing or damaged.
    """
    path = _existing_path(spec)
    if path is not None and is_store(path):
        return open_store(path)
    origin = _source(os.fspath(spec), path)
    place = os.path.abspath(origin.place)
    prefix = f"{_slug(origin.name)}-{hashlib.sha256(place.encode()).hexdigest()[:10]}-"
    # The files' names, sizes and times tell whether they changed; their contents are not read. With the store's
    # version, so that what an earlier program converted is converted again.
    digest = hashlib.sha256(f"{VERSION}\0{place}\0".encode())
    for file in sorted(origin.files):
        state = file.stat()
        digest.update(f"{os.path.abspath(file)}\0{state.st_size}\0{state.st_mtime_ns}\n".encode())
    converted = stores_folder() / f"{prefix}{digest.hexdigest()[:12]}"
    if is_store(converted):
        return open_store(converted)
    account = Account()
    dataset = write_store(
        converted,
        _told(origin, account, progress),
        account=account,
        name=origin.name,
        source=origin.spec or os.fspath(spec),
        environment=origin.environment,
        names=origin.names,
        reuse=True,
    )
    # What was converted from an earlier state of the same source will never be opened again.
    for old in stores_folder().glob(f"{prefix}*"):
        if old != converted:
            shutil.rmtree(old, ignore_errors=True)
    return dataset


def converted_stores() -> list[dict[str, Any]]:
    """The descriptions (``dataset.json``) and paths of the stores that were converted on this machine."""
    found: list[dict[str, Any]] = []
    for path in filter(is_store, sorted(stores_folder().glob("[!.]*"))):
        try:
            found.append({**store_description(path), "path": str(path)})
        except TrajWorldError as error:
            found.append({"name": path.name, "path": str(path), "error": str(error)})
    return found


def import_dataset(
    source: str | os.PathLike[str],
    dataset_id: str,
    *,
    environment: str | None = None,
    max_episode_steps: int | None = None,
    columns: Path | None = None,
    mask: str | None = None,
    test: float = 0.0,
    description: str = "",
    replace: bool = False,
    progress: Progress | None = None,
) -> list[Imported]:
    """Make Minari datasets of a file or folder of another format.

    A TD-MPC2 file of several tasks makes one a task, ``name/task-N-v0`` of an id ``name-v0``; a UniTraj root makes one
    an environment, ``name/SOURCE/ENVIRONMENT-v0``. Existing ones are left as they are unless ``replace`` is set, so a
    stopped import continues. ``environment`` is for sources, other than a root, that do not give the right one;
    ``max_episode_steps`` (1000) for D4RL files with neither timeouts nor next_observations; ``columns`` is a table's
    TOML where it is not beside it, ``mask`` a filter of robomimic's. The last episodes, a share ``test`` of them, make
    a second dataset ``name-test-v0``.
    """
    import numpy as np
    from gymnasium.spaces import Box

    dataset_path(dataset_id)
    path = _existing_path(source)
    if path is None:
        raise UsageError(f"{source} does not exist: import reads {_FORMS}")
    if max_episode_steps is not None and max_episode_steps < 1:
        raise UsageError(f"an episode has at least 1 step, not {max_episode_steps}")
    if not 0 <= test < 1:
        raise UsageError(f"the share of test episodes must be at least 0 and below 1, not {test}")
    if environment is not None and "/" not in (name := parse_name(environment)).identifier:
        environment = str(name)  # With a family, as everything else records it.
    found = _sources(path, max_episode_steps, columns, mask)
    if not found:
        raise UsageError(f"{source} is of no supported format{_kind(path)}: {_FORMS}")
    stem, _, version = dataset_id.rpartition("-")
    origins = {f"{stem}/{part}-{version}" if part else dataset_id: one for part, one in found.items()}
    if environment is not None and dataset_id not in origins:
        raise UsageError(
            f"{source} holds {len(origins)} environments: give no name, or import one of its folders"
        )
    if test:
        origins = {name: part for one in origins.items() for name, part in _split(*one, test).items()}
        for taken in (dataset_path(name) for name in origins if not replace and dataset_path(name).exists()):
            raise TrajWorldError(f"{taken} exists already: choose another id, or --replace both")
    made = []
    for new_id, origin in origins.items():
        if new_id != dataset_id and not test and not replace and dataset_path(new_id).exists():
            made.append(Imported(dataset_path(new_id), None))
            continue
        account = Account()
        episodes = _told(origin, account, progress)
        first = next(episodes, None)
        if first is None:
            raise TrajWorldError(f"{origin.name} holds no whole transition")
        observation_space, action_space = (
            Box(-np.inf, np.inf, (array.shape[1],), array.dtype.type)
            for array in (first.observations, first.actions)
        )
        written = write_minari(
            new_id,
            chain([first], episodes),
            environment=environment or origin.environment,
            observation_space=observation_space,
            action_space=action_space,
            description=description,
            # Written when all was read: with what became of the source.
            metadata={
                "imported_from": origin.name,
                "import_account": vars(account),
                "variate_names": origin.names,
            },
            replace=replace,
        )
        made.append(Imported(written, account))
    return made


def _told(source: Source, account: Account, progress: Progress | None) -> Iterator[Episode]:
    """Its episodes, which the account counts; ``progress`` is called after each."""
    for episode in source.episodes(account):
        yield episode
        if progress is not None:
            progress(account.kept, source.transitions, source.name)


def _source(spec: str, path: Path | None) -> Source:
    """What ``spec`` names, if it is not a store; ``path`` is the file or folder of that name, if there is one."""
    if spec.startswith("minari:"):
        return _minari_source(spec.removeprefix("minari:"), download=True)
    if path is not None and (found := _sources(path)):
        if len(found) > 1:
            raise UsageError(
                f"{path} holds {len(found)} environments: `trajworld data import` makes a dataset of each"
            )
        return found.popitem()[1]
    if path is not None and metadata_file(path).is_file():
        return _minari_source(_id_of_folder(path), download=False)
    if path is None and is_dataset_id(spec):
        return _minari_source(spec, download=False)
    problem = "names no dataset" if path is None else f"exists but is of no supported format{_kind(path)}"
    raise UsageError(
        f"{spec} {problem}; give minari:ID (downloaded if need be), the ID of a local Minari dataset, a store's "
        f"folder, {_FORMS}"
    )


def _sources(
    path: Path, limit: int | None = None, columns: Path | None = None, mask: str | None = None
) -> dict[str, Source]:
    """What a file or folder of another format holds, by what it adds to an id; nothing if the format is unknown."""
    suffix = path.suffix.lower() if path.is_file() else ""
    hdf5 = suffix in (".hdf5", ".h5") or "HDF5" in kind_of_file(path)
    robomimic = hdf5 and is_robomimic(path)
    for option, value, form, fits in (
        ("--columns", columns, f"tables ({', '.join(SUFFIXES)})", suffix in SUFFIXES),
        ("--mask", mask, "robomimic files", robomimic),
        ("--max-episode-steps", limit, "D4RL files", hdf5 and not robomimic),
    ):
        if value is not None and not fits:
            raise UsageError(f"{option} is for {form}, which {path} is not")
    if path.is_dir():
        if (one := unitraj_environment(path)) is not None:
            return {"": _unitraj_source(one)}
        if is_lerobot(path):
            return {"": read_lerobot(path)}
        every = unitraj_datasets(path) if is_unitraj_root(path) else ()
        return {f"{one.source}/{_slug(one.environment)}": _unitraj_source(one) for one in every}
    if suffix in SUFFIXES:
        return {"": read_table(path, columns or columns_path(path))}
    if suffix == ".pt":
        tasks = read_tdmpc2(path)
        return {f"task-{task}" if len(tasks) > 1 else "": one for task, one in tasks.items()}
    if robomimic:
        return {"": read_robomimic(path, mask)}
    if hdf5:
        return {"": read_d4rl(path, 1000 if limit is None else limit)}
    return {}


def _kind(path: Path) -> str:
    kind = kind_of_file(path)
    return kind and f" ({kind})"


def _split(dataset_id: str, source: Source, test: float) -> dict[str, Source]:
    """The first episodes under the id, and the last ones, a share ``test`` of them, under NAME-test-vN."""
    count = sum(1 for _ in source.episodes(Account()))
    first = count - min(max(round(count * test), 1), count - 1)
    if count < 2:
        raise UsageError(f"{source.name} has {count} episode, of which none can be kept for a test")
    stem, _, version = dataset_id.rpartition("-")
    other = f"{stem}-test-{version}"

    def only(kept: range, reason: str) -> Source:
        def chosen(account: Account) -> Iterator[Episode]:
            for number, episode in enumerate(source.episodes(account)):
                if number in kept:
                    yield episode
                else:
                    account.give_away(reason, episode.rewards)

        return replace(source, episodes=chosen)

    return {
        dataset_id: only(range(first), f"they are the test dataset {other}"),
        other: only(range(first, count), f"they are the dataset {dataset_id}"),
    }


def _id_of_folder(path: Path) -> str:
    """The id of the Minari dataset whose folder was named, perhaps from inside Minari's own folder."""
    # Not resolved: a dataset may be a link to elsewhere.
    place, root = Path(os.path.abspath(path)), Path(os.path.abspath(datasets_folder()))
    for one, folder in ((place, root), (place, root.resolve()), (place.resolve(), root.resolve())):
        if one.is_relative_to(folder) and is_dataset_id(one.relative_to(folder).as_posix()):
            return one.relative_to(folder).as_posix()
    raise UsageError(
        f"{path} is a Minari dataset outside of {root}: set MINARI_DATASETS_PATH to the folder that its id begins in"
    )


def _minari_source(dataset_id: str, download: bool) -> Source:
    info, _ = read_minari(dataset_id, download)
    files = [path for path in (info.path / "data").rglob("*") if path.is_file()]
    read = lambda account: read_minari(dataset_id, account=account)[1]  # noqa: E731
    given = dataset_id, info.environment, info.path, files, read, info.transitions, info.variate_names
    return Source(*given, spec=f"minari:{dataset_id}")


def _unitraj_source(one: UniTrajEnvironment) -> Source:
    return Source(one.name, one.name, one.folder, one.episodes, partial(read_unitraj, one))


def _existing_path(spec: str | os.PathLike[str]) -> Path | None:
    text = os.fspath(spec)
    if text.startswith("minari:") or not text:
        return None
    path = user_path(text)
    return path if os.path.exists(path) else None


def _slug(name: str) -> str:
    return re.sub(r"[^\w-]+", "_", name, flags=re.ASCII).strip("_") or "dataset"
