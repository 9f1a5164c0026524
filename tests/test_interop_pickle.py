"""The restricted unpickler: what it reads equals what pickle reads, and nothing is ever run."""

import ast
import collections
import os
import pickle
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from trajworld.errors import TrajWorldError
from trajworld.interop.pickle_names import Record
from trajworld.interop.restricted_pickle import read_pickle

SHARED = Path(__file__).parents[2] / "shared"
PLAIN = (
    type(None),
    bool,
    int,
    float,
    str,
    bytes,
    bytearray,
    set,
    frozenset,
    np.ndarray,
    np.generic,
    np.dtype,
)


def shared(name: str) -> Path:
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"needs {name} of the shared folder beside the checkout")
    return path


def read_bytes(folder: Path, data: bytes) -> Any:
    path = folder / "file.pkl"
    path.write_bytes(data)
    return read_pickle(path)


def assert_plain(value: Any) -> None:
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if type(item) in (list, tuple):
            waiting.extend(item)
        elif type(item) is dict:
            waiting.extend(item.values())
        elif isinstance(item, Record):
            waiting.extend([item.arguments, item.state])
        else:
            assert isinstance(item, PLAIN), type(item)


def assert_same(left: Any, right: Any) -> None:
    assert type(left) is type(right)
    if isinstance(left, np.ndarray):
        # Pickle turns foreign byte orders into the machine's own; the restricted reader keeps the view.
        assert left.dtype.newbyteorder("=") == right.dtype.newbyteorder("=")
        np.testing.assert_array_equal(left, right)
    elif isinstance(left, list | tuple):
        assert len(left) == len(right)
        for one, other in zip(left, right, strict=True):
            assert_same(one, other)
    elif isinstance(left, dict):
        assert list(left) == list(right)
        for key in left:
            assert_same(left[key], right[key])
    else:
        assert left == right or (left != left and right != right)


class Reduced:
    """An object whose pickle is the given reduce value."""

    def __init__(self, *value: Any) -> None:
        self.value = value

    def __reduce__(self) -> Any:
        return self.value


SAMPLE = {
    "a": np.arange(6, dtype="<f4").reshape(2, 3),
    "b": [np.float64(1.5), 7, -(2**70), "text", b"bytes", None, True],
    "c": (
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.array([], "i8"),
        np.array(3.0),
        np.array([True, False]),
    ),
    "d": {"set": {1, 2}, "frozen": frozenset(["x"]), (1, "key"): bytearray(b"mutable")},
    "e": np.arange(4, dtype=">i2"),
    "f": np.array(["ab", "ü"]),
    "g": np.dtype("<f8"),
}


DAMAGED = [pickle.dumps({**SAMPLE, "d": {1, 2}}, protocol) for protocol in (2, 3, 4, 5)]


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_reads_what_pickle_reads(tmp_path: Path, protocol: int) -> None:
    # Protocol 2 writes a bytearray by calling its class, which is not on the list.
    sample = SAMPLE if protocol == 5 else {**SAMPLE, "d": {"set": {1, 2}, "frozen": frozenset(["x"])}}
    data = pickle.dumps(sample, protocol)
    assert_same(read_bytes(tmp_path, data), pickle.loads(data))


@given(
    array=hnp.arrays(
        st.sampled_from(["<f4", ">f8", "<i8", "|u1", "?", "<c8"]),
        hnp.array_shapes(min_dims=0, max_dims=4, min_side=0),
    ),
    order=st.sampled_from("CF"),
    protocol=st.integers(2, 5),
)
@settings(max_examples=60, deadline=None)
def test_any_array_comes_back(tmp_path_factory: Any, array: np.ndarray, order: Any, protocol: int) -> None:
    array = np.array(array, order=order)
    assert_same(read_bytes(tmp_path_factory.getbasetemp(), pickle.dumps(array, protocol)), array)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**80), 2**80) | st.floats() | st.text() | st.binary(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner),
        max_leaves=20,
    ),
    st.integers(2, 5),
)
@settings(max_examples=100, deadline=None)
def test_any_plain_value_comes_back(tmp_path_factory: Any, value: Any, protocol: int) -> None:
    folder = tmp_path_factory.getbasetemp()
    assert_same(read_bytes(folder, pickle.dumps(value, protocol)), value)


@pytest.mark.parametrize("spelling", ["numpy.core", "numpy._core"])
def test_both_spellings_of_numpy(tmp_path: Path, spelling: str) -> None:
    data = pickle.dumps({"a": np.arange(3.0), "b": np.float32(2)}, 3)
    ours, theirs = b"numpy._core.multiarray", b"numpy.core.multiarray"
    assert ours in data
    if spelling == "numpy.core":
        data = data.replace(ours, theirs)
    value = read_bytes(tmp_path, data)
    np.testing.assert_array_equal(value["a"], [0, 1, 2])
    assert value["b"] == np.float32(2)


def test_array_written_by_python_2(tmp_path: Path) -> None:
    # Python 2 wrote the numbers as a byte string (opcode U), which Python 3 tells apart from bytes.
    numbers = np.array([1.0, -2.5])
    data = pickle.dumps(numbers, 3).replace(b"numpy._core", b"numpy.core")
    raw = numbers.tobytes()
    as_bytes = b"C" + bytes([len(raw)]) + raw
    assert as_bytes in data
    data = data.replace(as_bytes, b"U" + bytes([len(raw)]) + raw).replace(b"C\x01b", b"U\x01b")
    np.testing.assert_array_equal(read_bytes(tmp_path, data), numbers)


def test_ordered_dict_and_sharing(tmp_path: Path) -> None:
    shared_array = np.arange(3.0)
    value = collections.OrderedDict(x=shared_array, y=[shared_array, shared_array])
    read = read_bytes(tmp_path, pickle.dumps(value, 4))
    assert list(read) == ["x", "y"]
    assert read["x"] is read["y"][0] is read["y"][1]


def test_published_checkpoint_needs_no_jax() -> None:
    path = shared("goldens/small/trm_dynamics.pkl")
    code = (
        "import sys; from trajworld.interop.restricted_pickle import read_pickle\n"
        f"tree = read_pickle({str(path)!r})\n"
        "import numpy; assert type(tree['params']['params']['head']['kernel']) is numpy.ndarray\n"
        "print(sorted({'jax', 'keras', 'tensorflow', 'torch', 'pickle'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(ast.literal_eval(done.stdout)) <= {"pickle"}


def test_published_checkpoint_equals_jax() -> None:
    pytest.importorskip("jax")
    path = shared("goldens/small/trm_dynamics.pkl")
    theirs = pickle.loads(path.read_bytes())
    ours = read_pickle(path)

    def compare(left: Any, right: Any) -> int:
        if isinstance(left, dict):
            assert left.keys() == right.keys()
            return sum(compare(left[key], right[key]) for key in left)
        np.testing.assert_array_equal(left, np.asarray(right))
        assert left.dtype == np.asarray(right).dtype
        return 1

    assert compare(ours, theirs) == 73


def test_vecnormalize() -> None:
    record = read_pickle(shared("agents/trpo-Hopper-v3/vecnormalize.pkl"))
    assert record.name == "stable_baselines3.common.vec_env.vec_normalize.VecNormalize"
    assert record.fields["clip_obs"] == 10.0
    assert record.fields["epsilon"] == 1e-8
    statistics = record.fields["obs_rms"]
    assert statistics.fields["mean"].shape == statistics.fields["var"].shape == (11,)
    # The file holds the mean's bytes as they are in memory.
    assert (
        statistics.fields["mean"].tobytes() in shared("agents/trpo-Hopper-v3/vecnormalize.pkl").read_bytes()
    )
    assert statistics.fields["count"] == pytest.approx(1001474.0001)
    space = record.fields["action_space"]
    assert space.name == "gym.spaces.box.Box"
    np.testing.assert_array_equal(space.fields["low"], [-1, -1, -1])
    assert space.fields["dtype"] == np.dtype("f4")
    assert_plain(record)


def raw(*parts: bytes) -> bytes:
    return b"\x80\x02" + b"".join(parts) + b"."


def laughs(levels: int) -> bytes:
    """Lists of nine references to the list before, 9 ** levels values when spelled out."""
    return raw(
        b"]q\x00", *(b"0](" + bytes([ord("h"), i]) * 9 + b"eq" + bytes([i + 1]) for i in range(levels))
    )


COMMAND = "touch ran"
TEXT = b"X" + struct.pack("<I", len(COMMAND)) + COMMAND.encode()
BOX = b"cgym.spaces.box\nBox\n"
# What is tried -> (the pickle, what the message must say).
HOSTILE = {
    "os.system": (pickle.dumps(Reduced(os.system, (COMMAND,))), f"'{os.system.__module__}.system'"),
    "posix.system": (raw(b"cposix\nsystem\n", TEXT, b"\x85R"), "'posix.system'"),
    "os.system by its package": (raw(b"cos\nsystem\n", TEXT, b"\x85R"), "'os.system'"),
    "os.system in protocol 5": (
        pickle.dumps(Reduced(os.system, (COMMAND,)), 5),
        f"'{os.system.__module__}.system'",
    ),
    "eval": (pickle.dumps(Reduced(eval, ("open('ran', 'w')",))), "'builtins.eval'"),
    "exec": (pickle.dumps(Reduced(exec, ("open('ran', 'w')",)), 2), "'__builtin__.exec'"),
    "subprocess": (pickle.dumps(Reduced(subprocess.Popen, (["touch", "ran"],))), "'subprocess.Popen'"),
    "open": (pickle.dumps(Reduced(open, ("ran", "w"))), "open'"),
    "getattr": (pickle.dumps(Reduced(getattr, ("", "join"))), "'builtins.getattr'"),
    "dotted name": (raw(b"cnumpy\nndarray.__class__.__base__\n"), "'numpy.ndarray.__class__.__base__'"),
    "numpy.load": (pickle.dumps(Reduced(np.load, ("x.npy",))), "'numpy.load'"),
    "numpy.ndarray called": (raw(b"cnumpy\nndarray\nK\x01\x85R"), "calls numpy.ndarray"),
    "copyreg": (raw(b"ccopy_reg\n_reconstructor\n)R"), "'copy_reg._reconstructor'"),
    "copyreg.__newobj__": (raw(b"ccopyreg\n__newobj__\n)R"), "'copyreg.__newobj__'"),
    "functools.partial": (raw(b"cfunctools\npartial\n)R"), "'functools.partial'"),
    "old-style instance": (raw(b"(", TEXT, b"iposix\nsystem\n"), "INST"),
    "old-style object": (raw(b"(K\x01", TEXT, b"o"), "OBJ"),
    "extension registry": (raw(b"\x82\x01"), "EXT1"),
    "persistent id": (raw(b"K\x01Q"), "BINPERSID"),
    "out-of-band buffer": (raw(b"\x97"), "NEXT_BUFFER"),
    "text opcode": (raw(b"S'a'\n"), "STRING"),
    "calls a string": (raw(b"X\x01\x00\x00\x00a)R"), "calls a str"),
    "calls a record": (raw(BOX, b")R)R"), "calls a gym.spaces.box.Box"),
    "arguments that are no tuple": (raw(BOX, b"]R"), "calls a gym.spaces.box.Box"),
    "state of a dict": (raw(b"}}b"), "state of a dict"),
    "state of a name": (raw(BOX, b"}b"), "state of a gym.spaces.box.Box"),
    "appends to a record": (raw(BOX, b")RK\x01a"), "appends to a gym.spaces.box.Box"),
    "items of a list": (raw(b"]K\x01K\x02s"), "sets items of a list"),
    "adds to a dict": (raw(b"}(K\x01\x90"), "adds items to a dict"),
    "bare name": (raw(BOX), "bare name gym.spaces.box.Box"),
    "functions in an array": (pickle.dumps(np.array([print, None], dtype=object)), "'O8'"),
    "objects in an array": (pickle.dumps(np.array([1, None], dtype=object)), "'O8'"),
    "structured array": (pickle.dumps(np.zeros(2, dtype=[("a", "f4")])), "'V4'"),
    "dates": (pickle.dumps(np.zeros(2, dtype="M8[s]")), "'M8'"),
    "text that is not Unicode": (pickle.dumps(np.array(["a"])).replace(b"a\0\0\0", b"\xff" * 4), "Unicode"),
    "a truth value of 7": (pickle.dumps(np.array([True])).replace(b"C\x01\x01", b"C\x01\x07"), "truth value"),
    "array without numbers": (
        raw(b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nNNtR"),
        "without numbers",
    ),
    "keywords": (raw(BOX, b")}X\x01\x00\x00\x00aK\x01s\x92"), "keywords"),
    "another codec": (raw(b"c_codecs\nencode\nX\x01\x00\x00\x00aX\x03\x00\x00\x00hex\x86R"), "encodes"),
    "bytes of a length": (raw(b"c__builtin__\nbytes\nJ\xff\xff\xff\x7f\x85R"), "calls bytes"),
    "a list in itself": (raw(b"]q\x00h\x00a"), "contains itself"),
    "a dict in itself": (raw(b"}q\x00K\x01h\x00s"), "contains itself"),
    "list as a key": (raw(b"}]K\x01s"), "list as a key"),
    "deep tuple as a key": (raw(b"}", b")", b"\x85" * 200_000, b"K\x01s"), "tuple as a key"),
    "deep lists": (raw(b"]" * 200_000, b"a" * 199_999), "deep"),
    "deep tuples": (raw(b")", b"\x85" * 200_000), "deep"),
    "deep records": (raw(BOX * 9_999, b")", b"R\x85" * 9_999), "deep"),
    "giant integer": (raw(b"\x8b", struct.pack("<I", 50_000), b"\x01" * 50_000), "integer of"),
    "references to references": (laughs(12), "spells out"),
    "a name with a line break": (raw(b"\x8c\x03o\ns\x8c\x01y\x93"), r"'o\ns.y'"),
    "a number as a name": (raw(b"K\x01K\x02\x93"), "not text"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_pickles_are_refused_and_never_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    monkeypatch.chdir(tmp_path)
    data, named = HOSTILE[case]
    with pytest.raises(TrajWorldError) as error:
        read_bytes(tmp_path, data)
    message = str(error.value)
    assert named in message
    assert "file.pkl" in message
    assert "\n" not in message
    assert sorted(os.listdir(tmp_path)) == ["file.pkl"]


def test_the_hostile_pickles_would_run_something(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pickle.loads(HOSTILE["eval"][0])
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "declared",
    [
        b"\x8e" + struct.pack("<Q", 2**62) + b"x",  # BINBYTES8
        b"\x96" + struct.pack("<Q", 2**62) + b"x",  # BYTEARRAY8
        b"\x8d" + struct.pack("<Q", 2**62) + b"x",  # BINUNICODE8
        b"B" + struct.pack("<I", 2**32 - 1) + b"x",  # BINBYTES
        b"\x8b" + struct.pack("<I", 2**31 - 1) + b"x",  # LONG4
    ],
)
def test_declared_sizes_beyond_the_file(tmp_path: Path, declared: bytes) -> None:
    with pytest.raises(TrajWorldError, match="damaged or cut short"):
        read_bytes(tmp_path, raw(declared))


def test_a_far_memo_index_costs_nothing(tmp_path: Path) -> None:
    far = struct.pack("<I", 2**32 - 1)
    assert read_bytes(tmp_path, raw(b"K\x07r", far, b"0j", far)) == 7


@pytest.mark.parametrize(
    "shape", [(10**9,), (2**62, 4), (2**40, 0, 2**40), (-1,), (True,), (1.0,), 3, (2,) * 40]
)
def test_shapes_that_do_not_fit_their_numbers(tmp_path: Path, shape: Any) -> None:
    array = np.arange(3.0)
    rebuild, arguments, state = array.__reduce__()
    data = pickle.dumps(Reduced(rebuild, arguments, (1, shape, *state[2:])), 3)
    with pytest.raises(TrajWorldError, match=r"shape|damaged"):
        read_bytes(tmp_path, data)


def test_one_block_of_bytes_seen_many_times_is_not_copied(tmp_path: Path) -> None:
    # Each further array costs the file some 20 bytes; copied, they would take 4 GB.
    block = np.zeros(1 << 20, "u1").tobytes()
    array = np.frombuffer(block, "u1")
    rebuild, arguments, (version, shape, dtype, fortran, _) = array.__reduce__()
    many = [Reduced(rebuild, arguments, (version, shape, dtype, fortran, block)) for _ in range(4000)]
    arrays = read_bytes(tmp_path, pickle.dumps(many, 4))
    assert len(arrays) == 4000
    assert np.shares_memory(arrays[0], arrays[-1])


def test_copies_are_bounded_by_the_file(tmp_path: Path) -> None:
    text = "x" * 100_000
    data = pickle.dumps([Reduced(__import__("_codecs").encode, (text, "latin1")) for _ in range(100)], 2)
    with pytest.raises(TrajWorldError, match="copies its own content"):
        read_bytes(tmp_path, data)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(TrajWorldError, match="does not exist"):
        read_pickle(tmp_path / "missing.pkl")
    with pytest.raises(TrajWorldError, match="is not a file"):
        read_pickle(tmp_path)
    with pytest.raises(TrajWorldError, match="is empty"):
        read_bytes(tmp_path, b"")
    with pytest.raises(TrajWorldError, match="not a readable pickle"):
        read_bytes(tmp_path, zlib.compress(b"something else"))
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(TrajWorldError, match="is not a file"):
        read_pickle(tmp_path / "pipe")


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_cut_anywhere(tmp_path: Path, protocol: int) -> None:
    data = pickle.dumps({**SAMPLE, "d": {1, 2}}, protocol)
    for length in range(len(data)):
        with pytest.raises(TrajWorldError):
            read_bytes(tmp_path, data[:length])


@given(data=st.data())
@settings(max_examples=400, deadline=None)
def test_changed_bytes_give_a_plain_value_or_an_error(tmp_path_factory: Any, data: st.DataObject) -> None:
    content = bytearray(data.draw(st.sampled_from(DAMAGED)))
    for position in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=4)):
        content[position] = data.draw(st.integers(0, 255))
    try:
        value = read_bytes(tmp_path_factory.getbasetemp(), bytes(content))
    except TrajWorldError:
        return
    assert_plain(value)


@given(st.binary(max_size=200))
@settings(max_examples=300, deadline=None)
def test_any_bytes_give_a_plain_value_or_an_error(tmp_path_factory: Any, content: bytes) -> None:
    try:
        value = read_bytes(tmp_path_factory.getbasetemp(), b"\x80\x04" + content + b".")
    except TrajWorldError:
        return
    assert_plain(value)
