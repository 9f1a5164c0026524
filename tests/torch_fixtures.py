"""Files as ``torch.save`` writes them, made by NumPy, pickle and zipfile alone."""

import io
import pickle
import zipfile
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

KINDS = {"f2": "Half", "f4": "Float", "f8": "Double", "b1": "Bool", "u1": "Byte"}
KINDS |= {"i1": "Char", "i2": "Short", "i4": "Int", "i8": "Long"}


class Name(str):
    """What a pickle names, ``module name``, whether it is installed or not."""


@dataclass(eq=False)
class Storage:
    """A tensor's numbers; the file can say another type or count of them."""

    numbers: np.ndarray
    name: str = ""
    count: Any = None


@dataclass(eq=False)
class Made:
    """What a call of a name gives, with a dictionary's items or a state set afterwards."""

    name: str
    arguments: tuple[Any, ...] = ()
    items: Any = None
    state: Any = None


def tensor(storage: Any, offset: Any, size: Any, stride: Any, *more: Any) -> Made:
    hooks = Made("collections OrderedDict")
    return Made("torch._utils _rebuild_tensor_v2", (storage, offset, size, stride, False, hooks, *more))


class _Pickler(pickle._Pickler):  # type: ignore[name-defined, misc]
    dispatch: ClassVar = dict(pickle._Pickler.dispatch)  # type: ignore[attr-defined]

    def __init__(self, file: Any) -> None:
        super().__init__(file, 2)
        self.storages: list[Storage] = []

    def persistent_id(self, value: Any) -> Any:
        if not isinstance(value, Storage):
            return None
        if value not in self.storages:
            self.storages.append(value)
        numbers = value.numbers
        name = value.name or f"torch {KINDS[numbers.dtype.str[1:]]}Storage"
        count = numbers.size if value.count is None else value.count
        return "storage", Name(name), str(self.storages.index(value)), "cpu", count

    def save_name(self, name: Name) -> None:
        self.write(b"c" + name.replace(" ", "\n").encode() + b"\n")

    def save_made(self, made: Made) -> None:
        self.save(Name(made.name))
        self.save(made.arguments)
        self.write(pickle.REDUCE)
        if made.items is not None:
            self._batch_setitems(made.items.items())
        if made.state is not None:
            self.save(made.state)
            self.write(pickle.BUILD)

    def save_array(self, array: np.ndarray) -> None:
        strides = tuple(step // array.itemsize for step in np.empty(array.shape, array.dtype).strides)
        self.save(tensor(Storage(array.ravel()), 0, array.shape, strides))

    dispatch |= {Name: save_name, Made: save_made, np.ndarray: save_array}


def torch_members(value: Any, byteorder: str = "little") -> dict[str, bytes]:
    """The contents of the file by their names; each array of ``value`` is a contiguous tensor."""
    pickler = _Pickler(file := io.BytesIO())
    pickler.dump(value)
    members = {"x/data.pkl": file.getvalue(), "x/byteorder": byteorder.encode(), "x/version": b"3\n"}
    for key, storage in enumerate(pickler.storages):
        order = {"little": "<", "big": ">"}[byteorder]
        members[f"x/data/{key}"] = storage.numbers.astype(storage.numbers.dtype.newbyteorder(order)).tobytes()
    return members


def zipped(members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    with zipfile.ZipFile(file := io.BytesIO(), "w", compression) as archive:
        for name, content in members.items():
            entry = zipfile.ZipInfo(name)
            # PyTorch pads the header too.
            entry.compress_type, entry.extra = compression, b"FB\x05\x00ZZZZZ"
            archive.writestr(entry, content)
    return file.getvalue()


def torch_file(value: Any) -> bytes:
    return zipped(torch_members(value))
