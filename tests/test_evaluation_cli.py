"""``trajworld evaluate`` on real collected data, end to end, and with all that can be wrong."""

import json
from unittest.mock import Mock

import keras
import numpy as np
import pytest

from trajworld.data.resolve import open_dataset
from trajworld.data.statistics import value_range
from trajworld.evaluation.one_step import prediction_errors
from trajworld.models.files import save_model
from trajworld.models.identity import Identity
from trajworld.models.ranges import Support, training_support
from trajworld.models.sizes import TrajWorldSizes
from trajworld.models.trajworld import TrajWorld

pytestmark = pytest.mark.once

PENDULUM = "trajworld/gymnasium-pendulum-v1/ou-v0"
SIZES = TrajWorldSizes(blocks=1, width=16, heads=2, variates=12)


def save(path, identity=None):
    keras.utils.set_random_seed(0)
    model = TrajWorld(SIZES, identity)
    save_model(model, path)
    return model


@pytest.mark.slow
def test_a_collected_dataset_is_evaluated_and_drawn(tmp_path, command):
    command("data", "collect", "Pendulum-v1", "--transitions", 500, "--workers", 1)
    dataset = open_dataset(PENDULUM)
    support = training_support(*value_range(dataset))
    model = save(tmp_path / "model.keras", Identity(support, "gymnasium/Pendulum-v1", 3, 1))
    folder = tmp_path / "out"

    arguments = (tmp_path / "model.keras", PENDULUM, "--windows", 200, "--horizon", 12)
    code, out, _ = command("evaluate", *arguments, "--json", "-o", folder)
    assert code == 0
    results = json.loads(out)
    assert results == json.loads((folder / "results.json").read_text())
    found = results["datasets"][0]
    direct = prediction_errors(model, dataset, support=support, limit=200)
    assert found["prediction"]["mae"]["predicted"] == pytest.approx(direct.table["all"]["mae"], rel=1e-5)
    likelihood = direct.table["observations"]["nll"]
    assert found["prediction"]["nll"]["observation"] == pytest.approx(likelihood, rel=1e-5)
    assert found["prediction"]["ranges"] == "the model's own"
    assert found["prediction"]["windows"] == found["copy_last_row"]["windows"] == 200
    assert found["copy_last_row"]["nll"] is None
    assert len(found["open_loop"]["mae"]) == found["open_loop"]["horizon"] == 12
    pictures = {path.name for path in folder.glob("*.png")}
    assert (len(pictures), {"open-loop.png", "variates.png"} < pictures) == (4, True)

    code, out, _ = command("evaluate", *arguments)
    assert code == 0
    assert f"{direct.table['all']['mae']:,.4g}" in out

    assert "exists already" in command("evaluate", *arguments, "-o", folder)[2]
    code, _, _ = command("evaluate", *arguments, "-o", tmp_path / "again", "--pictures", 0)
    assert code == 0
    assert {path.name for path in (tmp_path / "again").iterdir()} == {
        "open-loop.png",
        "results.json",
        "variates.png",
    }


def test_several_datasets_and_the_ranges_of_an_unseen_environment(tmp_path, command, make_store):
    first, second = make_store([8, 5]), make_store([9], seed=1)
    save(tmp_path / "model.keras")
    arguments = (tmp_path / "model.keras", first.path, second.path, "--horizon", 0, "--json")
    code, out, _ = command("evaluate", *arguments, "-o", tmp_path / "out")
    assert code == 0
    results = json.loads(out)
    found = [(each["prediction"]["ranges"], each["open_loop"]) for each in results["datasets"]]
    assert found == [(f"of {first.name}", None), (f"of {second.name}", None)]
    for number, dataset in enumerate((first, second), start=1):
        assert (tmp_path / "out" / f"{number}-{dataset.name}" / "variates.png").is_file()
    code, out, _ = command("evaluate", *arguments, "--ranges", second.path)
    assert [each["prediction"]["ranges"] for each in json.loads(out)["datasets"]] == [f"of {second.name}"] * 2


def test_mistakes_and_ctrl_c_end_in_one_line_and_leave_nothing(tmp_path, command, make_store, monkeypatch):
    dataset, other = make_store([8, 5]), make_store([8], observations=5)
    wide = make_store([8], observations=20)
    model, pretrained, broken = (tmp_path / f"{name}.keras" for name in ("model", "pretrained", "broken"))
    save(model, Identity(Support(np.full(6, -9, np.float32), np.full(6, 9, np.float32)), "test/x", 3, 2))
    save(pretrained)
    broken.write_bytes(model.read_bytes()[:2000])
    (tmp_path / "text.keras").write_text("no model")
    before = sorted(tmp_path.iterdir())
    output = tmp_path / "out"

    for arguments, wanted, reason in (
        ((tmp_path / "missing.keras", dataset.path), 1, "missing.keras"),
        ((broken, dataset.path), 1, "broken.keras"),
        ((tmp_path / "text.keras", dataset.path), 1, "text.keras"),
        ((model, dataset.path, "no-such-dataset-v0"), 1, "no-such-dataset-v0"),
        ((model, dataset.path, other.path), 1, "3 observation and 2 action"),
        ((pretrained, wide.path), 1, "more than the 12"),
        ((pretrained, dataset.path, "--ranges", other.path), 1, "do not fit"),
        ((model, dataset.path, "--windows", -1), 2, "windows must be at least 0"),
        ((model,), 2, "DATASET"),
    ):
        code, out, err = command("evaluate", *arguments, "-o", output)
        assert (code, out) == (wanted, "")
        assert reason in err
        assert "Traceback" not in err
        assert sorted(tmp_path.iterdir()) == before
    monkeypatch.setattr("trajworld.evaluation.report.open_loop_errors", Mock(side_effect=KeyboardInterrupt))
    code, out, err = command("evaluate", pretrained, dataset.path, "-o", output)
    assert (code, out, "Interrupted" in err) == (130, "", True)
    assert sorted(tmp_path.iterdir()) == before
