"""The library from Python: its docstrings' examples run, it agrees with the command line, mistakes are one line."""

import doctest
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from training_fixtures import store

import trajworld as tw
from trajworld import api
from trajworld.cli.main import main
from trajworld.data.dataset import Dataset
from trajworld.data.windows import gather_windows
from trajworld.errors import TrajWorldError, UsageError
from trajworld.models.identity import Identity
from trajworld.models.interface import kind_of, new_model
from trajworld.models.ranges import Support
from trajworld.training.config import resolve_config
from trajworld.training.record import read_metrics
from trajworld.training.run import resume_run

FRAMEWORKS = {"keras", "jax", "tensorflow", "torch", "pandas", "matplotlib", "scipy"}
SIZES = {"blocks": 1, "width": 16, "heads": 2, "window": 8, "bins": 32}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a dataset of six episodes, of 3 observation and 2 action variates."""
    path = tmp_path_factory.mktemp("work")
    store(path / "data", (29, 14, 24, 19, 17, 11), observations=3, actions=2)
    return path


@pytest.fixture
def data(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Dataset:
    monkeypatch.chdir(folder)
    return tw.open_dataset("data")


@pytest.fixture(scope="module")
def tuned(folder: Path) -> Any:
    """A model of that dataset, trained by the command line."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRAJWORLD_HOME", str(folder / "home"))
        data = tw.open_dataset(folder / "data")
        return tw.train(data, preset="tiny", steps=30, model=SIZES, run=folder / "tuned")


@pytest.mark.once
def test_a_source_is_trained_on_as_the_command_line_does(tmp_path: Path, data: Dataset) -> None:
    """By its name: what a source says of itself, as UniTraj does of sampling and ranges, is not in the store."""
    given: dict[str, Any] = {"preset": "tiny", "steps": 1, "model": SIZES}
    for number, named in enumerate((data, data.path, "data")):
        run = tmp_path / str(number)
        tw.train(named, run=run, **given)
        spec = resolve_config("train", file=run / "config.toml").datasets[0].spec
        assert spec == str(data.path.absolute())
    folder = tmp_path / "db1" / "walker"
    folder.mkdir(parents=True)
    row = {"observation": np.ones((9, 3)), "action": np.zeros((9, 2)), "reward": np.zeros((9, 1))}
    for number in range(4):
        np.savez(folder / f"episode_{number}.npz", **row)
    tw.train([tmp_path], run=tmp_path / "unitraj", **given)
    assert resume_run(tmp_path / "unitraj")[0].parts[0].sampling == "episode"


def history(data: Dataset, rows: int = 7) -> np.ndarray:
    return np.stack([data.rows[4 : 4 + rows], data.rows[40 : 40 + rows]])


@pytest.mark.once
def test_importing_the_package_imports_no_framework() -> None:
    code = "import sys, trajworld as tw; tw.__version__; dir(tw); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert not FRAMEWORKS & {name.split(".")[0] for name in done.stdout.split()}
    assert set(api.__all__) < set(dir(tw))
    assert all(getattr(tw, name) is getattr(api, name) for name in api.__all__)
    with pytest.raises(AttributeError, match="no attribute 'tain'"):
        _ = tw.tain


@pytest.mark.once
@pytest.mark.slow
def test_the_examples_run(data: Dataset, tuned: Any) -> None:
    rng = np.random.default_rng(0)
    given = {"tw": tw, "data": data, "tuned": tuned, "history": history(data)}
    given["actions"] = rng.uniform(-1, 1, (2, 5, 2)).astype(np.float32)
    bounds = -np.ones(2, np.float32), np.ones(2, np.float32)
    given |= {"np": np, "observation": data.rows[0, :-3], "low": bounds[0], "high": bounds[1]}
    found = doctest.DocTestFinder().find(api, "trajworld.api", globs=given)
    # A model of the shipped sizes is trained for two steps; the others are given what the test made.
    runner = doctest.DocTestRunner()
    results = [runner.run(one, clear_globs=False) for one in found if one.examples]
    assert [result.failed for result in results] == [0] * 5
    assert Path("runs/fresh/last.keras").is_file()


def test_training_gives_the_best_model_and_keeps_a_run_where_one_is_named(folder: Path, tuned: Any) -> None:
    rows = read_metrics(folder / "tuned")
    assert rows[-1]["loss"] < rows[0]["loss"] - 0.2, "it learns"
    evaluated = [row for row in rows if "holdout_loss" in row]
    assert tuned.identity.steps == min(evaluated, key=lambda row: row["holdout_loss"])["step"]
    with pytest.raises(UsageError, match="exists already"):
        tw.train(folder / "data", run=folder / "tuned", steps=1)


@pytest.mark.once
def test_a_home_folder_is_understood(
    tmp_path: Path, data: Dataset, tuned: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    tw.save(tuned, "~/tuned.keras")
    settings: dict[str, Any] = {"preset": "tiny", "model": SIZES, "steps": 1, "learning_rate": 1}
    tw.train(data, run="~/run", **settings)
    assert {path.name for path in tmp_path.glob("[!.]*")} == {"tuned.keras", "run"}
    assert tw.load("~/tuned.keras").identity.history == tuned.identity.history


@pytest.mark.once
def test_several_datasets_are_pretrained_on(data: Dataset, make_store: Any) -> None:
    other = make_store([12, 9, 8], observations=2)
    model = tw.train([data, other], preset="tiny", model=SIZES, steps=2, holdout_fraction=0.0)
    assert model.identity.support.shared
    assert len(model.identity.sources) == 2
    with pytest.raises(UsageError, match="name a dataset of their environment"):
        tw.predict(model, history(data))
    own = tw.predict(model, history(data), ranges=data)
    assert np.isfinite(own).all()
    # The range of an environment that pre-training saw is the model's own.
    support = next(one.support for one in model.identity.sources if one.content == data.content)
    assert np.all((own[0] >= support.lower[:4]) & (own[0] <= support.upper[:4]))


def test_predictions_of_arrays_and_episodes_are_the_same(data: Dataset, tuned: Any) -> None:
    mean, std = tw.predict(tuned, data, episode=1)
    assert mean.shape == std.shape == (14, 4)
    for row in (1, 4, 12):
        one, deviation = tw.predict(tuned, data.rows[None, 30 : 30 + row])
        np.testing.assert_allclose(one[0], mean[row - 1], atol=1e-5)
        np.testing.assert_allclose(deviation[0], std[row - 1], atol=1e-5)
    # As the model itself says of the same windows.
    values, mask = gather_windows(data, np.arange(31, 45), np.full(14, 30), 8)
    from trajworld.evaluation.one_step import model_predictor
    from trajworld.evaluation.ranges import support_for

    expected = model_predictor(tuned, data, support_for(tuned, data).support)(values, mask).mean
    np.testing.assert_allclose(mean, expected, atol=1e-5)
    longer = history(data, 20)
    np.testing.assert_array_equal(tw.predict(tuned, longer)[0], tw.predict(tuned, longer[:, -7:])[0])


def test_a_rollout_begins_with_the_prediction_and_feeds_it_back(data: Dataset, tuned: Any) -> None:
    rows, actions = history(data), np.stack([data.rows[10:23, 4:], data.rows[46:59, 4:]])
    future = tw.rollout(tuned, rows, actions)
    assert future.observations.shape == future.observation_std.shape == (2, 13, 3)
    assert future.rewards.shape == future.reward_std.shape == (2, 13)
    for begin, step in ((0, 0), (1, 7)):
        again = tw.rollout(tuned, rows, actions[:, : step + 1])
        np.testing.assert_allclose(
            again.observations[:, begin:], future.observations[:, begin : step + 1], atol=1e-5
        )
    assert np.abs(tw.rollout(tuned, rows, actions, seed=1).rewards - future.rewards).max() > 1e-3


@pytest.mark.once
def test_a_system_without_actions_is_rolled_out() -> None:
    identity = Identity(Support(np.zeros(4, np.float32), np.ones(4, np.float32)), "test/x", 3, 0)
    model = new_model(kind_of("trajworld").preset("tiny"), identity)
    future = tw.rollout(model, np.full((2, 4, 4), 0.5), np.zeros((2, 5, 0)))
    assert (future.observations.shape, future.actions.shape) == ((2, 5, 3), (2, 5, 0))


def test_an_evaluation_says_what_the_command_line_says(
    data: Dataset, tuned: Any, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tw.evaluate(str(folder / "tuned" / "best.keras"), data, windows=40, seed=3)
    assert list(table.index) == [f"observation {n}" for n in range(3)] + ["reward", "observations", "all"]
    words = ["--windows", "40", "--seed", "3", "--horizon", "0", "--json"]
    assert main(["evaluate", str(folder / "tuned" / "best.keras"), "data", *words]) == 0
    (found,) = json.loads(capsys.readouterr().out)["datasets"]
    for side, prefix in (("prediction", ""), ("copy_last_row", "copy_")):
        for metric in ("mae", "mse", "normalised_mae", "normalised_mse", "nll")[: None if not prefix else -1]:
            expected = [found[side][metric][group] for group in ("observation", "predicted")]
            assert list(table.loc[["observations", "all"], prefix + metric]) == pytest.approx(expected)
    assert table.loc["all", "mae"] == pytest.approx(table["mae"][:4].mean())
    np.testing.assert_allclose(table["normalised_mae"][:4], table["mae"][:4] / table["std"][:4])


def test_mistakes_are_one_line(data: Dataset, tuned: Any, make_store: Any) -> None:
    rows, other, actions = history(data), make_store([12], observations=4), np.zeros((2, 3, 2))
    for wrong, message in (
        (rows[0], r"history of shape \(7, 6\) must have 3 axes"),
        (rows[:, :0], "none of them empty"),
        (rows * np.nan, "history holds NaN or infinite values"),
        (rows[..., :5], "rows of 5 variates do not fit"),
        ([["a"]], "history must be an array of numbers"),
    ):
        for given in ((tw.predict, tuned, wrong), (tw.rollout, tuned, wrong, actions)):
            refused(message, *given)
    for message, *given in (
        (r"must be \[B, h, 2\]", tw.rollout, tuned, rows, actions[..., :1]),
        ("must be", tw.rollout, tuned, rows, actions[:1]),
        ("none.keras does not exist", tw.predict, Path("none.keras"), rows),
        ("actions holds NaN or infinite", tw.rollout, tuned, rows, actions + np.inf),
        ("names no dataset", tw.evaluate, tuned, "nowhere"),
        ("use a model of that environment", tw.evaluate, tuned, other),
    ):
        refused(message, *given)
    refused("episodes 0 to 5, not 6", tw.predict, tuned, data, episode=6)
    refused("did you mean batch_size", tw.train, data, batchsize=3)
    refused("no kind of model is called 'tmd'", tw.train, data, model="tmd")
    for name, value in (("windows", 2.5), ("seed", -1)):
        refused(f"{name} must be a whole number", tw.evaluate, tuned, data, **{name: value})
    refused("at least 1 window", tw.evaluate, tuned, data, windows=0)
    refused("seed must be a whole number", tw.rollout, tuned, rows, actions, seed=-1)
    refused("episode must be a whole number", tw.predict, tuned, data, episode=1.5)
    refused("use a model of that environment", tw.predict, tuned, rows, ranges=other)
    refused("no setting of planning is called 'horizn'", tw.planner, tuned, data, horizn=3)
    refused("no method is called 'magic'", tw.planner, tuned, data, method="magic")


def refused(message: str, function: Any, *given: Any, **options: Any) -> None:
    with pytest.raises(TrajWorldError, match=message) as caught:
        function(*given, **options)
    assert "\n" not in str(caught.value)
