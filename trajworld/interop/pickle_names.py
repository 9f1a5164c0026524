"""The names a pickle may hold, and what each is rebuilt as: array, plain container or inert record."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

# Booleans, integers, floats, complex numbers, strings of a fixed width: types whose items are inert.
_DTYPE = re.compile(r"[biufcSU][0-9]{1,6}")
# What one entry of a copied set or dict is counted as, in bytes of the file.
_ITEM_COST = 16


class Refused(Exception):
    """The file asks for something that a data file does not need; the text completes "it is refused: ..."."""


@dataclass
class Budget:
    """How many more bytes or items may be copied."""

    left: int

    def spend(self, amount: int) -> None:
        """Take ``amount``, or refuse."""
        self.left -= amount
        if self.left < 0:
            raise Refused("it copies its own content again and again")


@dataclass
class Record:
    """An object of an outside class, inert: the class's full name, what it was made with, and its state."""

    name: str
    arguments: tuple[Any, ...] = ()
    state: Any = None

    @property
    def fields(self) -> dict[str, Any]:
        """The state as named fields; empty where the state is not a dict."""
        return self.state if isinstance(self.state, dict) else {}


class DtypeShell:
    """A dtype whose byte order may still be set."""

    def __init__(self, text: Any) -> None:
        if not isinstance(text, str) or not _DTYPE.fullmatch(text):
            shown = repr(text[:40]) if isinstance(text, str) else type(text).__name__
            raise Refused(f"it holds an array of the type {shown}; numbers and plain strings are read")
        self._dtype = np.dtype(text)
        if self._dtype.itemsize == 0:
            raise Refused(f"it holds an array of the empty type {text!r}")

    def value(self) -> np.dtype[Any]:
        """The dtype."""
        return self._dtype

    def set_state(self, state: Any) -> None:
        """Set the byte order from NumPy's ``(version, order, None, None, None, size, alignment, …)``."""
        if (
            type(state) is not tuple
            or len(state) < 5
            or state[1] not in ("<", ">", "=", "|")
            or any(state[2:5])
        ):
            raise Refused("it holds a structured or unknown array type")
        self._dtype = self._dtype.newbyteorder(state[1])


class ArrayShell:
    """An array that is named first and gets its numbers afterwards."""

    def __init__(self) -> None:
        self._array: np.ndarray[Any, Any] | None = None

    def value(self) -> np.ndarray[Any, Any]:
        """The array."""
        if self._array is None:
            raise Refused("it holds an array without numbers")
        return self._array

    def set_state(self, state: Any, budget: Budget) -> None:
        """Set the numbers from NumPy's ``(version, shape, dtype, is_fortran, bytes)``."""
        if self._array is not None or type(state) is not tuple or len(state) != 5:
            raise Refused("it holds an array with an unknown state")
        _, shape, dtype, fortran, data = state
        self._array = make_array(shape, dtype, "F" if fortran else "C", data, budget)


def make_array(shape: Any, dtype: Any, order: str, data: Any, budget: Budget) -> np.ndarray[Any, Any]:
    """View ``data`` (bytes, or the text that Python 2 wrote) as an array of exactly ``shape``."""
    if not isinstance(dtype, DtypeShell):
        raise Refused("it holds an array of an unknown type")
    if (
        type(shape) is not tuple
        or len(shape) > 32
        or not all(type(size) is int and size >= 0 for size in shape)
    ):
        raise Refused("it holds an array of an impossible shape")
    if isinstance(data, str):
        budget.spend(len(data))
        data = data.encode("latin-1")
    if not isinstance(data, bytes | bytearray):
        raise Refused("it holds an array of objects")
    kind = dtype.value()
    if math.prod(shape) * kind.itemsize != len(data):
        raise Refused(
            f"it declares an array of shape {shape} and type {kind} but holds {len(data)} bytes for it"
        )
    flat = (
        np.frombuffer(data, dtype=kind) if data else np.zeros(0, kind)
    )  # a view: copies are not bounded by the file
    if kind.kind in "bU":
        budget.spend(len(data))
    if kind.kind == "b" and flat.size and flat.view(np.uint8).max() > 1:
        raise Refused("it holds a truth value that is neither true nor false")
    if (
        kind.kind == "U"
        and flat.size
        and flat.view(np.dtype("u4").newbyteorder(kind.byteorder)).max() > 0x10FFFF
    ):
        raise Refused("it holds text that is not Unicode")
    return flat.reshape(shape, order="F" if order == "F" else "C")


@dataclass(frozen=True)
class Name:
    """An allowed name and our own function that stands in for it."""

    name: str
    rebuild: Callable[[tuple[Any, ...], Budget], Any] = field(compare=False)


def checked_key(key: Any) -> Any:
    """Return a dict key or set member, if it is a plain scalar or a flat tuple of them.

    A deeper tuple is refused because hashing it recurses without a limit.
    """
    plain = (str, bytes, int, float, type(None))
    if isinstance(key, plain) or (type(key) is tuple and all(isinstance(item, plain) for item in key)):
        return key
    raise Refused(f"it uses a {type(key).__name__} as a key")


def lookup(module: str, attribute: str) -> Any:
    """Return the stand-in of ``module.attribute``.

    Raises:
        Refused: The name is not on the list.
    """
    if module == "numpy" and attribute in _SCALAR_TYPES:
        return DtypeShell(_SCALAR_TYPES[attribute])
    full = f"{module}.{attribute}"
    if full in _RECORDS:
        return Name(full, lambda arguments, _: Record(full, arguments))
    if full in _REBUILDERS:
        return Name(full, _REBUILDERS[full])
    raise Refused(f"it names {full[:120]!r}, which is not among the few names that are read")


def _empty_array(arguments: tuple[Any, ...], _: Budget) -> ArrayShell:
    if len(arguments) != 3 or not isinstance(arguments[0], Name) or arguments[0].name != "numpy.ndarray":
        raise Refused("it makes an array of a class other than numpy.ndarray")
    return ArrayShell()


def _array_of_buffer(arguments: tuple[Any, ...], budget: Budget) -> ArrayShell:
    data, dtype, shape, order = arguments
    shell = ArrayShell()
    shell.set_state((1, shape, dtype, order == "F", data), budget)
    return shell


def _jax_array(arguments: tuple[Any, ...], budget: Budget) -> ArrayShell:
    function, constructor, state, _ = arguments
    if not isinstance(function, Name) or function.rebuild is not _empty_array:
        raise Refused("it makes a jax.Array of something other than a NumPy array")
    shell = _empty_array(constructor, budget)
    shell.set_state(state, budget)
    return shell


def _dtype(arguments: tuple[Any, ...], _: Budget) -> DtypeShell:
    return DtypeShell(arguments[0])


def _scalar(arguments: tuple[Any, ...], budget: Budget) -> Any:
    dtype, data = arguments
    return make_array((1,), dtype, "C", data, budget)[0]


def _encode(arguments: tuple[Any, ...], budget: Budget) -> bytes:
    text, encoding = arguments
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise Refused("it encodes something other than bytes kept as text")
    budget.spend(len(text))
    return text.encode("latin-1")


def _empty_bytes(arguments: tuple[Any, ...], _: Budget) -> bytes:
    if arguments:
        raise Refused("it calls bytes with an argument")
    return b""


def _set(arguments: tuple[Any, ...], budget: Budget) -> set[Any]:
    (items,) = arguments
    if type(items) is not list:
        raise Refused("it makes a set of something other than a list")
    budget.spend(_ITEM_COST * len(items))
    return {checked_key(item) for item in items}


def _frozenset(arguments: tuple[Any, ...], budget: Budget) -> frozenset[Any]:
    return frozenset(_set(arguments, budget))


def _dict(arguments: tuple[Any, ...], budget: Budget) -> dict[Any, Any]:
    if not arguments:
        return {}
    (items,) = arguments
    if type(items) is dict:
        return items
    if type(items) is not list:
        raise Refused("it makes a dict of something other than a list of pairs")
    budget.spend(_ITEM_COST * len(items))
    return {checked_key(key): value for key, value in items}


def _not_callable(arguments: tuple[Any, ...], _: Budget) -> Any:
    raise Refused("it calls numpy.ndarray")


_SCALAR_TYPES = {
    "bool_": "b1",
    "int8": "i1",
    "int16": "i2",
    "int32": "i4",
    "int64": "i8",
    "uint8": "u1",
    "uint16": "u2",
    "uint32": "u4",
    "uint64": "u8",
    "float16": "f2",
    "float32": "f4",
    "float64": "f8",
}

_REBUILDERS: dict[str, Callable[[tuple[Any, ...], Budget], Any]] = {
    "numpy.ndarray": _not_callable,
    "numpy.dtype": _dtype,
    "_codecs.encode": _encode,
    "collections.OrderedDict": _dict,
    "flax.core.frozen_dict.FrozenDict": _dict,
    "jax._src.array._reconstruct_array": _jax_array,
    "jax._src.device_array.reconstruct_device_array": _jax_array,
}
for _core in ("numpy._core", "numpy.core"):
    _REBUILDERS[f"{_core}.multiarray._reconstruct"] = _empty_array
    _REBUILDERS[f"{_core}.multiarray.scalar"] = _scalar
    _REBUILDERS[f"{_core}.numeric._frombuffer"] = _array_of_buffer
for _builtins in ("builtins", "__builtin__"):
    _REBUILDERS[f"{_builtins}.bytes"] = _empty_bytes
    _REBUILDERS[f"{_builtins}.set"] = _set
    _REBUILDERS[f"{_builtins}.frozenset"] = _frozenset

_RECORDS = {
    "stable_baselines3.common.vec_env.vec_normalize.VecNormalize",
    "stable_baselines3.common.running_mean_std.RunningMeanStd",
    "numpy.random._pickle.__randomstate_ctor",
    "numpy.random._pickle.__generator_ctor",
    "numpy.random._pickle.__bit_generator_ctor",
    "numpy.random._mt19937.MT19937",
    "numpy.random._pcg64.PCG64",
    "numpy.random.bit_generator.SeedSequence",
}
for _gym in ("gym", "gymnasium"):
    _RECORDS.add(f"{_gym}.spaces.box.Box")
    _RECORDS.add(f"{_gym}.spaces.discrete.Discrete")
    _RECORDS.add(f"{_gym}.spaces.multi_discrete.MultiDiscrete")
    _RECORDS.add(f"{_gym}.spaces.multi_binary.MultiBinary")
    _RECORDS.add(f"{_gym}.spaces.dict.Dict")
    _RECORDS.add(f"{_gym}.spaces.tuple.Tuple")
_RECORDS.add("gym.utils.seeding.RandomNumberGenerator")
_RECORDS.add("gym.utils.seeding.RNG")
