"""Reading pickles of strangers: an interpreter of a few opcodes, in which no name is ever called."""

import os
import pickletools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trajworld.errors import TrajWorldError
from trajworld.interop import pickle_names
from trajworld.interop.pickle_names import ArrayShell, DtypeShell, Name, Record, Refused

MAX_FILE_BYTES = 8 << 30
MAX_DEPTH = 100
MAX_VALUES = 20_000_000
_MAX_INTEGER_BITS = 256
_MARK = object()


def read_pickle(path: str | os.PathLike[str]) -> Any:
    """Read a pickle (protocols 2 to 5) without running anything that it names.

    The result holds None, booleans, numbers, strings, bytes, lists, tuples, dicts, sets, NumPy arrays,
    scalars and dtypes, and a ``Record`` (of ``pickle_names``) for each object of a known outside class.
    A ``jax.Array`` becomes a NumPy array. Arrays are views of the file's bytes and may be read-only.

    Raises:
        TrajWorldError: The file is missing, damaged, too large or too deep, or names anything outside the
            allow-list.
    """
    path = Path(path)
    data = _read_bytes(path)
    try:
        return _settle(_Interpreter(len(data)).run(data))
    except Refused as reason:
        raise TrajWorldError(f"{path} is refused: {reason}; nothing in it was run") from None
    except (
        ArithmeticError,
        AttributeError,
        LookupError,
        MemoryError,
        RecursionError,
        TypeError,
        ValueError,
    ) as error:
        reason_text = " ".join(str(error).split())[:200]
        raise TrajWorldError(
            f"{path} is not a readable pickle: it is damaged or cut short ({reason_text})"
        ) from None


def _read_bytes(path: Path) -> bytes:
    """Read a regular file of a bearable size."""
    if not path.exists():
        raise TrajWorldError(f"{path} does not exist")
    if not path.is_file():
        raise TrajWorldError(f"{path} is not a file: name the pickle itself")
    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise TrajWorldError(f"{path} holds {size} bytes, more than a pickle may ({MAX_FILE_BYTES})")
        data = path.read_bytes()
    except OSError as error:
        raise TrajWorldError(f"cannot read {path}: {error.strerror or error}") from None
    if not data:
        raise TrajWorldError(f"{path} is empty: it is not a pickle")
    return data


class _Interpreter:
    """The pickle machine's stack and memo, for the opcodes of binary pickles only."""

    def __init__(self, file_bytes: int) -> None:
        self.stack: list[Any] = []
        self.memo: dict[Any, Any] = {}
        # Copies of memoised values: without a bound, a small file can ask for any amount of memory.
        self.budget = pickle_names.Budget(4 * file_bytes + 4096)

    def run(self, data: bytes) -> Any:
        """Interpret ``data`` and return what its STOP leaves, shells still inside."""
        for opcode, argument, _ in pickletools.genops(data):
            name = opcode.name
            if name in _PUSHED:
                self.stack.append(_PUSHED[name])
            elif name in _PUSH_ARGUMENT:
                self.stack.append(_number(argument))
            elif name in _EMPTY:
                self.stack.append(_EMPTY[name]())
            elif name in _MEMOISE:
                self.memo[len(self.memo) if argument is None else argument] = self.top()
            elif name in _RECALL:
                self.stack.append(self.memo[argument])
            elif name in _HANDLERS:
                _HANDLERS[name](self, argument)
            elif name == "STOP":
                return self.pop()
            elif name not in _IGNORED:
                raise Refused(f"it uses the opcode {name}, which data files do not need")
        raise ValueError("no end")

    def pop(self) -> Any:
        """Take the top of the stack, which must not be a mark."""
        value = self.stack.pop()
        if value is _MARK:
            raise ValueError("a mark where a value is expected")
        return value

    def pop_to_mark(self) -> list[Any]:
        """Take everything above the last mark, and the mark."""
        items: list[Any] = []
        while (item := self.stack.pop()) is not _MARK:
            items.append(item)
        items.reverse()
        return items

    def drop(self, items: list[Any]) -> None:
        """Forget ``items``, which were taken from the stack."""

    def top(self) -> Any:
        """Look at the top of the stack."""
        if self.stack[-1] is _MARK:
            raise ValueError("a mark where a value is expected")
        return self.stack[-1]

    def tuple_of(self, count: int) -> None:
        """Replace the top ``count`` values by a tuple of them."""
        items = [self.pop() for _ in range(count)]
        self.stack.append(tuple(reversed(items)))

    def append(self, items: list[Any]) -> None:
        """Append ``items`` to the list at the top."""
        target = self.top()
        if type(target) is not list:
            raise Refused(f"it appends to a {_kind(target)}")
        target.extend(items)

    def set_items(self, items: list[Any]) -> None:
        """Put keys and values, in turns, into the dict at the top."""
        target = self.top()
        if type(target) is not dict or len(items) % 2:
            raise Refused(f"it sets items of a {_kind(target)}")
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[pickle_names.checked_key(key)] = value

    def add_items(self, items: list[Any]) -> None:
        """Put ``items`` into the set at the top."""
        target = self.top()
        if type(target) is not set:
            raise Refused(f"it adds items to a {_kind(target)}")
        target.update(pickle_names.checked_key(item) for item in items)

    def name(self, module: Any, attribute: Any) -> None:
        """Push the inert stand-in of an allowed name."""
        if not isinstance(module, str) or not isinstance(attribute, str):
            raise Refused("it takes a name from something that is not text")
        self.stack.append(pickle_names.lookup(module, attribute))

    def stack_global(self) -> None:
        """Push the name whose module and attribute are the two top strings."""
        attribute = self.pop()
        self.name(self.pop(), attribute)

    def reduce(self) -> None:
        """Rebuild what ``name(*arguments)`` would have made, by our own function for that name."""
        arguments, target = self.pop(), self.pop()
        if not isinstance(target, Name) or type(arguments) is not tuple:
            raise Refused(f"it calls a {_kind(target)}")
        self.stack.append(target.rebuild(arguments, self.budget))

    def new_object_with_keywords(self) -> None:
        """NEWOBJ_EX with no keywords is NEWOBJ; with keywords it is refused."""
        if self.pop() != {}:
            raise Refused("it passes keywords to a constructor")
        self.reduce()

    def build(self) -> None:
        """Give the top object its state: numbers to an array, byte order to a dtype, fields to a record."""
        state = self.pop()
        target = self.top()
        if isinstance(target, ArrayShell):
            target.set_state(state, self.budget)
        elif isinstance(target, DtypeShell):
            target.set_state(state)
        elif isinstance(target, Record) and target.state is None:
            target.state = state
        else:
            raise Refused(f"it sets the state of a {_kind(target)}")


def _number(argument: Any) -> Any:
    """Pass a literal on, unless it is an integer that no data file needs."""
    if isinstance(argument, int) and argument.bit_length() > _MAX_INTEGER_BITS:
        raise Refused(f"it holds an integer of {argument.bit_length()} bits")
    return argument


def _kind(value: Any) -> str:
    if isinstance(value, Name | Record):
        return value.name
    return "mark" if value is _MARK else type(value).__name__


_PUSHED: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "MARK": _MARK}
_PUSH_ARGUMENT = frozenset(
    [
        "BININT",
        "BININT1",
        "BININT2",
        "LONG1",
        "LONG4",
        "BINFLOAT",
        "BINSTRING",
        "SHORT_BINSTRING",
        "BINUNICODE",
        "SHORT_BINUNICODE",
        "BINUNICODE8",
        "BINBYTES",
        "SHORT_BINBYTES",
        "BINBYTES8",
        "BYTEARRAY8",
    ]
)
_EMPTY: dict[str, Callable[[], Any]] = {
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "EMPTY_DICT": dict,
    "EMPTY_SET": set,
}
_MEMOISE = frozenset(["MEMOIZE", "BINPUT", "LONG_BINPUT"])
_RECALL = frozenset(["BINGET", "LONG_BINGET"])
_IGNORED = frozenset(["PROTO", "FRAME"])
_HANDLERS: dict[str, Callable[[_Interpreter, Any], None]] = {
    "POP": lambda machine, _: machine.drop([machine.stack.pop()]),
    "POP_MARK": lambda machine, _: machine.drop(machine.pop_to_mark()),
    "TUPLE": lambda machine, _: machine.stack.append(tuple(machine.pop_to_mark())),
    "TUPLE1": lambda machine, _: machine.tuple_of(1),
    "TUPLE2": lambda machine, _: machine.tuple_of(2),
    "TUPLE3": lambda machine, _: machine.tuple_of(3),
    "APPEND": lambda machine, _: machine.append([machine.pop()]),
    "APPENDS": lambda machine, _: machine.append(machine.pop_to_mark()),
    "SETITEM": lambda machine, _: machine.set_items([machine.pop(), machine.pop()][::-1]),
    "SETITEMS": lambda machine, _: machine.set_items(machine.pop_to_mark()),
    "ADDITEMS": lambda machine, _: machine.add_items(machine.pop_to_mark()),
    "FROZENSET": lambda machine, _: machine.stack.append(
        frozenset(pickle_names.checked_key(item) for item in machine.pop_to_mark())
    ),
    "GLOBAL": lambda machine, argument: machine.name(*argument.split(" ", 1)),
    "STACK_GLOBAL": lambda machine, _: machine.stack_global(),
    "REDUCE": lambda machine, _: machine.reduce(),
    "NEWOBJ": lambda machine, _: machine.reduce(),
    "NEWOBJ_EX": lambda machine, _: machine.new_object_with_keywords(),
    "BUILD": lambda machine, _: machine.build(),
}


def _settle(root: Any) -> Any:
    """Replace the shells inside ``root`` by their arrays and dtypes, bottom up and without recursion.

    Raises:
        Refused: It holds itself, is nested too deep, or references to references spell out to too much.
    """
    done: dict[int, tuple[Any, int, int]] = {}  # id -> settled value, depth, number of values spelled out
    open_ids: set[int] = set()
    waiting: list[tuple[Any, bool]] = [(root, False)]
    while waiting:
        value, children_done = waiting.pop()
        children = _children(value)
        if id(value) in done:
            continue
        if not children_done and children:
            if id(value) in open_ids:
                raise Refused("it holds an object that contains itself")
            open_ids.add(id(value))
            waiting.append((value, True))
            waiting.extend((child, False) for child in children)
            continue
        open_ids.discard(id(value))
        settled = [done[id(child)] for child in children]
        depth = 1 + max((child[1] for child in settled), default=0)
        values = 1 + sum(child[2] for child in settled)
        if depth > MAX_DEPTH:
            raise Refused(f"it is nested more than {MAX_DEPTH} deep")
        if values > MAX_VALUES:
            raise Refused(f"it spells out to more than {MAX_VALUES} values")
        done[id(value)] = (_with_children(value, [child[0] for child in settled]), depth, values)
    return done[id(root)][0]


def _children(value: Any) -> list[Any]:
    if type(value) in (list, tuple):
        return list(value)
    if type(value) is dict:
        return list(value.values())
    if isinstance(value, Record):
        return [value.arguments, value.state]
    return []


def _with_children(value: Any, children: list[Any]) -> Any:
    """Return ``value`` holding ``children``: in place where it can be changed."""
    if isinstance(value, ArrayShell | DtypeShell):
        return value.value()
    if isinstance(value, Name):
        raise Refused(f"it holds the bare name {value.name}")
    if type(value) is list:
        value[:] = children
    elif type(value) is tuple:
        return tuple(children)
    elif type(value) is dict:
        value.update(zip(value, children, strict=True))
    elif isinstance(value, Record):
        value.arguments, value.state = children
    return value
