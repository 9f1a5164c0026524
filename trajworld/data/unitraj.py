"""Reading UniTraj's folders: one ``.npz`` an episode, in dm_env order."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from trajworld.data.account import Account
from trajworld.data.episode import Episode, as_floats, check_episode
from trajworld.errors import TrajWorldError
from trajworld.files import read_arrays

_RANGE_FILE = "max_min_values.npz"
_PADDING = "the observation before or after is all zero: a row of padding"


class UniTrajSource(NamedTuple):
    """One of the corpora that UniTraj gathers: its share of the mixture, its folder in UniTraj's root, and the patterns
    of its environments' folders and of the files in them. Pre-training uses the environments in ``only`` (all where
    empty) whose name contains nothing of ``without``.
    """

    name: str
    weight: float
    folder: str
    environments: str
    episodes: str
    only: tuple[str, ...] = ()
    without: tuple[str, ...] = ()


_EXORL = ("cartpole", "jaco", "quadruped", "walker")
_RL_UNPLUGGED = ("cartpole", "fish", "humanoid", "manipulator", "walker")
_NOT_DB1 = ("rl_minimal_exp_data", "point_mass", "walker_7", "cheetah_7", "hopper_4", "dmc-cheetah")
_NOT_JAT = ("walker", "cheetah", "hopper", "ant", "humanoid", "standup")
_D4RL_LAYOUT = "rl_unplugged/preprocessed_d4rl_format"
_TDMPC2_LAYOUT = "tdmpc2/preprocessed_data_no_padding_new"
UNITRAJ_SOURCES = (
    UniTrajSource("exorl", 0.75, "exorl/datasets", "*", "*/buffer/episode_*.npz", only=_EXORL),
    UniTrajSource("rl_unplugged", 0.05, _D4RL_LAYOUT, "*", "*/episode_*.npz", only=_RL_UNPLUGGED),
    UniTrajSource("modular_rl", 0.30, "modular-rl", "*-v2", "episode_*.npz"),
    UniTrajSource("tdmpc2", 0.9, _TDMPC2_LAYOUT, "task_*", "episode_*.npz"),
    UniTrajSource("db1", 0.01, "db1", "*", "episode_*.npz", without=_NOT_DB1),
    UniTrajSource("jat", 0.9, "jat", "mujoco-*", "*_eps_*.npz", without=_NOT_JAT),
)


@dataclass(frozen=True)
class UniTrajEnvironment:
    """One environment of UniTraj: its corpus, name, folder and episodes' files, and its share of the mixture."""

    source: str
    environment: str
    folder: Path
    episodes: tuple[Path, ...]
    weight: float

    @property
    def name(self) -> str:
        """The environment's name, ``unitraj/SOURCE/ENVIRONMENT``."""
        return f"unitraj/{self.source}/{self.environment}" if self.source else f"unitraj/{self.environment}"


def is_unitraj_root(folder: Path) -> bool:
    """Whether one of the corpora lies in a folder, at its place in UniTraj's root."""
    return any((folder / source.folder).is_dir() for source in UNITRAJ_SOURCES)


def unitraj_datasets(folder: str | Path) -> list[UniTrajEnvironment]:
    """The environments that pre-training uses of a UniTraj root; a ``TrajWorldError`` where there are none.

    Missing sources are left out; the weights of the others are normalised to a sum of 1, and a source's weight is
    shared equally by its environments.
    """
    folder = Path(folder)
    found = {}
    for source in UNITRAJ_SOURCES:
        places = sorted((folder / source.folder).glob(source.environments))
        used = [path for path in places if not source.only or path.name in source.only]
        used = [path for path in used if not any(part in path.name for part in source.without)]
        found[source] = {path: files for path in used if (files := _episode_files(path, source.episodes))}
    total = sum(source.weight for source, environments in found.items() if environments)
    if not total:
        layouts = ", ".join(f"{one.folder}/{one.environments}/{one.episodes}" for one in UNITRAJ_SOURCES)
        raise TrajWorldError(f"{folder} holds no UniTraj episodes: expected one of {layouts}")
    return [
        UniTrajEnvironment(source.name, path.name, path, files, source.weight / total / len(environments))
        for source, environments in found.items()
        for path, files in environments.items()
    ]


def unitraj_environment(folder: str | Path) -> UniTrajEnvironment | None:
    """The one environment whose episodes lie in ``folder``, or None; its parents' names give its source."""
    folder = Path(folder).absolute()
    layouts = [
        (source.name, source.episodes)
        for source in UNITRAJ_SOURCES
        if folder.parent.match(source.folder) and folder.match(source.environments)
    ]
    # Elsewhere, only files of the folder itself: those of its subfolders may be of several environments.
    for name, pattern in layouts or [("", "episode_*.npz"), ("", "*_eps_*.npz")]:
        files = _episode_files(folder, pattern)
        if files:
            return UniTrajEnvironment(name, folder.name, folder, files, 1.0)
    return None


def read_unitraj(environment: UniTrajEnvironment, account: Account | None = None) -> Iterator[Episode]:
    """The episodes of an environment, read one file at a time.

    Rows whose observation is all zero are padding and are skipped: a file is cut there into episodes of the rows
    between them, and pieces without a whole transition are left out.
    """
    account = account or Account()
    sizes: tuple[int, int] | None = None
    for path in environment.episodes:
        observation, action, reward = _read_arrays(path)
        given = (observation.shape[1], action.shape[1])
        sizes = sizes or given
        if given != sizes:
            words = "{} observation and {} action values".format
            raise TrajWorldError(f"{path}: {words(*given)}, where others have {words(*sizes)}")
        real = np.any(observation != 0, axis=1)
        # A transition is kept where neither of its rows is padding.
        used = real[1:] & real[:-1]
        if not used.all():
            account.leave_out(_PADDING, reward[1:][~used])
        edges = np.flatnonzero(np.diff(used, prepend=False, append=False)).tolist()
        for begin, end in zip(edges[::2], edges[1::2], strict=True):
            # dm_env order: a row's action and reward led to its observation: a transition's are the next row's.
            arrived = slice(begin + 1, end + 1)
            account.keep(reward[arrived])
            yield check_episode(
                Episode(observation[begin : end + 1], action[arrived], reward[arrived]), str(path)
            )


def unitraj_range(folder: str | Path) -> tuple[NDArray[np.float32], NDArray[np.float32]] | None:
    """The published range of each variate, (minimum ``[M]``, maximum ``[M]``) in row order, if it is there.

    A ``TrajWorldError`` where it is damaged, or not of as many variates as the folder's episodes.
    """
    path = Path(folder) / _RANGE_FILE
    if not path.is_file():
        return None
    with np.errstate(over="ignore"):
        minimum, maximum = (array.astype(np.float32).reshape(-1) for array in _load(path, ("min", "max")))
    ends = np.concatenate([minimum, maximum])
    if len(minimum) != len(maximum) or not np.isfinite(ends).all() or np.any(minimum > maximum):
        raise TrajWorldError(f"{path}: min and max must be finite, of one size, and no min above its max")
    if (environment := unitraj_environment(folder)) is not None:
        observation, action, _ = _read_arrays(environment.episodes[0])
        if len(minimum) != (size := observation.shape[1] + 1 + action.shape[1]):
            raise TrajWorldError(f"{path}: ranges of {len(minimum)} variates for episodes of {size}")
    return minimum, maximum


def _episode_files(folder: Path, pattern: str) -> tuple[Path, ...]:
    return tuple(sorted(path for path in folder.glob(pattern) if path.name != _RANGE_FILE))


def _read_arrays(path: Path) -> list[NDArray[np.floating]]:
    """Observations ``[L, O]``, actions ``[L, A]`` and rewards ``[L]`` of a file."""
    arrays = _load(path, ("observation", "action", "reward"))
    observation, action, reward = (array.shape for array in arrays)
    length = observation[:1]
    fits = len(observation) == len(action) == 2 and action[:1] == length
    if not fits or reward not in (length, (*length, 1)):
        raise TrajWorldError(
            f"{path}: observation {observation}, action {action} and reward {reward} do not make an episode "
            "([L, O], [L, A] and [L, 1] are wanted)"
        )
    arrays[2] = arrays[2].reshape(-1)
    return [as_floats(array) for array in arrays]


def _load(path: Path, names: tuple[str, ...]) -> list[NDArray[np.floating]]:
    """The named numeric arrays of an ``.npz``; nothing in it is ever unpickled."""
    arrays = read_arrays(path, names)
    for name in names:
        if name not in arrays:
            raise TrajWorldError(f"{path} has no array {name!r}: {', '.join(names)} are wanted")
        if not isinstance(arrays[name], np.ndarray) or arrays[name].dtype.kind not in "fiub":
            raise TrajWorldError(f"{path}: {name!r} holds no numbers")
    return [arrays[name] for name in names]
