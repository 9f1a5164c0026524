"""Files: writing that is atomic (a reader sees the whole new file or folder, or none of it), JSON, zips and digests."""

import contextlib
import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import filelock

from trajworld.errors import TrajWorldError, UsageError, one_line

_KINDS = (
    (b"version https://git-lfs", "it is a Git LFS pointer: fetch the file itself with git lfs pull"),
    (b"\x1f\x8b", "it is compressed with gzip: unpack it first"),
    (b"BZh", "it is compressed with bzip2: unpack it first"),
    (b"\xfd7zXZ", "it is compressed with xz: unpack it first"),
    (b"\x28\xb5\x2f\xfd", "it is compressed with zstd: unpack it first"),
    (b"\x89HDF", "it is an HDF5 file"),
    (b"\x93NUMPY", "it is a NumPy file (.npy)"),
    (b"PAR1", "it is a Parquet file"),
    (b"\x89PNG", "it is a picture"),
    (
        b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.",
        "it was saved as PyTorch did before version 1.6: load it with today's PyTorch and save it again",
    ),
    (b"\x80", "it is a pickle"),
    (b"PK\x03\x04", "it is a zip archive"),
)


@contextlib.contextmanager
def atomic_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside ``path``, of the same suffix, that replaces it when the block ends without error.

    A ``TrajWorldError`` where the folder cannot be written or the disk is full.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    with _writing(path, temporary):
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, path)


def refuse_existing(path: str | os.PathLike[str] | None) -> None:
    """Raise a ``TrajWorldError`` if a place to write to exists already; before long work, too."""
    if path is not None and Path(path).exists():
        raise TrajWorldError(f"{path} exists already: name another place or remove it first")


@contextlib.contextmanager
def atomic_folder(path: str | os.PathLike[str], *, replace: bool = False) -> Iterator[Path]:
    """Yield a temporary folder beside ``path`` that becomes ``path`` when the block ends without error.

    A ``TrajWorldError`` where ``path`` exists and is not to be replaced, too.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    old = temporary.with_suffix(".old")
    if not replace:
        refuse_existing(path)
    with _writing(path, temporary):
        temporary.mkdir(parents=True)
        yield temporary
        if path.exists() and not replace:
            raise TrajWorldError(f"{path} was made meanwhile: name another place")
        try:
            if path.exists():
                os.replace(path, old)
            os.replace(temporary, path)
        except BaseException:  # A Ctrl-C too.
            if old.exists() and not path.exists():
                os.replace(old, path)
            raise
        shutil.rmtree(old, ignore_errors=True)


@contextlib.contextmanager
def one_writer(path: str | os.PathLike[str], what: str, wait: bool = False) -> Iterator[None]:
    """Lock ``path``, existing or not, for this process by a hidden lock file; else a ``TrajWorldError``.

    With ``wait`` it waits until no other process holds it. ``what`` says what ``path`` is. The lock ends with the
    process, even a killed one. What killed writers left half-written is removed.
    """
    path = Path(path).absolute()
    lock = filelock.FileLock(path.with_name(f".{path.name}.lock"), timeout=-1 if wait else 0)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except filelock.Timeout:
        raise TrajWorldError(
            f"another process is writing {what} ({path}): wait until it ends, or choose another place"
        ) from None
    except OSError as error:
        raise _cannot("write", path, error) from error
    try:
        remove_leftovers(path)
        # If the folder itself is gone, the one that was moved away to be replaced is the only copy.
        kinds = "(tmp|old)" if path.exists() else "tmp"
        remove_leftovers(path.parent, rf"\.{re.escape(path.name)}\.[0-9a-f]{{8}}\.{kinds}")
        yield
    finally:
        # While it is held: a process that opened it before sees that its lock file has no name, and tries again.
        with contextlib.suppress(OSError):
            os.unlink(lock.lock_file)
        lock.release()


def remove_leftovers(folder: Path, names: str = r"\..+\.tmp.*") -> None:
    """Remove the temporary files and folders that a killed process left in a folder, and nothing else."""
    for path in folder.glob(".*"):
        if re.fullmatch(names, path.name):
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def ensure_room(folder: str | os.PathLike[str], size: int, name: str = "") -> None:
    """Raise a ``TrajWorldError`` if ``size`` more bytes, of the file ``name``, would not fit into a folder.

    HDF5 cannot close its files on a full disk, and may crash the process.
    """
    try:
        # A file without a name, if possible: nothing of it remains, even if the process is killed.
        with tempfile.TemporaryFile(prefix=".tmp", dir=folder) as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
            elif shutil.disk_usage(folder).free < size:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError as error:
        raise _cannot("write", Path(folder) / name, error) from error


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write ``value`` as indented JSON, atomically; NaN and infinities are refused, since JSON has none."""
    try:
        text = json.dumps(value, indent=2, allow_nan=False) + "\n"
    except ValueError as error:
        raise TrajWorldError(f"{path} is not written: {error}") from None
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_json(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a JSON file of one object; a ``TrajWorldError`` where it is missing, unreadable or anything else."""
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise TrajWorldError(f"{path} does not exist") from None
    except (OSError, ValueError, RecursionError) as error:
        raise TrajWorldError(f"{path} is not a readable JSON file ({one_line(error)})") from None
    if not isinstance(value, dict):
        raise TrajWorldError(f"{path} is not a readable JSON file of one object")
    return value


def nested(values: Any, *names: str) -> dict[str, Any]:
    """The object at ``names`` in JSON values; an empty one if there is none."""
    for name in names:
        values = values.get(name) if isinstance(values, dict) else None
    return values if isinstance(values, dict) else {}


def json_digest(value: Any) -> str:
    """The SHA-256 of a JSON value, by which a file's changes are detected."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def file_digest(path: str | os.PathLike[str]) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal; a ``TrajWorldError`` where it is missing or cannot be read."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise _cannot("read", path, error) from None


def user_path(path: str | os.PathLike[str]) -> Path:
    """A path as a person writes it, with ``~`` for a home folder; a ``UsageError`` where there is none."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        problem = f"{path} begins in the home folder of a user who has none: write the whole path"
        raise UsageError(problem) from None


def kind_of_file(path: str | os.PathLike[str]) -> str:
    """What a file is, by its first bytes, and what to do about it, for readers of other files; empty if unknown."""
    try:
        with open(path, "rb") as file:
            start = file.read(512)
    except OSError:
        return ""
    return kind_of_bytes(start)


def kind_of_bytes(start: bytes) -> str:
    """The same by a file's first 512 bytes."""
    if not start:
        return "it is empty"
    if start.lstrip().lower().startswith((b"<!doctype html", b"<html")):
        return "it is an HTML page: the download gave a page in place of the file"
    if start[8:10] == b'{"' and int.from_bytes(start[:8], "little") < 1 << 32:
        return "it is a safetensors file"
    if start.startswith(b"PK\x03\x04") and b"data.pkl" in start:
        return "it is a PyTorch file (.pt)"
    return next((text for magic, text in _KINDS if start.startswith(magic)), "")


def open_zip(path: str | os.PathLike[str], most: int = 1 << 28) -> zipfile.ZipFile:
    """Open a zip archive that unpacks to at most ``most`` bytes."""
    try:
        archive = zipfile.ZipFile(path)
    except OSError as error:
        raise _cannot("read", path, error) from None
    except zipfile.BadZipFile as error:
        raise TrajWorldError(f"{path} is no whole zip archive ({kind_of_file(path) or error})") from None
    if sum(entry.file_size for entry in archive.infolist()) > most:
        archive.close()
        raise TrajWorldError(f"{path} unpacks to more than {most >> 20} MB")
    return archive


def read_arrays(path: str | os.PathLike[str], names: Iterable[str] | None = None) -> dict[str, Any]:
    """The arrays of an ``.npz`` file by name, all or those of ``names`` that it has; nothing is ever unpickled.

    A ``TrajWorldError`` where the file is missing, damaged or another kind.
    """
    import numpy as np

    try:
        with np.load(path, allow_pickle=False) as file:
            return {
                name: file[name] for name in (file.files if names is None else names) if name in file.files
            }
    except Exception as error:  # Damaged archives make Python and NumPy raise a dozen types.
        raise TrajWorldError(f"{path} is not a readable .npz file ({one_line(error)})") from None


@contextlib.contextmanager
def _writing(path: Path, temporary: Path) -> Iterator[None]:
    """Turn an operating-system error into one line that names ``path``, and leave nothing of ``temporary``."""
    try:
        yield
    except OSError as error:
        raise _cannot("write", path, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        # If the parent is no folder there is nothing to remove, and the block's own error says so better.
        with contextlib.suppress(OSError):
            temporary.unlink()


def _cannot(do: str, path: str | os.PathLike[str], error: OSError) -> TrajWorldError:
    return TrajWorldError(f"cannot {do} {path}: {error.strerror or error}")
