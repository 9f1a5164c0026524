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
from training_fixtures import config_for, plain_steps, store

from trajworld.charts import Look
from trajworld.cli.main import main
from trajworld.collect.corpus_manifest import write_manifest
from trajworld.collect.corpus_table import PRETRAIN, UNSEEN, read_table
from trajworld.data.dataset import Dataset
from trajworld.data.minari_datasets import datasets_folder
from trajworld.data.statistics import variate_std
from trajworld.data.windows import gather_windows
from trajworld.errors import TrajWorldError
from trajworld.evaluation.contexts import halves_of
from trajworld.models.digest import weights_digest
from trajworld.models.files import load_model, save_model
from trajworld.models.identity import Identity
from trajworld.models.ranges import UNIT_SUPPORT, Support, training_support
from trajworld.models.seen import check_unseen
from trajworld.models.sizes import ModelSizes
from trajworld.models.trajworld import TrajWorld, Variates
from trajworld.studies.tasks_zero_shot import COPY, MODEL, PREDICTORS, RIDGE, predict_unseen
from trajworld.studies.zero_shot import ZeroShot
from trajworld.study.report import read_report
from trajworld.training.run import start_run
from trajworld.weights import shipped_models

__all__ = ["plain_steps"]

SIZES = ModelSizes(blocks=1, width=16, heads=2, variates=12)
CONTEXTS = [1, 6, 19]
HOPPER = "gymnasium/Hopper-v5"


@pytest.fixture
def dataset(memory_dataset: Callable[..., Dataset]) -> Dataset:
    return memory_dataset([30, 25, 28, 40, 5, 33])


@pytest.fixture
def model_file(tmp_path: Path) -> Path:
    keras.utils.set_random_seed(0)
    save_model(TrajWorld(SIZES), tmp_path / "model.keras")
    return tmp_path / "model.keras"


def episodes_of(dataset: Dataset, ends: np.ndarray) -> np.ndarray:
    return np.searchsorted(dataset.episode_offsets, ends, side="right") - 1


@pytest.mark.parametrize("windows", [7, 1000])
def test_windows_are_whole_and_of_other_episodes_than_the_ranges(dataset: Dataset, windows: int) -> None:
    halves = halves_of(dataset, 20, windows, 0)
    tested, other = (episodes_of(dataset, drawn.ends) for drawn in (halves.tested, halves.other))
    assert not {*tested} & {*other}
    for drawn, episode in ((halves.tested, tested), (halves.other, other)):
        assert 1 <= len(drawn) <= windows
        assert len(np.unique(drawn.ends)) == len(drawn)
        np.testing.assert_array_equal(dataset.episode_offsets[episode], drawn.first)
        assert np.all(gather_windows(dataset, drawn.ends, drawn.first, 20)[1] == 1)
        if windows == 1000:
            lengths = dataset.transitions_per_episode[np.unique(episode)]
            assert len(drawn) == sum(lengths - 18), "every row but an episode's first 19"


def test_ranges_do_not_know_the_tested_episodes(memory_dataset: Callable[..., Dataset]) -> None:
    dataset = memory_dataset([40] * 6)
    halves = halves_of(dataset, 20, 1000, 0)
    mine = np.isin(np.repeat(range(6), 41), episodes_of(dataset, halves.tested.ends))
    np.testing.assert_array_equal(halves.support.lower[:3], dataset.rows[~mine, :3].min(axis=0))
    np.testing.assert_array_equal(halves.support.upper[:3], dataset.rows[~mine, :3].max(axis=0))
    dataset.rows[mine] += 100
    moved = halves_of(dataset, 20, 1000, 0)
    np.testing.assert_array_equal(moved.support.upper, halves.support.upper)
    assert halves.outside < 0.1
    assert moved.outside == 1
    with pytest.raises(TrajWorldError, match="none of 2 episodes has the 20 rows"):
        halves_of(memory_dataset([18] * 4), 20, 10, 0)


@pytest.mark.parametrize("unpadded", [False, True])
def test_a_cell_equals_a_loop_over_windows(
    model_file: Path, dataset: Dataset, unpadded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trajworld.studies.tasks_zero_shot.open_dataset", lambda place: dataset)
    settings = {
        "contexts": CONTEXTS,
        "most_windows": 9,
        "unpadded": unpadded,
        "seed": 1,
        "init": {"digest": "a"},
    }
    found = pd.DataFrame(predict_unseen(settings, {"init": str(model_file), "data": "here"}))
    model, halves = load_model(model_file), halves_of(dataset, 20, 9, 1)
    variates = Variates(dataset.is_action, halves.support.lower, halves.support.upper)
    low, high = (end[:4].astype(float) for end in (halves.support.lower, halves.support.upper))
    std, centres = variate_std(dataset)[:4], (np.arange(256) + 0.5) / 256
    episode = episodes_of(dataset, halves.tested.ends)
    ends = halves.tested.ends
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
    by_variate = found[found.variate.notna() & (found.predictor == MODEL)]
    assert by_variate.variate.tolist() == ["observation 0", "observation 1", "observation 2", "reward"]
    np.testing.assert_allclose(by_variate.error, np.mean(errors[MODEL], axis=0), rtol=1e-3)
    np.testing.assert_allclose(by_variate.bin_error, (high - low) / 256 / 4 / std, rtol=1e-5)
    np.testing.assert_allclose(
        by_variate.change, np.mean(errors[COPY], axis=0) * std * 256 / (high - low), rtol=1e-4
    )
    assert found.outside.dropna().unique() == pytest.approx([halves.outside])


def made_table(episodes: dict[str, int], families: dict[str, str]) -> pd.DataFrame:
    """Rows as the cells give them, of errors that differ between episodes; the model's is a third of the ridge's."""
    generator, rows = np.random.default_rng(0), []
    for environment, count in episodes.items():
        about = {"environment": environment, "family": families[environment], "variates": 5, "unseen": "yes"}
        windows, level = (
            generator.integers(1, 9, count),
            generator.uniform(0.5, 2, (count, len(PREDICTORS), 2)),
        )
        level[:, PREDICTORS.index(MODEL), 1] = level[:, PREDICTORS.index(RIDGE), 1] / 3
        for (episode, place, at), error in np.ndenumerate(level):
            key = {"predictor": PREDICTORS[place], "context": (1, 19)[at], "episode": float(episode)}
            rows.append({**about, **key, "windows": windows[episode], "error": error})
        facts = {"variate": "reward", "bin_error": 0.2, "change": 3.0, "outside": 0.01}
        rows.append({**about, "predictor": MODEL, "context": 19, **facts})
    return pd.DataFrame(rows)


def test_tables_hold_means_with_paired_intervals_over_episodes() -> None:
    table = made_table(
        {"a/One": 12, "a/Two": 20, "b/Few": 9}, {"a/One": "both", "a/Two": "both", "b/Few": "few"}
    )
    study = ZeroShot(seed=5)
    by_family, by_environment, by_context = study.tables(table).values()
    means, replicates = {}, {}
    for environment, count in (("a/One", 12), ("a/Two", 20)):
        rows = table[(table.environment == environment) & table.episode.notna()]
        draws = np.random.default_rng([5, zlib.crc32(environment.encode())]).multinomial(
            count, np.full(count, 1 / count), size=1000
        )
        for key in ((COPY, 19), (RIDGE, 19), (MODEL, 19), (MODEL, 1)):
            part = rows[(rows.predictor == key[0]) & (rows.context == key[1])]
            means[environment, key] = np.average(part.error, weights=part.windows)
            drawn = [np.average(part.error, weights=part.windows * counts) for counts in draws]
            replicates[environment, key] = np.array(drawn)
    one = by_environment.iloc[0]
    assert (one.environment, one.M, one.episodes, one.outside) == ("One", 5, 12, 0.01)
    assert one[COPY] == pytest.approx(means["a/One", (COPY, 19)])
    ends = np.quantile(replicates["a/One", (COPY, 19)], [0.025, 0.975])
    assert [one[f"{COPY} low"], one[f"{COPY} high"]] == pytest.approx(ends.tolist())
    family = by_family.iloc[0]
    assert (family.family, family.environments, family.episodes) == ("both", 2, 12)
    assert family["model, 1 row"] == pytest.approx(
        (means["a/One", (MODEL, 1)] + means["a/Two", (MODEL, 1)]) / 2
    )
    both = (replicates["a/One", (COPY, 19)] + replicates["a/Two", (COPY, 19)]) / 2
    assert family[f"{COPY} high"] == pytest.approx(np.quantile(both, 0.975))
    # However uncertain both errors are, their ratio is known: the draws are paired.
    ratio = [family[f"model / ridge{end}"] for end in ("", " low", " high")]
    assert ratio == pytest.approx([1 / 3] * 3)
    assert by_context.iloc[0]["19 rows"] == family[MODEL]
    # Of nine episodes no interval is given; a family of one environment has that one's name.
    few = by_family.iloc[1]
    assert (few.family, few.episodes, np.isnan(few[f"{COPY} low"])) == ("Few", 9, True)
    figure = study.charts(table, Look())["Error by rows of context"]
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["both (mean of 2)", "Few"]


def test_a_model_is_refused_where_it_has_seen_the_environment() -> None:
    rows = read_table()
    unseen = [row.environment for row in rows if row.role == UNSEEN]
    trained = Identity(sources={row.environment: UNIT_SUPPORT for row in rows if row.role == PRETRAIN})
    for identity in (trained, load_model(shipped_models()["trajworld-small"]).identity):
        assert all(check_unseen(identity, environment) for environment in unseen)
    for saw, environment in (
        ("gymnasium/Hopper-v4?gravity=5.0", HOPPER),
        ("gymnasium/Pendulum-v1?g=7", "gymnasium/Pendulum-v1?g=7.0"),
    ):
        with pytest.raises(TrajWorldError, match="is not unseen"):
            check_unseen(Identity(sources={saw: UNIT_SUPPORT}), environment)
    with pytest.raises(TrajWorldError, match=r"trained on gymnasium/Hopper-v5 alone"):
        check_unseen(Identity(training_support(np.zeros(6), np.ones(6)), HOPPER, 3, 2), "robot/snake-1000")


@pytest.mark.parametrize(
    ("first", "seen"),
    [
        (HOPPER, [HOPPER, "test/data"]),
        ("", ["init.keras", "test/data"]),
        ("d4rl/hopper-medium-v2", ["d4rl/hopper-medium-v2", "init.keras", "test/data"]),
    ],
)
def test_a_run_records_what_the_model_it_starts_from_saw(
    tmp_path: Path, plain_steps: Any, first: str, seen: list[str]
) -> None:
    sources = {first: UNIT_SUPPORT} if first else {}
    init, data = tmp_path / "init.keras", store(tmp_path / "data")
    save_model(TrajWorld(ModelSizes(1, 8, 2, window=4, bins=16), Identity(sources=sources)), init)
    identity = start_run(tmp_path / "run", config_for("pretrain", [data], init=str(init))).model.identity
    assert identity.history["environments"] == seen
    if first == HOPPER:
        with pytest.raises(TrajWorldError, match="saw gymnasium/Hopper-v5"):
            check_unseen(identity, HOPPER)
    else:
        assert not check_unseen(identity, HOPPER), "not known, so not refused"
    # A file of before the environments were recorded does not tell what its own initial model saw.
    older = Identity(sources={"robot/snake-1": UNIT_SUPPORT}, history={"init": {"file": "x.keras"}})
    assert not check_unseen(older, HOPPER)


def command(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    capsys.readouterr()
    try:
        code = main(["study", "run", "zero-shot", *map(str, arguments), "--workers", "1"])
    except SystemExit as end:
        code = end.code
    return code or 0, *capsys.readouterr()


@pytest.mark.slow
def test_the_command_collects_once_measures_and_reports(
    model_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quick = ("--model", model_file, "--transitions", 900, "--windows", 30, "--store", tmp_path / "store")
    arguments = (*quick, "--only", "*g=2.0,*g=7.0", "--contexts", "1,19", "-o", tmp_path / "out")
    code, out, err = command(capsys, *arguments, "--json")
    assert code == 0, err
    assert "2 of 2: collected 900 transitions of gymnasium/Pendulum-v1?g=7.0" in err
    family, environments, _ = json.loads(out)["tables"].values()
    assert [one["environment"] for one in environments] == ["Pendulum-v1?g=2.0", "Pendulum-v1?g=7.0"]
    assert {one["unseen"] for one in environments} == {"not known"}
    assert family[0]["model"] == pytest.approx(np.mean([one["model"] for one in environments]))
    name, options, table, origin, _ = read_report(tmp_path / "out")
    assert (name, options["windows"], table.context.nunique()) == ("zero-shot", 30, 2)
    assert origin["model"] == weights_digest(load_model(model_file))
    # Again: nothing is collected. A corpus can be named, if it is whole.
    code, out, err = command(capsys, *arguments)
    assert (code, "collected" in err) == (0, False)
    corpus = (
        "--model",
        model_file,
        "--corpus",
        "zero-shot-900",
        "--contexts",
        2,
        "--store",
        tmp_path / "store",
    )
    code, _, err = command(capsys, *corpus, "--only", "*g=2.0", "--unpadded", "-o", tmp_path / "other")
    assert code == 0, err
    assert " --unpadded`" in (tmp_path / "other" / "report.md").read_text().splitlines()[-1]
    code, _, err = command(capsys, *corpus, "-o", tmp_path / "whole")
    assert code == 1
    assert "lacks 17 of 19 unseen datasets" in err


def test_mistakes_end_in_one_line_before_anything_is_collected(
    model_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_manifest("seen", [row for row in read_table() if row.role == PRETRAIN], {})
    sources = {HOPPER: Support(np.zeros(15, np.float32), np.ones(15, np.float32))}
    save_model(TrajWorld(SIZES, Identity(sources=sources)), tmp_path / "saw.keras")
    for arguments, code, words in (
        (("--contexts", "1,20"), 2, "1 to 19 rows"),
        (("--only", "no/such*"), 2, "'no/such*' fits no unseen environment"),
        (("--corpus", "seen"), 1, "the corpus seen has no unseen environments"),
        (("--corpus", "seen", "--transitions", 9), 2, "was collected already"),
        (("--windows", 0), 2, "must be at least 1"),
        (("--model", tmp_path / "saw.keras", "--only", "gymnasium/Hopper*"), 1, "saw gymnasium/Hopper-v5"),
    ):
        found, out, err = command(capsys, "--model", model_file, *arguments, "-o", tmp_path / "out")
        assert (found, out, words in err, "Traceback" in err) == (code, "", True, False), (arguments, err)
    assert not list(datasets_folder().rglob("*.hdf5"))
