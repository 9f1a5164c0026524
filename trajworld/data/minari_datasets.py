"""Reading and writing Minari datasets, the library's interchange format."""

import contextlib
import itertools
import json
import os
import re
import tempfile
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from trajworld.data.account import Account
from trajworld.data.episode import Episode, as_floats, check_episode, check_episodes
from trajworld.errors import DAMAGE, TrajWorldError, UsageError, one_line
from trajworld.files import atomic_folder, ensure_room, one_writer, read_json, user_path

if TYPE_CHECKING:
    from gymnasium import Space

# What HDF5 may still hold in memory of its own structures, bytes.
_ROOM = 4 << 20
# Letters, digits, - and _ only: no dot, so that no id can name a folder outside Minari's. Minari refuses
# a namespace of a single letter.
_DATASET_ID = re.compile(r"(?:(?:[\w-]+/)+[\w-]+/|[\w-]{2,}/)?[\w-]+-v\d+", re.ASCII)


@dataclass(frozen=True)
class MinariInfo:
    """The ``metadata`` of a Minari dataset; ``environment`` is empty where not given."""

    dataset_id: str
    path: Path
    environment: str
    episodes: int
    transitions: int
    metadata: dict[str, Any] = field(repr=False)

    @property
    def variate_names(self) -> tuple[str, ...]:
        """The imported source's names of its observation and action variates; empty if unknown."""
        names = self.metadata.get("variate_names")
        return tuple(map(str, names)) if isinstance(names, list) else ()


def datasets_folder() -> Path:
    """Minari's folder of datasets: ``MINARI_DATASETS_PATH`` where it is set, else ``~/.minari/datasets``."""
    return user_path(os.environ.get("MINARI_DATASETS_PATH") or "~/.minari/datasets")


def is_dataset_id(text: str) -> bool:
    """Whether ``text`` has the form of a Minari dataset id, ``(namespace/)name-vN``."""
    return _DATASET_ID.fullmatch(text) is not None


def dataset_path(dataset_id: str) -> Path:
    """The folder of a Minari dataset, whether it exists or not; a ``UsageError`` where the id is malformed."""
    if not is_dataset_id(dataset_id):
        raise UsageError(
            f"{dataset_id!r} is not a Minari dataset id: write (namespace/)name-v0, of letters, digits, - and _"
        )
    return datasets_folder() / dataset_id


def metadata_file(path: Path) -> Path:
    """The file of the metadata of the dataset in a folder."""
    return path / "data" / "metadata.json"


def dataset_metadata(dataset_id: str) -> dict[str, Any]:
    """The metadata of a dataset in Minari's folder, as they are; a ``TrajWorldError`` where they cannot be read."""
    return read_json(metadata_file(dataset_path(dataset_id)))


def local_datasets() -> list[dict[str, Any]]:
    """Id, environment, episodes, transitions and path of each dataset in Minari's folder, by id.

    One whose metadata cannot be read has an ``error`` instead. Imports neither Minari nor Gymnasium.
    """
    root = datasets_folder()
    found = []
    for folder, subfolders, _ in os.walk(root, followlinks=True):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        path = Path(folder)
        # Links are followed, but not in cycles.
        circle = path.is_symlink() and path.parent.resolve().is_relative_to(path.resolve())
        # An id may have a part `data` too.
        files = (path / "data" / name for name in ("metadata.json", "main_data.hdf5"))
        is_dataset = path != root and any(file.is_file() for file in files)
        if circle or is_dataset:
            subfolders.clear()
        if circle or not is_dataset:
            continue
        entry: dict[str, Any] = {"id": path.relative_to(root).as_posix(), "path": str(path)}
        try:
            info = _info(entry["id"], path)
            entry |= {name: getattr(info, name) for name in ("environment", "episodes", "transitions")}
        except TrajWorldError as error:
            entry["error"] = str(error)
        found.append(entry)
    return sorted(found, key=lambda entry: entry["id"])


def write_minari(
    dataset_id: str,
    episodes: Iterable[Episode],
    *,
    environment: str,
    observation_space: "Space",
    action_space: "Space",
    description: str = "",
    metadata: dict[str, Any] | None = None,
    replace: bool = False,
) -> Path:
    """Write episodes as a Minari dataset (HDF5), one episode in memory at a time, and return its folder.

    The dataset appears whole or not at all: an error or a Ctrl-C leaves nothing behind. Episodes are checked (shapes,
    NaN) and have the sizes of the spaces, which are of one dimension. ``environment`` (such as
    ``dm_control/cheetah-run``) and ``description`` are kept in the metadata beside the JSON values in ``metadata``. A
    ``TrajWorldError`` is raised where the id is taken, there is no episode, or one is malformed.
    """
    import gymnasium
    import minari
    from minari.data_collector import EpisodeBuffer
    from minari.dataset.minari_storage import MinariStorage
    from minari.namespace import NAMESPACE_METADATA_FILENAME

    path = dataset_path(dataset_id)
    if path.exists() and not replace:
        raise TrajWorldError(
            f"Minari has a dataset {dataset_id} already ({path}): choose another id or remove it"
        )

    def buffers() -> Iterator[EpisodeBuffer]:
        sizes = (observation_space.shape[0], action_space.shape[0])
        for episode in check_episodes(episodes, dataset_id, sizes):
            arrays = {name: getattr(episode, name) for name in ("observations", "actions", "rewards")}
            ensure_room(path.parent, 2 * sum(array.nbytes for array in arrays.values()) + _ROOM)
            ends = np.zeros((2, len(episode)), bool)
            ends[:, -1] = episode.terminated, episode.truncated
            yield EpisodeBuffer(**arrays, terminations=ends[0], truncations=ends[1])

    described = {**(metadata or {}), **({"description": description} if description else {})}
    described |= {"dataset_id": dataset_id, "environment": environment, "minari_version": minari.__version__}
    env_spec = None
    if environment.startswith("gymnasium/"):
        with contextlib.suppress(gymnasium.error.Error, ImportError):
            env_spec = gymnasium.spec(environment.removeprefix("gymnasium/"))
    with (
        _no_empty_parents(path),
        one_writer(path, f"the Minari dataset {dataset_id}"),
        atomic_folder(path, replace=replace) as folder,
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        ensure_room(path.parent, _ROOM)
        storage = MinariStorage.new(folder / "data", observation_space, action_space, env_spec)
        storage.update_episodes(buffers())
        storage.update_metadata(described)
        for parent in itertools.takewhile(lambda parent: parent != datasets_folder(), path.parents):
            described_by = parent / NAMESPACE_METADATA_FILENAME
            # Empty where Minari's own writer, which writes in place, was killed.
            if not described_by.is_file() or not described_by.stat().st_size:
                (folder / described_by.name).write_text("{}")
                os.replace(folder / described_by.name, described_by)
    return path


def read_minari(
    dataset_id: str, download: bool = False, account: Account | None = None
) -> tuple[MinariInfo, Iterator[Episode]]:
    """Open a Minari dataset and read its episodes one at a time; errors in one are raised when it is read.

    Dict and Tuple spaces of Boxes are flattened in ``gymnasium.spaces.utils.flatten``'s order.
    """
    path = dataset_path(dataset_id)
    if not (path / "data").is_dir():
        if not download:
            raise TrajWorldError(
                f"no Minari dataset {dataset_id} in {datasets_folder()}: minari:{dataset_id} downloads it"
            )
        _download(dataset_id)
    info = _info(dataset_id, path)
    spaces = {name: _space(info, f"{name[:-1]}_space") for name in ("observations", "actions")}
    return info, _read_episodes(info, spaces, account or Account())


def _read_episodes(info: MinariInfo, spaces: dict[str, "Space"], account: Account) -> Iterator[Episode]:
    from minari.dataset.minari_storage import MinariStorage

    where, number = f"Minari dataset {info.dataset_id}", -1
    _note_import(info, account)
    try:
        storage = MinariStorage.read(info.path / "data")
        for number, episode in enumerate(storage.get_episodes(range(info.episodes))):
            read = Episode(
                **{name: _flat(space, episode[name]) for name, space in spaces.items()},
                rewards=as_floats(episode["rewards"]).reshape(-1),
                terminated=bool(episode["terminations"][-1]),
                truncated=bool(episode["truncations"][-1]),
            )
            account.keep(read.rewards)
            yield check_episode(read, f"{where}, episode {number}")
        missing = max(0, info.transitions - account.kept)
        account.note("a transition that the metadata count is in no episode that they name", missing)
    except (TrajWorldError, GeneratorExit):
        raise
    except Exception as error:
        raise TrajWorldError(f"{where}: cannot read episode {number + 1} ({one_line(error)})") from error


def _note_import(info: MinariInfo, account: Account) -> None:
    """Copy the notes of the import that made the dataset from another source."""
    with contextlib.suppress(*DAMAGE):
        imported = Account.from_json(info.metadata["import_account"])
        left_out = {f"left out: {reason}": count for reason, (count, _) in imported.left_out.items()}
        for text, count in (left_out | imported.notes).items():
            account.note(f"on import, {text}", int(count))


def _flat(space: "Space", data: Any) -> NDArray[np.floating]:
    """The columns of ``data`` (an array ``[L, ...]``, or a dict or tuple of them), flattened to ``[L, size]``."""
    from gymnasium import spaces

    if isinstance(space, spaces.Dict | spaces.Tuple):
        keys = space.spaces if isinstance(space, spaces.Dict) else range(len(space.spaces))
        return np.concatenate([_flat(space[key], data[key]) for key in keys], axis=1)
    if not isinstance(space, spaces.Box):
        raise ValueError(f"a {type(space).__name__} space: only Box and Dict and Tuple of Box can be read")
    array = np.asarray(data)
    if array.shape[1:] != space.shape:
        raise ValueError(
            f"arrays of shape {array.shape} do not hold values of a space of shape {space.shape}"
        )
    return as_floats(array.reshape(len(array), -1))


def _space(info: MinariInfo, name: str) -> "Space":
    from minari.serialization import deserialize_space

    try:
        # Minari would make the environment that the file names to learn its spaces: run nothing a file names.
        return deserialize_space(info.metadata[name])
    except Exception as error:
        raise TrajWorldError(
            f"Minari dataset {info.dataset_id}: its metadata hold no readable {name} ({one_line(error)})"
        ) from None


def _info(dataset_id: str, path: Path) -> MinariInfo:
    file = metadata_file(path)
    metadata = read_json(file)
    try:
        environment = metadata.get("environment")
        if not isinstance(environment, str):  # Not written by this library: from the Gymnasium spec.
            environment = ""
            with contextlib.suppress(*DAMAGE):
                environment = f"gymnasium/{json.loads(metadata['env_spec'])['id']}"
        counts = int(metadata["total_episodes"]), int(metadata["total_steps"])
    except DAMAGE as error:
        raise TrajWorldError(f"{file} does not describe a Minari dataset ({one_line(error)})") from None
    return MinariInfo(dataset_id, path, environment, *counts, metadata)


def _download(dataset_id: str) -> None:
    """Fetch a dataset into a hidden folder and move it into place whole; Minari would leave half of one."""
    import minari

    root, path = datasets_folder(), dataset_path(dataset_id)
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".download.", dir=root) as folder:
            with datasets_in(folder):
                minari.download_dataset(dataset_id)
            path.parent.mkdir(parents=True, exist_ok=True)
            os.replace(Path(folder) / dataset_id, path)
    except Exception as error:
        raise TrajWorldError(
            f"Minari dataset {dataset_id} is not in {root} and could not be downloaded ({one_line(error)})"
        ) from error


@contextlib.contextmanager
def datasets_in(folder: str) -> Iterator[None]:
    """Let Minari keep its datasets in ``folder`` meanwhile; in its usual one if that is empty."""
    name = "MINARI_DATASETS_PATH"
    before = os.environ.get(name)
    try:
        os.environ.update({name: os.path.abspath(folder)} if folder else {})
        yield
    finally:
        os.environ.pop(name, None)
        os.environ.update({} if before is None else {name: before})


@contextlib.contextmanager
def _no_empty_parents(path: Path) -> Iterator[None]:
    """Remove the folders that the block made above ``path`` and left empty."""
    missing = [parent for parent in path.parents if not parent.exists()]
    try:
        yield
    finally:
        for parent in missing:
            with contextlib.suppress(OSError):
                parent.rmdir()
