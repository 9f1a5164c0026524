"""Model files: what is written comes back on every backend, and nothing else is believed."""

import importlib.util
import io
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest
from keras import ops

from trajworld.errors import TrajWorldError
from trajworld.models.files import describe_model, load_model, save_model
from trajworld.models.identity import Identity
from trajworld.models.ranges import training_support
from trajworld.models.sizes import TrajWorldSizes
from trajworld.models.trajworld import TrajWorld

SIZES = TrajWorldSizes(blocks=2, width=8, heads=2, window=5, bins=16, variates=12, dropout=0.1)
IDENTITY = Identity(
    training_support([0.0, -1.0, 0.1], [1.0, 2.0, 0.2]),
    environment="gymnasium/Toy-v0",
    observation_size=1,
    action_size=1,
    history={"steps": 7, "versions": {"keras": "3"}},
)
CONFIG, WEIGHTS = "config.json", "model.weights.h5"


@pytest.fixture(scope="module")
def model() -> TrajWorld:
    model = TrajWorld(SIZES, IDENTITY)
    rng = np.random.default_rng(0)
    for variable in model.weights:
        variable.assign(rng.normal(size=variable.shape).astype(np.float32))
    return model


@pytest.fixture(scope="module")
def saved(model: TrajWorld, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "model.keras"
    save_model(model, path)
    return path


@pytest.fixture
def remade(saved: Path, tmp_path: Path) -> Callable[..., Path]:
    """A function that writes the saved archive again with some of its members replaced, removed or added."""

    def remake(members: dict[str, Any], compression: int = zipfile.ZIP_STORED) -> Path:
        path = tmp_path / "remade.keras"
        with zipfile.ZipFile(saved) as source, zipfile.ZipFile(path, "w", compression) as target:
            contents: dict[str, Any] = {name: source.read(name) for name in source.namelist()}
            for name, content in {**contents, **members}.items():
                if content is not None:
                    target.writestr(name, content)
        return path

    return remake


@pytest.fixture
def with_config(saved: Path, remade: Callable[..., Path]) -> Callable[..., Path]:
    """A function that writes the saved archive again with its configuration changed in place."""

    def remake(change: Callable[[dict[str, Any]], Any]) -> Path:
        with zipfile.ZipFile(saved) as archive:
            config = json.loads(archive.read(CONFIG))
        change(config)
        return remade({CONFIG: json.dumps(config)})

    return remake


@pytest.fixture
def with_weights(saved: Path, remade: Callable[..., Path]) -> Callable[..., Path]:
    """A function that writes the saved archive again with its HDF5 file changed in place."""

    def remake(change: Callable[[h5py.File], Any]) -> Path:
        with zipfile.ZipFile(saved) as archive:
            content = io.BytesIO(archive.read(WEIGHTS))
        with h5py.File(content, "r+") as weights:
            change(weights)
        return remade({WEIGHTS: content.getvalue()})

    return remake


def refusal(path: Path, loaded: bool = True) -> str:
    """The one line with which loading, or describing, refuses a file."""
    with pytest.raises(TrajWorldError) as caught:
        (load_model if loaded else describe_model)(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    assert len(message) < 500
    return message


def assert_equal(first: TrajWorld, second: TrajWorld) -> None:
    assert first.get_config() == second.get_config()
    for one, other in zip(first.weights, second.weights, strict=True):
        assert one.path == other.path
        np.testing.assert_array_equal(ops.convert_to_numpy(one.value), ops.convert_to_numpy(other.value))


def test_a_model_comes_back_equal(model: TrajWorld, saved: Path) -> None:
    again = load_model(saved)
    assert_equal(model, again)
    np.testing.assert_array_equal(again.identity.support.lower, IDENTITY.support.lower)
    assert os.listdir(saved.parent) == ["model.keras"]


def test_keras_reads_the_file_too(model: TrajWorld, saved: Path) -> None:
    assert_equal(model, keras.saving.load_model(saved))


def test_what_keras_itself_saves_is_read(model: TrajWorld, tmp_path: Path) -> None:
    model.save(tmp_path / "keras.keras")
    assert_equal(model, load_model(tmp_path / "keras.keras"))


def test_a_file_packed_again_is_read(model: TrajWorld, remade: Callable[..., Path]) -> None:
    assert_equal(model, load_model(remade({}, zipfile.ZIP_DEFLATED)))


def test_mixed_precision_comes_back(tmp_path: Path) -> None:
    model = TrajWorld(SIZES, IDENTITY, dtype="mixed_bfloat16")
    save_model(model, tmp_path / "mixed.keras")
    again = load_model(tmp_path / "mixed.keras")
    assert_equal(model, again)
    assert again.compute_dtype == again.head.compute_dtype == again.temporal[0].compute_dtype == "bfloat16"
    assert describe_model(tmp_path / "mixed.keras")["dtype"] == "mixed_bfloat16"


def test_a_saved_model_replaces_another_whole_or_not_at_all(model: TrajWorld, tmp_path: Path) -> None:
    path = tmp_path / "deep" / "model.keras"
    save_model(model, path)
    before = path.read_bytes()
    broken = TrajWorld(SIZES, IDENTITY)
    broken.head.bias.assign(np.full(SIZES.bins, np.nan, np.float32))
    with pytest.raises(TrajWorldError, match="NaN or infinite"):
        save_model(broken, path)
    for history in ({"loss": float("nan")}, {"array": np.zeros(3)}, {"layer": {"class_name": "Dense"}}):
        with pytest.raises(TrajWorldError) as caught:
            save_model(TrajWorld(SIZES, replace(IDENTITY, history=history)), path)
        assert "\n" not in str(caught.value)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == ["model.keras"]


def test_an_interrupted_save_leaves_nothing(
    model: TrajWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*arguments: Any, **named: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(zipfile.ZipFile, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_model(model, tmp_path / "model.keras")
    assert os.listdir(tmp_path) == []


def test_a_wrong_name_or_an_impossible_place_is_one_line(model: TrajWorld, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    for path in (tmp_path / "model.h5", tmp_path / "file" / "model.keras"):
        with pytest.raises(TrajWorldError) as caught:
            save_model(model, path)
        assert "\n" not in str(caught.value)


def test_describing_says_what_the_file_holds(saved: Path) -> None:
    described = describe_model(saved)
    assert described["sizes"] == {
        "blocks": 2,
        "width": 8,
        "heads": 2,
        "window": 5,
        "bins": 16,
        "variates": 12,
        "dropout": 0.1,
    }
    assert described["parameters"] == TrajWorld(SIZES).count_params()
    assert described["environment"] == "gymnasium/Toy-v0"
    assert described["history"] == {"steps": 7, "versions": {"keras": "3"}}
    assert described["bytes"] == saved.stat().st_size
    assert described["saved"]["keras_version"] == keras.__version__


def run_python(code: str, *arguments: object, backend: str = "jax") -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env={**os.environ, "KERAS_BACKEND": backend},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_describing_imports_no_framework(saved: Path) -> None:
    code = (
        "import sys; from trajworld.models.files import describe_model; describe_model(sys.argv[1])\n"
        "print(sorted({'keras', 'jax', 'tensorflow', 'torch'} & sys.modules.keys()))"
    )
    assert run_python(code, saved).strip() == "[]"


@pytest.mark.slow
def test_another_backend_reads_it_equally_and_writes_it_back(model: TrajWorld, tmp_path: Path) -> None:
    """Each backend asks the next: run on all three, every one has read every other's."""
    ring = ("jax", "tensorflow", "torch", "jax")
    other = ring[ring.index(keras.backend.backend()) + 1]
    if importlib.util.find_spec(other) is None:
        pytest.skip(f"{other} is not installed")
    models = {}
    for dtype in ("float32", "mixed_bfloat16"):
        models[dtype] = TrajWorld(SIZES, IDENTITY, dtype=dtype)
        models[dtype].set_weights(model.get_weights())
        save_model(models[dtype], tmp_path / f"{dtype}.keras")
    code = (
        "import sys, keras, numpy; from trajworld.models.files import load_model, save_model\n"
        "for dtype in ('float32', 'mixed_bfloat16'):\n"
        "    model = load_model(f'{sys.argv[1]}/{dtype}.keras')\n"
        "    numpy.savez(f'{sys.argv[1]}/back-{dtype}.npz', *model.get_weights())\n"
        "    save_model(model, f'{sys.argv[1]}/back-{dtype}.keras')\n"
        "    print(keras.backend.backend(), model.compute_dtype)"
    )
    assert run_python(code, tmp_path, backend=other).split()[-4:] == [other, "float32", other, "bfloat16"]
    for dtype, mine in models.items():
        with np.load(tmp_path / f"back-{dtype}.npz") as arrays:
            for name, weight in zip(arrays.files, mine.get_weights(), strict=True):
                np.testing.assert_array_equal(arrays[name], weight)
        assert_equal(mine, load_model(tmp_path / f"back-{dtype}.keras"))


# What follows is tried against both readers where it concerns more than the weights.


@pytest.mark.parametrize("loaded", [True, False])
def test_files_that_are_no_archives(saved: Path, tmp_path: Path, loaded: bool) -> None:
    content = saved.read_bytes()
    assert "does not exist" in refusal(tmp_path / "missing.keras", loaded)
    folder = tmp_path / "folder.keras"
    folder.mkdir()
    assert "is a folder" in refusal(folder, loaded)
    named = tmp_path / "model.zip"
    named.write_bytes(content)
    assert "does not end in .keras" in refusal(named, loaded)
    for index, broken in enumerate((b"", b"hello", content[: len(content) // 2], content[:-30])):
        path = tmp_path / f"broken{index}.keras"
        path.write_bytes(broken)
        assert "not a model file, or is damaged or cut short" in refusal(path, loaded)


def test_a_flipped_byte_is_found(saved: Path, tmp_path: Path) -> None:
    content = bytearray(saved.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path = tmp_path / "flipped.keras"
    path.write_bytes(content)
    assert "damaged" in refusal(path)


@pytest.mark.parametrize("loaded", [True, False])
@pytest.mark.parametrize("name", ["../evil", "/tmp/evil", "a/../../evil", "..\\evil", "C:\\evil"])
def test_names_that_escape(remade: Callable[..., Path], name: str, loaded: bool) -> None:
    assert "would escape" in refusal(remade({name: b"x"}), loaded)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_missing_or_repeated_members(remade: Callable[..., Path]) -> None:
    for name in (CONFIG, WEIGHTS):
        assert f"holds no {name}" in refusal(remade({name: None}))
    path = remade({})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(CONFIG, "{}")
    assert "two members of one name" in refusal(path)


@pytest.mark.parametrize("loaded", [True, False])
def test_bombs(remade: Callable[..., Path], loaded: bool) -> None:
    for name in (CONFIG, WEIGHTS, "assets/other"):
        bomb = remade({name: b" " * (8 << 20)}, zipfile.ZIP_DEFLATED)
        assert "would unpack to 8,388,608 bytes" in refusal(bomb, loaded)
    large = remade({CONFIG: os.urandom(17 << 20)})
    assert "is no model's" in refusal(large, loaded)


@pytest.mark.parametrize("loaded", [True, False])
@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", '"x"', "{}", '{"a": NaN}', "[" * 100_000, b"\xff\xfe", '{"config": 1e999}'],
)
def test_configurations_that_are_none(remade: Callable[..., Path], text: Any, loaded: bool) -> None:
    refusal(remade({CONFIG: text}), loaded)


@pytest.mark.parametrize("loaded", [True, False])
def test_other_keras_models_are_named(tmp_path: Path, loaded: bool) -> None:
    other = keras.Sequential([keras.layers.Input((2,)), keras.layers.Dense(1)])
    other.save(tmp_path / "other.keras")
    assert "not a TrajWorld model but a Keras 'Sequential'" in refusal(tmp_path / "other.keras", loaded)


def hostile_objects() -> list[dict[str, Any]]:
    code = {"class_name": "__lambda__", "config": {"value": "b3duZWQ="}}
    return [
        code,
        {"module": "os", "class_name": "system", "config": {"command": "touch owned"}},
        {"module": "builtins", "class_name": "function", "config": "exec", "registered_name": "function"},
        {"registered_name": "anything>Evil"},
    ]


@pytest.mark.parametrize("loaded", [True, False])
@pytest.mark.parametrize("index", range(4))
def test_serialised_objects_anywhere_are_refused(
    with_config: Callable[..., Path], index: int, loaded: bool
) -> None:
    hostile = hostile_objects()[index]

    def in_history(config: dict[str, Any]) -> None:
        config["config"]["identity"]["history"]["deep"] = [{"deeper": [hostile]}]

    def as_dtype(config: dict[str, Any]) -> None:
        config["config"]["dtype"] = hostile

    def as_support(config: dict[str, Any]) -> None:
        config["config"]["identity"]["support"]["lower"] = hostile

    def as_size(config: dict[str, Any]) -> None:
        config["config"]["sizes"]["blocks"] = hostile

    for change in (in_history, as_dtype, as_support, as_size):
        assert "asks to make an object" in refusal(with_config(change), loaded)


def test_what_stands_beside_the_configuration_is_not_obeyed(
    model: TrajWorld, with_config: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hostile_module.py").write_text("open('owned', 'w').write('x')\nTrajWorld = None\n")
    monkeypatch.syspath_prepend(tmp_path)

    def change(config: dict[str, Any]) -> None:
        config["module"] = "hostile_module"
        config["compile_config"] = hostile_objects()[0]
        config["build_config"] = hostile_objects()[1]

    assert_equal(model, load_model(with_config(change)))
    assert "hostile_module" not in sys.modules
    assert not (tmp_path / "owned").exists()


def _set(*path: str) -> Callable[[Any], Callable[[dict[str, Any]], None]]:
    def of(value: Any) -> Callable[[dict[str, Any]], None]:
        def change(config: dict[str, Any]) -> None:
            target = config["config"]
            for name in path[:-1]:
                target = target[name]
            target[path[-1]] = value

        return change

    return of


WRONG: dict[tuple[str, ...], list[Any]] = {
    ("sizes", "blocks"): [0, -1, 1.5, "2", None, True, [2], 10**9, 10**400, 3],
    ("sizes", "width"): [7, 16, 10**6, "8"],
    ("sizes", "dropout"): [1.0, -0.1, "0.1", None],
    ("sizes", "extra"): [1],
    ("sizes",): [None, [], "small", {"blocks": 2}],
    ("dtype",): ["float31", None, 3, ["float32"]],
    ("name",): ["a/b", "", None, 3, "x" * 10 + "\n"],
    ("extra",): [1],
    ("identity",): [None, [], {}],
    ("identity", "support"): [None, {}, {"lower": [0.0]}, {"lower": 1.0, "upper": 0.0}],
    ("identity", "support", "lower"): [
        "abc",
        [0.0],
        [[0.0] * 3],
        [9.0] * 3,
        [1e39] * 3,
        [None] * 3,
        [[0.0], 1.0, 2.0],
        {"a": 1},
        10**400,
    ],
    ("identity", "environment"): [None, 3, ["x"]],
    ("identity", "observation_size"): [2, -1, 1.0, "1", True],
    ("identity", "sources"): [None, [1], {"a": None}, {"a": {"lower": 0.0}}],
    ("identity", "history"): [None, [1], "x"],
    ("identity", "extra"): [1],
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("path", WRONG, ids=".".join)
def test_wrong_parts_of_a_configuration(with_config: Callable[..., Path], path: tuple[str, ...]) -> None:
    for value in WRONG[path]:
        refusal(with_config(_set(*path)(value)))


def test_more_ranges_than_embeddings(with_config: Callable[..., Path]) -> None:
    def change(config: dict[str, Any]) -> None:
        identity = config["config"]["identity"]
        identity["support"] = {"lower": [0.0] * 13, "upper": [1.0] * 13}
        identity["observation_size"] = 11

    assert "ranges of 13 variates, but embeddings for 12" in refusal(with_config(change), loaded=False)


def test_sizes_too_large_for_the_weights_take_no_memory(with_config: Callable[..., Path]) -> None:
    """A model of these sizes would need terabytes: it must be refused before it is made."""
    message = refusal(with_config(_set("sizes", "blocks")(10**6)))
    assert "its sizes ask for" in message


def first_array(weights: h5py.File) -> str:
    names: list[str] = []
    weights.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
    return names[0]


def replaced(**options: Any) -> Callable[[h5py.File], None]:
    def change(weights: h5py.File) -> None:
        name = first_array(weights)
        shape = weights[name].shape
        del weights[name]
        weights.create_dataset(name, **{"shape": shape, "dtype": "f4", **options})

    return change


def external_data(weights: h5py.File) -> None:
    name = first_array(weights)
    shape = weights[name].shape
    del weights[name]
    weights.create_dataset(name, shape, "f4", external=[("/etc/hostname", 0, h5py.h5f.UNLIMITED)])


def virtual_data(weights: h5py.File) -> None:
    name = first_array(weights)
    layout = h5py.VirtualLayout(weights[name].shape, "f4")
    layout[:] = h5py.VirtualSource("/etc/other.h5", "x", weights[name].shape)
    del weights[name]
    weights.create_virtual_dataset(name, layout)


def link(to: Any) -> Callable[[h5py.File], None]:
    def change(weights: h5py.File) -> None:
        name = first_array(weights)
        del weights[name]
        weights[name] = to

    return change


def loop(weights: h5py.File) -> None:
    weights["again"] = weights["/"]


def renamed(weights: h5py.File) -> None:
    weights.move("head", "body")


def reshaped(weights: h5py.File) -> None:
    name = "head/vars/0"
    values = weights[name][()]
    del weights[name]
    weights[name] = values.T.copy()


def poisoned(value: float) -> Callable[[h5py.File], None]:
    def change(weights: h5py.File) -> None:
        weights["head/vars/1"][3] = value

    return change


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
        (replaced(shape=(), data=None), "not those of a model|weights, but it holds|more than is stored"),
        (external_data, "another file"),
        (virtual_data, "another file"),
        (link(h5py.SoftLink("/head/vars/0")), "a link"),
        (link(h5py.ExternalLink("/etc/other.h5", "/x")), "a link"),
        (loop, "more arrays|weights, but it holds"),
        (renamed, "not those of a model of its sizes"),
        (reshaped, "not those of a model of its sizes"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.__qualname__.split(".")[0],
)
def test_wrong_weights(
    with_weights: Callable[..., Path], change: Callable[[h5py.File], Any], said: str
) -> None:
    message = refusal(with_weights(change))
    assert any(part in message for part in said.split("|")), message


def test_weights_that_are_no_hdf5_file(saved: Path, remade: Callable[..., Path]) -> None:
    with zipfile.ZipFile(saved) as archive:
        content = archive.read(WEIGHTS)
    refusal(remade({WEIGHTS: b"not hdf5" * (len(content) // 8)}))
    refusal(remade({WEIGHTS: content[: len(content) * 9 // 10]}))
    refusal(remade({WEIGHTS: b""}))


def test_the_step_of_the_weights_goes_before_what_was_planned() -> None:
    assert Identity().steps is None
    planned = Identity(history={"steps": 900, "seed": 3})
    assert planned.steps == 900
    assert planned.at_step(40).steps == 40
    assert planned.at_step(40).history == {"steps": 900, "step": 40, "seed": 3}
    assert planned.history == {"steps": 900, "seed": 3}
