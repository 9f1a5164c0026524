"""PyTorch's files read without it: what it reads itself, and hostile files end in one line."""

import io
import pickle
import random
import sys
import types
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_interop_pickle import assert_inert, leaves
from torch_fixtures import KINDS, Made, Storage, tensor, torch_file, torch_members, zipped

from trajworld.errors import TrajWorldError
from trajworld.interop import torch_file as module
from trajworld.interop.restricted_pickle import read_pickle
from trajworld.interop.torch_file import read_torch

NUMBERS = np.arange(24, dtype="f4") / 7
SHARED = Storage(NUMBERS)
VALUE = {
    "whole": NUMBERS.reshape(2, 3, 4),
    "view": tensor(SHARED, 3, (4, 5), (5, 1)),
    "turned": tensor(SHARED, 1, (3, 2), (1, 7)),
    "repeated": tensor(SHARED, 23, (2, 3), (0, 0)),
    "parameter": Made("torch._utils _rebuild_parameter", (tensor(SHARED, 0, (2,), (3,)), True, None)),
    "number": tensor(SHARED, 5, (), ()),
    "none": tensor(SHARED, 24, (2, 0, 3), (3, 3, 1)),
    "empty": np.zeros(0),
    "plain": [1, None, "text", Made("torch Size", ((2, 3),))],
}
EXPECTED = {
    "whole": NUMBERS.reshape(2, 3, 4),
    "view": NUMBERS[3:23].reshape(4, 5),
    "turned": np.stack([NUMBERS[1:4], NUMBERS[8:11]], 1),
    "repeated": np.full((2, 3), NUMBERS[23]),
    "parameter": NUMBERS[[0, 3]],
    "number": NUMBERS[5].reshape(()),
    "none": np.zeros((2, 0, 3), "f4"),
    "empty": np.zeros(0),
    "plain": [1, None, "text", (2, 3)],
}


def assert_same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    np.testing.assert_equal(found, expected)
    assert list(found) == list(expected)
    for name, value in expected.items():
        if isinstance(value, np.ndarray):
            assert (found[name].shape, found[name].dtype) == (value.shape, value.dtype)


@pytest.mark.once
@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("zip64", [False, True])
def test_every_kind_of_view(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compression: int, zip64: bool
) -> None:
    if zip64:
        monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 8)
    data = zipped(torch_members(VALUE), compression)
    assert (b"PK\x06\x06" in data) == zip64
    (tmp_path / "a.pt").write_bytes(data)
    assert_same(read_torch(tmp_path / "a.pt"), EXPECTED)
    assert_same(read_torch("a.pt", data), EXPECTED)


@pytest.mark.once
@pytest.mark.parametrize("byteorder", ["little", "big"])
def test_every_type_in_both_byte_orders(byteorder: str) -> None:
    numbers = np.array([[0, 1, 100], [-7, 2, 3]])
    arrays = {kind: numbers.astype(kind) for kind in KINDS}
    half = Storage(
        (np.array([1.5, -2.0, np.inf, 3e38], "f4").view("u4") >> 16).astype("u2"), "torch BFloat16Storage"
    )
    found = read_torch(
        "a.pt", zipped(torch_members({**arrays, "half": tensor(half, 0, (2, 2), (1, 2))}, byteorder))
    )
    np.testing.assert_array_equal(found.pop("half").T.ravel()[:3], [1.5, -2.0, np.inf])
    assert_same({kind: array.astype(array.dtype.newbyteorder("=")) for kind, array in found.items()}, arrays)


@pytest.mark.once
def test_a_file_is_mapped_and_its_bytes_are_viewed(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    path.write_bytes(torch_file({"a": NUMBERS}))
    array = read_torch(path)["a"]
    with open(path, "r+b") as file:
        file.seek(path.read_bytes().index(NUMBERS.tobytes()))
        file.write(np.float32(8.5).tobytes())
    assert array[0] == 8.5
    assert not array.flags.writeable


def changed(**changes: Any) -> bytes:
    """A file of one tensor, ``[2, 3]`` in a storage of seven numbers, but for some arguments."""
    given = {
        "storage": Storage(NUMBERS[:7]),
        "offset": 1,
        "size": (2, 3),
        "stride": (3, 1),
        "more": (),
    } | changes
    more = given.pop("more")
    return torch_file({"a": tensor(*given.values(), *more)})


def patched(name: str, at: int, value: bytes, local: bool = False) -> bytes:
    """The views' file with bytes of a member's entry in the directory, or of its own header, changed."""
    data = bytearray(torch_file(VALUE))
    start = data.index(name.encode()) - 30 if local else data.rindex(name.encode()) - 46
    assert data[start : start + 4] == (b"PK\x03\x04" if local else b"PK\x01\x02")
    data[start + at : start + at + len(value)] = value
    return bytes(data)


def without(name: str, content: bytes | None = None) -> bytes:
    members = torch_members(VALUE)
    del members[name]
    return zipped(members if content is None else members | {name: content})


OUTSIDE, SHAPE = "reaches outside its storage", "impossible shape"
HOSTILE: dict[str, tuple[bytes, str]] = {
    "offset": (changed(offset=2), OUTSIDE),
    "negative offset": (changed(offset=-1), SHAPE),
    "size": (changed(size=(3, 3)), OUTSIDE),
    "negative size": (changed(size=(-2, -3)), SHAPE),
    "stride": (changed(stride=(4, 1)), OUTSIDE),
    "negative stride": (changed(stride=(3, -1)), SHAPE),
    "product of 2**64": (changed(size=(1 << 32, 1 << 32), stride=(0, 0)), OUTSIDE),
    "strides of 2**64": (changed(size=(3, 3), stride=(1 << 62, 1 << 62)), OUTSIDE),
    "a size of 2**64": (changed(size=(1 << 64,), stride=(1,)), SHAPE),
    "repeated": (changed(size=(1 << 27,), stride=(0,)), OUTSIDE),
    "an offset of 2**62, empty": (
        changed(offset=1 << 62, size=(0, 1 << 62, 1 << 62), stride=(1, 1, 1)),
        "damaged",
    ),
    "fewer strides": (changed(stride=(1,)), SHAPE),
    "many dimensions": (changed(size=(1,) * 65, stride=(1,) * 65), SHAPE),
    "a size of true": (changed(size=(True, 3)), SHAPE),
    "a size of 2.0": (changed(size=(2.0, 3)), SHAPE),
    "no size": (changed(size=None), "damaged"),
    "no storage": (changed(storage=None), "plain numbers"),
    "a view of a view": (changed(storage=NUMBERS.reshape(2, 12)), "plain numbers"),
    "a view of steps": (changed(storage=tensor(Storage(NUMBERS), 0, (12,), (2,))), "damaged"),
    "conjugate": (changed(more=({"conj": True},)), "plain numbers"),
    "storage too small": (changed(storage=Storage(NUMBERS[:7], count=8)), "28 bytes are no 8 numbers"),
    "storage too large": (changed(storage=Storage(NUMBERS[:7], count=6)), "28 bytes are no 6 numbers"),
    "storage of a negative count": (changed(storage=Storage(NUMBERS[:7], count=-7)), "28 bytes are no -7"),
    "storage of 2**62": (changed(storage=Storage(NUMBERS[:7], count=1 << 62)), "28 bytes"),
    "complex": (
        changed(storage=Storage(NUMBERS[:8], "torch ComplexFloatStorage")),
        "'torch.ComplexFloatStorage'",
    ),
    "quantised": (changed(storage=Storage(NUMBERS[:7], "torch QInt8Storage")), "'torch.QInt8Storage'"),
    "a device as storage": (changed(storage=Storage(NUMBERS[:7], "torch device")), "damaged"),
    "sparse": (torch_file(Made("torch._utils _rebuild_sparse_tensor")), "_rebuild_sparse_tensor"),
    "code": (
        torch_file({"a": Made("os system", ("touch ran",))}),
        r"names 'os\.system'.* nothing in it was run",
    ),
    "another persistent id": (zipped({"x/data.pkl": b"\x80\x02K\x01Q."}), "damaged"),
    "storage missing": (without("x/data/0"), "x/data/0"),
    "no data.pkl": (without("x/data.pkl"), "0 files data.pkl"),
    "two data.pkl": (zipped(torch_members(1) | {"y/data.pkl": b"N."}), "2 files data.pkl"),
    "another byte order": (without("x/byteorder", b"middle"), "middle"),
    "past the end": (patched("x/data/0", 42, b"\xff\xff\x00\x00"), "not where it should be|not a readable"),
    "overlap": (patched("x/data/1", 42, b"\x00\x00\x00\x00"), "overlaps another part"),
    "longer": (patched("x/data/0", 20, b"\xff\x00\x00\x00\xff\x00\x00\x00"), "overlaps another part"),
    "other length": (patched("x/data/0", 24, b"\x04"), "damaged"),
    "not compressed": (patched("x/data/0", 10, b"\x08"), "not a readable PyTorch file"),
    "encrypted": (patched("x/data/0", 6, b"\x01", local=True), "encrypted"),
    "no header": (patched("x/data/0", 0, b"X", local=True), "not where it should be"),
    "a header of another length": (patched("x/data/1", 28, b"\x04", local=True), "is damaged"),
    "wrong sum": (patched("x/data/0", 16, b"\x01\x02"), "is damaged"),
    "same name": (patched("x/data/1", 46, b"x/data/0"), "overlaps another part"),
    "before 1.6": (pickle.dumps(0x1950A86A20F9469CFC6C, 2) + b"\x80", r"before version 1\.6.*save it again"),
    "a pickle": (pickle.dumps(VALUE["plain"][:3]), "not a readable PyTorch file: it is a pickle"),
    "nothing": (b"", "it is empty"),
}


def refused(path: Path, said: str) -> None:
    with pytest.raises(TrajWorldError, match=said) as error:
        read_torch(path)
    assert path.name in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.once
@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_files_end_in_one_line(tmp_path: Path, case: str) -> None:
    data, said = HOSTILE[case]
    (tmp_path / "a.pt").write_bytes(data)
    refused(tmp_path / "a.pt", said)
    with pytest.raises(TrajWorldError, match=said):
        read_torch("policy.pth", data)


@pytest.mark.once
def test_what_unpacks_to_much_and_what_is_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_BYTES", 2000)
    (tmp_path / "a.pt").write_bytes(zipped(torch_members({"a": np.zeros(500, "f4")}), zipfile.ZIP_DEFLATED))
    refused(tmp_path / "a.pt", "unpacks to more")
    refused(tmp_path, "Is a directory")
    refused(tmp_path / "b.pt", "No such file")
    # A plain pickle cannot refer to a storage.
    (tmp_path / "a.pkl").write_bytes(torch_members(VALUE)["x/data.pkl"])
    with pytest.raises(TrajWorldError, match="BINPERSID"):
        read_pickle(tmp_path / "a.pkl")


@pytest.mark.once
@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_cut_and_changed_files_are_read_right_or_refused(tmp_path: Path, compression: int) -> None:
    data, path, draw = zipped(torch_members(VALUE), compression), tmp_path / "a.pt", random.Random(0)
    for length in range(0, len(data), 19):
        path.write_bytes(data[:length])
        refused(path, "a.pt")
    read = 0
    for _ in range(300):
        content = bytearray(data)
        for _ in range(draw.randint(1, 3)):
            content[draw.randrange(len(data))] = draw.randrange(256)
        try:
            found = read_torch("a.pt", bytes(content))
        except TrajWorldError:
            continue
        assert_same(found, EXPECTED)
        read += 1
    assert 20 < read < 250


@pytest.mark.once
def test_changed_pickles_reach_nothing_outside_the_file() -> None:
    members, draw, read = torch_members(VALUE), random.Random(1), 0
    for _ in range(1500):
        content = bytearray(members["x/data.pkl"])
        for _ in range(draw.randint(1, 2)):
            content[draw.randrange(len(content))] = draw.randrange(256)
        try:
            found = read_torch("a.pt", zipped(members | {"x/data.pkl": bytes(content)}))
        except TrajWorldError:
            continue
        assert_inert(found)
        for leaf in leaves(found):
            # Every number is one of those in the file.
            assert not isinstance(leaf, np.ndarray) or np.isin(leaf, NUMBERS).all()
        read += 1
    assert read > 40


def saved(value: Any) -> bytes:
    torch = pytest.importorskip("torch")
    torch.save(value, file := io.BytesIO())
    return file.getvalue()


def test_files_of_torch_equal_what_it_reads(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    big = torch.randn(5, 6, 7)
    kinds = "float16 float32 float64 int8 int16 int32 int64 uint8 bool bfloat16"
    value: dict[str, Any] = {
        name: (20 * torch.randn(3, 4)).to(getattr(torch, name)) for name in kinds.split()
    }
    value |= {
        "turned": big.transpose(0, 2),
        "steps": big[1::2, 2:, ::3],
        "one": big[2, 3, 4],
        "grown": big[0, 0].expand(4, 7),
    }
    value |= {
        "empty": torch.zeros(0, 3),
        "number": torch.tensor(3),
        "size": big.size(),
        "cpu": torch.device("cpu"),
    }
    value |= torch.nn.Linear(3, 2).state_dict() | {"parameter": torch.nn.Parameter(big[1])}
    (tmp_path / "a.pt").write_bytes(saved(value))
    found = read_torch(tmp_path / "a.pt")
    assert found.pop("cpu").arguments == ("cpu",)
    expected = {}
    for name, one in torch.load(tmp_path / "a.pt", weights_only=True).items():
        if isinstance(one, torch.Tensor):
            one = one.detach()
            expected[name] = one.float().numpy() if one.dtype == torch.bfloat16 else one.numpy()
    expected |= {"size": (5, 6, 7)}
    assert_same(dict(sorted(found.items())), dict(sorted(expected.items())))
    assert np.shares_memory(found["turned"], found["steps"])


def test_torch_reads_the_files_made_by_hand() -> None:
    torch = pytest.importorskip("torch")
    found = torch.load(io.BytesIO(torch_file(VALUE)), weights_only=True)
    assert_same(
        {name: one.detach().numpy() if isinstance(one, torch.Tensor) else one for name, one in found.items()},
        EXPECTED,
    )


def test_objects_of_torch_that_are_not_read() -> None:
    torch = pytest.importorskip("torch")
    torch.save({"a": torch.ones(2)}, file := io.BytesIO(), _use_new_zipfile_serialization=False)
    with pytest.raises(TrajWorldError, match=r"before version 1\.6"):
        read_torch("a.pt", file.getvalue())
    for value, said in (
        (torch.ones(2, 2).to_sparse(), "_rebuild_sparse_tensor"),
        (torch.ones(2) * 1j, "ComplexFloatStorage"),
        (torch._neg_view(torch.ones(2)), "plain numbers"),
        (torch.ones(2).to(torch.float8_e4m3fn), "_rebuild_tensor_v3"),
        (torch.nn.ReLU(), "activation.ReLU"),
    ):
        with pytest.raises(TrajWorldError, match=said):
            read_torch("a.pt", saved(value))


def test_a_tensordict_of_torch() -> None:
    torch = pytest.importorskip("torch")
    kind = type("TensorDict", (), {"__module__": "tensordict._td"})
    module = types.ModuleType("tensordict._td")
    vars(module)["TensorDict"] = kind
    made = kind()
    vars(made).update(_tensordict={"obs": torch.arange(6.0)}, _batch_size=torch.Size([6]), _device=None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "tensordict", types.ModuleType("tensordict"))
        patch.setitem(sys.modules, "tensordict._td", module)
        data = saved(made)
    found = read_torch("a.pt", data)
    assert (found.name, found.state["_batch_size"]) == ("tensordict._td.TensorDict", (6,))
    np.testing.assert_array_equal(found.state["_tensordict"]["obs"], np.arange(6, dtype="f4"))
