"""The study of transfer: rates, factors, data, training runs that are measured, and a whole study by the CLI."""

import contextlib
import json
import math
import shutil
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from studies_fixtures import error_of
from training_fixtures import SIZES, config_for, store

from trajworld.charts import Look
from trajworld.data.episode import Episode
from trajworld.data.minari_datasets import dataset_path
from trajworld.data.resolve import open_dataset
from trajworld.data.store import write_store
from trajworld.errors import TrajWorldError, UsageError
from trajworld.models.sizes import TrajWorldSizes
from trajworld.studies.data import (
    Pretrained,
    StudyData,
    check_draws,
    collect_data,
    open_data,
    returns_by_behaviour,
)
from trajworld.studies.fine_tuning import FINE_TUNED, FROM_SCRATCH, savings, train_and_measure, training_cell
from trajworld.studies.transfer import Transfer
from trajworld.study.cells import Cell, Result, Store
from trajworld.study.report import write_report
from trajworld.study.run import known_cells, run_study
from trajworld.study.tables import texts
from trajworld.training.loop import train
from trajworld.training.run import start_run

pytestmark = pytest.mark.once

ENVIRONMENT = "gymnasium/Robot-v0"
TINY = TrajWorldSizes(**SIZES)
STUDY = Transfer(
    model="model.keras",
    environments=(ENVIRONMENT,),
    sizes=(20, 40),
    steps=(0, 10, 100),
    learning_rates=(1e-3, 1e-2),
    seeds=3,
)


def study_data(folder: Path, windows: int = 1024) -> StudyData:
    pool = open_dataset(store(folder / "pool", lengths=(9, 7, 8, 9, 6, 9, 5, 8)))
    # Of the same folder's name, which names the environment.
    test = open_dataset(store(folder / "test" / "pool", lengths=(9, 7, 8), seed=1))
    return StudyData(ENVIRONMENT, pool, test, windows)


@pytest.fixture
def study(tmp_path: Path) -> Transfer:
    """A study whose data and model are there, without reading or collecting them."""
    data = {ENVIRONMENT: study_data(tmp_path)}
    found = replace(STUDY)
    vars(found).update(_data=data, _model=Pretrained(Path("model.keras"), "digest", TINY))
    return found


class AnsweringEngine(contextlib.nullcontext):
    """Answers cells at once with rows by hand; ``ran`` are the settings of the training runs.

    The error is the side's, divided by data and a step more; the larger rate has the lower loss. ``diverging`` are
    side, transitions, learning rate and seed of runs that diverge.
    """

    def __init__(self, *diverging: tuple[str, int, float, int]) -> None:
        super().__init__()
        self.slots, self.diverging, self.ran = 1, diverging, list[Any]()

    def submit(self, cell: Cell) -> Future[tuple[Result, dict[str, Any]]]:
        """Answer a cell."""
        pool = {"kind": "gait", "episodes": 2, "transitions": 30}
        pool |= {"mean_length": 15, "mean_return": 3.0, "reward": 0.2}
        others = {"copy_last_row": [{"mae_std": 0.5}], "describe_behaviours": [pool]}
        origin = {"seconds": 1.0, "backend": "jax", "device": "cpu", "versions": {}}
        future: Future[tuple[Result, dict[str, Any]]] = Future()
        future.set_result((Result(others.get(cell.task.__name__) or self.train(cell.settings)), origin))
        return future

    def train(self, settings: Any) -> list[dict[str, Any]]:
        """The rows of a run."""
        self.ran.append(settings)
        run = tuple(settings[name] for name in ("side", "transitions", "learning_rate", "seed"))
        side, size, rate, seed = run
        scale = (8 if side == FROM_SCRATCH else 2) * (1 + 0.1 * (seed - 1)) * (1 + (rate < 1e-2))
        found = []
        for step in settings["steps"]:
            error = scale / (size * (1 + step))
            row = {"step": step, "mae_std": error, "holdout_loss": error if step else None}
            found.append(row | {"diverged": False, "seen": False})
        if run in self.diverging:
            found[-1] |= {"mae_std": None, "holdout_loss": None, "diverged": True}
        return found


def table_of(study: Transfer, folder: Path, engine: AnsweringEngine) -> pd.DataFrame:
    cells = Store(folder / "cells")
    assert run_study(study, cells, engine) == []
    return cells.table(known_cells(study, cells))


def test_every_rate_once_then_the_best_that_does_not_diverge_and_nothing_twice(
    study: Transfer, tmp_path: Path
) -> None:
    both = ((FINE_TUNED, 20, 1e-2, 0), (FINE_TUNED, 20, 1e-3, 0))
    engine = AnsweringEngine((FROM_SCRATCH, 20, 1e-2, 0), (FINE_TUNED, 40, 1e-2, 1), *both)
    table = table_of(study, tmp_path, engine)
    ran: dict[Any, list[tuple[float, int]]] = {}
    for one in engine.ran:
        ran.setdefault((one["side"], one["transitions"]), []).append((one["learning_rate"], one["seed"]))
    first = [(1e-3, 0), (1e-2, 0)]
    # With the first seed both diverge; with the second only the better one, and the third is run with the other alone.
    assert ran == {
        (FROM_SCRATCH, 20): [*first, (1e-3, 1), (1e-3, 2)],
        (FROM_SCRATCH, 40): [*first, (1e-2, 1), (1e-2, 2)],
        (FINE_TUNED, 20): first,
        (FINE_TUNED, 40): [*first, (1e-2, 1), (1e-3, 1), (1e-3, 2)],
    }
    # The first seed of everything comes first.
    assert [one["seed"] for one in engine.ran[:8]] == [0] * 8
    again = AnsweringEngine(*engine.diverging)
    pd.testing.assert_frame_equal(table_of(study, tmp_path, again), table)
    assert again.ran == []
    errors = study.tables(table)["One-step error after 100 steps, in standard deviations"]
    assert errors["rates, scratch and tuned"].tolist() == ["0.001, diverged", "0.01, 0.001"]
    assert np.isnan(errors[FINE_TUNED][0])
    assert not any("reach" in title for title in study.tables(table))
    assert len(study.charts(table, Look())) == 2


def test_tables_by_hand(study: Transfer, tmp_path: Path) -> None:
    table = table_of(study, tmp_path, AnsweringEngine())
    tables = study.tables(table)
    errors, transitions, steps, pools = tables.values()
    for row, size in zip(texts(errors)[1], (20, 40), strict=True):
        ends = [[f"{scale * part / size / 101:#.3g}" for part in (1, 0.9, 1.1)] for scale in (8, 2)]
        sides = [f"{mean} [{low}–{high}]" for mean, low, high in ends]
        about = ["Robot-v0", str(size), "0.500", f"{2 / size:#.3g}"]
        assert row == [*about, *sides, "4.00", "0.01, 0.01", "no"]
    # Fine-tuned on 20 the error is already below that from scratch on 40, and after 10 of 100 steps 2 / 11 is not.
    assert texts(transitions)[1] == [["Robot-v0", "last", "0.00198", "40", "20", "20", "2.00", "20"]]
    about = 10 * (100 / 10) ** (math.log((2 / 11) / (8 / 101)) / math.log(101 / 11))
    assert texts(steps)[1] == [["Robot-v0", "last", "0.00198", "100", "100", f"{about:.0f}", "1.00"]]
    assert texts(pools)[1] == [["Robot-v0", "gait", "2", "30", "15.0", "3.00", "0.200"]]
    page = write_report(study, table, tmp_path / "report", {"cells": 18, "seconds": 18.0}).read_text()
    assert "nan" not in page.replace("provenance", "").lower()


def savings_of(steps: tuple[int, ...], scratch: dict[int, list[float]], tuned: dict[int, list[float]]) -> Any:
    """What is needed for scratch's last and its least error, from errors by transitions and steps."""
    rows = [
        {"side": side, "transitions": size, "step": step, "mae_std": error}
        for side, sizes in ((FROM_SCRATCH, scratch), (FINE_TUNED, tuned))
        for size, errors in sizes.items()
        for step, error in zip(steps, errors, strict=True)
    ]
    return savings(pd.DataFrame(rows))


def test_factors_by_hand() -> None:
    steps = (0, 50, 200, 1000, 2000)
    scratch = {4000: [2.0, 1.0, 0.5, 0.3, 0.25], 16000: [2.0, 1.0, 0.5, 0.15, 0.2]}
    tuned = {4000: [0.6, 0.4, 0.2, 0.18, 0.19], 16000: [0.6, 0.3, 0.12, 0.11, 0.10]}
    # From scratch on 16,000 transitions: 0.2 after 2000 steps, at most that since 1000; and 0.15 at its best.
    (last_error, last), (least_error, least) = savings_of(steps, scratch, tuned)
    assert (last_error, least_error) == (0.2, 0.15)
    of_data = {FROM_SCRATCH: 16000, FINE_TUNED: 4000, "≈": 4000, "factor": 4, "at any step": 4000}
    assert last["transitions"] == of_data
    about = 50 * 4 ** (math.log(0.3 / 0.2) / math.log(0.3 / 0.12))
    assert last["steps"] == {FROM_SCRATCH: 1000, FINE_TUNED: 200, "≈": pytest.approx(about), "factor": 5}
    # The least error no amount of data gives after the last step.
    assert least["transitions"].pop("≈") == pytest.approx(4000 * 4 ** (math.log(19 / 15) / math.log(1.9)))
    of_data = {FROM_SCRATCH: 16000, FINE_TUNED: 16000, "factor": 1, "at any step": 16000}
    assert least["transitions"] == of_data
    # Reached without a step, or never, or with more than scratch needs.
    (_, free), _ = savings_of((0, 10), {100: [1.0, 0.5]}, {100: [0.4, 0.3]})
    assert (free["steps"][FINE_TUNED], free["steps"]["factor"]) == (0, math.inf)
    worse = {size: [10 * error for error in errors] for size, errors in tuned.items()}
    (_, never), _ = savings_of(steps, scratch, worse)
    assert never["steps"] == {FROM_SCRATCH: 1000, FINE_TUNED: math.inf, "≈": math.inf, "factor": 0}
    (_, same), _ = savings_of((0, 10), {100: [0.5, 0.5]}, {100: [0.5, 0.5]})
    assert same["steps"]["factor"] == 1
    slower = {100: [0.9, 0.8, 0.5], 400: [0.9, 0.8, 0.3]}
    (_, found), _ = savings_of((0, 10, 100), {100: [1.0, 0.5, 0.3], 400: [1.0, 0.3, 0.3]}, slower)
    assert (found["transitions"]["factor"], found["steps"]["factor"]) == (0.25, 0.1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "name the model to fine-tune with --model, or choose --side scratch"),
        ("--model trajworld-small --preset tiny", "leave out --preset"),
        ("--sizes 4,2", "sizes must ascend from 1 or more, not 4, 2"),
        ("--steps 0", "last of the steps must be at least 1"),
        ("--environments Hopper-v5,gymnasium/Hopper-v5", "each once"),
        ("--learning-rates 0", "must be above 0"),
        ("--batch-size 0", "batch size must be at least 1, not 0"),
        ("--pool 10", "10 transitions collected cannot give 64,000"),
        ("--sizes 1k,2k", "is not a list of int"),
    ],
)
def test_mistakes_end_in_one_line(arguments: str, message: str, tmp_path: Path, command: Any) -> None:
    side = () if "--model" in arguments + message else ("--side", "scratch")
    code, _, err = command("study", "run", "transfer", "-o", tmp_path / "out", *side, *arguments.split())
    assert (code, message in " ".join(err.split()), (tmp_path / "out").exists()) == (2, True, False), err


@pytest.mark.slow
def test_a_run_is_measured_as_it_goes_and_may_diverge(tmp_path: Path) -> None:
    data, of = study_data(tmp_path, 20), {"batch_size": 4, "warmup_steps": 2, "decay_steps": 10**9}
    common = {**of, "transitions": 40, "steps": (0, 2, 5), "seed": 1, "holdout_windows": 16, "keep": True}

    def run(start: Any, rate: float = 1e-2) -> Any:
        cell = training_cell(data, start, learning_rate=rate, **common)
        return train_and_measure(cell.settings, cell.places)

    result = run(TINY)
    assert [row["step"] for row in result.rows] == [0, 2, 5]
    assert [row["holdout_loss"] is None for row in result.rows] == [True, False, False]
    file = tmp_path / "scratch.keras"
    file.write_bytes(result.files[".keras"])
    expected = error_of(file, data.test, 20)
    assert result.rows[-1]["mae_std"] == pytest.approx(expected, rel=1e-4)
    had = [row["training_transitions"] + row["holdout_transitions"] for row in result.rows]
    assert had[0] == had[1] == had[2] <= 40
    # Fine-tuning begins with the weights that it is given, and has the same data; that model saw the environment.
    first = run(Pretrained(file, "digest", TINY)).rows[0]
    assert first["mae_std"] == pytest.approx(expected, rel=1e-4)
    assert first["training_transitions"] == result.rows[0]["training_transitions"]
    assert [result.rows[0]["seen"], first["seen"]] == [False, True]
    diverged = run(TINY, rate=1e30)
    *before, end = diverged.rows
    assert not any(row["diverged"] for row in before)
    assert (end["diverged"], end["mae_std"], end["holdout_loss"]) == (True, None, None)
    assert end["step"] in (2, 5)
    assert diverged.files == {}


@pytest.mark.slow
def test_data_are_collected_once_and_are_of_one_collection() -> None:
    name, said = "gymnasium/InvertedPendulum-v5", list[str]()
    collect_data([name], 300, 1, said.append)
    data, folder = open_data(name, 300), dataset_path("transfer/gymnasium-invertedpendulum-v5/test-300-v0")
    assert len(said) == 1
    assert data.pool.num_transitions <= 300 < data.pool.num_transitions + data.test.num_transitions <= 330
    collect_data([name], 300, 1, said.append)
    assert len(said) == 1
    shutil.rmtree(folder)
    collect_data([name], 300, 1, said.append)
    assert open_data(name, 300).digests == data.digests
    metadata = folder / "data" / "metadata.json"
    text = metadata.read_text()
    metadata.write_text(text.replace('"mujoco": "', '"mujoco": "0.'))
    with pytest.raises(TrajWorldError, match="other versions of packages"):
        collect_data([name], 300, 1)
    metadata.write_text(text.replace('"seed": 0', '"seed": 1'))
    with pytest.raises(TrajWorldError, match="other settings"):
        collect_data([name], 300, 1)


def test_draws_that_cannot_be_trained_on_are_refused(tmp_path: Path) -> None:
    test = study_data(tmp_path).test
    pool = open_dataset(store(tmp_path / "long", lengths=(30, 5, 6, 7, 28, 5)))
    with pytest.raises(UsageError, match="are one episode, which cannot be split"):
        check_draws(StudyData(ENVIRONMENT, pool, test), (58, 20), 6)
    check_draws(StudyData(ENVIRONMENT, pool, test), (58,), 6)
    still = Episode(np.ones((9, 3), np.float32), np.ones((8, 2), np.float32), np.zeros(8), True)
    write_store(tmp_path / "still", [still], name="still", source="", environment="")
    with pytest.raises(TrajWorldError, match="nothing varies in the test set"):
        check_draws(StudyData(ENVIRONMENT, pool, open_dataset(tmp_path / "still")), (58,), 1)


def test_returns_by_behaviour_by_hand(make_episodes: Any) -> None:
    episodes = make_episodes([4, 6, 5])
    gait, ou = returns_by_behaviour(episodes, ["ou", "gait", "ou"])
    assert (gait["kind"], gait["episodes"], gait["transitions"]) == ("gait", 1, 6)
    total = float(episodes[0].rewards.sum() + episodes[2].rewards.sum())
    of_ou = {"kind": "ou", "episodes": 2, "transitions": 9, "mean_length": 4.5}
    assert ou == of_ou | {"mean_return": pytest.approx(total / 2), "reward": pytest.approx(total / 9)}


@pytest.mark.slow
def test_a_small_study_by_the_command_line(tmp_path: Path, command: Any) -> None:
    config = config_for("pretrain", [store(tmp_path / "data")], steps=2, model=SIZES)
    train(start_run(tmp_path / "run", config))
    options = (
        *("--model", str(tmp_path / "run" / "last.keras"), "--environments", "InvertedPendulum-v5"),
        *("--sizes", "400", "--steps", "0,2,4", "--pool", "1500", "--learning-rates", "1e-3,1e-2"),
        *("--seeds", "2", "--batch-size", "4", "--windows", "16", "--weights", "--json"),
        *("-o", str(tmp_path / "out"), "--store", str(tmp_path / "cells")),
    )
    (code, out, err), again = (command("study", "run", "transfer", *options, "--workers", n) for n in "21")
    # The second time nothing is left to be done.
    assert (code, "of 8" in err, "of 8" in again[2], out) == (0, True, False, again[1]), err
    (row,) = json.loads(out)["tables"]["One-step error after 4 steps, in standard deviations"]
    table = pd.read_csv(tmp_path / "out" / "table.csv")
    runs = table[table["step"] == 4]
    test = open_data("gymnasium/InvertedPendulum-v5", 1500).test
    for cell, error in zip(runs["cell"], runs["mae_std"], strict=True):
        assert error == pytest.approx(error_of(tmp_path / "cells" / f"{cell}.keras", test, 16), rel=1e-4)
    rates = row["rates, scratch and tuned"].split(", ")
    for side, rate in zip((FROM_SCRATCH, FINE_TUNED), rates, strict=True):
        mine = runs[runs["side"] == side]
        assert float(rate) == mine[mine["seed"] == 0].set_index("learning_rate")["holdout_loss"].idxmin()
        assert row[side] == mine.loc[mine["learning_rate"] == float(rate), "mae_std"].mean()
