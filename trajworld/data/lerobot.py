"""Reading LeRobot datasets of the versions 2.x (a Parquet file an episode) and 3.0 (many episodes a file)."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trajworld.data.account import Account
from trajworld.data.episode import Episode, as_floats, check_episode, no_rewards
from trajworld.errors import TrajWorldError, one_line
from trajworld.files import read_json

_INFO = Path("meta") / "info.json"
_ROWS_AT_ONCE = 65536
_NUMBERS = ("float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "bool")
_UNRECORDED = "the result of an episode's last action is not in the file"
_LATE = "a timestamp is more than half a period off its frame's"
_STATES = ("observation.state", "observation.environment_state")
_PLACE = ("data/chunk_index", "data/file_index")


@dataclass(frozen=True)
class LeRobotInfo:
    """What ``meta/info.json`` says.

    Attributes:
        observation: Features that make an observation, with their sizes, in order.
        action: The same for the action.
        reward: ``next.reward`` where it is there, else empty.
        done: ``next.done`` where it is there, else empty.
    """

    folder: Path
    version: int
    fps: float
    frames: int
    data_path: str
    chunks_size: int
    observation: dict[str, int]
    action: dict[str, int]
    reward: str
    done: str


def is_lerobot(folder: Path) -> bool:
    """Whether a folder is laid out as a LeRobot dataset."""
    return (folder / _INFO).is_file()


def read_lerobot(folder: Path, account: Account | None = None) -> tuple[LeRobotInfo, Iterator[Episode]]:
    """Open a LeRobot dataset and read its episodes one at a time, with pyarrow alone.

    The observation is ``observation.state`` and ``observation.environment_state``, or where neither is there every
    numeric vector whose name begins with ``observation.``; likewise the action. Images and videos are not read. The
    reward is ``next.reward``; most datasets have none. A frame's action leads to the next frame, so the last one of an
    episode is left out. ``account`` is brought up to date as episodes are read.

    Raises:
        TrajWorldError: The version is another one, a file is missing or damaged, no feature is of use; while reading,
            that frames are missing or not in order, or an episode holds a NaN.
    """
    info = _info(folder)
    return info, _read_episodes(info, account or Account())


def _info(folder: Path) -> LeRobotInfo:
    path = folder / _INFO
    given = read_json(path)
    try:
        version = str(given["codebase_version"])
        if version not in ("v2.0", "v2.1", "v3.0"):
            raise TrajWorldError(
                f"{path}: datasets of version {version} are not read: LeRobot converts them to v3.0"
            )
        vectors = {
            name: int(feature["shape"][0])
            for name, feature in given["features"].items()
            if feature["dtype"] in _NUMBERS and len(feature["shape"]) == 1
        }
        found = LeRobotInfo(
            folder=folder,
            version=int(version[1]),
            fps=float(given["fps"]),
            frames=int(given["total_frames"]),
            data_path=str(given["data_path"]),
            chunks_size=int(given.get("chunks_size", 1000)),
            observation=_chosen(vectors, "observation.", _STATES),
            action=_chosen(vectors, "action", ("action",)),
            reward=next((name for name in vectors if name == "next.reward"), ""),
            done=next((name for name in vectors if name == "next.done"), ""),
        )
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise TrajWorldError(f"{path} does not describe a LeRobot dataset ({one_line(error)})") from None
    if not found.observation:
        named = ", ".join(vectors) or "none"
        raise TrajWorldError(f"{path}: no numeric feature observation.state (numeric vectors: {named})")
    if found.fps <= 0 or found.chunks_size < 1:
        raise TrajWorldError(f"{path}: fps and chunks_size must be above 0")
    return found


def _chosen(vectors: dict[str, int], prefix: str, usual: tuple[str, ...]) -> dict[str, int]:
    names = [name for name in usual if name in vectors] or [
        name for name in vectors if name.startswith(prefix)
    ]
    return {name: vectors[name] for name in names}


def lerobot_files(info: LeRobotInfo) -> dict[Path, dict[int, int]]:
    """The data files in order, each with the lengths of its episodes by their index.

    Raises:
        TrajWorldError: The episodes' metadata are missing or damaged, or name a file outside the dataset.
    """
    meta = info.folder / "meta"
    try:
        if info.version == 2:
            lines = (meta / "episodes.jsonl").read_text(encoding="utf-8").splitlines()
            rows = [json.loads(line) for line in lines if line.strip()]
        else:
            from pyarrow import parquet

            names, rows = ["episode_index", "length", *_PLACE], []
            for path in sorted((meta / "episodes").glob("*/*.parquet")):
                rows += parquet.read_table(path, columns=names).to_pylist()
        files: dict[Path, dict[int, int]] = {}
        for row in sorted(rows, key=lambda row: row["episode_index"]):
            index = int(row["episode_index"])
            if info.version == 2:
                place = {"episode_chunk": index // info.chunks_size, "episode_index": index}
            else:
                place = {"chunk_index": int(row[_PLACE[0]]), "file_index": int(row[_PLACE[1]])}
            path = info.folder / info.data_path.format(**place)
            if not path.resolve().is_relative_to(info.folder.resolve()):
                raise TrajWorldError(f"{info.folder / _INFO}: data_path leads out of the dataset")
            if not path.is_file():
                raise TrajWorldError(f"{path} is not there: download the dataset again")
            files.setdefault(path, {})[index] = int(row["length"])
    except (OSError, ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        raise TrajWorldError(
            f"{meta}: the episodes' metadata are missing or damaged ({one_line(error)})"
        ) from None
    if not files:
        raise TrajWorldError(f"{meta} describes no episode")
    return files


def _read_episodes(info: LeRobotInfo, account: Account) -> Iterator[Episode]:
    account.note(f"frames {1 / info.fps:g} s apart", info.frames)
    for path, lengths in lerobot_files(info).items():
        kept: dict[str, NDArray[Any]] = {}
        waiting = list(lengths.items())
        for block in _blocks(info, path):
            rows = {name: np.concatenate([kept[name], block[name]]) for name in block} if kept else block
            # Episodes follow each other; the last one may go on in the next block.
            while waiting and len(rows["frame_index"]) >= waiting[0][1]:
                index, length = waiting.pop(0)
                made = _episode(info, {name: array[:length] for name, array in rows.items()}, index, account)
                rows = {name: array[length:] for name, array in rows.items()}
                if made is not None:
                    yield check_episode(made, f"{path}, episode {index}")
            kept = rows
        if waiting or len(kept["frame_index"]):
            what = (
                f"lacks frames of episode {waiting[0][0]}" if waiting else "has more frames than its episodes"
            )
            raise TrajWorldError(f"{path} {what}: it is cut short, or its metadata are of other files")


def _blocks(info: LeRobotInfo, path: Path) -> Iterator[dict[str, NDArray[Any]]]:
    from pyarrow import parquet

    sizes = {**info.observation, **info.action, **{name: 1 for name in (info.reward, info.done) if name}}
    sizes |= dict.fromkeys(("timestamp", "frame_index", "episode_index"), 1)
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(_ROWS_AT_ONCE, columns=list(sizes)):
                block = {}
                for name, size in sizes.items():
                    column = batch.column(name)
                    flat = (
                        column.flatten() if hasattr(column, "flatten") and column.type.num_fields else column
                    )
                    if column.null_count or flat.null_count or len(flat) != size * len(column):
                        raise ValueError(f"{name} has missing values, or others than {size} a frame")
                    block[name] = flat.to_numpy(zero_copy_only=False).reshape(-1, size)
                yield block
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TrajWorldError(
            f"{path} is not a readable Parquet file of this dataset: {one_line(error)}"
        ) from None


def _episode(
    info: LeRobotInfo, rows: dict[str, NDArray[Any]], index: int, account: Account
) -> Episode | None:
    """The episode of these frames, or None where they are no whole transition."""
    numbers, frames = rows["episode_index"].reshape(-1), rows["frame_index"].reshape(-1)
    length = len(frames)
    if not ((numbers == index).all() and (frames == np.arange(length)).all()):
        raise TrajWorldError(
            f"{info.folder}: the frames of episode {index} are not all there in order: download the dataset again"
        )
    times = rows["timestamp"].reshape(-1).astype(np.float64) * info.fps
    account.note(_LATE, int((np.abs(times - times[:1] - np.arange(length)) > 0.5).sum()))
    nothing = [np.zeros((length, 0), np.float32)]
    observations, actions = (
        np.concatenate([as_floats(rows[name]) for name in names] or nothing, axis=1)
        for names in (info.observation, info.action)
    )
    rewards = as_floats(rows[info.reward]).reshape(-1) if info.reward else no_rewards(length)
    done = bool(info.done) and length > 1 and bool(rows[info.done][length - 2, 0])
    account.leave_out(_UNRECORDED, rewards[-1:])
    if length < 2:
        return None
    account.keep(rewards[:-1])
    return Episode(observations, actions[:-1], rewards[:-1], done, not done)
