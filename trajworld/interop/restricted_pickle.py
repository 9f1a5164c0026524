"""Reading untrusted pickles: a name in them stands for an array or an inert record, and is never imported."""

import io
import math
import os
import pickle
import pickletools
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trajworld.errors import TrajWorldError, one_line
from trajworld.files import kind_of_file

MAX_DEPTH = 100
# Python hashes a tuple in a tuple by recursion in C, without a limit: some 100,000 levels end the process.
MAX_TUPLES = 20_000
# A tensor may repeat numbers by strides of 0; one of more numbers than this must have them all in the file.
MAX_REPEATED = 1 << 26
# EXT takes objects from a cache of the process without asking find_class; data files need none of these.
_FORBIDDEN = {"EXT1", "EXT2", "EXT4", "INST", "OBJ", "PERSID", "BINPERSID", "NEXT_BUFFER", "READONLY_BUFFER"}


@dataclass
class Record:
    """An object of an outside class, inert: the class's full name, what it was made with, and its state."""

    name: str
    arguments: tuple[Any, ...] = ()
    state: Any = None


def read_pickle(path: str | os.PathLike[str]) -> Any:
    """Read a pickle (protocols 0 to 5) without importing or calling anything that it names.

    The result holds plain values and containers, NumPy arrays (views of the file's bytes; of a ``jax.Array`` too),
    scalars and dtypes of numbers, and a ``Record`` for each object of a known outside class and for the name of one.

    Raises:
        TrajWorldError: The file is missing, damaged or too deep, or names anything outside the allow-list.
    """
    path = Path(path)
    if path.exists() and not path.is_file():
        raise TrajWorldError(f"{path} is not a file: name the pickle itself")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise TrajWorldError(f"cannot read {path}: {error.strerror or error}") from None
    return parse_pickle(data, path)


def parse_pickle(
    data: bytes, path: str | os.PathLike[str], outside: Callable[[Any], Any] | None = None
) -> Any:
    """The same of a pickle's bytes; ``path`` says in messages where they are from.

    ``outside`` gives the value of a persistent id, which the pickle only refers to. Without it, none is allowed.
    """
    try:
        _check_opcodes(data, _FORBIDDEN - {"BINPERSID"} if outside else _FORBIDDEN)
        reader = _Reader(data, outside)
        return reader.settle(reader.load())
    except _Refused as reason:
        raise TrajWorldError(f"{path} is refused: {reason}; nothing in it was run") from None
    except Exception as error:  # Damaged bytes make Python and NumPy raise a dozen types.
        kind = kind_of_file(path).replace("it is a pickle", "") or one_line(error, 200)
        raise TrajWorldError(
            f"{path} is not a readable pickle, or is damaged or cut short ({kind})"
        ) from None


class _Refused(Exception):
    """The file asks for something that a data file does not need; the text completes "it is refused: ..."."""


def _check_opcodes(data: bytes, forbidden: set[str]) -> None:
    """Refuse opcodes that data files do not need, and what makes the unpickler crash or take memory without bound."""
    tuples = 0
    for count, (opcode, argument, _) in enumerate(pickletools.genops(data)):
        if opcode.name in forbidden:
            raise _Refused(f"it uses the opcode {opcode.name}, which data files do not need")
        tuples += opcode.name.startswith("TUPLE")
        if tuples > MAX_TUPLES:
            raise _Refused(f"it holds more than {MAX_TUPLES} tuples")
        # The unpickler's memo is a table as long as the largest number in use.
        if "PUT" in opcode.name and argument not in range(count + 1):
            raise _Refused("it numbers its objects with gaps")


class _StandIn:
    """What a call of an allowed name returns: a note of that call. Each name has its own subclass."""

    __slots__ = ("arguments", "items", "state")
    arguments: tuple[Any, ...]
    items: dict[Any, Any]
    state: Any

    def __new__(cls, *arguments: Any) -> "_StandIn":
        made = super().__new__(cls)
        made.arguments, made.items, made.state = arguments, {}, None
        return made

    def __setitem__(self, key: Any, value: Any) -> None:
        self.items[key] = value

    # The unpickler's BUILD calls this; without it BUILD would set attributes.
    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Reader(pickle.Unpickler):
    """An unpickler for which a name is one of our stand-ins or an error; ``settle`` then makes values of those."""

    def __init__(self, data: bytes, outside: Callable[[Any], Any] | None) -> None:
        super().__init__(io.BytesIO(data), encoding="latin1")
        self.outside = outside
        # A file can refer to one object many times: this bounds the values visited and the characters copied.
        self.room = 4 * len(data) + 4096

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        if full not in _STAND_INS:
            raise _Refused(f"it names {full[:120]!r}, which is not among the few names that are read")
        return _STAND_INS[full]

    def persistent_load(self, identity: Any) -> Any:
        assert self.outside is not None  # Else the opcode is forbidden.
        return self.outside(self.settle(identity))

    def settle(self, value: Any, depth: int = 0) -> Any:
        """Return a copy of ``value`` without stand-ins; arrays share the memory of their bytes."""
        self.room -= 1
        if self.room < 0:
            raise _Refused("it repeats its own content again and again")
        if depth > MAX_DEPTH:
            raise _Refused(f"it is nested more than {MAX_DEPTH} deep")
        if type(value) in (list, tuple, set, frozenset):
            return type(value)([self.settle(item, depth + 1) for item in value])
        if type(value) is dict:
            return {self.settle(key, depth + 1): self.settle(item, depth + 1) for key, item in value.items()}
        if isinstance(value, type):
            return _SCALAR_TYPES.get(value.__name__, Record(value.__name__))
        if not isinstance(value, _StandIn):
            return value
        name = type(value).__name__
        arguments, state, items = self.settle((value.arguments, value.state, value.items), depth + 1)
        copied = (*arguments, *state) if type(state) is tuple else arguments
        self.room -= sum(len(item) for item in copied if type(item) is str)
        if items and name not in _DICTS:
            raise _Refused(f"it sets items of a {name}")
        if name in _DICTS:
            return _plain(dict, arguments, list, dict) | items
        return _REBUILDERS[name](arguments, state) if name in _REBUILDERS else Record(name, arguments, state)


def _plain(kind: type[Any], arguments: tuple[Any, ...], *sources: type[Any]) -> Any:
    """Call a container's type with nothing, or with one value of the given types."""
    if len(arguments) > 1 or any(type(argument) not in sources for argument in arguments):
        raise _Refused(f"it calls {kind.__name__} in a way that data files do not")
    return kind(*arguments)


def _encoded(text: Any, encoding: Any) -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise _Refused("it encodes something other than bytes kept as text")
    return text.encode("latin-1")


def _dtype(text: Any, state: Any) -> np.dtype[Any]:
    """Make a dtype of numbers; the state is NumPy's ``(version, byte order, ...)``."""
    if not isinstance(text, str) or not re.fullmatch(r"[biufc][0-9]{1,2}", text):
        raise _Refused(f"it holds an array of the type {str(text)[:40]!r}; numbers are read")
    return np.dtype(text).newbyteorder(state[1] if state else "=")


def _array(data: Any, dtype: Any, shape: Any, order: str) -> np.ndarray[Any, Any]:
    """View ``data`` (bytes, or the text that Python 2 wrote) as an array of exactly ``shape``."""
    data = data.encode("latin-1") if isinstance(data, str) else data
    if not isinstance(dtype, np.dtype) or not isinstance(data, bytes | bytearray):
        raise _Refused("it holds an array of something other than numbers")
    flat = np.frombuffer(data, dtype) if data else np.zeros(0, dtype)
    if dtype.kind == "b" and flat.view(np.uint8).max(initial=0) > 1:
        raise _Refused("it holds a truth value that is neither true nor false")
    array = flat.reshape(shape, order="F" if order == "F" else "C")
    if array.shape != shape:  # NumPy takes -1 for "as many as there are".
        raise _Refused("it holds an array of an impossible shape")
    return array


def _array_of_state(_: Any, shape: Any, dtype: Any, fortran: Any, data: Any) -> np.ndarray[Any, Any]:
    return _array(data, dtype, shape, "F" if fortran else "C")


def _tensor(
    storage: Any, offset: Any, size: Any, stride: Any, _gradient: Any, _hooks: Any, metadata: Any = None
) -> np.ndarray[Any, Any]:
    """View a storage, ``[N]``, as PyTorch does; the offset and the strides count elements of it."""
    if metadata or not isinstance(storage, np.ndarray) or storage.ndim != 1:
        raise _Refused("it holds a tensor of something other than plain numbers")
    # Python's integers do not overflow, and the offset can be as large as the storage where the tensor is empty.
    whole = all(type(one) is int and 0 <= one < 1 << 63 for one in (offset, *size, *stride))
    if not whole or len(size) != len(stride) or len(size) > 64:
        raise _Refused("it holds a tensor of an impossible shape")
    count = math.prod(size)
    end = offset + sum((many - 1) * step for many, step in zip(size, stride, strict=True)) + 1
    if (count and end > storage.size) or count > max(storage.size, MAX_REPEATED):
        raise _Refused("it holds a tensor that reaches outside its storage, or repeats it too often")
    if not count:
        return np.zeros(size, storage.dtype)
    strides = [step * storage.itemsize for step in stride]
    # NumPy checks the bounds too.
    return np.ndarray(size, storage.dtype, storage, offset * storage.itemsize, strides)


# What is made of a call of each name, by its arguments and by the state set afterwards.
_REBUILDERS: dict[str, Callable[[tuple[Any, ...], Any], Any]] = {
    "numpy.dtype": lambda arguments, state: _dtype(arguments[0], state),
    "_codecs.encode": lambda arguments, _: _encoded(*arguments),
    "jax._src.array._reconstruct_array": lambda arguments, _: _array_of_state(*arguments[2]),
    "jax._src.device_array.reconstruct_device_array": lambda arguments, _: _array_of_state(*arguments[2]),
    "torch._utils._rebuild_tensor_v2": lambda arguments, _: _tensor(*arguments),
    "torch._utils._rebuild_parameter": lambda arguments, _: arguments[0],
    "torch.Size": lambda arguments, _: _plain(tuple, arguments, tuple),
    "tensordict._reductions._make_td": lambda arguments, _: arguments[1],
}
for _core in ("numpy._core", "numpy.core"):
    _REBUILDERS[f"{_core}.multiarray._reconstruct"] = lambda _, state: _array_of_state(*state)
    _REBUILDERS[f"{_core}.multiarray.scalar"] = lambda parts, _: _array(parts[1], parts[0], (1,), "C")[0]
    _REBUILDERS[f"{_core}.numeric._frombuffer"] = lambda arguments, _: _array(*arguments)
for _builtins in ("builtins", "__builtin__"):
    _REBUILDERS[f"{_builtins}.bytes"] = lambda arguments, _: _plain(bytes, arguments)
    _REBUILDERS[f"{_builtins}.set"] = lambda arguments, _: _plain(set, arguments, list)
    _REBUILDERS[f"{_builtins}.frozenset"] = lambda arguments, _: _plain(frozenset, arguments, list)
_DICTS = {
    "collections.OrderedDict",
    "flax.core.frozen_dict.FrozenDict",
    *(f"tensordict.{module}._StringOnlyDict" for module in ("tensordict", "utils")),
}
_INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
_SCALAR_TYPES = {
    f"numpy.{name}": np.dtype(name.rstrip("_"))
    for name in ("bool", "bool_", *_INTEGERS, "float16", "float32", "float64")
}
# PyTorch's storages, by the types of their elements; NumPy has no bfloat16, and keeps it as two bytes.
_STORAGES = {"Half": "f2", "Float": "f4", "Double": "f8", "BFloat16": "V2", "Bool": "?"}
_STORAGES |= {"Char": "i1", "Short": "i2", "Int": "i4", "Long": "i8", "Byte": "u1"}
_SCALAR_TYPES |= {f"torch.{name}Storage": np.dtype(kind) for name, kind in _STORAGES.items()}
_SPACES = ["box.Box", "discrete.Discrete", "dict.Dict", "tuple.Tuple"]
_SPACES += ["multi_discrete.MultiDiscrete", "multi_binary.MultiBinary"]
_RECORDS = {
    "numpy.ndarray",
    "torch.device",
    *(f"tensordict.{module}.TensorDict" for module in ("tensordict", "_td")),
    "stable_baselines3.common.vec_env.vec_normalize.VecNormalize",
    "stable_baselines3.common.running_mean_std.RunningMeanStd",
    "gym.utils.seeding.RandomNumberGenerator",
    "gym.utils.seeding.RNG",
    *(f"{gym}.spaces.{kind}" for gym in ("gym", "gymnasium") for kind in _SPACES),
    *(f"numpy.random._pickle.__{kind}_ctor" for kind in ("randomstate", "generator", "bit_generator")),
    *(f"numpy.random.{name}" for name in ("_mt19937.MT19937", "_pcg64.PCG64", "bit_generator.SeedSequence")),
    "numpy.random.bit_generator.__pyx_unpickle_SeedSequence",
}
_STAND_INS = {
    name: type(name, (_StandIn,), {"__slots__": ()})
    for name in (*_REBUILDERS, *_DICTS, *_SCALAR_TYPES, *_RECORDS)
}
