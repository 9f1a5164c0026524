"""Reading UniTraj's folders: one ``.npz`` an episode, in dm_env order."""

import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trajworld.data.account import Account
from trajworld.data.episode import Episode, as_floats, check_episode
from trajworld.errors import TrajWorldError

_RANGE_FILE = "max_min_values.npz"
_PADDING = "the observation before or after is all zero: a row of padding"


@dataclass(frozen=True)
class UniTrajSource:
    """One of the corpora that UniTraj gathers, and what pre-training uses of it.

    Attributes:
        name: The source's name.
        weight: Its share in the mixture, before normalisation.
        folder: Where its environments lie in UniTraj's root.
        environments: Pattern of the environments' folders.
        episodes: Pattern of the episodes' files in an environment's folder.
        only: The environments used, by exact name; all where empty.
        without: Environments left out: those whose name contains one of these.
    """

    name: str
    weight: float
    folder: str
    environments: str
    episodes: str
    only: tuple[str, ...] = ()
    without: tuple[str, ...] = ()

    def uses(self, environment: str) -> bool:
        """Whether pre-training uses this environment of the source."""
        chosen = not self.only or environment in self.only
        return chosen and not any(part in environment for part in self.without)


UNITRAJ_SOURCES = (
    UniTrajSource(
        name="exorl",
        weight=0.75,
        folder="exorl/datasets",
        environments="*",
        episodes="*/buffer/episode_*.npz",
        only=("cartpole", "jaco", "quadruped", "walker"),
    ),
    UniTrajSource(
        name="rl_unplugged",
        weight=0.05,
        folder="rl_unplugged/preprocessed_d4rl_format",
        environments="*",
        episodes="*/episode_*.npz",
        only=("cartpole", "fish", "humanoid", "manipulator", "walker"),
    ),
    UniTrajSource(
        name="modular_rl", weight=0.30, folder="modular-rl", environments="*-v2", episodes="episode_*.npz"
    ),
    UniTrajSource(
        name="tdmpc2",
        weight=0.9,
        folder="tdmpc2/preprocessed_data_no_padding_new",
        environments="task_*",
        episodes="episode_*.npz",
    ),
    UniTrajSource(
        name="db1",
        weight=0.01,
        folder="db1",
        environments="*",
        episodes="episode_*.npz",
        without=("rl_minimal_exp_data", "point_mass", "walker_7", "cheetah_7", "hopper_4", "dmc-cheetah"),
    ),
    UniTrajSource(
        name="jat",
        weight=0.9,
        folder="jat",
        environments="mujoco-*",
        episodes="*_eps_*.npz",
        without=("walker", "cheetah", "hopper", "ant", "humanoid", "standup"),
    ),
)


@dataclass(frozen=True)
class UniTrajEnvironment:
    """One environment of a UniTraj folder.

    Attributes:
        source: The corpus it comes from.
        environment: Its folder's name.
        folder: Its folder.
        episodes: The episodes' files, sorted.
        weight: Its share in the mixture; the shares of a root's environments sum to 1.
    """

    source: str
    environment: str
    folder: Path
    episodes: tuple[Path, ...]
    weight: float

    @property
    def name(self) -> str:
        """The environment's name, ``unitraj/SOURCE/ENVIRONMENT``."""
        return f"unitraj/{self.source}/{self.environment}" if self.source else f"unitraj/{self.environment}"


def unitraj_datasets(folder: str | Path) -> list[UniTrajEnvironment]:
    """The environments that pre-training uses of a UniTraj root, with their weights.

    Sources that are not there are left out; the weights of those that are there are normalised, and a
    source's weight is shared equally by its environments.

    Raises:
        TrajWorldError: The folder does not exist or holds none of the layouts of ``UNITRAJ_SOURCES``.
    """
    folder = Path(folder)
    found: list[tuple[UniTrajSource, list[tuple[Path, tuple[Path, ...]]]]] = []
    for source in UNITRAJ_SOURCES:
        environments = []
        for path in sorted((folder / source.folder).glob(source.environments)):
            if path.is_dir() and source.uses(path.name):
                files = _episode_files(path, source.episodes)
                if files:
                    environments.append((path, files))
        if environments:
            found.append((source, environments))
    if not found:
        layouts = ", ".join(
            f"{source.folder}/{source.environments}/{source.episodes}" for source in UNITRAJ_SOURCES
        )
        raise TrajWorldError(f"{folder} holds no UniTraj episodes: expected one of {layouts}")
    total = sum(source.weight for source, _ in found)
    return [
        UniTrajEnvironment(source.name, path.name, path, files, source.weight / total / len(environments))
        for source, environments in found
        for path, files in environments
    ]


def unitraj_environment(folder: str | Path) -> UniTrajEnvironment | None:
    """The one environment whose episodes lie in ``folder``, weight 1, or None where there are none.

    The source is known where the folder's parents have the names of its layout.
    """
    folder = Path(folder).absolute()
    for source in UNITRAJ_SOURCES:
        parts = Path(source.folder).parts
        if folder.parent.parts[-len(parts) :] == parts and folder.match(source.environments):
            files = _episode_files(folder, source.episodes)
            return UniTrajEnvironment(source.name, folder.name, folder, files, 1.0) if files else None
    # Elsewhere, only files of the folder itself: those of its subfolders may be of several environments.
    for pattern in ("episode_*.npz", "*_eps_*.npz"):
        files = _episode_files(folder, pattern)
        if files:
            return UniTrajEnvironment("", folder.name, folder, files, 1.0)
    return None


def read_unitraj(environment: UniTrajEnvironment, account: Account | None = None) -> Iterator[Episode]:
    """The episodes of an environment, read one file at a time.

    Rows whose observation is all zero are padding and are skipped: a file is cut there into episodes of the
    rows between them, and pieces without a whole transition are left out. ``account`` counts both.

    Raises:
        TrajWorldError: A file is missing, truncated, holds objects or a NaN, its arrays' shapes disagree with
            each other or with the other files', or the range file's size disagrees with them.
    """
    account = account or Account()
    limits = unitraj_range(environment.folder)
    sizes: tuple[int, int] | None = None
    for path in environment.episodes:
        observation, action, reward = _read_arrays(path)
        if sizes is None:
            sizes = (observation.shape[1], action.shape[1])
        if (observation.shape[1], action.shape[1]) != sizes:
            raise TrajWorldError(
                f"{path}: {observation.shape[1]} observation and {action.shape[1]} action values, but the "
                f"environment's other episodes have {sizes[0]} and {sizes[1]}"
            )
        if limits is not None and len(limits[0]) != sum(sizes) + 1:
            raise TrajWorldError(
                f"{environment.folder / _RANGE_FILE}: ranges of {len(limits[0])} variates for episodes of "
                f"{sum(sizes) + 1}"
            )
        pieces = _pieces(observation)
        used = np.zeros(len(reward), bool)
        for begin, end in pieces:
            used[begin + 1 : end] = True
        if not used[1:].all():
            account.leave_out(_PADDING, reward[1:][~used[1:]])
        for begin, end in pieces:
            account.keep(reward[begin + 1 : end])
            # dm_env order: the action and reward of a row led to its observation, so a transition's are the
            # next row's.
            yield check_episode(
                Episode(observation[begin:end], action[begin + 1 : end], reward[begin + 1 : end]), str(path)
            )


def unitraj_range(folder: str | Path) -> tuple[NDArray[np.float32], NDArray[np.float32]] | None:
    """The published range of each variate, (minimum ``[M]``, maximum ``[M]``) in row order, if it is there.

    Raises:
        TrajWorldError: The file is damaged, or its values are not two finite vectors of one size with min <=
            max.
    """
    path = Path(folder) / _RANGE_FILE
    if not path.is_file():
        return None
    arrays = _load(path, ("min", "max"))
    minimum, maximum = (arrays[name].astype(np.float32).reshape(-1) for name in ("min", "max"))
    if minimum.shape != maximum.shape or not np.all(np.isfinite(minimum) & np.isfinite(maximum)):
        raise TrajWorldError(f"{path}: min and max must be finite and of one size")
    if np.any(minimum > maximum):
        raise TrajWorldError(f"{path}: a variate's min is above its max")
    return minimum, maximum


def _episode_files(folder: Path, pattern: str) -> tuple[Path, ...]:
    return tuple(sorted(path for path in folder.glob(pattern) if path.name != _RANGE_FILE))


def _pieces(observation: NDArray[np.floating]) -> list[tuple[int, int]]:
    """[begin, end) of each run of at least two rows whose observation is not all zero."""
    real = np.any(observation != 0, axis=1)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], real, [False]]).astype(np.int8)))
    return [(int(begin), int(end)) for begin, end in edges.reshape(-1, 2) if end - begin >= 2]


def _read_arrays(path: Path) -> tuple[NDArray[np.floating], NDArray[np.floating], NDArray[np.floating]]:
    arrays = _load(path, ("observation", "action", "reward"))
    observation, action, reward = arrays["observation"], arrays["action"], arrays["reward"]
    fits = observation.ndim == action.ndim == 2 and reward.shape in (
        (len(observation), 1),
        (len(observation),),
    )
    if not fits or len(action) != len(observation):
        raise TrajWorldError(
            f"{path}: observation {observation.shape}, action {action.shape} and reward {reward.shape} do "
            "not make an episode ([L, O], [L, A] and [L, 1] are wanted)"
        )
    return as_floats(observation), as_floats(action), as_floats(reward.reshape(-1))


def _load(path: Path, names: tuple[str, ...]) -> dict[str, NDArray[np.floating]]:
    """The named numeric arrays of an ``.npz``; nothing in it is ever unpickled."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            missing = [name for name in names if name not in archive.files]
            arrays = {} if missing else {name: archive[name] for name in names}
    except FileNotFoundError:
        raise TrajWorldError(f"{path} does not exist") from None
    except (OSError, EOFError, ValueError, TypeError, MemoryError, zipfile.BadZipFile, zlib.error) as error:
        raise TrajWorldError(
            f"{path} is not a readable .npz file: {' '.join(str(error).split())[:150]}"
        ) from error
    if missing:
        raise TrajWorldError(f"{path} has no array {missing[0]!r}: {', '.join(names)} are wanted")
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiub":
            raise TrajWorldError(f"{path}: {name!r} holds no numbers")
    return arrays
