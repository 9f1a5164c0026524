"""The memory-mapped store that training reads: plain ``.npy`` columns beside a JSON description.

A store is a folder of ``dataset.json``, ``rows.npy`` (float32 ``[N, M]``), ``episode_offsets.npy`` (int64
``[E + 1]``; episode e's rows are ``rows[offsets[e]:offsets[e + 1]]``) and ``terminated.npy`` (bool ``[E]``).
"""

import contextlib
import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from trajworld.data.account import Account
from trajworld.data.dataset import Dataset, named_variates
from trajworld.data.episode import Episode, check_episodes, rows_of_episode, spans
from trajworld.errors import DAMAGE, TrajWorldError, one_line
from trajworld.files import atomic_folder, one_writer, read_json, write_json

FORMAT = "trajworld-store"
VERSION = 2
_DESCRIPTION = "dataset.json"
# Names that no variate may have: tables use them for other rows.
_TAKEN = ("reward", "observations", "predicted", "all", "episode length", "episode return")
# An error by rounding, as a share of a variate's range, that is told.
_ROUNDED = 1e-3
_AGAIN = "remove the folder and convert the source again"


def write_store(
    path: str | Path,
    episodes: Iterable[Episode],
    *,
    name: str,
    source: str,
    environment: str,
    account: Account | None = None,
    names: tuple[str, ...] = (),
    reuse: bool = False,
) -> Dataset:
    """Write episodes, all of the same sizes, as a store, one episode in memory at a time, and open it.

    The folder appears whole or not at all. ``name``, ``source``, ``environment`` and ``names`` are those of
    ``Dataset``; ``account``, updated while ``episodes`` are read, is stored with them. With ``reuse``, a store that
    another process is writing there, or wrote, is waited for and opened instead.
    """
    path, content = Path(path), hashlib.sha256()
    lengths, terminated, sizes = list[int](), list[bool](), (0, 0)
    with one_writer(path, f"the store of {name}", wait=reuse), contextlib.ExitStack() as stack:
        if reuse and is_store(path):
            return open_store(path)
        folder = stack.enter_context(atomic_folder(path, replace=reuse))
        rewarded = True
        low, high, error = np.array(np.inf), np.array(-np.inf), np.array(0.0)
        with open(folder / "rows.npy", "wb") as file:
            _write_header(file, 0, 1)
            for number, episode in enumerate(check_episodes(episodes, name)):
                rows, sizes, rewarded = rows_of_episode(episode), episode.sizes, episode.rewarded
                if not np.all(np.isfinite(rows)):
                    raise TrajWorldError(f"{name}, episode {number}: a value is too large for 32-bit floats")
                least, greatest, rounding = spans(episode)
                low, high = np.minimum(low, least), np.maximum(high, greatest)
                error = np.maximum(error, rounding)
                content.update(rows.data)
                file.write(rows.data)
                lengths.append(len(rows))
                terminated.append(bool(episode.terminated))
            # NumPy pads the header so that the number of rows can be filled in afterwards.
            file.seek(0)
            _write_header(file, sum(lengths), sum(sizes) + 1)
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        ends = np.array(terminated, bool)
        content.update(repr(sizes).encode() + offsets.tobytes() + ends.tobytes())
        content.update(b"" if rewarded else b"no reward")
        np.save(folder / "episode_offsets.npy", offsets)
        np.save(folder / "terminated.npy", ends)
        description: dict[str, Any] = {"format": FORMAT, "version": VERSION, "name": name, "source": source}
        description |= {"environment": environment, "observation_size": sizes[0], "action_size": sizes[1]}
        description |= {"episodes": len(lengths), "rows": sum(lengths), "content": content.hexdigest()}
        description |= {} if rewarded else {"reward": False}
        if len({*names, *_TAKEN}) == sum(sizes) + len(_TAKEN):
            description["names"] = names
        if account is not None:
            called = named_variates(description.get("names", ()), *sizes)
            for variate in np.flatnonzero((low < high) & (error > _ROUNDED * (high - low))):
                account.note(f"values of {called[variate]} rounded to 32 bits", sum(lengths))
            description["account"] = vars(account)
        write_json(folder / _DESCRIPTION, description)
    return open_store(path)


def is_store(path: str | Path) -> bool:
    """Whether ``path`` is a folder with a store's description."""
    return (Path(path) / _DESCRIPTION).is_file()


def open_store(path: str | Path) -> Dataset:
    """Open a store, whose rows are memory-mapped; a ``TrajWorldError`` where its files are damaged or disagree."""
    path = Path(path)
    description = store_description(path)
    variates = description["observation_size"] + 1 + description["action_size"]
    arrays: dict[str, Any] = {
        "rows": _array(path, "rows.npy", np.float32, mmap_mode="r"),
        "episode_offsets": _array(path, "episode_offsets.npy", np.int64),
        "terminated": _array(path, "terminated.npy", np.bool_),
    }
    rows, offsets, terminated = arrays.values()
    if rows.ndim != 2 or rows.shape[1] != variates:
        raise TrajWorldError(
            f"{path}: rows.npy has shape {rows.shape}, but dataset.json wants {variates} variates"
        )
    # Two rows are the least that make a transition.
    if offsets.ndim != 1 or len(offsets) < 2 or offsets[0] != 0 or np.any(np.diff(offsets) < 2):
        raise TrajWorldError(f"{path}: episode_offsets.npy does not start at 0 and rise by at least 2")
    length, episodes = description["rows"], description["episodes"]
    found = (offsets[-1], len(rows), len(offsets) - 1, terminated.shape)
    if found != (length, length, episodes, (episodes,)):
        raise TrajWorldError(f"{path}: its files disagree on the number of rows or episodes: {_AGAIN}")
    try:
        account = Account.from_json(description["account"]) if "account" in description else None
        if account is not None and (account.kept, account.episodes) != (length - episodes, episodes):
            raise ValueError
    except DAMAGE:
        raise TrajWorldError(f"{path / _DESCRIPTION}: its account is damaged: {_AGAIN}") from None
    # What was written after the description is not what that describes, unless it is equal.
    written = (path / _DESCRIPTION).stat().st_mtime_ns
    if any(file.stat().st_mtime_ns > written for file in path.glob("*.npy")):
        sizes = description["observation_size"], description["action_size"]
        content = hashlib.sha256(memoryview(rows))
        content.update(repr(sizes).encode() + offsets.tobytes() + terminated.tobytes())
        content.update(b"" if description.get("reward", True) else b"no reward")
        if content.hexdigest() != description["content"]:
            raise TrajWorldError(f"{path}: its rows or episodes are not those that were written: {_AGAIN}")
    described = ("name", "source", "environment", "observation_size", "action_size", "content")
    values = {name: description[name] for name in described} | {"reward": description.get("reward", True)}
    values["names"] = tuple(description.get("names", ()))
    return Dataset(path=path, account=account, **values, **arrays)


def store_description(path: str | Path) -> dict[str, Any]:
    """A store's ``dataset.json``, checked; a ``TrajWorldError`` where it is damaged or of another version."""
    file = Path(path) / _DESCRIPTION
    description = read_json(file)
    if description.get("format") != FORMAT:
        raise TrajWorldError(f"{file} does not describe a {FORMAT}")
    version = description.get("version")
    if version != VERSION:
        raise TrajWorldError(f"{file} is of version {version!r}, this program reads {VERSION}: {_AGAIN}")
    for key in ("name", "source", "environment", "content"):
        if not isinstance(description.get(key), str):
            raise TrajWorldError(f"{file}: {key!r} must be a text")
    if not isinstance(description.get("reward", True), bool):
        raise TrajWorldError(f"{file}: 'reward' must be true or false")
    names = description.get("names", [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise TrajWorldError(f"{file}: 'names' must be texts")
    for key, least in (("observation_size", 0), ("action_size", 0), ("episodes", 1), ("rows", 2)):
        value = description.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise TrajWorldError(f"{file}: {key!r} must be a whole number of at least {least}, not {value!r}")
    return description


def _write_header(file: BinaryIO, rows: int, variates: int) -> None:
    header = {"descr": "<f4", "fortran_order": False, "shape": (rows, variates)}
    np.lib.format.write_array_header_1_0(file, header)


def _array(path: Path, name: str, dtype: type[np.generic], mmap_mode: Any = None) -> NDArray[Any]:
    try:
        array = np.load(path / name, mmap_mode=mmap_mode, allow_pickle=False)
    except FileNotFoundError:
        raise TrajWorldError(f"{path} lacks {name}: {_AGAIN}") from None
    except Exception as error:  # Damaged bytes make NumPy and zipfile raise a dozen types.
        raise TrajWorldError(f"{path / name} is damaged ({one_line(error, 120)}): {_AGAIN}") from None
    if not isinstance(array, np.ndarray) or array.dtype != dtype or np.isfortran(array):
        raise TrajWorldError(f"{path / name} must hold {dtype.__name__} values in C order")
    return array
