"""What a study of transfer shows: sentences, tables and pictures of made-up results."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from rich.console import Console
from transfer_fixtures import SIZES, made_up_results

from trajworld.transfer import pictures
from trajworld.transfer.findings import findings
from trajworld.transfer.pictures import draw_data, draw_steps
from trajworld.transfer.records import PretrainedModel
from trajworld.transfer.report import (
    error_cells,
    factor_cells,
    is_of_another_plan,
    markdown,
    print_tables,
    results_folder,
    write_results,
)
from trajworld.transfer.results import Results, compared
from trajworld.transfer.trials import Origin

SCRATCH = {4000: [2.0, 1.0, 0.5, 0.3, 0.25], 16000: [2.0, 1.0, 0.5, 0.15, 0.2]}
GOOD = made_up_results(SCRATCH, {4000: [0.6, 0.4, 0.2, 0.18, 0.14], 16000: [0.6, 0.19, 0.12, 0.11, 0.10]})
BAD = made_up_results(SCRATCH, {4000: [3.0, 0.9, 0.6, 0.5, 0.4], 16000: [3.0, 0.9, 0.5, 0.4, 0.3]}, seen=True)
HALF = made_up_results(SCRATCH, {4000: [0.6, 0.4, 0.2, 0.18, 0.14]})
NAMES = ("gymnasium/Hopper-v5", "gymnasium/HalfCheetah-v5", "gymnasium/Walker2d-v5")


def test_good_news() -> None:
    text = findings(GOOD)
    assert "needs at most a quarter of the data" in text[0]
    assert "needs at most a tenth of the steps" in text[1]
    assert "the model errs by 0.200 after 2,000 steps" in text[2]
    assert "with 4,000 transitions (the least that was tried, data factor 4 by every seed)" in text[2]
    assert "(it is first there after 1,000 steps)" in text[2]
    assert "after 50 steps (step factor 20" in text[2]
    assert not any("Beware" in line or "does not hold" in line for line in text)


def test_bad_news_is_said() -> None:
    text = findings(BAD)
    assert "does not hold" in text[0]
    assert "does not hold" in text[1]
    assert "no such error after 2,000 steps with any amount" in text[2]
    assert "does not come down to that at any step" in text[2]
    assert any("worst fine-tuned seed is no better" in line for line in text)
    assert any("no better than copying the last row (0.250) on 4,000 and 16,000" in line for line in text)
    assert any("Beware: pre-training saw Hopper-v5" in line for line in text)


def test_the_harder_target_is_mentioned_where_it_changes_the_verdict() -> None:
    tuned = {4000: [0.6, 0.4, 0.2, 0.18, 0.19], 16000: [0.6, 0.3, 0.12, 0.11, 0.10]}
    text = findings(made_up_results(SCRATCH, tuned))
    assert any("against the least error from scratch, 0.150 after 1,000 steps" in line for line in text)
    assert not any("against the least" in line for line in findings(BAD))


def test_a_flat_curve_from_scratch_is_credited_where_it_first_was_as_good() -> None:
    scratch = {16_000: [1.0, 0.6, 0.5, 0.41, 0.395], 64_000: [1.0, 0.5, 0.40, 0.395, 0.40]}
    tuned = {16_000: [0.9, 0.6, 0.3, 0.3, 0.3], 64_000: [0.9, 0.5, 0.30, 0.2, 0.2]}
    flat = made_up_results(scratch, tuned, steps=(0, 50, 100, 200, 1000))
    text = findings(flat)
    assert "does not hold" in text[1]
    assert (
        "errs by 0.400 after 1,000 steps (it is first there after 100 steps; 16,000 transitions are enough for that)."
        in text[2]
    )
    assert "data factor 1 by every seed" in text[2]
    assert "step factor 1 by every seed;" in text[2]
    assert factor_cells(flat)[1][2:6] == ["16,000 vs 16,000", "1", "100 (≈ 68) vs 100", "1"]


def test_what_is_not_finished_is_not_judged() -> None:
    assert findings(HALF)[0].startswith("Nothing can be said yet")
    nothing = findings(replace(GOOD, environments=(replace(GOOD.environments[0], curves=(), factors=None),)))
    assert nothing[0].startswith("Nothing can be said yet")


def test_scratch_that_gains_nothing_from_data_is_mentioned() -> None:
    flat = {4000: [2.0, 1.0, 0.5, 0.3, 0.2], 16000: [2.0, 1.0, 0.5, 0.3, 0.2]}
    tuned = {4000: [0.6, 0.4, 0.2, 0.18, 0.14], 16000: [0.6, 0.3, 0.12, 0.11, 0.10]}
    assert any("gains little from more data" in line for line in findings(made_up_results(flat, tuned)))
    assert not any("gains little from more data" in line for line in findings(GOOD))


def test_what_was_not_tried_is_not_judged() -> None:
    one = made_up_results({100: [1.0, 0.5, 0.4]}, {100: [0.9, 0.8, 0.3]}, steps=(0, 50, 100))
    text = findings(one)
    assert text[0].startswith("Whether fine-tuning needs at most a quarter of the data")
    assert text[0].endswith("cannot be said: what was tried leaves it open.")
    assert "with 100 transitions (the least that was tried, data factor 1 by every seed)" in text[2]
    # Half of the steps were tried, and were too few.
    assert "a tenth of the steps" in text[1]
    assert text[1].endswith("does not hold: on Hopper-v5 it does not.")


def test_each_environment_has_a_verdict_of_its_own() -> None:
    good, bad = GOOD.environments[0], replace(BAD.environments[0], environment="gymnasium/Walker2d-v5")
    # The least data that was tried is half of what scratch needs.
    half = {8000: [0.6, 0.4, 0.2, 0.18, 0.14], 16000: [0.6, 0.3, 0.12, 0.11, 0.10]}
    scratch = {8000: [2.0, 1.0, 0.5, 0.3, 0.25], 16000: [2.0, 1.0, 0.5, 0.15, 0.2]}
    (left,) = made_up_results(scratch, half, names=("gymnasium/HalfCheetah-v5",)).environments
    text = findings(replace(GOOD, environments=(good, bad, left)))[0]
    assert text.startswith("That fine-tuning needs at most a quarter of the data")
    assert text.endswith(
        "does not hold: on Hopper-v5 it does, on Walker2d-v5 it does not, "
        "on HalfCheetah-v5 what was tried leaves it open."
    )
    text = findings(replace(GOOD, environments=(good, left)))[0]
    assert text.startswith("Whether fine-tuning needs at most a quarter of the data")
    assert text.endswith(
        "cannot be said of all environments: on Hopper-v5 it does, on HalfCheetah-v5 what was tried leaves it open."
    )


def test_seeds_that_differ_are_told() -> None:
    """The third seed errs by 0.235 after 50 steps: the mean is below the target of 0.2, it is above its own of 0.22."""
    (one,) = GOOD.environments
    place = next(
        index
        for index, each in enumerate(one.curves)
        if (each.side, each.transitions) == ("fine-tuned", 16000)
    )
    old = one.curves[place]
    errors = list(old.errors)
    errors[1] = (*errors[1][:2], 0.235)
    curves = (*one.curves[:place], replace(old, errors=tuple(errors)), *one.curves[place + 1 :])
    found, of_seeds = compared(GOOD.plan, curves)
    results = replace(GOOD, environments=(replace(one, curves=curves, factors=found, seed_factors=of_seeds),))
    text = findings(results)
    assert text[1].startswith("Fine-tuning needs at most a tenth of the steps")
    assert text[1].endswith("on the 1 environment: Hopper-v5 (in 2 of 3 seeds).")
    assert "(in" not in text[0]
    assert "after 50 steps (step factor 20; 5 to 20 by seed; by interpolation" in text[2]
    assert factor_cells(results)[1][5] == "20 (5–20)"
    assert factor_cells(results)[1][3] == "4"


def test_a_seed_that_never_gets_there_is_told() -> None:
    (one,) = GOOD.environments
    of_seeds = (*one.seed_factors[:2], BAD.environments[0].seed_factors[2])
    results = replace(GOOD, environments=(replace(one, seed_factors=of_seeds),))
    text = findings(results)
    assert "data factor 4; 1 of 3 seeds never there, the others 4)" in text[2]
    assert factor_cells(results)[1][3] == "4 (never–4)"
    bad = replace(BAD.environments[0], seed_factors=of_seeds)
    text = findings(replace(BAD, environments=(bad,)))
    assert (
        "any amount of data that was tried (2 of 3 seeds have, against their own error from scratch)."
        in text[2]
    )


def test_what_the_amounts_of_data_really_are() -> None:
    (one,) = GOOD.environments
    curves = tuple(replace(each, mean_transitions=0.9 * each.transitions) for each in one.curves)
    curves = (replace(curves[0], mean_transitions=3960.0), *curves[1:])
    text = "\n".join(findings(replace(GOOD, environments=(replace(one, curves=curves, shared=0.803),))))
    assert "Amounts of data are limits: the runs had 90 to 99 % of them" in text
    assert (
        "Two seeds on 16,000 transitions have 80 % of them in common, being drawn from 5 times as many"
        in text
    )
    assert not any("limits" in line or "in common" in line for line in findings(GOOD))


def test_trials_of_several_machines_are_doubted() -> None:
    jax, other = {"keras": "3.12", "jax": "0.8"}, {"keras": "3.12", "tensorflow": "2.20"}
    alike = (Origin("jax", jax, 1), Origin("jax", jax, 2))
    assert not any("run alike" in line for line in findings(replace(GOOD, origins=alike)))
    text = findings(replace(GOOD, origins=(*alike, Origin("tensorflow", other, 1), Origin())))
    assert any(
        "did not all run alike (jax: keras 3.12, jax 0.8; tensorflow: keras 3.12, tensorflow 2.20; unknown)"
        in line
        for line in text
    )


def test_tables() -> None:
    head, first, second = error_cells(GOOD)
    assert first == [
        "Hopper",
        "4,000",
        "0.250",
        "0.600",
        "0.250 [0.225–0.275]",
        "0.140 [0.126–0.154]",
        "1.79",
    ]
    assert second[1] == "16,000"
    assert len(head) == len(first)
    _, last, best = factor_cells(GOOD)
    assert last[1:6] == ["0.200", "4,000 vs 16,000", "4", "50 (≈ 48) vs 1,000", "20"]
    assert best[1:4] == ["0.150 (least)", "4,000 vs 16,000", "4"]
    assert error_cells(HALF)[2][5:] == ["–", "–"]
    assert factor_cells(HALF) == []
    text = markdown(replace(GOOD, findings=("A sentence.",)))
    assert "| Hopper | 4,000 | 0.250 |" in text
    assert text.endswith("- A sentence.\n")
    console = Console(width=160, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    print_tables(GOOD, console)
    assert "Hopper" in console.export_text()


def test_one_seed_has_no_interval() -> None:
    one = replace(GOOD.environments[0].curves[0], errors=((0.5,), (0.25,)), steps=(0, 10))
    results = replace(GOOD, environments=(replace(GOOD.environments[0], curves=(one,), factors=None),))
    assert error_cells(results)[1][4] == "0.250"


@pytest.mark.parametrize(
    "results",
    [
        GOOD,
        BAD,
        HALF,
        replace(GOOD, environments=(replace(GOOD.environments[0], curves=(), factors=None),)),
        made_up_results({100: [1.0, 0.5]}, {100: [0.4, 0.3]}, steps=(0, 10), names=NAMES),
        made_up_results({100: [1.0]}, {100: [0.4]}, steps=(7,)),
    ],
)
def test_pictures_of_anything(tmp_path: Path, results: Results) -> None:
    for draw in (draw_data, draw_steps):
        draw(results, tmp_path / "picture.png")
        assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_panels_have_scales_of_one_kind(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    figures: list[Figure] = []
    monkeypatch.setattr(pictures, "save_figure", lambda figure, path: figures.append(figure))
    flat = made_up_results({1000: [0.25], 4000: [0.2]}, {1000: [0.2], 4000: [0.15]}, steps=(1000,))
    wide = made_up_results({1000: [0.9], 4000: [0.2]}, {1000: [0.2], 4000: [0.02]}, steps=(1000,))
    both = replace(flat, environments=(*flat.environments, *wide.environments))
    draw_data(flat, tmp_path / "flat.png")
    draw_data(both, tmp_path / "both.png")
    assert [[axes.get_yscale() for axes in figure.axes] for figure in figures] == [["linear"], ["log", "log"]]
    assert ["log scale" in figure.texts[0].get_text() for figure in figures] == [False, True]


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("trajworld-small", "trajworld-small-aaaaaaaa"),
        ("runs/pre/best.keras", "best-aaaaaaaa"),
        ("hf://me/robots@main/best.keras", "hf-me-robots-main-best-aaaaaaaa"),
        ("/tmp/ü.keras", "model-aaaaaaaa"),
    ],
)
def test_each_model_has_a_folder_of_its_own(tmp_path: Path, name: str, folder: str) -> None:
    model = PretrainedModel(tmp_path / "x.keras", name, "a" * 8 + "b" * 8, SIZES)
    assert results_folder(tmp_path, model) == tmp_path / folder
    assert results_folder(tmp_path, replace(model, digest="c" * 16)) != tmp_path / folder
    assert results_folder(tmp_path, None) == tmp_path / "from-scratch"


def test_results_of_another_plan_are_known(tmp_path: Path) -> None:
    assert not is_of_another_plan(tmp_path, GOOD)
    write_results(GOOD, tmp_path)
    assert not is_of_another_plan(tmp_path, BAD)
    assert is_of_another_plan(tmp_path, replace(GOOD, plan=replace(GOOD.plan, seeds=2)))
    (tmp_path / "results.json").write_text("{")
    assert is_of_another_plan(tmp_path, GOOD)


def test_the_folder(tmp_path: Path) -> None:
    results = write_results(GOOD, tmp_path)
    assert results.findings == tuple(findings(GOOD))
    saved = json.loads((tmp_path / "results.json").read_text())
    assert saved["environments"][0]["factors"]["last"]["data"]["amount"] == 4000
    assert saved["kind"] == "transfer"
    assert saved["findings"] == list(results.findings)
    assert (tmp_path / "results.md").read_text() == markdown(results)
    assert {path.name for path in tmp_path.iterdir()} == {
        *("results.json", "results.md", "transfer-data.png", "transfer-steps.png")
    }
