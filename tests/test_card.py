"""Model cards: every number is that of a record, what a record's text holds is only text, studies are of the model."""

import json
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from study_cells import Powers
from training_fixtures import config_for, store

from trajworld.card.card import card, card_for, model_file
from trajworld.errors import TrajWorldError, UsageError
from trajworld.models.files import describe_model, load_model, weights_digest
from trajworld.studies.zero_shot import ZeroShot
from trajworld.study.report import write_report
from trajworld.text import number
from trajworld.training.loop import train
from trajworld.training.run import resume_run, start_run
from trajworld.weights import shipped_card, shipped_models

pytestmark = pytest.mark.once


@pytest.fixture
def run(tmp_path: Path, plain_steps: Any) -> Path:
    """A run on four datasets of three sizes, one of them drawn three times as often; resumed to a later end."""
    specs = [store(tmp_path / f"data-{place}", observations=2 + place % 3, seed=place) for place in range(4)]
    datasets = [{"spec": spec, "weight": 3.0 if place == 0 else 1.0} for place, spec in enumerate(specs)]
    train(start_run(tmp_path / "run", config_for("pretrain", datasets)))
    train(resume_run(tmp_path / "run", steps=16)[0])
    return tmp_path / "run"


def records(run: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    rows = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return json.loads((run / "run.json").read_text()), list(rows)


def change(run: Path, record: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    (run / "run.json").write_text(json.dumps(record))
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def table_of(text: str, heading: str) -> list[list[str]]:
    """The rows of the table whose header begins with a word."""
    blocks = re.findall(rf"^\| {heading} \|.*\n\|.*\n((?:\|.*\n)+)", text, flags=re.MULTILINE)
    return [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in blocks[0].splitlines()]


def test_the_numbers_are_those_of_the_records(run: Path, tmp_path: Path) -> None:
    (record, rows), text = records(run), card(run, name="hf://user/robots")
    evaluated = [row for row in rows if "holdout_loss" in row]
    best = min(evaluated, key=lambda row: row["holdout_loss"])
    assert f"**{number(best['holdout_loss'])}** at step {best['step']}, the mean" in text
    assert table_of(text, "step") == [
        [str(row["step"]), number(row["loss"]), number(row["holdout_loss"])] for row in evaluated
    ]
    for fact in (
        f"| parameters | {record['parameters']:,} |",
        "| blocks | 1 |\n| width | 8 |\n| heads | 2 |\n| window, rows | 4 |",
        "| steps | 16; until step 12 planned: 12 |",
        f"| weights | of step {best['step']}, where",
        "| windows seen | 64 |",
        "# robots\n",
        'trajworld.load("hf://user/robots")',
        "`data-0`, `data-1`, `data-2`, `data-3`\n",
    ):
        assert fact in text
    assert str(tmp_path) not in text
    losses = [number(best["holdout"][f"data-{place}"]) for place in range(4)]
    shares = ["50.00%", "16.67%", "16.67%", "16.67%"]
    assert [row[3:] for row in table_of(text, "environment")] == [
        *map(list, zip(shares, losses, strict=True))
    ]
    # One source holds all: its mean is the run's own, weighted as in training.
    (source,) = table_of(text, "source")
    total = sum(one["transitions"] for one in record["datasets"])
    assert source[:3] == ["`test`", "4", "4 – 6"]
    assert [source[4], source[7]] == [f"{total:,}", number(best["holdout_loss"])]
    config = (run / "config.toml").read_text()
    (run / "config.toml").write_text(config.replace("\nsteps = 16", "\nsteps = 20", 1))
    assert "**The run is not finished:** 16 of 20 steps are done." in card(run)


def test_what_a_resumed_run_was_computed_on(run: Path) -> None:
    record, rows = records(run)
    given = {name: record[name] for name in ("backend", "device", "versions")}
    other, newer = {**given, "backend": "other"}, {**given, "versions": {"keras": "9.9"}}
    # The first and the last change nothing; the third goes back behind the second, which is undone.
    resumed = [{"step": 4, **given}, {"step": 8, **other}, {"step": 6, **newer}, {"step": 9, **newer}]
    change(run, {**record, "resumed": resumed}, rows)
    found = table_of(card(run), "from step")
    assert [(row[0], row[2]) for row in found] == [("0", record["backend"]), ("6", record["backend"])]
    assert found[1][3] == "keras 9.9"


def test_the_front_matter_is_what_the_hub_reads(run: Path) -> None:
    yaml = pytest.importorskip("yaml")
    small = "trajworld-small"
    for name, given, licence in (("hf://u/x", "", None), ("hf://u/x", "mit", "mit"), (small, "", "mit")):
        _, front, body = card(run, name=name, licence=given).split("---\n", 2)
        assert yaml.safe_load(front).get("license") == licence
        assert (f"Licence: {licence}." in body) == ("icence" in body) == (licence is not None)
    for wrong in ("mit\ntags: []", "a b", "[mit]"):
        with pytest.raises(UsageError, match="a licence is named as on the Hugging Face hub"):
            card(run, licence=wrong)


def test_names_are_only_text_and_damaged_records_end_in_one_line(run: Path) -> None:
    record, rows = records(run)
    evil = {**record["datasets"][0], "environment": "evil` | <script>alert(1)</script>\n\n# Owned\x1b[2J"}
    change(run, {**record, "datasets": [evil], "versions": {"<img src=x>": "1|2"}}, rows)
    text = card(run)
    assert not [part for part in ("\n# Owned", "\x1b", "<img") if part in text]
    assert len(table_of(text, "environment")[0]) == 5
    for damaged in ({"parameters": None}, {"device": "cpu"}, {"datasets": ["x"]}, {"resumed": [{}]}):
        change(run, {**record, **damaged}, rows)
        with pytest.raises(TrajWorldError, match=r"run\.json .*(is damaged|restore it)"):
            card(run)


def test_a_card_is_of_the_weights_and_goes_with_them(run: Path, tmp_path: Path) -> None:
    given = card(run, name="hf://user/x", licence="mit")
    assert card_for(str(run / "best.keras"), "hf://user/x", "mit") == given
    assert card_for(str(run / "last.keras"), "hf://user/x") is None
    record, rows = records(run)
    change(run, record, rows[:1])
    with pytest.raises(TrajWorldError, match=r"best\.keras is of step \d+, but"):
        card(run)
    # Without a holdout set the card is of the last weights.
    train(start_run(tmp_path / "all", config_for("train", [store(tmp_path / "d")], holdout_fraction=0.0)))
    assert model_file(tmp_path / "all") == tmp_path / "all" / "last.keras"
    assert "## Holdout loss" not in card(tmp_path / "all")


def test_a_card_names_all_that_the_weights_come_from(run: Path, tmp_path: Path) -> None:
    for name, init in (("second", run / "best.keras"), ("third", tmp_path / "second" / "last.keras")):
        config = config_for("train", [store(tmp_path / f"{name}-data")], init=str(init))
        train(start_run(tmp_path / name, config))
    step = describe_model(run / "best.keras")["history"]["step"]
    last = describe_model(tmp_path / "second" / "last.keras")["history"]["step"]
    assert "started from" not in card(run)
    wanted = f"| started from | `last.keras` at step {last}, this from `best.keras` at step {step} |"
    assert wanted in card(tmp_path / "third")


def test_a_study_of_the_model_is_included_whole_and_another_is_refused(run: Path, tmp_path: Path) -> None:
    table = pd.DataFrame([{"base": 2, "exponent": exponent, "value": 2.0**exponent} for exponent in (1, 2)])
    digest = weights_digest(load_model(run / "best.keras"))
    for name, origin in (("mine", {"model": digest}), ("other", {"model": "ab"}), ("none", {})):
        write_report(Powers(), table, tmp_path / name, origin)
    unseen = ZeroShot(model=str(run / "best.keras"))
    write_report(unseen, pd.DataFrame(), tmp_path / "unseen", {"model": digest})
    text = card(run, studies=[tmp_path / "mine", tmp_path / "unseen"])
    assert "zero-shot --model best.keras`" in text
    report = (tmp_path / "mine" / "report.md").read_text().splitlines()
    kept = [line for line in report if not line.startswith("![")]
    assert "\n".join("#" * line.startswith("#") + line for line in kept).strip() in text
    assert "\n## Powers of small numbers\n" in text
    for name, words in (("other", "powers study of another model"), ("none", "powers study of no model")):
        with pytest.raises(TrajWorldError, match=words):
            card(run, studies=[tmp_path / name])


@pytest.mark.parametrize("name", sorted(shipped_models()))
def test_the_shipped_card_is_of_the_shipped_file(name: str) -> None:
    step = describe_model(shipped_models()[name])["history"]["step"]
    assert f"| weights | of step {step:,}," in shipped_card(name).read_text()
