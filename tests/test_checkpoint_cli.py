"""``trajworld checkpoint``: the published pickle becomes a model file; mistakes end in one line."""

import functools
import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from keras import ops

from trajworld.backend import active_backend
from trajworld.data.batch import Variates
from trajworld.interop.restricted_pickle import read_pickle
from trajworld.models.files import load_model, save_model
from trajworld.models.identity import DatasetRange, Identity
from trajworld.models.ranges import training_support
from trajworld.models.sizes import TrajWorldSizes
from trajworld.models.trajworld import TrajWorld


@pytest.fixture
def run(command):
    return functools.partial(command, "checkpoint")


@pytest.fixture(scope="module")
def goldens(shared):
    folder = shared / "goldens" / "small"
    if not folder.is_dir():
        pytest.skip("the recorded outputs are not beside the repository")
    return folder


def test_a_published_checkpoint_becomes_a_model_with_its_logits(goldens, tmp_path, run):
    with np.load(goldens / "golden.npz") as arrays:
        golden = dict(arrays)
    output = tmp_path / "models" / "model.keras"
    named = ("--heads", int(golden["heads"]), "--environment", "gymnasium/Toy-v0")
    code, out, err = run("import", goldens / "trm_dynamics.pkl", "-o", output, *named, "--json")
    assert code == 0, err
    described = json.loads(out)
    assert described["environment"] == "gymnasium/Toy-v0"
    assert described["sizes"]["blocks"] == int(golden["layers"])
    assert described["sizes"]["width"] == int(golden["width"])
    np.testing.assert_array_equal(np.float32(described["support"]["lower"]), golden["min_values"])
    np.testing.assert_array_equal(np.float32(described["support"]["upper"]), golden["max_values"])
    assert described["history"]["imported"] == "trm_dynamics.pkl"
    assert "keras" in described["history"]["versions"]

    model = load_model(output)
    support = model.identity.support
    variates = Variates(golden["is_action"], support.lower, support.upper)
    compiled = active_backend().compile(model, model)
    logits = np.asarray(ops.convert_to_numpy(compiled(golden["values"], golden["time_mask"], variates)))
    real = golden["time_mask"] > 0
    np.testing.assert_allclose(logits[real], golden["logits"][real], atol=1e-4)
    assert os.listdir(output.parent) == ["model.keras"]


def test_a_pre_trained_checkpoint_shares_the_unit_range(goldens, tmp_path, run):
    content = read_pickle(goldens / "trm_dynamics.pkl")
    content |= {"min_values": np.float32(-1e-5), "max_values": np.float32(1 + 1e-5)}
    (tmp_path / "scalars.pkl").write_bytes(pickle.dumps(content))
    code, out, err = run("import", tmp_path / "scalars.pkl", "-o", tmp_path / "model.keras")
    assert code == 0, err
    assert "0 to 1" in out
    assert load_model(tmp_path / "model.keras").identity.support.shared


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    identity = Identity(
        training_support([0.0, -1.0, 0.25, 0.5], [1.0, 2.0, 0.5, 0.75]),
        environment="gymnasium/[red]Toy\x1b[2J",
        observation_size=2,
        action_size=1,
        history={"steps": 700, "versions": {"keras": "3.99"}},
    )
    path = tmp_path_factory.mktemp("models") / "model.keras"
    save_model(TrajWorld(TrajWorldSizes(blocks=1, width=8, heads=2, bins=16), identity), path)
    return path


def test_show_prints_what_a_person_asks_for(model_file, run):
    code, out, err = run("show", model_file)
    assert (code, err) == (0, "")
    described = json.loads(run("show", model_file, "--json")[1])
    assert described["observation_size"] == 2
    assert described["parameters"] == load_model(model_file).count_params()
    for words in (
        "trajworld",
        "blocks 1, width 8",
        "parameters",
        "observation 1",
        "reward",
        "action 0",
        "keras 3.99",
    ):
        assert words in out
    # What a file says is neither markup nor a command to the terminal.
    assert "gymnasium/[red]Toy\\x1b[2J" in out
    assert "\x1b[2J" not in out


def test_show_of_a_pre_trained_model_lists_its_environments(tmp_path, run):
    support = training_support([0.0] * 11, [1.0] * 11)
    sources = (DatasetRange("swimmer", "gymnasium/Swimmer-v5", "1234", support),)
    model = TrajWorld(TrajWorldSizes(blocks=1, width=8, heads=2, bins=16), Identity(sources=sources))
    save_model(model, tmp_path / "model.keras")
    code, out, _ = run("show", tmp_path / "model.keras")
    assert code == 0
    assert any("gymnasium/Swimmer-v5" in line and "11" in line for line in out.splitlines())


class Hostile:
    def __reduce__(self):
        return os.system, ("touch owned",)


def test_mistakes_end_in_one_line_and_leave_nothing(tmp_path, run, monkeypatch, model_file):
    monkeypatch.chdir(tmp_path)
    inputs = {
        "empty.pkl": b"",
        "text.pkl": b"not a pickle",
        "hostile.pkl": pickle.dumps({"params": Hostile(), "min_values": 0.0, "max_values": 1.0}),
        "other.pkl": pickle.dumps({"a": 1}),
        "nothing.pkl": pickle.dumps({"params": {}, "min_values": 0.0, "max_values": 1.0}),
        "cut.keras": model_file.read_bytes()[:500],
    }
    for name, content in inputs.items():
        Path(name).write_bytes(content)
    Path("folder.keras").mkdir()
    present = sorted(os.listdir())
    commands = [
        *(("import", name, "-o", "out.keras") for name in [*inputs, "missing.pkl", "folder.keras"]),
        ("import", "other.pkl", "-o", "out.h5"),
        *(("show", name) for name in ("missing.keras", "folder.keras", "cut.keras", "text.pkl")),
    ]
    for command in commands:
        code, out, err = run(*command)
        assert (code, out, err[:7], err.count("\n")) == (1, "", "Error: ", 1), (command, err)
    assert sorted(os.listdir()) == present


def test_wrong_usage_of_a_good_checkpoint(goldens, tmp_path, run):
    source, output = goldens / "trm_dynamics.pkl", ("-o", tmp_path / "x.keras")
    for wanted, said, arguments in (
        (2, "--output", ["import", source]),
        (2, "--heads", ["import", source, *output, "--heads", 0]),
        (2, "multiple of its heads", ["import", source, *output, "--heads", 5]),
        (1, "TDM", ["import", goldens / "tdm_dynamics.pkl", *output]),
        (2, "MODEL", ["show"]),
    ):
        code, out, err = run(*arguments)
        assert (code, out) == (wanted, "")
        assert said in err
    assert os.listdir(tmp_path) == []
