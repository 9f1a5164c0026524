"""Reading what ``torch.save`` writes since PyTorch 1.6, without PyTorch: NumPy arrays, and nothing is run."""

import functools
import io
import os
import struct
import zipfile
import zlib
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from trajworld.errors import TrajWorldError, one_line
from trajworld.files import kind_of_bytes, kind_of_file
from trajworld.interop.restricted_pickle import parse_pickle

# Compressed members unpack to no more than this, and only members up to this size are read for their checksums.
_MOST_BYTES = 1 << 28
_BYTE_ORDERS: dict[bytes, Literal["<", ">"]] = {b"little": "<", b"big": ">"}


def read_torch(path: str | os.PathLike[str], data: bytes | None = None) -> Any:
    """What a PyTorch file holds: values as of ``read_pickle``, and an array for each tensor (bfloat16 as float32).

    The arrays are views of the file, which is mapped and not loaded; or of its bytes ``data``, where these are given
    and ``path`` only says in messages where they are from.

    Raises:
        TrajWorldError: The file is missing, damaged or of an older PyTorch, names anything outside the allow-list, or
            holds other tensors than plain ones of numbers.
    """
    try:
        whole = np.memmap(path, mode="r").data if data is None else memoryview(data)
        with zipfile.ZipFile(path if data is None else io.BytesIO(data)) as archive:
            members = _members(archive, whole)
        folders = [name.removesuffix("data.pkl") for name in members if name.endswith("/data.pkl")]
        if len(folders) != 1:
            raise ValueError(f"it holds {len(folders)} files data.pkl")
        order = _BYTE_ORDERS[bytes(members.get(f"{folders[0]}byteorder", b"little"))]
    except OSError as error:
        raise TrajWorldError(f"cannot read {path}: {error.strerror or error}") from None
    except Exception as error:  # Damaged archives make Python raise a dozen types.
        kind = kind_of_file(path) if data is None else kind_of_bytes(data[:512])
        why = one_line(error) if not kind or kind.endswith(("archive", ".pt)")) else kind
        raise TrajWorldError(f"{path} is not a readable PyTorch file: {why}") from None

    @functools.cache
    def storage(kind: np.dtype[Any], key: str, count: int) -> NDArray[Any]:
        held = members[f"{folders[0]}data/{key}"]
        if count * kind.itemsize != len(held):
            raise ValueError(f"{len(held)} bytes are no {count} numbers of a storage")
        if kind.kind == "V":  # bfloat16 is the upper half of a float32.
            return (np.ndarray(count, f"{order}u2", held).astype(np.uint32) << 16).view(np.float32)
        if kind.kind == "b":
            return np.ndarray(count, np.uint8, held) != 0
        return np.ndarray(count, kind.newbyteorder(order), held)

    # ("storage", type, key, device, number of elements)
    return parse_pickle(
        bytes(members[f"{folders[0]}data.pkl"]),
        f"{path}: data.pkl",
        lambda identity: storage(identity[1], identity[2], identity[4]),
    )


def _members(archive: zipfile.ZipFile, whole: memoryview) -> dict[str, memoryview | bytes]:
    """The contents of an archive by their names: views of its bytes ``whole`` where they are not compressed."""
    entries = sorted(archive.infolist(), key=lambda entry: entry.header_offset, reverse=True)
    if sum(entry.file_size for entry in entries if entry.compress_type) > _MOST_BYTES:
        raise ValueError(f"it unpacks to more than {_MOST_BYTES >> 20} MB")
    members: dict[str, memoryview | bytes] = {}
    end = archive.start_dir
    for entry in entries:
        # Where the content begins is known only from the header before it: names are padded there to align it.
        start = entry.header_offset
        signature, flags, *lengths = struct.unpack("<4s2xH18x2H", whole[max(start, 0) : start + 30])
        begin = start + 30 + sum(lengths)
        if (
            signature != b"PK\x03\x04"
            or start < 0
            or begin + entry.compress_size > end
            or entry.filename in members
        ):
            raise ValueError(
                f"{entry.filename[:80]!r} overlaps another part of it, or is not where it should be"
            )
        if flags & 1:
            raise ValueError("it is encrypted")
        held = archive.read(entry) if entry.compress_type else whole[begin : begin + entry.compress_size]
        # PyTorch may leave checksums out, as 0.
        checked = entry.CRC and entry.file_size <= _MOST_BYTES
        if len(held) != entry.file_size or (checked and zlib.crc32(held) != entry.CRC):
            raise ValueError(f"{entry.filename[:80]!r} is damaged")
        members[entry.filename] = held
        end = start
    return members
