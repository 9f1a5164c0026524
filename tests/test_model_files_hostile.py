"""Model files that are damaged or hostile: nothing of them is believed or obeyed, and the refusal is one line."""

import functools
import operator
import os
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from model_file_fixtures import CONFIG, IDENTITY, WEIGHTS, assert_equal

from trajworld.errors import TrajWorldError
from trajworld.models.files import describe_model, load_model
from trajworld.models.trajworld import TrajWorld

pytestmark = pytest.mark.once


def changed(value: Any, *path: str) -> Callable[[dict[str, Any]], None]:
    """The change of a configuration that puts a value at ``path``."""

    def change(config: dict[str, Any]) -> None:
        target = functools.reduce(operator.getitem, path[:-1], config["config"])
        target[path[-1]] = value

    return change


def refusal(path: Path, weights: bool = False) -> str:
    """The one line with which loading refuses a file, and describing too where it is not for the ``weights``."""
    messages = set()
    for read in (load_model,) if weights else (load_model, describe_model):
        with pytest.raises(TrajWorldError) as caught:
            read(path)
        messages.add(str(caught.value))
    (message,) = messages
    assert str(path) in message
    assert "\n" not in message
    assert len(message) < 500
    return message


def test_files_that_are_no_archives(saved: Path, tmp_path: Path) -> None:
    content = saved.read_bytes()
    assert "does not exist" in refusal(tmp_path / "missing.keras")
    folder = tmp_path / "folder.keras"
    folder.mkdir()
    assert "directory" in refusal(folder)
    named = tmp_path / "model.zip"
    named.write_bytes(content)
    assert "does not end in .keras" in refusal(named)
    half = len(content) // 2
    flipped = content[:half] + bytes([content[half] ^ 0xFF]) + content[half + 1 :]
    for index, broken in enumerate((b"", b"hello", content[:half], content[:-30], flipped)):
        path = tmp_path / f"broken{index}.keras"
        path.write_bytes(broken)
        assert "not a model file, or is damaged or cut short" in refusal(path, weights=broken is flipped)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_missing_repeated_and_further_members(remade: Callable[..., Path]) -> None:
    for name in ("../evil", "/tmp/evil", "a/../../evil", "..\\evil", "C:\\evil", "assets/other"):
        assert "is not a model file: it holds" in refusal(remade({name: b"x"}))
    for name in (CONFIG, WEIGHTS):
        assert "is not a model file: it holds" in refusal(remade({name: None}))
    path = remade({})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(CONFIG, "{}")
    assert f"holds '{CONFIG}, {CONFIG}, " in refusal(path)


def test_bombs_and_members_of_another_kind(saved: Path, remade: Callable[..., Path]) -> None:
    for name in (CONFIG, WEIGHTS):
        bomb = remade({name: b" " * (8 << 20)}, zipfile.ZIP_DEFLATED)
        assert "would unpack to 8,388,608 bytes" in refusal(bomb)
    assert "is no model's" in refusal(remade({CONFIG: os.urandom(17 << 20)}))
    with zipfile.ZipFile(saved) as archive:
        content = archive.read(WEIGHTS)
    for broken in (b"not hdf5" * (len(content) // 8), content[: len(content) * 9 // 10], b""):
        refusal(remade({WEIGHTS: broken}), weights=True)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", '"x"', "{}", '{"a": NaN}', "[" * 100_000, b"\xff\xfe", '{"config": 1e999}'],
)
def test_configurations_that_are_none(remade: Callable[..., Path], text: Any) -> None:
    refusal(remade({CONFIG: text}))


HOSTILE: list[dict[str, Any]] = [
    {"class_name": "__lambda__", "config": {"value": "b3duZWQ="}},
    {"module": "os", "class_name": "system", "config": {"command": "touch owned"}},
    {"registered_name": "anything>Evil"},
]


@pytest.mark.parametrize("hostile", HOSTILE, ids=["lambda", "system", "registered"])
def test_serialised_objects_anywhere_are_refused(
    with_config: Callable[..., Path], hostile: dict[str, Any]
) -> None:
    for change in (
        changed([{"deeper": [hostile]}], "identity", "history", "deep"),
        changed(hostile, "dtype"),
        changed(hostile, "identity", "support", "lower"),
        changed(hostile, "sizes", "blocks"),
    ):
        assert "asks to make an object" in refusal(with_config(change))


def test_what_stands_beside_the_configuration_is_not_obeyed(
    model: TrajWorld, with_config: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hostile_module.py").write_text("open('owned', 'w').write('x')\nTrajWorld = None\n")
    monkeypatch.syspath_prepend(tmp_path)

    def change(config: dict[str, Any]) -> None:
        config["module"] = "hostile_module"
        config["compile_config"] = HOSTILE[0]
        config["build_config"] = HOSTILE[1]

    assert_equal(model, load_model(with_config(change)))
    assert "hostile_module" not in sys.modules
    assert not (tmp_path / "owned").exists()


SOURCE = {"dataset": "x", "environment": "x", "content": "", "support": {"lower": 0.0, "upper": 1.0}}
WRONG: dict[tuple[str, ...], list[Any]] = {
    ("sizes", "blocks"): [0, -1, 1.5, "2", None, True, [2], 10**9, 10**400, 3],
    ("sizes", "width"): [7, 16, 10**6, "8"],
    ("sizes", "dropout"): [1.0, -0.1, "0.1", None],
    ("sizes", "extra"): [1],
    ("sizes",): [None, [], "small", {"blocks": 2}],
    ("dtype",): ["float31", None, 3, ["float32"]],
    ("name",): ["a/b", "", None, 3, "x" * 10 + "\n"],
    ("kind",): ["mlp", None, 3, ["trajworld"]],
    ("extra",): [1],
    ("identity",): [None, [], {}],
    ("identity", "support"): [None, {}, {"lower": [0.0]}, {"lower": 1.0, "upper": 0.0}],
    ("identity", "support", "lower"): ["abc", [0.0], [[0.0] * 3], [9.0] * 3, [1e39] * 3, [None] * 3, 10**400],
    ("identity", "environment"): [None, 3, ["x"]],
    ("identity", "observation_size"): [2, -1, 1.0, "1", True],
    ("identity", "sources"): [None, [1], {"a": None}, {"a": {"lower": 0.0}}, [{}], [SOURCE], ["x"]],
    ("identity", "history"): [None, [1], "x"],
    ("identity", "extra"): [1],
}


# Deprecated is something in Keras.
@pytest.mark.filterwarnings("error", "ignore::DeprecationWarning")
@pytest.mark.parametrize("path", WRONG, ids=".".join)
def test_wrong_parts_of_a_configuration(with_config: Callable[..., Path], path: tuple[str, ...]) -> None:
    for value in WRONG[path]:
        refusal(with_config(changed(value, *path)), weights=True)


def test_more_than_is_there(with_config: Callable[..., Path]) -> None:
    """A model of so many blocks would need terabytes: it must be refused before it is made."""
    support = {"lower": [0.0] * 13, "upper": [1.0] * 13}
    wide = {**IDENTITY.to_config(), "support": support, "observation_size": 11}
    message = refusal(with_config(changed(wide, "identity")))
    assert "ranges of 13 variates, but embeddings for 12" in message
    assert "its sizes ask for" in refusal(with_config(changed(10**6, "sizes", "blocks")), weights=True)


ARRAY = "head/vars/0"


def replaced(**options: Any) -> Callable[[h5py.File], None]:
    def change(weights: h5py.File) -> None:
        shape = weights[ARRAY].shape
        del weights[ARRAY]
        weights.create_dataset(ARRAY, **{"shape": shape, "dtype": "f4", **options})

    return change


def virtual_data(weights: h5py.File) -> None:
    layout = h5py.VirtualLayout(weights[ARRAY].shape, "f4")
    layout[:] = h5py.VirtualSource("/etc/other.h5", "x", weights[ARRAY].shape)
    del weights[ARRAY]
    weights.create_virtual_dataset(ARRAY, layout)


def assigned(name: str, value: Callable[[h5py.File], Any]) -> Callable[[h5py.File], None]:
    def change(weights: h5py.File) -> None:
        new = value(weights)
        weights.pop(name, None)
        weights[name] = new

    return change


def poisoned(value: float) -> Callable[[h5py.File], None]:
    return lambda weights: weights["head/vars/1"].write_direct(np.full(16, value, "f4"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (poisoned(np.nan), "NaN or infinite"),
        (poisoned(-np.inf), "NaN or infinite"),
        (lambda weights: weights.pop("head"), "weights, but it holds"),
        (lambda weights: weights.create_dataset("more", data=np.zeros(3, "f4")), "weights, but it holds"),
        (replaced(dtype="i4"), "not float32"),
        (replaced(dtype=h5py.string_dtype()), "not float32"),
        (replaced(dtype=[("a", "f4")]), "not float32"),
        (replaced(shape=(2**40,), chunks=(1024,)), "declare more than is stored"),
        (replaced(shape=(), data=None), "more than is stored"),
        (replaced(external=[("/etc/hostname", 0, h5py.h5f.UNLIMITED)]), "another file"),
        (virtual_data, "another file"),
        (assigned(ARRAY, lambda weights: h5py.SoftLink("/head/vars/1")), "a link"),
        (assigned(ARRAY, lambda weights: h5py.ExternalLink("/etc/other.h5", "/x")), "a link"),
        (assigned("again", lambda weights: weights["/"]), "more arrays"),
        (lambda weights: weights.move("head", "body"), "could not be loaded"),
        (assigned(ARRAY, lambda weights: weights[ARRAY][()].T.copy()), "could not be loaded"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.__qualname__.split(".")[0],
)
def test_wrong_weights(
    with_weights: Callable[..., Path], change: Callable[[h5py.File], Any], said: str
) -> None:
    assert said in refusal(with_weights(change), weights=True)
