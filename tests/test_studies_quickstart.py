"""The quickstart: its plans, its folder, and the whole of it, tiny."""

import json
import os
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner
from studies_fixtures import error_of

from trajworld.cli.main import cli
from trajworld.data.resolve import open_dataset
from trajworld.errors import TrajWorldError, UsageError
from trajworld.studies import quickstart
from trajworld.studies.quickstart import SCALES, Quickstart
from trajworld.study.report import command

pytestmark = pytest.mark.once


def run(folder: Path, *arguments: str) -> tuple[dict, str]:
    command = ["quickstart", "--scale", "tiny", "-o", str(folder), "--json", *arguments]
    outcome = CliRunner().invoke(cli, command, catch_exceptions=False)
    assert outcome.exit_code == 0
    return json.loads(outcome.stdout), outcome.stderr


@pytest.mark.slow
def test_the_whole_of_it_and_once_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "mine"))
    monkeypatch.setitem(SCALES["tiny"], "sizes", (200,))
    folder, plan = tmp_path / "quick", Quickstart(**SCALES["tiny"])
    found, _ = run(folder)
    assert not (tmp_path / "mine").exists()
    assert os.environ["MINARI_DATASETS_PATH"] == str(tmp_path / "mine")
    table = pd.read_csv(folder / "table.csv")
    runs = table[table["task"] == "train_and_measure"]
    assert len(runs) == 2 * len(plan.sizes) * len(plan.learning_rates)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(folder / "datasets"))
    test = open_dataset("unseen/gymnasium-hopper-v5-v1")
    assert test.num_transitions == plan.test
    expected = {
        (side, size): error_of(folder / "cells" / f"{cell}.keras", test, plan.windows)
        for side, size, cell in zip(runs["side"], runs["transitions"], runs["cell"], strict=True)
    }
    errors, every = found["tables"].values()
    assert [row["transitions to fine-tune on"] for row in errors] == list(plan.sizes)
    for row in errors:
        both = [expected[side, row["transitions to fine-tune on"]] for side in ("from scratch", "fine-tuned")]
        assert [row["from scratch"], row["fine-tuned"]] == pytest.approx(both, rel=1e-4)
        assert row["ratio"] == pytest.approx(both[0] / both[1], rel=1e-4)
        assert 0 < row["copy the last row"] != row["zero-shot"] > 0
    assert [row["chosen"] for row in every] == ["✓"] * 2
    page = (folder / "index.html").read_text(encoding="utf-8")
    assert f"{errors[0]['ratio']:.3g}×" in page
    assert page.count("predicted and real</h2>") == 2

    # Again, it finds everything; another seed is not for this folder.
    before = {path: path.read_bytes() for path in (folder / "cells").iterdir()}
    again, log = run(folder)
    assert again == found
    assert "of 4" not in log
    assert {path: path.read_bytes() for path in (folder / "cells").iterdir()} == before
    with pytest.raises(UsageError, match="not empty"):
        run(folder, "--seed", "1")


def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    (tmp_path / "something").write_text("kept")
    with pytest.raises(UsageError, match="not empty"):
        run(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["something"]


@pytest.mark.slow
def test_datasets_that_were_collected_otherwise_are_refused(tmp_path: Path) -> None:
    small = {"sizes": (20,), "pool": 40, "test": 20, "datasets": str(tmp_path)}
    said: list[str] = []
    for _ in range(2):
        Quickstart(**small).prepare(1, said.append)
        assert len(said) == 2
    for change in ({"seed": 1}, {"test": 21}):
        with pytest.raises(TrajWorldError, match="collected otherwise: remove it"):
            Quickstart(**{**small, **change}).prepare(1, said.append)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": -1}, "the seed must be at least 0"),
        ({"sizes": (30_000,)}, "20,000 transitions collected cannot give 30,000"),
        ({"steps": 0}, "steps must be at least 1"),
    ],
)
def test_bad_plans_are_refused(options: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Quickstart(**options)


def test_no_more_workers_collect_than_were_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[int] = []
    monkeypatch.setattr(quickstart, "default_workers", lambda transitions: 3)
    monkeypatch.setattr(
        quickstart, "collect_datasets", lambda *_, workers, **given: used.append(workers) or []
    )
    study = Quickstart()
    vars(study)["_model"] = None
    for workers in (2, 8):
        study.prepare(workers, print)
    assert used == [2, 2, 3, 3]


def test_its_report_names_the_command_that_repeats_it() -> None:
    tiny = Quickstart(**SCALES["tiny"], seed=3, datasets="/somewhere/datasets")
    assert command(tiny) == "trajworld quickstart --scale tiny --seed 3"
    assert command(Quickstart(test=21)) == "trajworld study run quickstart --test 21"
