"""The memory-mapped store that training reads: plain ``.npy`` columns beside a JSON description.

A store is a folder of ``dataset.json``, ``rows.npy`` (float32 ``[N, M]``), ``episode_offsets.npy`` (int64
``[E + 1]``; episode e's rows are ``rows[offsets[e]:offsets[e + 1]]``), ``terminated.npy`` (bool ``[E]``) and
``statistics.json``.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from trajworld.data.account import Account
from trajworld.data.dataset import Dataset
from trajworld.data.episode import Episode, check_episode, rows_of_episode
from trajworld.data.statistics import write_statistics
from trajworld.errors import TrajWorldError
from trajworld.files import atomic_folder, one_writer, read_json, write_json

FORMAT = "trajworld-store"
VERSION = 2
_DESCRIPTION = "dataset.json"


def write_store(
    path: str | Path,
    episodes: Iterable[Episode],
    *,
    name: str,
    source: str,
    environment: str,
    account: Account | None = None,
    replace: bool = False,
) -> Dataset:
    """Write episodes as a store, one episode in memory at a time, and open it.

    The folder appears whole or not at all.

    Args:
        path: The folder to make.
        episodes: At least one; each is checked (shapes, NaN), and all must have the same sizes.
        name: See ``Dataset``, as ``source`` and ``environment``.
        source: The same.
        environment: The same.
        account: What becomes of the source's transitions while ``episodes`` are read; kept in the description.
        replace: Whether an existing folder is replaced.

    Raises:
        TrajWorldError: There is no episode, one is malformed or of another size, or the folder cannot be
            written.
    """
    path, content = Path(path), hashlib.sha256()
    with one_writer(path, f"the store of {name}"), atomic_folder(path, replace=replace) as folder:
        lengths: list[int] = []
        terminated: list[bool] = []
        sizes: tuple[int, int] | None = None
        with open(folder / "rows.npy", "wb") as file:
            for number, episode in enumerate(episodes):
                where = f"{name}, episode {number}"
                check_episode(episode, where)
                given = (episode.observations.shape[1], episode.actions.shape[1])
                if sizes is None:
                    sizes = given
                    _write_header(file, 0, sum(sizes) + 1)
                if given != sizes:
                    raise TrajWorldError(
                        f"{where}: {given[0]} observation and {given[1]} action values, but earlier "
                        f"episodes have {sizes[0]} and {sizes[1]}"
                    )
                rows = rows_of_episode(episode)
                if not np.all(np.isfinite(rows)):
                    raise TrajWorldError(f"{where}: a value is too large for 32-bit floats")
                written = rows.tobytes()
                content.update(written)
                file.write(written)
                lengths.append(len(rows))
                terminated.append(bool(episode.terminated))
            if sizes is None:
                raise TrajWorldError(f"{name}: there is no episode to store")
            # NumPy pads the header so that the number of rows can be filled in afterwards.
            file.seek(0)
            _write_header(file, sum(lengths), sum(sizes) + 1)
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        ends = np.array(terminated, bool)
        content.update(repr(sizes).encode() + offsets.tobytes() + ends.tobytes())
        np.save(folder / "episode_offsets.npy", offsets)
        np.save(folder / "terminated.npy", ends)
        description = {
            "format": FORMAT,
            "version": VERSION,
            "name": name,
            "source": source,
            "environment": environment,
            "observation_size": sizes[0],
            "action_size": sizes[1],
            "episodes": len(lengths),
            "rows": sum(lengths),
            "content": content.hexdigest(),
            **({} if account is None else {"account": account.as_json()}),
        }
        write_json(folder / _DESCRIPTION, description)
        write_statistics(open_store(folder))
    return open_store(path)


def is_store(path: str | Path) -> bool:
    """Whether ``path`` is a folder with a store's description."""
    return (Path(path) / _DESCRIPTION).is_file()


def open_store(path: str | Path) -> Dataset:
    """Open a store; only its description and offsets are read, its rows are memory-mapped.

    Raises:
        TrajWorldError: The folder is not a store, is of another version, or its files are damaged or
            disagree.
    """
    path = Path(path)
    description = store_description(path)
    sizes = [description["observation_size"], description["action_size"]]
    rows = _array(path, "rows.npy", np.dtype(np.float32), mmap_mode="r")
    if rows.ndim != 2 or rows.shape[1] != sum(sizes) + 1:
        raise TrajWorldError(
            f"{path}: rows.npy has shape {rows.shape}, but dataset.json wants {sum(sizes) + 1} variates"
        )
    offsets = _array(path, "episode_offsets.npy", np.dtype(np.int64))
    # Two rows are the least that make a transition.
    if offsets.ndim != 1 or len(offsets) < 2 or offsets[0] != 0 or np.any(np.diff(offsets) < 2):
        raise TrajWorldError(f"{path}: episode_offsets.npy does not start at 0 and rise by at least 2")
    terminated = _array(path, "terminated.npy", np.dtype(bool))
    counts = (len(rows), len(offsets) - 1, terminated.shape)
    if offsets[-1] != len(rows) or counts != (
        description["rows"],
        description["episodes"],
        (len(offsets) - 1,),
    ):
        raise TrajWorldError(
            f"{path}: its files disagree on the number of rows or episodes; remove the folder and convert "
            "it again"
        )
    return Dataset(
        path=path,
        name=description["name"],
        source=description["source"],
        environment=description["environment"],
        observation_size=sizes[0],
        action_size=sizes[1],
        rows=rows,
        episode_offsets=offsets,
        terminated=terminated,
        content=description["content"],
        account=_account(path, description),
    )


def store_description(path: str | Path) -> dict[str, Any]:
    """A store's ``dataset.json``, checked.

    Raises:
        TrajWorldError: The folder is not a store, or is one of another version, or the file is damaged.
    """
    file = Path(path) / _DESCRIPTION
    description = read_json(file)
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        raise TrajWorldError(f"{file} does not describe a {FORMAT}")
    if description.get("version") != VERSION:
        raise TrajWorldError(
            f"{file} is of version {description.get('version')!r}, this program reads {VERSION}: convert "
            "the source again"
        )
    for key in ("name", "source", "environment", "content"):
        if not isinstance(description.get(key), str):
            raise TrajWorldError(f"{file}: {key!r} must be a text")
    for key, least in (("observation_size", 0), ("action_size", 0), ("episodes", 1), ("rows", 2)):
        value = description.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise TrajWorldError(f"{file}: {key!r} must be a whole number of at least {least}, not {value!r}")
    return description


def _account(path: Path, description: dict[str, Any]) -> Account | None:
    try:
        return Account.from_json(description["account"]) if "account" in description else None
    except (TypeError, ValueError, KeyError, AttributeError):
        raise TrajWorldError(
            f"{path / _DESCRIPTION}: its account is damaged: convert the source again"
        ) from None


def _write_header(file: BinaryIO, rows: int, variates: int) -> None:
    header = {"descr": "<f4", "fortran_order": False, "shape": (rows, variates)}
    np.lib.format.write_array_header_1_0(file, header)


def _array(path: Path, name: str, dtype: np.dtype[Any], mmap_mode: Any = None) -> NDArray[Any]:
    try:
        array = np.load(path / name, mmap_mode=mmap_mode, allow_pickle=False)
    except FileNotFoundError:
        raise TrajWorldError(f"{path} lacks {name}: remove the folder and convert it again") from None
    except (OSError, ValueError, EOFError, TypeError, MemoryError) as error:
        reason = " ".join(str(error).split())[:120]
        raise TrajWorldError(
            f"{path / name} is damaged ({reason}): remove the folder and convert it again"
        ) from None
    if not isinstance(array, np.ndarray) or array.dtype != dtype or np.isfortran(array):
        raise TrajWorldError(f"{path / name} must hold {dtype} values in C order")
    return array
