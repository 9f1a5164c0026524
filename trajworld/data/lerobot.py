"""Reading LeRobot datasets of the versions 2.x (a Parquet file an episode) and 3.0 (many episodes a file)."""

import json
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trajworld.data.account import UNRECORDED, Account
from trajworld.data.episode import Episode, as_floats, check_episode, no_rewards
from trajworld.data.source import Source, value_names
from trajworld.errors import DAMAGE, TrajWorldError, one_line
from trajworld.files import read_json

_INFO = Path("meta") / "info.json"
_MOST_VALUES = 1 << 16
_DAMAGED = (OSError, *DAMAGE)
_PLACE = ("data/chunk_index", "data/file_index")
_STATES = ("observation.state", "observation.environment_state")


class _Info(NamedTuple):
    """Frames a second, the sizes of the numeric vectors, those that make an observation and an action, and the data
    files with the lengths of their episodes by index.
    """

    fps: float
    vectors: dict[str, int]
    observation: list[str]
    action: list[str]
    files: dict[Path, dict[int, int]]


def is_lerobot(folder: Path) -> bool:
    """Whether a folder is laid out as a LeRobot dataset."""
    return (folder / _INFO).is_file()


def read_lerobot(folder: Path) -> Source:
    """Open a LeRobot dataset, which is read only with pyarrow.

    The observation is ``observation.state`` and ``observation.environment_state``, or where neither is there every
    numeric vector whose name begins with ``observation.``; likewise the action. Images and videos are not read. The
    reward is ``next.reward``; most datasets have none. A frame's action leads to the next frame, so the last one of an
    episode is left out.
    """
    path = folder / _INFO
    given = read_json(path)
    try:
        version = given["codebase_version"]
        if version not in ("v2.0", "v2.1", "v3.0"):
            raise TrajWorldError(f"{path}: version {version} is not read: LeRobot converts datasets to v3.0")
        vectors = {
            name: int(feature["shape"][0])
            for name, feature in given["features"].items()
            if len(feature["shape"]) == 1 and feature["dtype"].startswith(("float", "int", "uint", "bool"))
        }
        if max(vectors.values(), default=0) > _MOST_VALUES:
            raise ValueError(f"a vector of {max(vectors.values())} values")
        observation, action = (
            [name for name in usual if name in vectors]
            or [name for name in vectors if name.startswith(prefix)]
            for usual, prefix in ((_STATES, "observation."), (("action",), "action"))
        )
        names = tuple(
            name
            for vector in (*observation, *action)
            for name in value_names(vector, vectors[vector], _own_names(given["features"][vector]))
        )
        fps, files = float(given["fps"]), _files(folder, given)
    except _DAMAGED as error:
        raise TrajWorldError(f"{folder}: its metadata are missing or damaged ({one_line(error)})") from None
    if not (observation and files and fps > 0):
        raise TrajWorldError(
            f"{path}: no episode, or no numeric observation.state among {', '.join(vectors)}"
        )
    read = partial(_read_episodes, _Info(fps, vectors, observation, action, files))
    meta = [one for one in (folder / "meta").rglob("*") if one.is_file()]
    frames = sum(sum(lengths.values()) for lengths in files.values())
    name = folder.resolve().name
    return Source(name, f"lerobot/{name}", folder, [*meta, *files], read, frames, names)


def _own_names(feature: dict[str, Any]) -> object:
    """What a feature calls its values: in a list, or in a mapping of one (``{"motors": [...]}``)."""
    found = feature.get("names")
    return next(iter(found.values()), None) if isinstance(found, dict) else found


def _files(folder: Path, given: dict[str, Any]) -> dict[Path, dict[int, int]]:
    meta, rows = folder / "meta", []
    if given["codebase_version"] == "v3.0":
        from pyarrow import parquet

        for path in sorted((meta / "episodes").glob("*/*.parquet")):
            rows += parquet.read_table(path, columns=["episode_index", "length", *_PLACE]).to_pylist()
    else:
        lines = (meta / "episodes.jsonl").read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines if line.strip()]
    files, form = dict[Path, dict[int, int]](), str(given["data_path"])
    if re.search(r"{[^}]*({|\d{3})", form):
        raise ValueError(f"data_path {form!r} is too wide")
    for row in sorted(rows, key=lambda row: row["episode_index"]):
        index = int(row["episode_index"])
        place = {"episode_chunk": index // int(given.get("chunks_size", 1000)), "episode_index": index}
        place |= {name.partition("/")[2]: int(row[name]) for name in _PLACE if name in row}
        path = folder / form.format(**place)
        if not (path.resolve().is_relative_to(folder.resolve()) and path.is_file()):
            raise TrajWorldError(f"{path} is not there or lies outside the dataset: download it again")
        files.setdefault(path, {})[index] = int(row["length"])
    return files


def _read_episodes(info: _Info, account: Account) -> Iterator[Episode]:
    for path, lengths in info.files.items():
        account.note(f"frames {1 / info.fps:g} s apart", sum(lengths.values()))
        rows, end = _read_file(info, path), 0
        if len(rows["frame_index"]) != sum(lengths.values()):
            raise TrajWorldError(
                f"{path} and its metadata disagree on the frames: download the dataset again"
            )
        for index, length in lengths.items():
            begin, end = end, end + length
            frames = {name: array[begin:end] for name, array in rows.items()}
            if (made := _episode(info, frames, index, path, account)) is not None:
                yield check_episode(made, f"{path}, episode {index}")


def _read_file(info: _Info, path: Path) -> dict[str, NDArray[np.floating]]:
    """The frames of a file: of each feature ``[n, size]``."""
    from pyarrow import parquet

    optional = [name for name in ("next.reward", "next.done") if name in info.vectors]
    names = [*info.observation, *info.action, *optional, "timestamp", "frame_index", "episode_index"]
    try:
        with parquet.ParquetFile(path) as file:
            table = file.read(names)
        found = {}
        for name in names:
            column, size = table[name].combine_chunks(), info.vectors.get(name, 1)
            # Features of one element are columns of plain numbers.
            flat = column.flatten() if column.type.num_fields else column
            if column.null_count or flat.null_count or len(flat) != size * len(column):
                raise ValueError(f"{name} has missing values, or others than {size} a frame")
            found[name] = as_floats(flat.to_numpy(zero_copy_only=False)).reshape(-1, size)
        return found
    except _DAMAGED as error:
        raise TrajWorldError(f"{path} is not a readable file of this dataset: {one_line(error)}") from None


def _episode(
    info: _Info, rows: dict[str, NDArray[np.floating]], index: int, path: Path, account: Account
) -> Episode | None:
    """The episode of these frames, or None if they hold no whole transition."""
    length = len(rows["frame_index"])
    numbers = np.arange(length)
    if (rows["episode_index"] != index).any() or (rows["frame_index"][:, 0] != numbers).any():
        raise TrajWorldError(f"{path}: the frames of episode {index} are not all there in order")
    times = rows["timestamp"][:, 0] * info.fps
    late = "a timestamp is more than half a period off its frame's"
    account.note(late, int((np.abs(times - times[:1] - numbers) > 0.5).sum()))
    observations, actions = (
        np.concatenate([np.zeros((length, 0), np.float32), *(rows[name] for name in names)], axis=1)
        for names in (info.observation, info.action)
    )
    rewards = rows["next.reward"][:, 0] if "next.reward" in rows else no_rewards(length)
    done = bool("next.done" in rows and rows["next.done"][-2:-1].any())
    account.leave_out(UNRECORDED, rewards[-1:])
    if length < 2:
        return None
    account.keep(rewards[:-1])
    return Episode(observations, actions[:-1], rewards[:-1], done, not done)
