"""What the quickstart shows: findings against numbers made by hand, the page, its pictures, JSON and table."""

import base64
import html
import json
import math
import os
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rich.console import Console

from trajworld.charts import Look, apart, svg
from trajworld.errors import TrajWorldError
from trajworld.evaluation.brief import Errors
from trajworld.quickstart import charts
from trajworld.quickstart.charts import draw_comparison
from trajworld.quickstart.findings import comparison_rows, findings, verdict
from trajworld.quickstart.plan import quickstart_plan
from trajworld.quickstart.report import main_table, write_report
from trajworld.quickstart.results import (
    FINE_TUNED,
    FROM_SCRATCH,
    Command,
    DatasetRow,
    ModelFacts,
    Results,
    TrialRow,
)
from trajworld.text import duration, number

PNG = b"\x89PNG\r\n\x1a\n"
RATES = (1e-3, 2e-3, 4e-3)


def errors(value: float, nll: float | None = 2.0) -> Errors:
    return Errors(
        mae=3 * value, mse=7 * value, normalised_mae=value, normalised_mae_observation=1.1 * value, nll=nll
    )


def make(
    tuned: dict[int, float],
    scratch: dict[int, float],
    copying: float = 0.5,
    zero_shot: float = 0.4,
    rate: float = 2e-3,
    **changes: Any,
) -> Results:
    """Results with the given chosen errors by size; the other learning rates err a little more."""
    trials = [
        TrialRow(
            side, size, one, 1.5, errors(value if one == rate else 1.21 * value + 0.01), chosen=one == rate
        )
        for side, values in ((FINE_TUNED, tuned), (FROM_SCRATCH, scratch))
        for size, value in values.items()
        for one in RATES
    ]
    results = Results(
        plan=replace(
            quickstart_plan("small", seed=3),
            learning_rates=RATES,
            sizes=tuple(tuned),
            steps=100,
            test_windows=2048,
        ),
        machine={"backend": "jax", "device": "cpu", "cores": 2, "memory_gib": 15.61},
        versions={"keras": "3.15.0"},
        datasets=[
            DatasetRow("fine-tuning", "trajworld/pool/v0", "gymnasium/Hopper-v5", 15, 40, 12_345),
            DatasetRow("test", "trajworld/test/v0", "gymnasium/Hopper-v5", 15, 220, 5000),
        ],
        model=ModelFacts("trajworld-small", 301_568, 23_456, ("gymnasium/Swimmer-v5", "robot/snake-3")),
        trials=trials,
        copy_last_row=errors(copying, None),
        zero_shot=errors(zero_shot),
        commands=[Command("Fine-tuned", "trajworld train data --init trajworld-small -o 'runs/*'")],
        seconds={"collect": 58.0, "fine-tune": 142.4},
    )
    return replace(results, **changes)


GOOD = make({1000: 0.12, 4000: 0.11}, {1000: 0.31, 4000: 0.22})


def text_of(page: Path) -> str:
    """The words of a page, without its tags, style and spacing."""
    words: list[str] = []

    class Reader(HTMLParser):
        def handle_data(self, data: str) -> None:
            words.append(data)

    Reader().feed(re.sub(r"<style>.*?</style>", "", page.read_text(encoding="utf-8"), flags=re.DOTALL))
    return " ".join(" ".join(words).split())


# Findings


def test_good_news() -> None:
    found = findings(GOOD)
    assert found[0] == (
        "On Hopper-v5, pre-training helped at every size of fine-tuning data that was tried "
        "(1,000 and 4,000 transitions). It helped most with 1,000 transitions: 2.6 times less error."
    )
    assert found[1] == (
        "After 100 steps on 1,000 transitions the fine-tuned model errs by 0.120 standard deviations, "
        "from scratch by 0.310: 2.6 times less."
    )
    assert found[2].endswith("from scratch by 0.220: 2.0 times less.")
    assert found[3] == (
        "Fine-tuned on 1,000 transitions (0.120) the model is better than from scratch on 4,000 transitions "
        "(0.220), 4 times the data."
    )
    assert found[4] == "The fine-tuned model beats copying the last row (0.500) at every size."
    assert found[5] == "The model from scratch beats copying the last row (0.500) at every size."
    assert found[6] == "Zero-shot, the pre-trained model errs by 0.400, 20 % less than copying the last row."
    assert "one seed" in found[7]
    assert len(found) == 8


def test_bad_news_is_said_plainly() -> None:
    found = " ".join(findings(make({1000: 0.9, 4000: 0.6}, {1000: 0.4, 4000: 0.5}, zero_shot=0.7)))
    assert "pre-training hurt at every size" in found
    assert "helped" not in found
    assert "0.900 standard deviations, from scratch by 0.400: pre-training hurt, 2.2 times as much" in found
    assert "pre-training hurt, 20 % more" in found
    assert "not as good as from scratch on 4,000" in found
    assert "The fine-tuned model is worse than copying the last row (0.500) at every size." in found
    assert (
        "is no better than copying the last row (0.500) at 4,000 transitions and beats it at 1,000" in found
    )
    assert "worse than predicting no change" in found
    assert "Fine-tuning did not improve on the zero-shot model at 1,000 transitions." in found


def test_mixed_news() -> None:
    found = findings(make({100: 0.1, 200: 0.2, 400: 0.4}, {100: 0.2, 200: 0.204, 400: 0.3}))
    assert found[0].startswith(
        "On Hopper-v5, pre-training helped at 100 transitions, made no difference at 200 transitions and "
        "hurt at 400 transitions. It helped most with 100 transitions: 2.0 times less error."
    )
    assert found[2].endswith("0.200 standard deviations, from scratch by 0.204: no difference.")


def test_ties_make_no_difference() -> None:
    found = findings(make({1: 0.3, 2: 0.3}, {1: 0.3, 2: 0.31}, copying=0.3, zero_shot=0.3))
    assert found[0].startswith("On Hopper-v5, pre-training made no difference at any size")
    assert "as good as from scratch on 2 transitions" in found[3]
    assert "no better than copying the last row" in found[4]
    assert "no different from copying the last row" in " ".join(found)


def test_more_data_that_does_not_help_from_scratch_is_admitted() -> None:
    found = " ".join(findings(make({100: 0.1, 1600: 0.1}, {100: 0.3, 1600: 0.3})))
    assert "16 times the data; but in 100 steps from scratch gains nothing from more data" in found
    assert "gains nothing" not in " ".join(findings(GOOD))


def test_missing_runs_and_runs_that_diverged() -> None:
    found = findings(make({100: 0.1, 200: math.nan}, {200: 0.2}))
    assert found[0].startswith("Nothing can be said about pre-training on Hopper-v5")
    assert (
        found[1]
        == "After 100 steps on 100 transitions there is no comparison: from scratch has no chosen run."
    )
    assert found[2].endswith("fine-tuned ended with an error that is not finite.")
    assert "Nothing can be said" in findings(make({}, {}))[0]
    assert "not finite" in " ".join(findings(make({1: 0.1}, {1: 0.2}, zero_shot=math.inf)))
    assert "no finite error to compare" in " ".join(findings(make({1: 0.1}, {1: 0.2}, copying=math.nan)))


def test_errors_of_zero() -> None:
    assert findings(make({100: 0.0}, {100: 0.2}))[1].endswith(
        "errs by 0 standard deviations, from scratch by 0.200: 100 % less."
    )
    assert findings(make({100: 0.2}, {100: 0.0}))[1].endswith("hurt, more, as the other makes none.")
    assert findings(make({100: 0.0}, {100: 0.0}))[1].endswith("no difference.")


def test_a_best_rate_at_the_edge_is_doubted() -> None:
    edge = " ".join(findings(make({100: 0.1}, {100: 0.2}, rate=RATES[-1])))
    assert (
        "The fine-tuned model's best learning rate was the largest tried (0.004) at 100 transitions" in edge
    )
    assert "The model from scratch's best learning rate was the largest" in edge
    assert "learning rate" not in " ".join(findings(GOOD))
    one = replace(GOOD, plan=replace(GOOD.plan, learning_rates=(2e-3,)))
    assert "Both sides were tried with one learning rate only (0.002)." in findings(one)


def test_a_likelihood_that_disagrees_is_told() -> None:
    def with_nll(tuned: float | None, scratch: float | None) -> str:
        trials = [
            replace(row, errors=replace(row.errors, nll=tuned if row.side == FINE_TUNED else scratch))
            for row in GOOD.trials
        ]
        return " ".join(findings(replace(GOOD, trials=trials)))

    assert "opposite of the error at 1,000 and 4,000 transitions" in with_nll(2.5, 2.0)
    for agreeing in ((2.0, 2.5), (2.04, 2.0), (None, 2.0), (2.0, math.nan)):
        assert "opposite" not in with_nll(*agreeing)


anything = st.one_of(st.none(), st.floats(min_value=0), st.just(math.nan))


@given(st.lists(st.tuples(anything, anything), max_size=4), anything, anything)
@example([], 0.0, 0.0)
@example([(0.0, 0.0)], 0.0, 0.0)
@settings(max_examples=60, deadline=None)
def test_findings_of_anything(
    pairs: list[tuple[float | None, float | None]], copying: float | None, zero: float | None
) -> None:
    tuned = {10 * 4**i: a for i, (a, _) in enumerate(pairs) if a is not None}
    scratch = {10 * 4**i: b for i, (_, b) in enumerate(pairs) if b is not None}
    results = make(
        tuned, scratch, math.nan if copying is None else copying, math.inf if zero is None else zero
    )
    for sentence in findings(results):
        assert sentence.endswith(".")
        assert not re.search(r"\bnan\b|\binf\b|None", sentence)
    for row in comparison_rows(results):
        if row.ratio is not None and row.sign is not None:
            # 0.95 and 1/0.95: where a difference of 5 % of the larger error begins.
            assert row.sign == (
                -1 if row.ratio > 1 / 0.95 * (1 + 1e-9) else 1 if row.ratio < 0.95 * (1 - 1e-9) else row.sign
            )
    console = Console(width=140, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(main_table(results))
    assert console.export_text().count("│\n") == len({*tuned, *scratch})


@given(st.floats(0, 1e6), st.floats(0, 1e6))
def test_verdict_is_antisymmetric(a: float, b: float) -> None:
    assert verdict(a, b) == -verdict(b, a)
    assert verdict(a, a) == 0


@given(st.floats(1e-6, 1e12))
def test_numbers_keep_three_digits(value: float) -> None:
    assert float(number(value).replace(",", "")) == pytest.approx(value, rel=0.0051)


# The page


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    (folder / "open loop.png").write_bytes(PNG + b"body")
    return write_report(replace(GOOD, pictures={"Open loop": "open loop.png", "Lost": "lost.png"}), folder)


def test_the_page_holds_the_numbers(page: Path) -> None:
    text = text_of(page)
    for finding in findings(GOOD):
        assert finding in text
    assert "1,000 0.500 0.400 0.310 0.120 2.58×" in text.replace("▸ ", "")
    assert "4,000 0.500 0.400 0.220 0.110 2.00×" in text
    assert "2.58× less error than from scratch with 1,000 transitions" in text
    assert "0.30 million parameters" in text
    assert "100 steps on Hopper-v5, which it had never seen" in text
    assert "12,345" in text
    assert "pre-trained for 23,456 steps on 2 environments" in text
    assert "No hopper, of this suite or another, is among the 2 environments" in text
    assert "All 12 runs" in text
    assert text.count("✓") == 5  # four chosen runs and the note that explains the mark
    assert "Time: 3 min 20 s" in text
    assert "memory, GiB 15.6" in text
    assert "trajworld train data --init trajworld-small -o 'runs/*'" in text
    assert "2048" not in text


def test_the_page_is_self_contained(page: Path) -> None:
    source = page.read_text(encoding="utf-8")
    assert "://" not in source
    assert not re.search(r"<script|@import|url\(|<link|<iframe|\son\w+=", source)
    for address in re.findall(r'(?:src|srcset|href)="([^"]*)"', source):
        assert address.startswith(("data:image/png;base64,", "data:image/svg+xml;base64,"))
    embedded = [base64.b64decode(data) for data in re.findall(r'data:image/[\w+]+;base64,([^"]+)', source)]
    assert sum(content == PNG + b"body" for content in embedded) == 1
    assert sum(content.startswith(b"<?xml") for content in embedded) == 4
    assert not any(b"<script" in content or b"<image" in content for content in embedded)


def test_a_lost_picture_does_not_cost_the_report(page: Path) -> None:
    assert "Lost This picture was not found beside the report." in text_of(page)


def test_what_is_written(page: Path) -> None:
    names = {path.name for path in page.parent.iterdir()}
    assert names == {"index.html", "results.json", "comparison.png", "open loop.png"}
    assert (page.parent / "comparison.png").read_bytes().startswith(PNG)
    values = json.loads((page.parent / "results.json").read_text())
    assert values["kind"] == "quickstart"
    assert values["findings"] == findings(GOOD)
    assert values["trials"][0]["errors"]["normalised_mae"] == GOOD.trials[0].errors.normalised_mae
    assert values["plan"]["sizes"] == [1000, 4000]


def test_json_of_numpy_numbers_and_what_is_not_finite(tmp_path: Path) -> None:
    machine = {
        "device": tmp_path,
        "cores": np.int64(2),
        "memory_gib": np.float32(math.nan),
        "load": np.float32(0.5),
    }
    results = replace(make({1: math.nan}, {1: math.inf}), machine=machine)
    write_report(results, tmp_path)

    def refuse(word: str) -> None:
        raise AssertionError(word)

    values = json.loads((tmp_path / "results.json").read_text(), parse_constant=refuse)
    assert [row["errors"]["normalised_mae"] for row in values["trials"] if row["chosen"]] == [None, None]
    assert values["machine"] == {"device": str(tmp_path), "cores": 2, "memory_gib": None, "load": 0.5}


def test_hostile_names_are_escaped(tmp_path: Path) -> None:
    hostile = "<script>alert(1)</script>\"'&<img src=x>"
    (tmp_path / "a.png").write_bytes(PNG)
    results = replace(
        GOOD,
        plan=replace(GOOD.plan, target=f"gymnasium/{hostile}", preset=hostile),
        machine={hostile: hostile},
        versions={hostile: hostile},
        datasets=[DatasetRow(hostile, hostile, hostile, 1, 1, 1)],
        commands=[Command(hostile, hostile)],
        seconds={hostile: 1.0},
        pictures={hostile: "a.png"},
        findings=[hostile, hostile],
    )
    source = write_report(results, tmp_path).read_text(encoding="utf-8")
    assert "<script" not in source
    assert "<img src=x" not in source
    assert source.count(html.escape("<script>alert(1)")) >= 10


def test_findings_that_are_given_are_kept(tmp_path: Path) -> None:
    text = text_of(write_report(replace(GOOD, findings=["First given.", "Second given."]), tmp_path))
    assert "First given." in text
    assert "Second given." in text
    assert findings(GOOD)[0] not in text


@pytest.mark.parametrize("name", ["../secret.png", "/etc/secret.png", "note.txt", "picture", "link.png"])
def test_pictures_from_elsewhere_are_refused(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "report"
    folder.mkdir()
    for path in (tmp_path / "secret.png", folder / "note.txt"):
        path.write_bytes(PNG)
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(TrajWorldError, match=r"outside|not a picture"):
        write_report(replace(GOOD, pictures={"x": name}), folder)
    assert {path.name for path in folder.iterdir()} == {"note.txt", "link.png"}


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(TrajWorldError, match="cannot write"):
        write_report(GOOD, tmp_path / "file" / "report")


def test_a_target_that_pretraining_saw_is_not_called_unseen(tmp_path: Path) -> None:
    model = replace(GOOD.model, environments=(*GOOD.model.environments, "dm_control/hopper-hop"))
    text = text_of(write_report(replace(GOOD, model=model), tmp_path))
    assert "Beware: pre-training saw dm_control/hopper-hop" in text
    assert "never seen" not in text
    assert "No hopper" not in text


def test_nothing_to_show(tmp_path: Path) -> None:
    empty = replace(
        make({}, {}, math.nan, math.inf),
        datasets=[],
        commands=[],
        seconds={},
        machine={},
        versions={},
    )
    text = text_of(write_report(empty, tmp_path))
    assert "No run was chosen." in text
    assert "All 0 runs" in text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.44, "0.4 s"),
        (42.4, "42 s"),
        (59.7, "1 min 0 s"),
        (503, "8 min 23 s"),
        (7501, "2 h 5 min"),
        (math.nan, "unknown"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


# The charts and the table


def test_the_chart_shows_every_run() -> None:
    figure = charts.comparison_figure(GOOD, Look())
    (axes,) = figure.axes
    drawn = {
        (float(x), float(y)) for line in axes.lines for x, y in zip(*line.get_data(), strict=True) if x > 1
    }
    assert drawn == {(float(row.transitions), row.errors.normalised_mae) for row in GOOD.trials}
    flat = [line.get_ydata()[0] for line in axes.lines if list(line.get_xdata()) == [0, 1]]
    assert flat == [0.5, 0.4]
    assert {text.get_text() for text in axes.texts} >= {
        "fine-tuned 0.110",
        "from scratch 0.220",
        "copy last row 0.500",
        "zero-shot 0.400",
    }
    assert axes.get_yscale() == "log"


def test_a_zero_error_is_drawn_on_a_linear_axis() -> None:
    (axes,) = charts.comparison_figure(make({10: 0.0}, {10: 0.2}), Look()).axes
    assert axes.get_yscale() == "linear"
    assert axes.get_ylim()[0] <= 0


@pytest.mark.parametrize("look", [Look(), Look(dark=True, narrow=True)])
@pytest.mark.parametrize(
    "results",
    [
        GOOD,
        make({}, {}, math.nan, math.nan),
        make({5: math.inf}, {5: math.nan}),
        make({0: 0.0}, {0: 0.0}, 0, 0),
        make({7: 1e-9}, {7: 1e9}),
    ],
)
def test_charts_of_anything_are_written(tmp_path: Path, results: Results, look: Look) -> None:
    draw_comparison(results, tmp_path / "chart.png", look)
    assert (tmp_path / "chart.png").read_bytes().startswith(PNG)
    assert [path.name for path in tmp_path.iterdir()] == ["chart.png"]


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6).map(sorted))
def test_labels_are_moved_apart(wanted: list[float]) -> None:
    placed = apart(wanted, 0.1)
    assert all(b - a >= 0.1 - 1e-9 for a, b in pairwise(placed))
    if all(b - a >= 0.1 for a, b in pairwise(wanted)):
        assert placed == pytest.approx(wanted)


def test_the_same_numbers_draw_the_same_bytes() -> None:
    assert svg(charts.comparison_figure(GOOD, Look())) == svg(charts.comparison_figure(GOOD, Look()))


def test_the_terminal_table_has_the_rows() -> None:
    console = Console(width=120, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(main_table(GOOD))
    lines = [
        [cell.strip() for cell in line.strip("│").split("│")]
        for line in console.export_text().splitlines()
        if line.startswith("│")
    ]
    assert lines == [
        ["1,000", "0.500", "0.400", "0.310", "0.120", "2.58×"],
        ["4,000", "0.500", "0.400", "0.220", "0.110", "2.00×"],
    ]


def test_no_framework_is_imported() -> None:
    code = (
        "import sys, trajworld.quickstart.report; "
        "print({'keras', 'jax', 'torch', 'tensorflow', 'matplotlib.pyplot'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done.stderr
