"""The grid of train-test pairs on two levels of a pendulum: tables, shared cells, and pre-training by time."""

import itertools
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from studies_fixtures import PENDULUM, balancer, tiny_model

from trajworld.charts import Look
from trajworld.collect.episodes import run_episodes
from trajworld.data.minari_datasets import write_minari
from trajworld.data.resolve import open_dataset
from trajworld.data.split import set_aside
from trajworld.data.store import write_store
from trajworld.environments.open import open_environment
from trajworld.errors import UsageError
from trajworld.evaluation.one_step import prediction_errors
from trajworld.evaluation.ranges import support_for
from trajworld.files import one_writer
from trajworld.models.files import load_model, save_model
from trajworld.models.identity import DatasetRange, Identity
from trajworld.models.interface import kind_of, new_model
from trajworld.models.ranges import training_support
from trajworld.models.sizes import EnsembleSizes
from trajworld.policies.files import save_policy
from trajworld.studies import training_cells
from trajworld.studies.fine_tuning import run_folder
from trajworld.studies.grid import Grid
from trajworld.studies.ope import FINE_TUNED, FROM_SCRATCH, Ope
from trajworld.studies.training_cells import (
    TEST_FRACTION,
    corpus_content,
    pretrain_model,
    pretraining_cell,
)
from trajworld.study.cells import Store
from trajworld.study.run import LocalEngine, RayEngine, known_cells, run_study
from trajworld.text import short_name
from trajworld.training.config import resolve_config
from trajworld.training.parts import open_parts
from trajworld.training.record import read_record

pytestmark = pytest.mark.once

TUNED, SCRATCH = "TrajWorld fine-tuned", "TrajWorld from scratch"
SHORT: dict[str, Any] = {"steps": 6, "batch_size": 4}


@pytest.fixture(scope="module")
def episodes() -> dict[str, Any]:
    return {
        level: [one.episode for one in run_episodes(PENDULUM, balancer(gain), 0, 0, 8, 40)]
        for level, gain in {"medium": -1.0, "expert": 1.0}.items()
    }


@pytest.fixture
def suite(episodes: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """The options of a grid over a suite of two datasets, with a model of random weights to fine-tune."""
    opened = open_environment(PENDULUM)
    opened.close()
    spaces = {name: getattr(opened.description, name) for name in ("observation_space", "action_space")}
    for level, own in episodes.items():
        write_minari(
            f"two/pendulum-{level}-v0", own, environment=PENDULUM, description="", metadata={}, **spaces
        )
    model = tiny_model(tmp_path / "tiny.keras")
    models = (TUNED, SCRATCH)
    return {"suite": "two", "model": str(model), "models": models, "windows": 20, "seeds": 1, **SHORT}


def run(study: Any, folder: Path, engine: Any = None) -> tuple[Store, pd.DataFrame]:
    study.prepare(1, lambda line: None)
    store = Store(folder)
    assert run_study(study, store, engine or LocalEngine(1)) == []
    return store, store.table(known_cells(study, store))


def test_what_cannot_be_run_is_refused() -> None:
    for wrong, message in (
        ({"models": ("magic",)}, "no model is called 'magic'"),
        ({"seeds": 0}, "at least 1"),
        ({"learning_rate": 0.0}, "above 0"),
    ):
        with pytest.raises(UsageError, match=message):
            Grid(**wrong)
    with pytest.raises(UsageError, match="no dataset of a suite dope is here"):
        Grid().prepare(1, print)


def test_datasets_of_equal_names_levels_and_episodes(episodes: dict[str, Any], tmp_path: Path) -> None:
    def store(folder: str, name: str, *levels: str) -> str:
        own = [one for level in levels for one in episodes[level]]
        return str(write_store(tmp_path / folder, own, name=name, source="", environment=PENDULUM).path)

    names = "a/pendulum-medium-v0", "b/pendulum-medium-v0"
    paths = store("a", names[0], "medium"), store("b", names[1], "medium", "expert")
    study, said = Grid(datasets=paths), list[str]()
    vars(study).update({"_corpus": ""})
    study.prepare(1, said.append)
    assert f"Warning: {names[0]} and {names[1]} share 8 episodes" in said[1]
    apart, said = Grid(datasets=(paths[0], store("c", "c", "expert"))), []
    vars(apart).update({"_corpus": ""})
    apart.prepare(1, said.append)
    assert not any("Warning" in line for line in said)
    # A model that was pre-trained on one of them, and one of another kind.
    seen = DatasetRange("seen", PENDULUM, open_dataset(paths[0]).content, training_support([0] * 6, [1] * 6))
    for kind, file in (("trajworld", "seen.keras"), ("tdm", "tdm.keras")):
        save_model(new_model(kind_of(kind).preset("tiny"), Identity(sources=(seen,))), tmp_path / file)
    given: dict[str, Any] = {"datasets": paths[:1], "models": (TUNED,)}
    Grid(model=str(tmp_path / "seen.keras"), **given).prepare(1, said.append)
    assert "saw the episodes of a/pendulum-medium-v0 in pre-training" in said[-1]
    with pytest.raises(UsageError, match="is a tdm"):
        Grid(model=str(tmp_path / "tdm.keras"), **given).prepare(1, print)
    with pytest.raises(UsageError, match="two of the datasets have one name"):
        Grid(datasets=(paths[0], store("d", names[0], "expert"))).prepare(1, print)
    about = {"task": "measure_model", "environment": PENDULUM, "seed": 0, "prediction": "model", "MAE": 1.0}
    pairs = itertools.product((TUNED, SCRATCH), names, names)
    rows = [{**about, "model": model, "trained on": one, "tested on": two} for model, one, two in pairs]
    (chart,) = study.charts(pd.DataFrame(rows), Look()).values()
    assert [label.get_text() for label in chart.axes[0].get_yticklabels()] == list(names)


def test_no_model_trains_on_an_episode_that_is_tested(suite: dict[str, Any]) -> None:
    spec = "two/pendulum-medium-v0"
    _, tested = set_aside(8, TEST_FRACTION)
    assert len(tested) == 1
    for seed in range(4):
        options = {"datasets": [spec], "seed": seed, "test_fraction": TEST_FRACTION}
        (part,) = open_parts(resolve_config("train", preset="tiny", options=options))
        assert part.episodes is not None
        assert not set(tested) & {*part.episodes.tolist(), *part.holdout.tolist()}
        assert len(part.episodes) + len(part.holdout) == 7
        rows = np.concatenate([open_dataset(spec).rows[a:b] for a, b in part_rows(spec, part.episodes)])
        # Nor is its range known.
        np.testing.assert_allclose(part.lower[:3], rows[:, :3].min(axis=0), atol=2e-5)


def part_rows(spec: str, chosen: Any) -> list[tuple[int, int]]:
    offsets = open_dataset(spec).episode_offsets
    return [(offsets[one], offsets[one + 1]) for one in chosen]


@pytest.mark.slow
def test_the_tables_are_of_the_cells_and_ope_trains_nothing_again(
    suite: dict[str, Any], tmp_path: Path, command: Callable[..., tuple[int, str, str]]
) -> None:
    options = [word for name, value in suite.items() for word in (f"--{name.replace('_', '-')}", value)]
    options[options.index("--models") + 1] = ",".join(suite["models"])
    folder = tmp_path / "cells"
    arguments = ("study", "run", "grid", *options, "--workers", 1, "--store", folder, "-o", tmp_path / "out")
    code, out, err = command(*arguments)
    assert code == 0, err
    assert "Relative error (MAE, observation and reward)" in out
    study = Grid(**suite)
    store = Store(folder)
    table = store.table(known_cells(study, store))
    tests = table[table["task"] == "measure_model"]
    assert len(tests) == 2 * 4
    # An error of a cell, from its weights and the episodes that were set aside.
    one = tests[(tests["model"] == TUNED) & (tests["trained on"] != tests["tested on"])].iloc[0]
    model, data = load_model(folder / f"{one['trained']}.keras"), open_dataset(one["tested on"])
    (tested,) = set_aside(8, TEST_FRACTION)[1]
    begin, end = data.episode_offsets[tested : tested + 2]
    found = prediction_errors(model, data, support=support_for(model, data), episodes=[tested])
    assert found.windows == end - begin - 1
    limited = prediction_errors(model, data, support=support_for(model, data), episodes=[tested], limit=20)
    assert one["MAE in std"] == pytest.approx(limited.table["all"]["normalised_mae"], rel=1e-4)
    assert one["MSE of observations"] == pytest.approx(limited.table["observations"]["mse"], rel=1e-4)
    # The relative error, by plain loops.
    tables = study.tables(table)
    relative = tables["Relative error (MAE, observation and reward)"].set_index("model")
    for name in suite["models"]:
        errors = {
            model: {
                (row["trained on"], row["tested on"]): row["MAE"]
                for row in tests[tests["model"] == model].to_dict("records")
            }
            for model in (name, SCRATCH)
        }
        ratios = {pair: errors[name][pair] / errors[SCRATCH][pair] for pair in errors[name]}
        within = [ratio for (trained, test), ratio in ratios.items() if trained == test]
        beyond = [ratio for (trained, test), ratio in ratios.items() if trained != test]
        assert relative.loc[name, "all pairs"] == pytest.approx(sum(ratios.values()) / 4)
        assert relative.loc[name, "in distribution"] == pytest.approx(sum(within) / 2)
        assert relative.loc[name, "out of distribution"] == pytest.approx(sum(beyond) / 2)
        if name != SCRATCH:
            wins = tables["Wins over TrajWorld from scratch"].set_index("model").loc[name]
            assert wins["pairs"] == sum(ratio < 1 for ratio in ratios.values())
    robots = tables["Relative error by environment"].set_index("model")
    assert robots[short_name(PENDULUM)].to_dict() == pytest.approx(relative["all pairs"].to_dict())
    assert relative.loc[TUNED, "published"] == 0.91
    # Each pair counts once, also where one has more seeds than another; and one model alone has no wins.
    more = tests[(tests["trained on"] == tests["tested on"]) & (tests["model"] == TUNED)]
    again = study.tables(pd.concat([table, more.assign(seed=1)]))["Relative error by environment"]
    assert again.set_index("model").loc[TUNED, short_name(PENDULUM)] == pytest.approx(
        relative.loc[TUNED, "all pairs"]
    )
    alone = study.tables(table[~table["model"].isin([TUNED])])
    assert "Cost" in alone
    assert "Wins over TrajWorld from scratch" not in alone
    assert set(tables["Cost"]["model"]) == set(suite["models"])
    assert len(study.charts(table, Look())) == 1
    # Off-policy evaluation names the same trained cells.
    save_policy(balancer(1.0), tmp_path / "policies" / "good.npz")
    ope = Ope(
        datasets=tuple(f"two/pendulum-{level}-v0" for level in ("medium", "expert")),
        policies=(str(tmp_path / "policies"),),
        model=suite["model"],
        methods=(FINE_TUNED, FROM_SCRATCH),
        seeds=1,
        **SHORT,
    )
    ope.prepare(1, lambda line: None)
    trained = {cell.key for cell in known_cells(ope, store) if cell.task.__name__ == "train_model"}
    assert trained == set(table.loc[table["task"] == "train_model", "cell"])


def test_the_steps_of_pretraining_follow_from_the_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten steps a second, after 21 seconds of compilation, which comes once more when the run goes on."""
    clock = [0.0]
    state, config = SimpleNamespace(step=0, seconds=0.0), SimpleNamespace(checkpoint_every=50)

    def train_run(run: Any, look: Callable[[Any], None]) -> None:
        clock[0] += 21.0
        for step in itertools.count(1):
            clock[0] += 0.1
            look(SimpleNamespace(step=step))

    monkeypatch.setattr(training_cells, "train_run", train_run)
    monkeypatch.setattr(training_cells, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    run: Any = SimpleNamespace(state=state, config=config)
    # A tenth of 600 seconds is over at step 400.
    steps = training_cells._affordable(run, 600.0)
    assert clock[0] == pytest.approx(61)
    assert steps == pytest.approx(400 + 10 * (600 - 61 - 21), abs=1)


def test_minutes_as_an_integer_name_the_same_pretraining() -> None:
    whole, fraction = (pretraining_cell(EnsembleSizes(), ("corpus:mine",), "", one) for one in (30, 30.0))
    assert whole.key == fraction.key


def test_another_preset_is_another_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    """What training takes by itself decides on the numbers, too; a dataset's name does not."""
    sizes = {kind: kind_of(kind).preset("small") for kind in ("trajworld", "mlp-ensemble")}

    def keys(name: str = "one") -> list[str]:
        data: Any = SimpleNamespace(path="x", name=name, content="c", observation_size=3, action_size=1)
        trained = [training_cells.model_cell(data, one, 0, Grid()).key for one in sizes.values()]
        return trained + [pretraining_cell(one, ("corpus:mine",), "", 1.0).key for one in sizes.values()]

    before = keys()
    assert keys("another") == before
    for kind, run in itertools.product(sizes, ("train", "pretrain")):
        runs: Any = sizes[kind].runs
        with monkeypatch.context() as patch:
            patch.setitem(runs, ("small", run), runs["small", run] | {"warmup_steps": 7})
            assert sum(one != other for one, other in zip(before, keys(), strict=True)) == 1


def test_what_a_killed_training_leaves_is_removed_with_the_next_lock(tmp_path: Path) -> None:
    killed = run_folder({"store": str(tmp_path / "cells")})
    run = killed.__enter__()
    run.mkdir()
    assert run.is_relative_to(tmp_path / "cells")
    with one_writer(tmp_path / "cells", "the store"):
        assert not run.exists()


@pytest.mark.slow
def test_pretraining_goes_on_after_a_kill(
    suite: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = ("two/pendulum-medium-v0", "two/pendulum-expert-v0")
    sizes = EnsembleSizes(members=2, elites=1, layers=1, width=8)
    cell = pretraining_cell(sizes, corpus, corpus_content(corpus), 0.1)
    places = {**cell.places, "store": str(tmp_path)}
    folder, real = tmp_path / f"{cell.key}-run", training_cells.train_run

    class Killed(BaseException):
        pass

    def killed_at_55(run: Any) -> Any:
        def look(report: Any) -> None:
            if report.step == 55:
                raise Killed

        return real(run, look)

    monkeypatch.setattr(training_cells, "_affordable", lambda run, seconds: 60)
    with monkeypatch.context() as patch:
        patch.setattr(training_cells, "train_run", killed_at_55)
        with pytest.raises(Killed):
            pretrain_model(cell.settings, places)
    # Its cosine ends with the run.
    planned = resolve_config("pretrain", file=folder / "config.toml")
    assert (planned.steps, planned.decay_steps) == (60, 60)
    result = pretrain_model(cell.settings, places)
    assert read_record(folder)["resumed"][-1]["step"] == 50
    assert result.rows[0]["step"] == 60
    assert result.rows[0]["holdout_loss"] is not None
    # A driver that is killed before it keeps the result finds it again.
    assert pretrain_model(cell.settings, places).rows == result.rows


@pytest.mark.slow
def test_fine_tuning_starts_from_what_was_pretrained_on_a_ray_cluster(
    suite: dict[str, Any], tmp_path: Path
) -> None:
    pytest.importorskip("ray")
    one = ("two/pendulum-medium-v0",)
    models = ("TrajWorld of equal time", SCRATCH)
    options = {"models": models, "datasets": one, "corpus": one, "pretrain_minutes": 0.02}
    study = Grid(**{**suite, **options})
    _, table = run(study, tmp_path / "cells", RayEngine())
    assert table["task"].value_counts().to_dict() == {
        "measure_model": 2,
        "train_model": 2,
        "pretrain_model": 1,
    }
    cost = study.tables(table)["Cost"].set_index("model")
    assert cost.loc["pre-training: trajworld", "runs"] == 1
    assert not list((tmp_path / "cells").glob("*-run"))
