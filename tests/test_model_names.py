"""The models that ship, and what models are called: names and paths; addresses on the hub are in test_hub.py."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy_reference import Reference, known_variates, numpy, weights_of_model, windows
from training_fixtures import store

import trajworld
from trajworld.backend import active_backend
from trajworld.errors import TrajWorldError, UsageError
from trajworld.models.files import describe_model
from trajworld.models.names import find_model, said_briefly
from trajworld.models.sizes import TrajWorldSizes
from trajworld.weights import shipped_models

SMALL = "trajworld-small"
WEIGHTS = Path(trajworld.__file__).parent / "weights"


def test_a_name_is_the_file_in_the_package_and_a_path_is_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert find_model(SMALL) == shipped_models()[SMALL] == WEIGHTS / f"{SMALL}.keras"
    monkeypatch.chdir(tmp_path)
    for path in ("model.keras", "a/b.keras", f"{SMALL}.keras", f"./{SMALL}.keras", "missing.keras"):
        assert find_model(path) == find_model(Path(path)) == Path(path)

    # What is there does not hide a shipped model.
    Path(SMALL).mkdir()
    assert find_model(SMALL) == shipped_models()[SMALL]
    for name in ("", "model.h5", "runs/pre/best", ".", "..", f"./{SMALL}"):
        with pytest.raises(TrajWorldError, match=r"does not end in \.keras"):
            find_model(name)


def test_save_writes_no_shipped_name() -> None:
    before = shipped_models()[SMALL].read_bytes()
    with pytest.raises(UsageError, match="is a model that ships"):
        trajworld.save(trajworld.load(SMALL), SMALL)
    assert shipped_models()[SMALL].read_bytes() == before


@pytest.mark.parametrize("name", shipped_models())
def test_what_ships_is_named_and_pre_trained(name: str) -> None:
    described = describe_model(shipped_models()[name])
    preset = name.removeprefix("trajworld-").partition("@")[0]
    assert described["parameters"] == TrajWorldSizes.presets[preset].parameters
    assert described["support"] == {"lower": 0.0, "upper": 1.0}
    assert len(described["sources"]) > 1
    assert (described["history"]["kind"], described["dtype"]) == ("pretrain", "float32")
    # No folder of the machine that trained it.
    assert not [data for data in described["history"]["datasets"] if data.startswith(("/", "~", ".", "\\"))]


@pytest.mark.parametrize(("observations", "actions", "recorded"), [(3, 1, 0.8755305), (66, 24, 0.6148251)])
def test_what_ships_computes_what_numpy_does_and_what_was_recorded(
    observations: int, actions: int, recorded: float
) -> None:
    """The recorded mean would tell weights that are read into one another's places."""
    model, variates = trajworld.load(SMALL), known_variates(observations, actions)
    values, time_mask = windows(variates, rows=20)
    found = numpy(active_backend().compile(model, model)(values, time_mask, variates))
    expected = Reference(model.sizes, weights_of_model(model))(values, time_mask, variates)
    assert found.shape == expected.shape == (*values.shape, model.sizes.bins)
    real = time_mask > 0
    np.testing.assert_allclose(found[real], expected[real], rtol=0, atol=1e-4)
    assert np.abs(found[real]).mean() == pytest.approx(recorded, rel=1e-5)


def test_records_hold_a_name_whole_and_of_a_path_the_file(tmp_path: Path) -> None:
    assert said_briefly(SMALL) == SMALL
    assert said_briefly("hf://user/repo@main/a/b.keras") == "hf://user/repo@main/a/b.keras"
    assert said_briefly(tmp_path / "best.keras") == "best.keras"


def test_an_unknown_name_ends_every_command_in_one_line(tmp_path: Path, command: Any) -> None:
    run, data = tmp_path / "run", store(tmp_path / "data")
    for word in ("trajworld-smal", "TRAJWORLD-SMALL", "trajworld-small "):
        for arguments in (
            ("checkpoint", "show", word),
            ("evaluate", word, data),
            ("train", data, "--init", word, "-o", run),
        ):
            code, _, err = command(*arguments)
            assert (code, err.count("\n")) == (2, 1)
            assert err.startswith(f"Error: no model that ships is called {word!r}: there is {SMALL}")
        assert not run.exists()
