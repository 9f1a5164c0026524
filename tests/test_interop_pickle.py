"""The restricted unpickler: what it reads equals what pickle reads, and nothing that a file names is ever run."""

import _codecs
import collections
import copyreg
import functools
import os
import pickle
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from trajworld.errors import TrajWorldError
from trajworld.interop.restricted_pickle import Record, read_pickle

pytestmark = pytest.mark.once

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)
INERT = (type(None), bool, int, float, str, bytes, bytearray, np.ndarray, np.generic, np.dtype)
SAMPLE = {
    "arrays": [np.arange(6, dtype="<f4").reshape(2, 3), np.arange(4, dtype=">i2"), np.array([], "i8")],
    "more": (np.asfortranarray(np.arange(6.0).reshape(2, 3)), np.array(3.0), np.array([True]), np.int8(3)),
    "plain": [7, 1.5, -(2**70), "täxt\n", b"bytes\xff", b"", None, True, np.dtype(">f8")],
    "containers": {1: {1, 2}, 2.5: frozenset(["x"]), (1, b"key"): collections.OrderedDict(z=1, a=[])},
}


def read_bytes(folder: Path, data: bytes) -> Any:
    path = folder / "file.pkl"
    path.write_bytes(data)
    return read_pickle(path)


def leaves(value: Any) -> Iterator[Any]:
    if type(value) is Record:
        value = [value.name, value.arguments, value.state]
    if isinstance(value, dict):
        value = [*value, *value.values()]
    if isinstance(value, list | tuple | set | frozenset):
        for item in value:
            yield from leaves(item)
    else:
        yield value


def assert_inert(value: Any) -> None:
    for leaf in leaves(value):
        assert isinstance(leaf, INERT), type(leaf)


def assert_same(left: Any, right: Any) -> None:
    def kind(leaf: Any) -> Any:
        # Pickle turns foreign byte orders into the machine's own; the restricted reader keeps the view.
        return (leaf.dtype.newbyteorder("="), leaf.shape) if hasattr(leaf, "dtype") else type(leaf)

    np.testing.assert_equal(left, right)
    assert list(map(kind, leaves(left))) == list(map(kind, leaves(right)))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_reads_what_pickle_reads(tmp_path: Path, protocol: int) -> None:
    data = pickle.dumps(SAMPLE, protocol)
    assert_same(read_bytes(tmp_path, data), pickle.loads(data))
    if protocol < 4:  # Later ones count the bytes of names.
        assert_same(read_bytes(tmp_path, data.replace(b"numpy._core", b"numpy.core")), pickle.loads(data))


VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary()
ARRAYS = hnp.arrays(
    st.sampled_from(["<f4", ">f8", "<i8", "|u1", "?", "<c8"]), hnp.array_shapes(min_dims=0, min_side=0)
)
TREES = st.recursive(
    VALUES | ARRAYS | ARRAYS.map(np.asfortranarray),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner),
)


@given(TREES, st.sampled_from(PROTOCOLS))
@settings(max_examples=150)
def test_any_value_comes_back(tmp_path_factory: Any, value: Any, protocol: int) -> None:
    data = pickle.dumps(value, protocol)
    assert_same(read_bytes(tmp_path_factory.getbasetemp(), data), pickle.loads(data))


def test_array_written_by_python_2(tmp_path: Path) -> None:
    # Python 2 wrote the numbers as a byte string (opcode U), which Python 3 tells apart from bytes.
    numbers = np.array([1.0, -2.5])
    data = pickle.dumps(numbers, 3).replace(b"numpy._core", b"numpy.core")
    assert data.count(b"C\x10") == 1
    data = data.replace(b"C\x10", b"U\x10").replace(b"C\x01b", b"U\x01b")
    np.testing.assert_array_equal(read_bytes(tmp_path, data), numbers)


POLICIES = [f"dope/policies/{name}_online_0.pkl" for name in ("hopper", "halfcheetah", "walker")]


@pytest.mark.parametrize(
    "name", [*POLICIES, "goldens/small/trm_dynamics.pkl", "goldens/small/tdm_dynamics.pkl"]
)
def test_real_files_equal_what_pickle_reads(shared: Path, name: str) -> None:
    pytest.importorskip("jax")
    content = read_pickle(shared / name)
    assert_inert(content)
    assert_same(content, pickle.loads((shared / name).read_bytes()))


def test_vecnormalize(shared: Path) -> None:
    path = shared / "agents/trpo-Hopper-v3/vecnormalize.pkl"
    record = read_pickle(path)
    assert_inert(record)
    assert record.name == "stable_baselines3.common.vec_env.vec_normalize.VecNormalize"
    assert (record.state["clip_obs"], record.state["epsilon"]) == (10.0, 1e-8)
    statistics = record.state["obs_rms"].state
    assert statistics["mean"].shape == statistics["var"].shape == (11,)
    assert statistics["mean"].tobytes() in path.read_bytes()
    assert statistics["count"] == pytest.approx(1001474.0001)
    space = record.state["action_space"]
    assert (space.name, space.state["dtype"]) == ("gym.spaces.box.Box", np.dtype("f4"))
    np.testing.assert_array_equal(space.state["low"], [-1, -1, -1])


def reduced(*value: Any) -> Any:
    """An object whose pickle is the given reduce value."""
    return type("Reduced", (), {"__reduce__": lambda self: value})()


def raw(*parts: bytes) -> bytes:
    return b"\x80\x02" + b"".join(parts) + b"."


COMMAND = b"X\x09\x00\x00\x00touch ran"
BOX = b"cgym.spaces.box\nBox\n"
LAUGHS = raw(b"]q\x00", *(b"0](" + bytes([ord("h"), i]) * 9 + b"eq" + bytes([i + 1]) for i in range(12)))
# What is tried: the pickle, and what the message says.
HOSTILE: dict[str, tuple[bytes, str]] = {
    "REDUCE": (pickle.dumps(reduced(os.system, ("touch ran",))), f"'{os.system.__module__}.system'"),
    "STACK_GLOBAL": (raw(b"\x8c\x05posix\x8c\x06system\x93", COMMAND, b"\x85R"), "'posix.system'"),
    "eval": (pickle.dumps(reduced(eval, ("open('ran', 'w')",)), 0), "'__builtin__.eval'"),
    "INST": (raw(b"(", COMMAND, b"iposix\nsystem\n"), "INST"),
    "OBJ": (raw(b"(cposix\nsystem\n", COMMAND, b"o"), "'posix.system'|OBJ"),
    "NEWOBJ": (raw(b"csubprocess\nPopen\n", COMMAND, b"\x85\x81"), "'subprocess.Popen'"),
    "NEWOBJ_EX": (raw(b"csubprocess\nPopen\n", COMMAND, b"\x85}\x92"), "'subprocess.Popen'"),
    "EXT1": (raw(b"\x82\xf0", COMMAND, b"\x85R"), "EXT1"),
    "getattr": (pickle.dumps(reduced(getattr, (np.ndarray, "dump"))), "'builtins.getattr'"),
    "nested attribute": (raw(b"cnumpy\nndarray.__class__\n"), "'numpy.ndarray.__class__'"),
    "copyreg": (pickle.dumps(reduced(copyreg._reconstructor, (dict, dict, {}))), "_reconstructor'"),
    "functools.partial": (pickle.dumps(functools.partial(os.system, "touch ran")), "'functools.partial'"),
    "persistent id": (raw(b"K\x01Q"), "BINPERSID"),
    "out-of-band buffer": (raw(b"\x97"), "NEXT_BUFFER"),
    "a name with a line break": (raw(b"\x8c\x03o\ns\x8c\x01y\x93"), r"'o\\ns.y'"),
    "objects in an array": (pickle.dumps(np.array([1, None], dtype=object)), "'O8'"),
    "structured array": (pickle.dumps(np.zeros(2, dtype=[("a", "f4")])), "'V4'"),
    "truth value of 7": (pickle.dumps(np.array([True])).replace(b"C\x01\x01", b"C\x01\x07"), "truth value"),
    "array without numbers": (raw(b"cnumpy.core.multiarray\n_reconstruct\n)R"), "NoneType"),
    "another codec": (pickle.dumps(reduced(_codecs.encode, ("a", "hex")), 2), "encodes"),
    "bytes of a length": (pickle.dumps(reduced(bytes, (1 << 40,)), 2), "calls bytes"),
    "calls a record": (raw(BOX, b")R)R"), "not callable"),
    "slots of a name": (raw(BOX, b"N}X\x04\x00\x00\x00nameK\x01s\x86b"), "__setstate__"),
    "appends to a record": (raw(BOX, b")RK\x01a"), "append"),
    "items of a record": (raw(BOX, b")RK\x01K\x02s"), "sets items"),
    "a list in itself": (raw(b"]q\x00h\x00a"), "deep"),
    "list as a key": (raw(b"}]K\x01s"), "unhashable"),
    "deep tuple as a key": (raw(b"}", b")", b"\x85" * 200_000, b"K\x01s"), "tuples"),
    "deep lists": (raw(b"]" * 200_000, b"a" * 199_999), "deep"),
    "deep records": (raw(BOX * 9_999, b")", b"R\x85" * 9_999), "deep"),
    "references to references": (LAUGHS, "again and again"),
    "far memo index": (raw(b"K\x07r", b"\xff" * 4, b"0j", b"\xff" * 4), "gaps"),
    "declared size": (raw(b"\x8e" + struct.pack("<Q", 2**62) + b"x"), "cut short"),
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder; os.system waits in the cache of the extension registry, where EXT1 would find it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(copyreg._extension_cache, 0xF0, os.system)  # type: ignore[attr-defined]
    return tmp_path


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_pickles_are_refused_and_never_run(folder: Path, case: str) -> None:
    data, said = HOSTILE[case]
    with pytest.raises(TrajWorldError, match=said) as error:
        read_bytes(folder, data)
    assert "file.pkl" in str(error.value)
    assert "\n" not in str(error.value)
    assert os.listdir(folder) == ["file.pkl"]


@pytest.mark.parametrize("case", ["REDUCE", "STACK_GLOBAL", "eval", "INST", "OBJ", "EXT1"])
def test_the_hostile_pickles_would_run_something(folder: Path, case: str) -> None:
    pickle.loads(HOSTILE[case][0])
    assert os.listdir(folder) == ["ran"]


@pytest.mark.parametrize("shape", [(10**9,), (2**62, 4), (2**40, 0, 2**40), (-1,), (1.0,), 3, (3, *[1] * 80)])
def test_shapes_that_do_not_fit_their_numbers(tmp_path: Path, shape: Any) -> None:
    rebuild, arguments, state = np.arange(3.0).__reduce__()
    data = pickle.dumps(reduced(rebuild, arguments, (1, shape, *state[2:])), 3)
    with pytest.raises(TrajWorldError, match=r"shape|damaged"):
        read_bytes(tmp_path, data)


def test_a_small_file_takes_little_memory(tmp_path: Path) -> None:
    # Each further array costs the file some 20 bytes; copied, they would take 4 GB.
    block = bytes(1 << 20)
    rebuild, arguments, (version, shape, dtype, fortran, _) = np.frombuffer(block, "u1").__reduce__()
    many = [reduced(rebuild, arguments, (version, shape, dtype, fortran, block)) for _ in range(4000)]
    arrays = read_bytes(tmp_path, pickle.dumps(many, 4))
    assert len(arrays) == 4000
    assert np.shares_memory(arrays[0], arrays[-1])
    text = "x" * 100_000
    with pytest.raises(TrajWorldError, match="again and again"):
        read_bytes(tmp_path, pickle.dumps([reduced(_codecs.encode, (text, "latin1")) for _ in range(100)], 2))


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name, said in (("missing.pkl", "No such file"), (".", "is not a file"), ("pipe", "is not a file")):
        with pytest.raises(TrajWorldError, match=said):
            read_pickle(tmp_path / name)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_cut_anywhere(tmp_path: Path, protocol: int) -> None:
    data = pickle.dumps(SAMPLE, protocol)
    for length in range(len(data)):
        with pytest.raises(TrajWorldError):
            read_bytes(tmp_path, data[:length])


@given(st.data())
@settings(max_examples=600)
def test_changed_bytes_give_an_inert_value_or_an_error(tmp_path_factory: Any, data: st.DataObject) -> None:
    content = bytearray(pickle.dumps(SAMPLE, data.draw(st.sampled_from(PROTOCOLS))))
    for position in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=4)):
        content[position] = data.draw(st.integers(0, 255))
    content = data.draw(st.sampled_from([content, b"\x80\x04" + content[-200:]]))
    try:
        value = read_bytes(tmp_path_factory.getbasetemp(), bytes(content))
    except TrajWorldError:
        return
    assert_inert(value)
