"""The study machine: keys, the store, engines, failures, kills, tables and the report."""

import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import click
import numpy as np
import pandas as pd
import pytest
from study_cells import Powers, power

from trajworld.charts import Look
from trajworld.errors import TrajWorldError
from trajworld.files import one_writer
from trajworld.studies import STUDIES
from trajworld.study import report
from trajworld.study.cells import Cell, Result, Store
from trajworld.study.report import read_report, write_report
from trajworld.study.run import LocalEngine, RayEngine, known_cells, origins, run_study
from trajworld.study.tables import bootstrap, interval, markdown, over_seeds, terminal, texts
from trajworld.text import duration, number

pytestmark = pytest.mark.once


def finished(study, store):
    return store.table(known_cells(study, store))


def complete(tmp_path, study=None, workers=1):
    store = Store(tmp_path / "complete")
    assert run_study(study or Powers(), store, LocalEngine(workers)) == []
    return finished(study or Powers(), store)


def test_a_key_is_of_the_task_and_the_settings_and_not_of_places_or_labels(tmp_path):
    key = Cell(power, {"base": 2, "exponent": 3}).key
    assert key == Cell(power, {"exponent": 3, "base": 2}, {"data": "/elsewhere"}, {"name": "two"}).key
    others = [Cell(power, {"base": 2, "exponent": 4}), Cell(complete, {"base": 2, "exponent": 3})]
    assert len({key, *(cell.key for cell in others)}) == 3
    store = Store(tmp_path)
    store.put(Cell(power, {"base": 2}, {}, {"name": "two"}), Result([{"a": 1}]), {})
    again = Cell(power, {"base": 2}, {}, {"name": "deux"})
    assert store.table([again])[["name", "base", "a"]].values.tolist() == [["deux", 2, 1]]


def test_a_store_gives_back_rows_and_files_in_this_process_and_in_the_next(tmp_path):
    cell = Cell(power, {"base": 2, "exponent": 3, "list": [1]})
    store = Store(tmp_path)
    rows = [{"a": np.float32(0.1), "b": float("nan"), "c": np.int64(3)}]
    store.put(cell, Result(rows, {".txt": b"x"}), {"seconds": 1})
    for one in (store, Store(tmp_path)):
        assert (one.get(cell) or {})["rows"] == [{"a": float(np.float32(0.1)), "b": None, "c": 3}]
        assert one.file(cell.key, ".txt").read_bytes() == b"x"
        assert one.table([cell]).columns.tolist() == ["task", "base", "exponent", "a", "b", "c", "cell"]
    assert Store(tmp_path).get(Cell(power, {"base": 9, "exponent": 3})) is None
    (tmp_path / f"{cell.key}.json").write_text('{"task": "power"')
    with pytest.raises(TrajWorldError, match=cell.key):
        Store(tmp_path).get(cell)


@pytest.mark.parametrize("workers", [1, 2])
def test_cells_that_follow_from_others_are_run_and_nothing_is_run_twice(tmp_path, workers):
    store, seen = Store(tmp_path), []
    assert run_study(Powers(), store, LocalEngine(workers), seen.append) == []
    table = finished(Powers(), store)
    ran = sorted({(row.base, row.exponent) for row in table.itertuples()})
    assert ran == [(2, 1), (2, 2), (2, 3), (3, 1), (5, 1)]
    np.testing.assert_allclose(table["value"], table["base"] ** table["exponent"] + table["seed"] / 10)
    assert [progress.done for progress in seen] == [1, 2, 3, 4, 5]
    assert seen[-1].total == 5
    assert seen[-1].seconds_left == 0
    # What is finished is not run again, where it would fail.
    assert run_study(replace(Powers(), trouble="fails 2"), Store(tmp_path), LocalEngine(1)) == []
    facts = origins(Powers(), store)
    assert (facts["cells"], facts["seconds"] >= 0, "keras" in facts) == (5, True, True)


@pytest.mark.parametrize(("workers", "trouble"), [(1, "fails 3"), (2, "fails 3"), (2, "dies 3")])
def test_a_cell_that_fails_or_ends_its_worker_is_reported_and_stops_nothing(tmp_path, workers, trouble):
    problems = run_study(Powers(trouble=trouble), Store(tmp_path), LocalEngine(workers))
    assert len(problems) == 1
    assert "base 3, exponent 1" in problems[0]
    assert ("this cell fails" if "fails" in trouble else "worker process died") in problems[0]
    kept = Store(tmp_path)
    assert [kept.get(cell) is not None for cell in Powers().cells(pd.DataFrame())] == [False, True, True]
    # Mended, the rest is run.
    assert run_study(Powers(), Store(tmp_path), LocalEngine(1)) == []
    pd.testing.assert_frame_equal(finished(Powers(), Store(tmp_path)), complete(tmp_path))


@pytest.mark.slow
def test_a_study_that_is_killed_again_and_again_ends_with_the_same_table(tmp_path):
    """Killed at random moments: nothing finished is lost, nothing half-written is left, no worker lives on."""
    script, folder = Path(__file__).with_name("study_cells.py"), tmp_path / "killed"
    generator, kills, before = random.Random(0), 0, -1
    while kills < 5:
        process = subprocess.Popen(
            [sys.executable, str(script), str(folder), "2", "0.4"], env=os.environ | {"OMP_NUM_THREADS": "1"}
        )
        try:
            process.wait(generator.uniform(0.5, 3.0) if kills < 4 else 0.2)
            shutil.rmtree(folder)
            before = -1
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += 1
        done = len(list(folder.glob("*.json")))
        assert done >= before
        before = done
    study = Powers(seconds=0.4)
    assert run_study(study, Store(folder), LocalEngine(1)) == []
    pd.testing.assert_frame_equal(finished(study, Store(folder)), complete(tmp_path))


def test_a_store_has_one_writer(tmp_path):
    refused = pytest.raises(TrajWorldError, match="another process is writing the store")
    with one_writer(tmp_path, "the store"), refused:
        run_study(Powers(), Store(tmp_path), LocalEngine(1))
    assert run_study(Powers(), Store(tmp_path), LocalEngine(1)) == []


@pytest.mark.slow
def test_a_ray_cluster_gives_the_same_table(tmp_path, monkeypatch):
    pytest.importorskip("ray")
    # Where its processes find the module of the study, which is not installed.
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    store = Store(tmp_path / "ray")
    problems = run_study(Powers(trouble="fails 3"), store, RayEngine())
    assert len(problems) == 1
    assert problems[0].endswith("this cell fails")
    # What is missing, without starting a cluster again.
    assert run_study(Powers(), store, LocalEngine(1)) == []
    pd.testing.assert_frame_equal(finished(Powers(), store), complete(tmp_path))


def test_tables_say_values_with_their_intervals():
    table = pd.DataFrame({"name": ["a", "a", "b"], "seed": [0, 1, 0], "error": [0.1, 0.3, 0.25]})
    found = over_seeds(table, ["name"], "error")
    rows = [["a", "0.200 [0.100–0.300]"], ["b", "0.250"]]
    assert texts(found) == (["name", "error"], rows, [False, True])
    assert markdown(found) == "| name | error |\n| --- | --: |\n| a | 0.200 [0.100–0.300] |\n| b | 0.250 |\n"
    assert terminal("Errors", found).row_count == 2
    # Whole numbers stay whole where all columns are numbers.
    assert texts(pd.DataFrame({"count": [20, 1_500_000], "error": [0.1, 0.2]}))[1] == [
        ["20", "0.100"],
        ["1,500,000", "0.200"],
    ]


def test_the_bootstrap_is_over_episodes():
    generator = np.random.default_rng(0)
    episodes, counts = generator.normal(5, 2, 200), np.ones(200)
    low, high = interval(bootstrap(episodes, counts, seed=0, replicates=4000))
    half = 1.96 * episodes.std() / 200**0.5
    np.testing.assert_allclose([low, high], [episodes.mean() - half, episodes.mean() + half], atol=0.03)
    # Columns are drawn together: the difference of two that differ by a constant has no width.
    paired = bootstrap(np.stack([episodes, episodes + 1], axis=1), counts, seed=0)
    np.testing.assert_allclose(paired[:, 1] - paired[:, 0], 1)


def test_a_report_holds_everything_and_can_be_made_again_from_its_table(tmp_path):
    table, study, folder = complete(tmp_path), Powers(seconds=0.0, exponents=(1, 2, 3)), tmp_path / "report"
    origin = {"cells": 5, "seconds": 61.0, "backend": "jax"}
    picture = tmp_path / "x.png"
    study.charts(table, Look())["Value by exponent"].savefig(picture)
    page = write_report(study, table, folder, origin, {"A picture": picture.read_bytes()})
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    files = ["a-picture.png", "index.html", "report.md", "study.json", "table.csv", "value-by-exponent.png"]
    assert sorted(before) == files
    text = page.read_text()
    assert text.count("data:image/") == 5
    assert "1 min 1 s" in text
    assert "8.10 <small>[8.00–8.20]</small>" in text
    assert "http" not in text.replace("http-equiv", "").replace("http://www.w3.org", "")
    name, options, again, facts, pictures = read_report(folder)
    assert (name, facts, options["bases"]) == ("powers", origin, [3, 2, 5])
    pd.testing.assert_frame_equal(again, table)
    write_report(study, again, folder, facts, pictures)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    write_report(study, again, folder, facts)
    assert {*before} - {path.name for path in folder.iterdir()} == {"a-picture.png"}
    assert report.command(Powers(bases=(3, 4))) == "trajworld study run powers --bases 3,4"


def test_a_report_never_replaces_anything_else_and_one_of_nothing_says_so(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(TrajWorldError, match="holds something else"):
        write_report(Powers(), pd.DataFrame(), tmp_path, {})
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
    page = write_report(Powers(), pd.DataFrame(), tmp_path / "r", {})
    assert "No cell is finished yet" in page.read_text()


@pytest.mark.parametrize("name", ["missing", ["powers"]])
def test_a_report_of_no_study_is_refused_in_one_line(tmp_path, command, name):
    folder = tmp_path / "report"
    write_report(Powers(), complete(tmp_path), folder, {})
    record = json.loads((folder / "study.json").read_text())
    (folder / "study.json").write_text(json.dumps({**record, "study": name}))
    code, _, err = command("study", "report", folder)
    assert (code, len(err.splitlines())) == (1, 1)
    assert "holds no whole report" in err


def test_a_folder_without_a_report_yet_says_so(tmp_path, command):
    report.claim_folder(Powers(), tmp_path / "report")
    code, _, err = command("study", "report", tmp_path / "report")
    assert (code, "no report has been written" in err) == (1, True)


def test_usage_of_a_run(tmp_path, command):
    """Lists may be repeated, with spaces, too; a mistake leaves no folder behind."""
    given = [
        "study",
        "run",
        "ope",
        "--policies",
        "zoo",
        "-o",
        tmp_path / "ope",
        "--store",
        tmp_path / "cells",
    ]
    code, _, err = command(*given, "--datasets", "nosuch/a-v0, nosuch/b-v0", "--datasets", "nosuch/a-v0")
    assert (code, "name each dataset only once" in err) == (2, True)
    code, _, err = command(*given, "--suite", "nosuch")
    assert (code, "no dataset of a suite nosuch" in err) == (2, True)
    assert not (tmp_path / "ope").exists()
    code, _, err = command(*given, "--suite", "nosuch", "--address", "here:1")
    assert (code, "add --engine ray" in err) == (2, True)


def test_ctrl_c_leaves_a_report_of_what_is_finished(tmp_path, command, monkeypatch):
    monkeypatch.setitem(STUDIES, "powers", ("study_cells:Powers", ""))
    monkeypatch.setattr("trajworld.cli.study.run.commands", {"powers": click.Command("powers")})
    monkeypatch.setattr("trajworld.cli.study.run._lazy", STUDIES)
    given = [
        "study",
        "run",
        "powers",
        "--store",
        tmp_path / "cells",
        "--workers",
        1,
        "-o",
        tmp_path / "report",
    ]
    code, _, err = command(*given, "--trouble", "interrupts 2")
    assert (code, "the report of what is finished" in err) == (130, True)
    assert read_report(tmp_path / "report")[2]["base"].tolist() == [3, 3, 3]
    assert command(*given)[0] == 0
    assert len(read_report(tmp_path / "report")[2]) == 15


def test_numbers_are_shown_as_they_are_rounded():
    shown = [number(value) for value in (999.4, 999.7, -999.6, 1234.0, 0.12345, 999_999.7)]
    assert shown == ["999", "1,000", "-1,000", "1,234", "0.123", "1.00e+06"]
    assert [number(value) for value in (None, 0, -0.0)] == ["–", "0", "0"]
    assert number(math.nan) == number(-math.inf) == "not finite"


def test_durations_are_shown_as_they_are_rounded():
    shown = [duration(seconds) for seconds in (0.44, 59.4, 59.6, 200, 3599.7, 7500, math.inf)]
    assert shown == ["0.4 s", "59 s", "1 min 0 s", "3 min 20 s", "1 h 0 min", "2 h 5 min", "unknown"]


def test_the_studies_are_listed_with_a_sentence_each(command):
    lines = command("study", "list")[1].splitlines()
    assert [line.split()[0] for line in lines] == list(STUDIES)
    assert all(line.endswith(".") and len(line.split()) > 3 for line in lines)
