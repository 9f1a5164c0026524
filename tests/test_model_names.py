"""What models are called: shipped names and paths; addresses on the hub are in test_hub.py."""

from pathlib import Path
from typing import Any

import pytest
from training_fixtures import store

import trajworld
from trajworld.errors import TrajWorldError, UsageError
from trajworld.models.files import load_model
from trajworld.models.names import find_model, said_briefly
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


def test_save_writes_a_path_and_no_shipped_name(tmp_path: Path) -> None:
    model = trajworld.load(SMALL)
    trajworld.save(model, tmp_path / "copy.keras")
    assert load_model(tmp_path / "copy.keras").get_config() == model.get_config()
    before = shipped_models()[SMALL].read_bytes()
    with pytest.raises(UsageError, match="is a model that ships"):
        trajworld.save(model, SMALL)
    assert shipped_models()[SMALL].read_bytes() == before


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
