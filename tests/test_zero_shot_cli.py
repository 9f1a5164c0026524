"""``trajworld evaluate-zero-shot`` from end to end, and with all that can be wrong."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest

from trajworld.cli.main import main
from trajworld.collect.corpus import write_manifest
from trajworld.collect.corpus_table import read_table
from trajworld.data.minari_datasets import datasets_folder
from trajworld.models.files import save_model
from trajworld.models.identity import Identity
from trajworld.models.ranges import Support
from trajworld.models.sizes import ModelSizes
from trajworld.models.trajworld import TrajWorld

SIZES = ModelSizes(blocks=1, width=16, heads=2, variates=12)
QUICK = ("--transitions", "900", "--windows", "30", "--contexts", "1,4,19")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    keras.utils.set_random_seed(0)
    path = tmp_path / "model.keras"
    save_model(TrajWorld(SIZES, Identity(history={"step": 7})), path)
    return path


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """Exit code, output and errors of the command."""
    capsys.readouterr()
    try:
        code = main(["evaluate-zero-shot", *map(str, arguments)])
    except SystemExit as end:
        code = end.code
    out, err = capsys.readouterr()
    return code or 0, out, err


@pytest.mark.slow
def test_it_collects_once_measures_and_draws(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "out"
    arguments = (model, "--only", "gymnasium/Pendulum*", *QUICK)
    code, out, err = run(capsys, *arguments, "--json", "-o", folder)
    assert code == 0, err
    assert "3 of 3" in err
    found = json.loads(out)
    assert found == json.loads((folder / "results.json").read_text())
    assert sorted(path.name for path in folder.iterdir()) == ["results.json", "results.md", "zero-shot.png"]
    assert [each["environment"] for each in found["environments"]] == [
        "gymnasium/Pendulum-v1?g=2.0",
        "gymnasium/Pendulum-v1?g=7.0",
        "gymnasium/Pendulum-v1?g=18.0",
    ]
    (family,) = found["families"]
    assert family["family"] == "pendulum, unseen gravity"
    for predictor, curve in family["errors"].items():
        means = [each["errors"][predictor]["mean"] for each in found["environments"]]
        assert curve["mean"] == pytest.approx(np.mean(means, axis=0))
        assert all(np.array(curve["low"]) < curve["mean"])
    assert found["settings"]["contexts"] == [1, 4, 19]
    assert found["kind"] == "zero-shot"
    assert found["model"] == {
        "name": str(model),
        "file": hashlib.sha256(model.read_bytes()).hexdigest(),
        "step": 7,
        "parameters": TrajWorld(SIZES).count_params(),
        "training_known": False,
    }
    assert found["backend"] == keras.backend.backend()
    assert found["versions"]["keras"] == keras.__version__
    assert any("--unpadded" in sentence for sentence in found["findings"])

    # Again: nothing is collected, the same comes out; a folder that is there is left alone, or replaced if asked.
    code, out, err = run(capsys, *arguments, "--json")
    assert code == 0
    assert "transitions in" not in err
    assert json.loads(out) == found
    code, _, err = run(capsys, *arguments, "-o", folder)
    assert code == 1
    assert "exists already" in err
    code, out, _ = run(capsys, *arguments, "-o", folder, "--overwrite", "--seed", 1)
    assert code == 0
    assert "Pendulum-v1?g=18.0" in out
    assert "with 19 rows the model errs by" in " ".join(out.split())
    assert json.loads((folder / "results.json").read_text())["settings"]["seed"] == 1

    # A model of a shorter window has shorter contexts where none are asked for.
    short = tmp_path / "short.keras"
    save_model(TrajWorld(replace(SIZES, window=10)), short)
    code, out, err = run(capsys, short, "--only", "*g=2.0", *QUICK[:4], "--json")
    assert code == 0, err
    assert json.loads(out)["settings"]["contexts"] == [1, 2, 3, 5, 7, 9]
    code, _, err = run(capsys, short, "--only", "*g=2.0", *QUICK)
    assert code == 2
    assert "1 to 9 rows with this model" in err

    # The corpus that was collected can be named as any other; but it is not whole.
    arguments = (model, "--corpus", "zero-shot-900", "--windows", 9)
    code, out, _ = run(capsys, *arguments, "--only", "*g=2.0", "--contexts", "3,19", "--unpadded")
    assert code == 0
    assert "--unpadded" not in out
    code, _, err = run(capsys, *arguments)
    assert code == 1
    assert "lacks 16 of 19 unseen datasets" in err


def test_mistakes_end_in_one_line_and_leave_nothing(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_manifest("seen", [row for row in read_table() if row.role == "pre-train"], {})
    write_manifest("whole", read_table(), {})
    sources = {"gymnasium/Hopper-v5": Support(np.zeros(15, np.float32), np.ones(15, np.float32))}
    save_model(TrajWorld(SIZES, Identity(sources=sources)), tmp_path / "saw.keras")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "precious").write_text("kept")
    before = sorted(path.name for path in tmp_path.iterdir())
    out = tmp_path / "out"
    for arguments, code, words in (
        ((tmp_path / "none.keras",), 1, "none.keras"),
        ((model, "--contexts", "1,two"), 2, "--contexts takes numbers"),
        ((model, "--contexts", "1,20", "-o", out), 2, "1 to 19 rows"),
        ((model, "--only", "no/such*", "-o", out), 2, "'no/such*' fits no unseen environment"),
        ((model, "--corpus", "absent", "-o", out), 1, "there is no corpus absent"),
        ((model, "--corpus", "seen"), 1, "the corpus seen has no unseen environments"),
        ((model, "--corpus", "whole", "-o", out), 1, "lacks 19 of 19 unseen datasets"),
        ((model, "--corpus", "a/b"), 2, "a corpus's name is"),
        ((model, "--corpus", "whole", "--transitions", 9), 2, "was collected already"),
        ((model, "--overwrite"), 2, "--overwrite needs -o"),
        ((model, "-o", tmp_path / "mine", "--overwrite"), 1, "is no folder of zero-shot results"),
        ((tmp_path / "saw.keras", "--only", "gymnasium/Hopper*", "-o", out), 1, "saw gymnasium/Hopper-v5"),
    ):
        found, printed, err = run(capsys, *arguments)
        assert (found, printed) == (code, ""), arguments
        assert words in err, arguments
        assert err.strip().count("\n") <= 3, err
        assert "Traceback" not in err
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    assert not list((datasets_folder()).rglob("*.hdf5")), "a model that cannot be used costs no collection"
