"""Model cards: every number is that of a record, and what a record's text holds is only text."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from keras import ops
from training_fixtures import config_for, plain_steps, store

from trajworld.card.card import GAUSS_FLOOR, card, card_for
from trajworld.card.run import read_run
from trajworld.card.studies import transfer_section, zero_shot_section
from trajworld.data.dataset import Dataset
from trajworld.errors import TrajWorldError, UsageError
from trajworld.evaluation.brief import Errors
from trajworld.files import file_digest
from trajworld.models.bins import encode
from trajworld.models.files import describe_model
from trajworld.models.sizes import ModelSizes
from trajworld.models.trajworld import TrajWorld
from trajworld.text import number, short_name
from trajworld.training.loop import train
from trajworld.training.run import start_run
from trajworld.transfer.plan import FINE_TUNED, FROM_SCRATCH, TransferPlan, TrialSettings
from trajworld.transfer.results import Curve, EnvironmentResults, Results
from trajworld.weights import shipped_card, shipped_models
from trajworld.zero_shot.protocol import set_up
from trajworld.zero_shot.results import ModelFacts
from trajworld.zero_shot.results import Results as ZeroShotResults
from trajworld.zero_shot.study import MODEL, PREDICTORS, measure_all

__all__ = ["plain_steps"]


@pytest.fixture
def run(tmp_path: Path, plain_steps: Any) -> Path:
    """A finished run on four datasets of three sizes, one of them drawn three times as often."""
    specs = [store(tmp_path / f"data-{place}", observations=2 + place % 3, seed=place) for place in range(4)]
    datasets = [{"spec": spec, "weight": 3.0 if place == 0 else 1.0} for place, spec in enumerate(specs)]
    path = tmp_path / "run"
    train(start_run(path, config_for("pretrain", datasets)))
    return path


def records(run: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return json.loads((run / "run.json").read_text()), rows


def tables(text: str) -> list[list[list[str]]]:
    """The cells of each Markdown table, its header first."""
    found = []
    for block in re.findall(r"(?:^\|.*\|\n?)+", text, flags=re.MULTILINE):
        rows = [
            [cell.strip() for cell in line.strip("| ").split(" | ")] for line in block.strip().splitlines()
        ]
        found.append([rows[0], *rows[2:]])
    return found


def table_of(text: str, heading: str) -> list[list[str]]:
    return next(table for table in tables(text) if table[0][0] == heading)


def fact(text: str, name: str) -> str:
    """The value in a two-column table."""
    return next(row[1] for table in tables(text) for row in table if row[0] == name)


def test_the_numbers_are_those_of_the_records(run: Path) -> None:
    record, rows = records(run)
    text = card(read_run(run), name="trajworld-tiny")
    best = min((row for row in rows if "holdout_loss" in row), key=lambda row: row["holdout_loss"])
    assert f"**{number(best['holdout_loss'])}** at step {best['step']:,}" in text
    assert fact(text, "weights").startswith(f"of step {best['step']},")
    assert fact(text, "steps") == "12"
    assert fact(text, "windows seen") == "48"
    assert fact(text, "parameters") == f"{record['parameters']:,}"
    assert fact(text, "blocks, width, heads") == "1, 8, 2"
    assert fact(text, "learning rate").startswith("0.003 at most: linear warm-up over 0 steps")
    assert record["versions"]["keras"] in fact(text, "versions")
    assert record["backend"] in fact(text, "computed on")
    total = sum(one["transitions"] for one in record["datasets"])
    assert f"4 environments with 4 to 6 variates (3 different M), {total:,} transitions in all" in text
    assert "not finished" not in text
    assert "augmentation" not in text
    losses = table_of(text, "step")[1:]
    assert losses == [
        [f"{row['step']:,}", number(row["loss"]), number(row["holdout_loss"])]
        for row in rows
        if "holdout_loss" in row
    ]


def test_shares_and_means_follow_the_weights(run: Path) -> None:
    _, rows = records(run)
    best = min((row for row in rows if "holdout_loss" in row), key=lambda row: row["holdout_loss"])
    text = card(read_run(run))
    listed = {row[0].strip("`"): row for row in table_of(text, "environment")[1:]}
    assert [row[3] for row in listed.values()] == ["50.00%", "16.67%", "16.67%", "16.67%"]
    assert [row[1] for row in listed.values()] == ["4", "5", "6", "4"]
    for place in range(4):
        assert listed[f"test/data-{place}"][4] == number(best["holdout"][f"data-{place}"])
    # One source holds all: its mean is the run's own, weighted as in training.
    (source,) = table_of(text, "source")[1:]
    assert source[:3] == ["`test`", "4", "4 – 6"]
    assert source[5] == number(best["holdout_loss"])
    expected = np.average([best["holdout"][f"data-{place}"] for place in range(4)], weights=[3, 1, 1, 1])
    assert source[5] == number(float(expected))


@pytest.mark.parametrize(
    ("name", "licence", "expected"),
    [
        ("hf://user/robots", "", None),
        ("hf://user/robots", "apache-2.0", "apache-2.0"),
        ("trajworld-small", "", "mit"),
        ("", "", None),
    ],
)
def test_the_front_matter_is_what_the_hub_reads(
    run: Path, name: str, licence: str, expected: str | None
) -> None:
    yaml = pytest.importorskip("yaml")
    text = card(read_run(run), name=name, licence=licence)
    _, front, body = text.split("---\n", 2)
    found = yaml.safe_load(front)
    assert found["library_name"] == "keras"
    assert found.get("license") == expected
    assert "world-model" in found["tags"]
    assert (f"Licence: {expected}." in body) == ("icence" in body) == (expected is not None)
    assert ("this project's own" in body) == (name == "trajworld-small")
    if name == "hf://user/robots":
        assert body.startswith("\n# robots\n")
        assert 'trajworld.load("hf://user/robots")' in body


@pytest.mark.parametrize("licence", ["mit\ntags: []", "a b", "-", "[mit]", "mit.", "<b>"])
def test_a_licence_is_only_a_name(run: Path, licence: str) -> None:
    with pytest.raises(UsageError, match="a licence is named as on the Hugging Face hub") as caught:
        card(read_run(run), licence=licence)
    assert "\n" not in str(caught.value)


def test_a_card_says_nothing_of_the_machines_folders(run: Path, tmp_path: Path) -> None:
    text = card(read_run(run))
    assert str(tmp_path) not in text
    assert "`data-0`" in text


def test_a_run_that_goes_on_says_so(run: Path) -> None:
    config = (run / "config.toml").read_text()
    (run / "config.toml").write_text(config.replace("steps = 12", "steps = 20", 1))
    text = card(read_run(run))
    assert "**The run is not finished:** 12 of 20 steps are done." in text
    assert fact(text, "steps") == "12 of 20"


def test_a_run_that_has_only_begun(tmp_path: Path, plain_steps: Any) -> None:
    start_run(tmp_path / "run", config_for("pretrain", [store(tmp_path / "data")]))
    text = card(read_run(tmp_path / "run"))
    assert "0 of 12 steps are done" in text
    assert "## Holdout loss" not in text
    assert table_of(text, "environment")[1][4] == "–"


def test_a_run_without_a_holdout_set_and_one_that_was_fine_tuned(tmp_path: Path, plain_steps: Any) -> None:
    data = store(tmp_path / "data")
    train(start_run(tmp_path / "pre", config_for("pretrain", [data])))
    config = config_for(
        "train", [data], init=str(tmp_path / "pre" / "best.keras"), holdout_fraction=0.0, transitions=30
    )
    train(start_run(tmp_path / "tuned", config))
    text = card(read_run(tmp_path / "tuned"))
    assert "It was trained on `test/data` (4 variates)" in text
    assert fact(text, "started from") == "`best.keras`"
    assert "Training began with the weights of `best.keras`." in text
    assert "Training began with" not in card(read_run(tmp_path / "pre"))
    assert "At most 30 transitions of each dataset were used." in text
    assert "## Holdout loss" not in text
    assert "weights" not in [row[0] for row in tables(text)[-1]]
    # Without a holdout set the card is of the last weights, and goes with them.
    found = read_run(tmp_path / "tuned").weights
    assert found is not None
    assert found.path == tmp_path / "tuned" / "last.keras"
    assert card_for(str(found.path), "") == text


def test_many_datasets_are_folded_and_the_best_and_worst_named(run: Path) -> None:
    record, rows = records(run)
    record["datasets"] = [
        {**record["datasets"][0], "name": f"d{place}", "environment": f"robot/legged-{place}", "weight": 1.0}
        for place in range(164)
    ]
    losses = {f"d{place}": 1.0 + (place * 7 % 164) / 100 for place in range(164)}
    for row in rows:
        if "holdout" in row:
            row["holdout"] = losses
    (run / "run.json").write_text(json.dumps(record))
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = card(read_run(run))
    assert "<summary>All 164 datasets</summary>" in text
    assert len(table_of(text, "environment")) == 165
    order = sorted(losses, key=lambda name: losses[name])
    for heading, names in (("The 5 best", order[:5]), ("The 5 worst", order[::-1][:5])):
        shown = [row[0] for row in table_of(text, heading)[1:]]
        assert shown == [f"`robot/legged-{name[1:]}`" for name in names]
    assert table_of(text, "source")[1][0] == "`legged`"


def test_names_are_only_text(run: Path) -> None:
    record, _ = records(run)
    record["datasets"][0]["environment"] = "evil` | <script>alert(1)</script>\n\n# Owned\x1b[2J"
    record["versions"]["<img src=x>"] = "1|2"
    record["device"]["name"] = "<b>cpu</b>"
    (run / "run.json").write_text(json.dumps(record))
    text = card(read_run(run))
    assert "\n# Owned" not in text
    assert "\x1b" not in text
    assert "<img" not in text
    assert "<b>" not in text
    rows = table_of(text, "environment")
    assert {len(row) for row in rows} == {5}
    assert rows[1][0].startswith("`evil' ¦ <script>")
    assert rows[1][0].count("`") == 2


@pytest.mark.parametrize(
    "damage",
    [
        lambda record, rows: record.pop("parameters"),
        lambda record, rows: record["datasets"][0].pop("weight"),
        lambda record, rows: record.update(device="a cpu"),
        lambda record, rows: record.update(resumed=[{"step": 4}]),
        lambda record, rows: record["datasets"].append("x"),
        lambda record, rows: rows[-1].update(holdout_loss="low"),
        lambda record, rows: rows[-1].update(seconds=None),
    ],
)
def test_damaged_records_end_in_one_line(run: Path, damage: Callable[..., Any]) -> None:
    record, rows = records(run)
    damage(record, rows)
    (run / "run.json").write_text(json.dumps(record))
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(TrajWorldError, match=r"run\.json or metrics\.jsonl is damaged") as caught:
        read_run(run)
    assert "\n" not in str(caught.value)


def resumption(record: dict[str, Any], step: int, **changes: Any) -> dict[str, Any]:
    return {"step": step, **{key: record[key] for key in ("backend", "device", "versions")}, **changes}


def test_a_run_that_was_given_another_end_says_so(run: Path) -> None:
    record, _ = records(run)
    surroundings = {key: record[key] for key in ("versions", "backend", "device", "layout")}
    resumed = [{"step": 2, **surroundings}, {"step": 3, "steps_before": 9000, "steps": 12, **surroundings}]
    for entries, more in (
        (resumed, "; until step 3 the run and cosine were to end after 9,000"),
        (resumed[:1], ""),
    ):
        (run / "run.json").write_text(json.dumps({**record, "resumed": entries}))
        assert fact(card(read_run(run)), "steps") == f"12{more}"


def test_what_a_resumed_run_was_computed_on(run: Path) -> None:
    record, _ = records(run)
    first = f"1 cpu, Keras on {record['backend']}"
    record["device"] = {"kind": "cpu", "name": "cpu", "count": 1}
    newer = {**record["versions"], "keras": "9.9"}
    newer.pop("numpy")
    gpu = {"kind": "gpu", "name": "A100", "count": 1}
    for resumed, computed, changed in (
        ([], first, ""),
        ([resumption(record, 4)], first, ""),
        ([resumption(record, 4, backend="other")], f"{first}; from step 4 on other", ""),
        (
            [resumption(record, 4, versions=newer), resumption(record, 12355, versions=newer, device=gpu)],
            f"{first}; from step 12,355 on 1 A100 (gpu), Keras on {record['backend']}",
            "; from step 4 keras 9.9, without numpy",
        ),
        # Gone back to an older checkpoint: what was computed in between is undone.
        (
            [resumption(record, 8, backend="other"), resumption(record, 4, versions=newer)],
            first,
            "; from step 4 keras 9.9, without numpy",
        ),
        ([resumption(record, 0, backend="other")], "1 cpu, Keras on other", ""),
    ):
        (run / "run.json").write_text(json.dumps({**record, "resumed": resumed}))
        text = card(read_run(run))
        assert fact(text, "computed on") == computed
        versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
        assert fact(text, "versions") == versions + changed


def test_augmentation_is_named(tmp_path: Path, plain_steps: Any) -> None:
    start_run(tmp_path / "run", config_for("pretrain", [store(tmp_path / "data")], augment=0.8))
    assert fact(card(read_run(tmp_path / "run")), "augmentation").startswith("in 80% of the batches")


def test_gauss_targets_have_a_floor_that_is_told(tmp_path: Path, plain_steps: Any) -> None:
    target = ops.convert_to_numpy(encode(np.linspace(0.3, 0.31, 50)[:, None], np.zeros(1), np.ones(1), 256))
    entropy = -np.sum(target * np.log(np.maximum(target, 1e-30)), axis=-1).mean()
    assert entropy == pytest.approx(GAUSS_FLOOR, abs=0.1)
    for targets in ("gauss", "onehot"):
        path = tmp_path / targets
        train(start_run(path, config_for("pretrain", [store(tmp_path / f"data-{targets}")], targets=targets)))
        said = f"even a perfect prediction has about {number(GAUSS_FLOOR)}" in card(read_run(path))
        assert said == (targets == "gauss")


def test_what_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not a run directory"):
        read_run(tmp_path)


def test_the_card_to_publish_is_the_runs_own(run: Path, tmp_path: Path) -> None:
    text = card_for(str(run / "best.keras"), "hf://user/robots")
    assert text == card(read_run(run), name="hf://user/robots")
    text = card_for(str(run / "best.keras"), "hf://user/robots", "cc0-1.0")
    assert text == card(read_run(run), name="hf://user/robots", licence="cc0-1.0")
    assert card_for(str(run / "last.keras"), "hf://user/robots") is None
    for model in (str(run / "last.keras"), "trajworld-small", str(tmp_path / "best.keras")):
        with pytest.raises(UsageError, match="no card is made of"):
            card_for(model, "hf://user/robots", "mit")
    assert card_for(str(tmp_path / "best.keras"), "hf://user/robots") is None


# Studies, as their commands write them.


def transfer_results(file: str) -> Any:
    """Of one environment, of which only the larger amount of data is finished; of the model file of a digest."""

    def curve(side: str, errors: list[list[float]]) -> Curve:
        points = tuple(tuple(at) for at in errors)
        return Curve(side, 4000, 1e-3, {"0.001": 1.0}, (0, 10, 100), points, points, points)

    settings = TrialSettings(ModelSizes(blocks=1, width=8, heads=2), (0, 10, 100), 16)
    plan = TransferPlan(("gymnasium/Hopper-v5",), (250, 4000), (1e-3,), 2, settings, 8000)
    curves = (
        curve(FROM_SCRATCH, [[2.0, 2.0], [1.0, 1.0], [0.5, 0.6]]),
        curve(FINE_TUNED, [[0.3, 0.5], [0.2, 0.2], [0.1, 0.12]]),
    )
    copying = Errors(0.1, 0.02, 0.12, 0.3, None)
    found = EnvironmentResults("gymnasium/Hopper-v5", 8000, 2000, "ab", (), copying, curves, None, False)
    sentences = ("Fine-tuning | helps.", "On <nothing>.")
    model = {"name": "pre/best.keras", "digest": "cd34", "file": file, "step": 12, "history": {}}
    return Results(plan, model, (found,), {"backend": "jax"}, {}, 1.0, sentences).to_json()


def zero_shot_results(memory_dataset: Callable[..., Dataset], file: str) -> Any:
    """A study of two small environments with a model that was never trained, as if it was the model of a file."""
    datasets = [memory_dataset([30, 25, 28, 40, 33], seed=seed) for seed in (0, 1)]
    trials = [set_up(dataset, 20, 9, 1) for dataset in datasets]
    model = TrajWorld(ModelSizes(blocks=1, width=8, heads=2, variates=12))
    measured = tuple(measure_all(model, trials, (1, 19), 0))
    facts = ModelFacts("model", file, 12, model.count_params(), True)
    results = ZeroShotResults(facts, {"contexts": [1, 19]}, measured, ("pendulum, unseen gravity",) * 2)
    return results.as_json(["It improves with context."])


def file_of(run: Path) -> str:
    return file_digest(run / "best.keras")


def study(folder: Path, results: Any) -> Path:
    folder.mkdir()
    (folder / "results.json").write_text(json.dumps(results))
    return folder


def test_transfer_is_its_own_section(run: Path, tmp_path: Path) -> None:
    text = card(read_run(run), transfer=study(tmp_path / "transfer", transfer_results(file_of(run))))
    head, little, much = tables(text.split("## Transfer")[1])[0]
    assert head[1:] == [
        "transitions",
        "copy last row",
        "zero-shot",
        "from scratch",
        "fine-tuned",
        "scratch / fine-tuned",
    ]
    name = short_name("gymnasium/Hopper-v5")
    copying = transfer_results("")["environments"][0]["copy_last_row"]["normalised_mae"]
    assert little == [name, "250", number(copying), "–", "–", "–", "–"]
    assert much == [
        name,
        "4,000",
        number(copying),
        number(0.4),
        number(0.55),
        number(0.11),
        number(5.0),
    ]
    assert "after 100 steps of training in batches of 16, onehot targets" in text
    assert "- Fine-tuning ¦ helps." in text
    assert "- On &lt;nothing>." in text
    assert "## Zero-shot" not in text


def test_zero_shot_is_its_own_section(
    run: Path, tmp_path: Path, memory_dataset: Callable[..., Dataset]
) -> None:
    found = zero_shot_results(memory_dataset, file_of(run))
    text = card(read_run(run), zero_shot=study(tmp_path / "zero", found))
    head, row = tables(text.split("## Zero-shot")[1])[0]
    assert head == ["family", "environments", *PREDICTORS, "model, 1 row"]
    means = {
        (name, place): np.mean([one["errors"][name]["mean"][place] for one in found["environments"]])
        for name in PREDICTORS
        for place in (0, 1)
    }
    expected = [*(means[name, 1] for name in PREDICTORS), means[MODEL, 0]]
    assert row == ["pendulum, unseen gravity", "2", *(number(float(mean)) for mean in expected)]
    assert "with 19 rows of context" in text
    assert "- It improves with context." in text


@pytest.mark.parametrize("section", [transfer_section, zero_shot_section])
@pytest.mark.parametrize("results", [{}, [], {"findings": [], "environments": 3, "families": []}, "text"])
def test_other_results_are_refused_in_one_line(
    tmp_path: Path, section: Callable[..., str], results: Any
) -> None:
    with pytest.raises(
        TrajWorldError, match=r"results\.json does not hold the results of that study"
    ) as caught:
        section(study(tmp_path / "study", results), None)
    assert "\n" not in str(caught.value)
    with pytest.raises(TrajWorldError, match=r"results\.json does not exist"):
        section(tmp_path / "nothing", None)


def test_a_study_of_another_model_is_refused(
    run: Path, tmp_path: Path, memory_dataset: Callable[..., Dataset]
) -> None:
    transfer = transfer_results(file_of(run))
    zero_shot = zero_shot_results(memory_dataset, file_of(run))
    weights = read_run(run).weights
    assert weights is not None
    assert (weights.path, weights.digest) == (run / "best.keras", file_of(run))
    other = {"name": "trajworld-small", "file": "ab", "step": 9000}
    refusals = (
        (other, f"is a study of trajworld-small (step 9,000), not of {run / 'best.keras'}"),
        ({**other, "step": None}, f"is a study of trajworld-small, not of {run / 'best.keras'}"),
        # What a study of before said of its model.
        ("trajworld-small", "was made by an earlier version: run the study again"),
        ({"name": "trajworld-small", "digest": "cd"}, "made by an earlier version: run the study again"),
        (None, "is a study of no model yet"),
    )
    for place, (model, words) in enumerate(refusals):
        for section, results in ((transfer_section, transfer), (zero_shot_section, zero_shot)):
            folder = study(tmp_path / f"{section.__name__}-{place}", {**results, "model": model})
            with pytest.raises(TrajWorldError, match=re.escape(words)) as caught:
                section(folder, weights)
            assert "\n" not in str(caught.value)
    folder = study(tmp_path / "transfer", transfer)
    with pytest.raises(TrajWorldError, match="the run has left no model file yet"):
        transfer_section(folder, None)
    wrong = study(tmp_path / "zero-shot", {**transfer, "kind": "zero-shot"})
    with pytest.raises(TrajWorldError, match="of the kind zero-shot"):
        transfer_section(wrong, weights)


def test_the_results_of_the_model_are_found_among_others(run: Path, tmp_path: Path) -> None:
    whole = tmp_path / "transfer"
    whole.mkdir()
    study(whole / "other-ab", transfer_results("ab"))
    study(whole / "from-scratch", {**transfer_results(""), "model": None})
    weights = read_run(run).weights
    with pytest.raises(
        TrajWorldError, match=r"holds results of other models \(2\), and none of .*best\.keras"
    ):
        transfer_section(whole, weights)
    mine = study(whole / "pre-cd", transfer_results(file_of(run)))
    assert transfer_section(whole, weights) == transfer_section(mine, weights)


def test_a_card_says_no_other_step_than_its_file(run: Path) -> None:
    """While a run goes on, the file is written before the row of the log that tells of it."""
    _, rows = records(run)
    best = min((row for row in rows if "holdout_loss" in row), key=lambda row: row["holdout_loss"])
    kept = [row for row in rows if row["step"] < best["step"]]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in kept))
    with pytest.raises(TrajWorldError, match=rf"best\.keras is of step {best['step']}, but the best eval"):
        read_run(run)
    with pytest.raises(TrajWorldError, match="try again in a while"):
        card_for(str(run / "best.keras"), "hf://user/robots")
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (run / "best.keras").unlink()
    with pytest.raises(TrajWorldError, match=r"best\.keras is missing"):
        read_run(run)


@pytest.mark.parametrize("name", sorted(shipped_models()))
def test_the_shipped_card_is_of_the_shipped_file(name: str) -> None:
    path = shipped_card(name)
    assert path is not None
    step = describe_model(shipped_models()[name])["history"]["step"]
    assert fact(path.read_text(), "weights").startswith(f"of step {step:,},")
