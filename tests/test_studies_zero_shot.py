"""The zero-shot study: windows, ranges and contexts, what a cell measures, its tables, and which models are refused."""

import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
import pytest
from training_fixtures import config_for, store

from trajworld.charts import Look
from trajworld.collect.corpus_table import PRETRAIN, UNSEEN, read_table
from trajworld.data.dataset import Dataset
from trajworld.data.minari_datasets import datasets_folder
from trajworld.data.statistics import statistics
from trajworld.data.windows import gather_windows
from trajworld.errors import TrajWorldError
from trajworld.evaluation.contexts import halves_of
from trajworld.models.files import load_model, save_model, weights_digest
from trajworld.models.identity import DatasetRange, Identity
from trajworld.models.ranges import training_support
from trajworld.models.seen import check_unseen
from trajworld.models.sizes import TrajWorldSizes
from trajworld.models.trajworld import TrajWorld, Variates
from trajworld.studies.zero_shot import COPY, MODEL, PREDICTORS, RIDGE, ZeroShot, predict_unseen
from trajworld.study.report import read_report
from trajworld.training.run import start_run
from trajworld.weights import shipped_models

pytestmark = pytest.mark.once

SIZES = TrajWorldSizes(blocks=1, width=16, heads=2, variates=12)
CONTEXTS = [1, 6, 19]
HOPPER = "gymnasium/Hopper-v5"
RUN = ("study", "run", "zero-shot", "--workers", 1)


@pytest.fixture
def dataset(memory_dataset: Callable[..., Dataset]) -> Dataset:
    return memory_dataset([30, 25, 28, 40, 5, 33])


@pytest.fixture
def model_file(tmp_path: Path) -> Path:
    keras.utils.set_random_seed(0)
    save_model(TrajWorld(SIZES), tmp_path / "model.keras")
    return tmp_path / "model.keras"


def trained_on(*environments: str, **more: Any) -> Identity:
    support = training_support(np.zeros(6), np.ones(6))
    return Identity(sources=tuple(DatasetRange(name, name, "", support) for name in environments), **more)


def episodes_of(dataset: Dataset, ends: np.ndarray) -> np.ndarray:
    return np.searchsorted(dataset.episode_offsets, ends, side="right") - 1


@pytest.mark.parametrize("windows", [7, 1000])
def test_windows_are_whole_and_of_other_episodes_than_the_ranges(dataset: Dataset, windows: int) -> None:
    halves = halves_of(dataset, 20, windows, 0)
    tested, other = (episodes_of(dataset, drawn.ends) for drawn in (halves.tested, halves.other))
    for drawn, episode in ((halves.tested, tested), (halves.other, other)):
        assert len(np.unique(drawn.ends)) == len(drawn.ends)
        assert np.all(gather_windows(dataset, drawn.ends, drawn.first, 20)[1] == 1)
        # Every row but an episode's first 19.
        lengths = dataset.transitions_per_episode[np.unique(episode)]
        assert len(drawn.ends) == (7 if windows == 7 else sum(lengths - 18))
    assert not {*tested} & {*other}
    mine = np.isin(episodes_of(dataset, np.arange(len(dataset.rows))), tested)
    dataset.rows[mine] += 100
    moved = halves_of(dataset, 20, windows, 0)
    np.testing.assert_array_equal(moved.support.upper, halves.support.upper)
    assert halves.support.upper[0] >= dataset.rows[~mine, 0].max() > halves.support.lower[0]
    assert halves.outside < 0.1
    assert moved.outside == 1


@pytest.mark.parametrize("unpadded", [False, True])
def test_a_cell_equals_a_loop_over_windows(
    model_file: Path, dataset: Dataset, unpadded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trajworld.studies.zero_shot.open_dataset", lambda place: dataset)
    settings = {"contexts": CONTEXTS, "most_windows": 9, "seed": 1, "init": {"digest": "a"}}
    settings["unpadded"] = unpadded
    found = pd.DataFrame(predict_unseen(settings, {"init": str(model_file), "data": "here"}))
    model, halves = load_model(model_file), halves_of(dataset, 20, 9, 1)
    variates = Variates(dataset.is_action, halves.support.lower, halves.support.upper)
    low, high = (end[:4].astype(float) for end in (halves.support.lower, halves.support.upper))
    std, centres = statistics(dataset).std[:4], (np.arange(256) + 0.5) / 256
    ends, episode = halves.tested.ends, episodes_of(dataset, halves.tested.ends)
    for context in CONTEXTS:
        # Padded on the left as in training; or at the first positions of a window, whose later rows nobody reads.
        place = 0 if unpadded else 19 - context
        rows, mask = np.full((9, 19, 6), 9 * unpadded, np.float32), np.full((9, 19), unpadded, np.float32)
        rows[:, place : place + context] = [dataset.rows[end - context : end] for end in ends]
        mask[:, place : place + context] = 1
        logits = keras.ops.convert_to_numpy(model(rows, mask, variates))[:, place + context - 1, :4]
        weights = np.exp(logits.astype(float))
        mean = low + (high - low) * (weights * centres).sum(axis=-1) / weights.sum(axis=-1)
        errors = {
            name: np.abs(predicted - dataset.rows[ends, :4]) / std
            for name, predicted in ((MODEL, mean), (COPY, dataset.rows[ends - 1, :4].astype(float)))
        }
        for name, each in errors.items():
            part = found[(found.predictor == name) & (found.context == context) & found.episode.notna()]
            expected = pd.Series(each.mean(axis=1)).groupby(episode)
            assert part.episode.tolist() == [*expected.groups]
            assert part.windows.tolist() == expected.size().tolist()
            np.testing.assert_allclose(part.error, expected.mean(), rtol=1e-3)
    first = found[found.context == 1].pivot(index="episode", columns="predictor", values="error")
    assert (first.sub(first[COPY], axis=0).drop(columns=MODEL) == 0).all(axis=None), "nothing to fit"
    by_variate = found[found.variate.notna() & (found.predictor == MODEL)]
    assert by_variate.variate.tolist() == ["observation 0", "observation 1", "observation 2", "reward"]
    np.testing.assert_allclose(by_variate.error, np.mean(errors[MODEL], axis=0), rtol=1e-3)
    np.testing.assert_allclose(by_variate.bin_error, (high - low) / 256 / 4 / std, rtol=1e-5)
    bins = np.mean(errors[COPY], axis=0) * std * 256 / (high - low)
    np.testing.assert_allclose(by_variate.change, bins, rtol=1e-4)
    assert found.outside.dropna().unique() == pytest.approx([halves.outside])


EPISODES = {"a/One": 12, "a/Two": 20, "b/Few": 9}


@pytest.fixture
def table() -> pd.DataFrame:
    """Rows as cells give them, of errors that differ between episodes; the model's is a third of the ridge's."""
    generator, rows = np.random.default_rng(0), []
    for environment, count in EPISODES.items():
        about = {"environment": environment, "family": environment[0], "variates": 5, "unseen": "yes"}
        windows, errors = generator.integers(1, 9, count), generator.uniform(0.5, 2, (count, 4, 2))
        errors[:, PREDICTORS.index(MODEL), 1] = errors[:, PREDICTORS.index(RIDGE), 1] / 3
        for (episode, place, at), error in np.ndenumerate(errors):
            key = {"predictor": PREDICTORS[place], "context": (1, 19)[at], "episode": float(episode)}
            rows.append({**about, **key, "windows": windows[episode], "error": error})
        facts = {"variate": "reward", "bin_error": 0.2, "change": 3.0, "outside": 0.01}
        rows.append({**about, "predictor": MODEL, "context": 19, **facts})
    return pd.DataFrame(rows)


def test_tables_hold_means_with_paired_intervals_over_episodes(table: pd.DataFrame) -> None:
    study = ZeroShot(seed=5)
    by_family, by_environment, by_context = study.tables(table).values()
    copied = table[(table.predictor == COPY) & (table.context == 19)]
    means, replicates = {}, {}
    for environment, part in copied.groupby("environment"):
        generator, share = np.random.default_rng([5, zlib.crc32(environment.encode())]), 1 / len(part)
        draws = generator.multinomial(len(part), np.full(len(part), share), size=1000)
        means[environment] = np.average(part.error, weights=part.windows)
        drawn = [np.average(part.error, weights=part.windows * counts) for counts in draws]
        replicates[environment] = np.array(drawn)
    one, family, few = by_environment.iloc[0], by_family.iloc[0], by_family.iloc[1]
    assert (one.environment, one.M, one.episodes, one.outside) == ("One", 5, 12, 0.01)
    assert (family.family, family.environments, family.episodes) == ("a", 2, 12)
    both = (replicates["a/One"] + replicates["a/Two"]) / 2
    mean = (means["a/One"] + means["a/Two"]) / 2
    for row, expected, drawn in ((one, means["a/One"], replicates["a/One"]), (family, mean, both)):
        found = [row[COPY], row[f"{COPY} low"], row[f"{COPY} high"]]
        assert found == pytest.approx([expected, *np.quantile(drawn, [0.025, 0.975])])
    # However uncertain both errors are, their ratio is known: the draws are paired.
    assert [family[f"model / ridge{end}"] for end in ("", " low", " high")] == pytest.approx([1 / 3] * 3)
    assert by_context.iloc[0]["19 rows"] == family[MODEL]
    # Of nine episodes no interval is given; a family of one environment has that one's name.
    assert (few.family, few.episodes, np.isnan(few[f"{COPY} low"])) == ("Few", 9, True)
    assert few[COPY] == pytest.approx(means["b/Few"])
    figure = study.charts(table, Look())["Error by rows of context"]
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["a (2)", "Few"]


def test_a_model_is_refused_where_it_has_seen_the_environment() -> None:
    rows = read_table()
    unseen = [row.environment for row in rows if row.role == UNSEEN]
    trained = trained_on(*(row.environment for row in rows if row.role == PRETRAIN))
    for identity in (trained, load_model(shipped_models()["trajworld-small"]).identity):
        assert all(check_unseen(identity, environment) for environment in unseen)
    warm = "gymnasium/Pendulum-v1?g=7.0"
    for saw, name in (("gymnasium/Hopper-v4?gravity=5.0", HOPPER), ("gymnasium/Pendulum-v1?g=7", warm)):
        with pytest.raises(TrajWorldError, match="is not unseen"):
            check_unseen(trained_on(saw), name)
    with pytest.raises(TrajWorldError, match=r"trained on gymnasium/Hopper-v5 alone"):
        check_unseen(Identity(training_support(np.zeros(6), np.ones(6)), HOPPER, 3, 2), "robot/snake-1000")


@pytest.mark.parametrize("first", [HOPPER, "d4rl/hopper-medium-v2"])
def test_a_run_records_what_its_initial_model_saw(tmp_path: Path, plain_steps: Any, first: str) -> None:
    init, data = tmp_path / "init.keras", store(tmp_path / "data")
    save_model(TrajWorld(SIZES, trained_on(first)), init)
    identity = start_run(tmp_path / "run", config_for("pretrain", [data], init=str(init))).model.identity
    unknown = [] if first == HOPPER else ["init.keras"]
    assert identity.history["environments"] == [first, *unknown, "test/data"]
    if first == HOPPER:
        with pytest.raises(TrajWorldError, match="saw gymnasium/Hopper-v5"):
            check_unseen(identity, HOPPER)
    else:
        assert not check_unseen(identity, HOPPER), "not known, so not refused"
    # A file of before the environments were recorded does not tell what its own initial model saw.
    older = trained_on("robot/snake-1", history={"init": {"file": "x.keras"}})
    assert not check_unseen(older, HOPPER)


@pytest.mark.slow
def test_the_command_collects_once_measures_and_reports(
    model_file: Path, tmp_path: Path, command: Any
) -> None:
    quick = ("--model", model_file, "--transitions", 900, "--windows", 30, "--store", tmp_path / "store")
    arguments = (*quick, "--only", "*g=2.0,*g=7.0", "--contexts", "1,19", "-o", tmp_path / "out")
    code, out, err = command(*RUN, *arguments, "--json")
    assert code == 0, err
    assert "2 of 2: collected 900 transitions of gymnasium/Pendulum-v1?g=7.0" in err
    family, environments, _ = json.loads(out)["tables"].values()
    assert [one["environment"] for one in environments] == ["Pendulum-v1?g=2.0", "Pendulum-v1?g=7.0"]
    assert {one["unseen"] for one in environments} == {"not known"}
    assert family[0]["model"] == pytest.approx(np.mean([one["model"] for one in environments]))
    assert read_report(tmp_path / "out")[3]["model"] == weights_digest(load_model(model_file))
    # Again: nothing is collected. A corpus can be named, if it is whole.
    assert "collected" not in command(*RUN, *arguments)[2]
    corpus = (*quick[:2], *quick[6:], "--corpus", "zero-shot-900", "--contexts", 2)
    code, _, err = command(*RUN, *corpus, "--only", "*g=2.0", "--unpadded", "-o", tmp_path / "other")
    assert code == 0, err
    assert " --unpadded`" in (tmp_path / "other" / "report.md").read_text().splitlines()[-1]
    code, _, err = command(*RUN, *corpus, "-o", tmp_path / "whole")
    assert code == 1
    assert "lacks 23 of 25 unseen datasets" in err


def test_mistakes_end_in_one_line_before_anything_is_collected(
    model_file: Path, tmp_path: Path, command: Any
) -> None:
    save_model(TrajWorld(SIZES, trained_on(HOPPER)), tmp_path / "saw.keras")
    seen = ("--model", tmp_path / "saw.keras", "--only", "gymnasium/Hopper*")
    for arguments, code, words in (
        (("--contexts", "1,20"), 2, "1 to 19 rows"),
        (("--corpus", "absent", "--transitions", 9), 2, "was collected already"),
        (("--windows", 0), 2, "must be at least 1"),
        (seen, 1, "saw gymnasium/Hopper-v5"),
    ):
        found, out, err = command(*RUN, "--model", model_file, *arguments, "-o", tmp_path / "out")
        assert (found, out, words in err, "Traceback" in err) == (code, "", True, False), (arguments, err)
    assert not list(datasets_folder().rglob("*.hdf5"))
