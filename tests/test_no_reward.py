"""Logs without rewards: trained, measured and rolled out on the observations alone; what to look at in a dataset."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tank import tank
from training_fixtures import SIZES
from training_fixtures import store as rewarded_store

import trajworld as tw
from trajworld.data.batch import Batch, variates_of
from trajworld.data.checks import variate_checks
from trajworld.data.dataset import Dataset
from trajworld.data.episode import Episode, no_rewards
from trajworld.data.resolve import open_dataset
from trajworld.data.statistics import value_range
from trajworld.data.store import open_store, write_store
from trajworld.errors import TrajWorldError
from trajworld.evaluation.fitted_ridge import ridge_errors
from trajworld.evaluation.one_step import copy_last_row_errors
from trajworld.models.identity import Identity
from trajworld.models.outside import share_outside
from trajworld.models.ranges import training_support
from trajworld.models.sizes import TrajWorldSizes
from trajworld.models.trajworld import TrajWorld

NAMES = {"name": "log", "source": "", "environment": "test/log"}


def episodes(seed: int = 0, lengths: tuple[int, ...] = (9, 7, 8, 9, 6, 9)) -> list[Episode]:
    """Second-order linear systems: the last two rows say what follows."""
    rng, found = np.random.default_rng(seed), []
    for length in lengths:
        actions, states = rng.uniform(-1, 1, (length, 1)), [rng.normal(size=2), rng.normal(size=2)]
        for action in actions[:-1]:
            states.append(1.5 * states[-1] - 0.7 * states[-2] + 0.3 * action)
        found.append(Episode(np.array(states), actions, no_rewards(length)))
    return found


@pytest.fixture
def log(tmp_path: Path) -> Dataset:
    return write_store(tmp_path / "log", episodes(), **NAMES)


def test_nothing_depends_on_the_column_of_the_reward(log: Dataset) -> None:
    assert (log.reward, log.num_predicted, log.mask.tolist()) == (False, 2, [1, 1, 0, 1])
    # As a plain copy of the folder leaves it: the arrays are newer than what describes them.
    (log.path / "rows.npy").touch()
    assert open_store(log.path).content == log.content
    sizes = TrajWorldSizes(**SIZES, variates=8)
    support = training_support(*value_range(log))
    model = TrajWorld(sizes, Identity(support, "test/log", 2, 1, reward=False))
    rows = np.array(log.rows[:8]).reshape(2, 4, 4)
    junk = rows.copy()
    junk[:, :, 2] = [[5, -5, 5, 5], [1, 2, 3, 4]]
    variates, ones = variates_of(log, support.lower, support.upper), np.ones((2, 4), np.float32)
    losses, answers = [], []
    for values in (rows, junk):
        losses.append([float(part) for part in model.loss_sums(Batch(values, ones, variates))])
        mean, std = tw.predict(model, values)
        assert np.isnan(mean[:, 2]).all()
        assert np.isnan(std[:, 2]).all()
        future = tw.rollout(model, values, np.zeros((2, 7, 1)))
        assert np.isnan(future.rewards).all()
        answers.append([mean[:, :2], std[:, :2], future.observations, future.observation_std])
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    for one, other in zip(*answers, strict=True):
        assert np.isfinite(one).all()
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    # With a reward, the same junk would have told.
    told = [float(model.loss_sums(Batch(v, ones, variates._replace(mask=None)))[0]) for v in (rows, junk)]
    assert told[0] != pytest.approx(told[1], rel=1e-3)


@pytest.mark.once
def test_a_log_is_trained_and_measured_on_its_observations(
    tmp_path: Path, log: Dataset, command: Any
) -> None:
    sizes = [f"--{name}={value}" for name, value in SIZES.items()]
    given = ("--steps", 4, "--batch-size", 4, "-o", tmp_path / "run")
    assert command("train", log.path, *sizes, *given)[0] == 0
    assert json.loads((tmp_path / "run" / "run.json").read_text())["datasets"][0]["reward"] is False
    model = tmp_path / "run" / "best.keras"
    arguments = ("evaluate", model, log.path, "--horizon", 4, "--ridge", log.path)
    code, out, _ = command(*arguments, "-o", tmp_path / "out")
    assert code == 0
    assert "No reward is recorded" in out
    assert "ridge of 3 rows" in out
    found = json.loads((tmp_path / "out" / "results.json").read_text())["datasets"][0]
    assert [one["name"] for one in found["prediction"]["variates"]] == ["observation 0", "observation 1"]
    assert found["prediction"]["reward"] is False
    assert found["prediction"]["mae"]["observation"] == found["prediction"]["mae"]["predicted"]
    assert len(found["ridges"]) == 2
    table = tw.evaluate(tw.load(model), log)
    assert list(table.index) == ["observation 0", "observation 1", "observations", "all"]
    code, out, _ = command("data", "inspect", log.path, "--model", model, "-o", tmp_path / "log.png")
    assert code == 0
    assert "not recorded" in out
    assert "episode return" not in out
    code, _, err = command("evaluate", model, rewarded_store(tmp_path / "paid"), "--horizon", 0)
    assert code == 1
    assert "trained without rewards" in err


@pytest.mark.once
def test_missing_rewards_go_through_minari_and_do_not_mix(tmp_path: Path, command: Any) -> None:
    rows = [f"{i},{i % 3},{i // 5}" for i in range(15)]
    (tmp_path / "log.csv").write_text("\n".join(["a,u,run", *rows]))
    (tmp_path / "log.toml").write_text('observation = ["a"]\naction = ["u"]\nepisode = "run"\n')
    assert command("data", "import", tmp_path / "log.csv", "--id", "log-v0", "--test", 0.4)[0] == 0
    kept, other = open_dataset("log-v0"), open_dataset("log-test-v0")
    assert (kept.reward, kept.rows[:, 0].tolist()) == (False, [*range(10)])
    # Variates keep the names of their columns, in whatever is said of them.
    assert kept.names == other.names == open_dataset(tmp_path / "log.csv").names == ("a", "u")
    assert [*variate_checks(kept)] == ["a", "u"]
    assert [*tw.evaluate(tw.load("trajworld-small"), kept, windows=4).index] == ["a", "observations", "all"]
    assert (other.reward, other.rows[:, 0].tolist()) == (False, [10, 11, 12, 13, 14])
    notes = other.account.notes if other.account else {}
    assert notes["on import, left out: they are the dataset log-v0"] == 8
    assert command("data", "import", tmp_path / "log.csv", "--id", "log-v0", "--test", 0.4)[0] == 1
    paid = dataclasses.replace(episodes()[0], rewards=np.zeros(9))
    with pytest.raises(TrajWorldError, match="in every step of some episodes only"):
        write_store(tmp_path / "mixed", [*episodes(), paid], **NAMES)
    assert not (tmp_path / "mixed").exists()


def test_fitted_ridges_find_a_linear_system(tmp_path: Path, log: Dataset) -> None:
    train = write_store(tmp_path / "train", episodes(1, (40,) * 10), **NAMES)
    test = write_store(tmp_path / "test", episodes(2, (40,) * 3), **NAMES)
    one, every = ridge_errors(test, train, 4)
    copy = copy_last_row_errors(test, window=4)
    # Two rows determine what follows, one does not; the first step of an episode is never determined.
    errors = [each.table["all"]["mae"] or 0 for each in (every, one, copy)]
    assert errors[0] < 0.2 * errors[1] < 0.2 * errors[2]
    with pytest.raises(TrajWorldError, match="differ in their observations"):
        ridge_errors(test, open_dataset(rewarded_store(tmp_path / "paid")), 4)


@pytest.mark.once
def test_checks_count_real_values_inside_episodes(tmp_path: Path) -> None:
    rng, made = np.random.default_rng(0), []
    for _ in range(3):
        noise = rng.normal(size=101)
        seen = np.stack([noise.clip(-9, 1), np.round(noise), np.repeat(noise, 4)[:101], np.ones(101)], axis=1)
        made.append(Episode(seen.astype(np.float32), rng.uniform(0.5, 1, (100, 1)), rng.normal(size=100)))
    dataset = write_store(tmp_path / "made", made, **NAMES)
    checks = variate_checks(dataset)
    for place in range(4):
        column = [episode.observations[:, place] for episode in made]
        every, found = np.concatenate(column), checks[f"observation {place}"]
        still = np.concatenate([np.diff(values) == 0 for values in column]).mean()
        ends = [(every == end).mean() for end in (every.min(), every.max())]
        assert found["distinct"] == len(set(every.tolist()))
        assert [found[name] for name in ("unchanged", "at_minimum", "at_maximum")] == pytest.approx(
            [still, *ends]
        )
    words = [one["look_at"] for one in checks.values()]
    assert words[3:] == ["constant", "", ""]
    assert words[0].endswith("% at its maximum")
    assert words[1].endswith(" values")
    assert words[2].startswith("unchanged in 7")
    # A model that knows the lower half of the first variate alone.
    lower, upper = value_range(dataset)
    upper = np.where(np.arange(6) == 0, 0.0, upper).astype(np.float32)
    outside = share_outside(Identity(training_support(lower, upper), "test/log", 4, 1), dataset)
    share = np.concatenate([episode.observations[:, 0] > 1e-5 for episode in made]).mean()
    assert outside["rows"] == outside["variates"]["observation 0"] == pytest.approx(share)
    assert sum(outside["variates"].values()) == outside["rows"]
    assert share_outside(Identity(), dataset) == {"range": "", "rows": 1.0, "variates": {}}


@pytest.mark.once
@pytest.mark.slow
def test_three_commands_from_a_log_to_a_fine_tuned_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Any
) -> None:
    """Those of the README, smaller: the error is below copying and below a regression on the last row."""
    monkeypatch.chdir(tmp_path)
    tank(6000).to_csv("tank.csv", index=False)
    assert command("data", "columns", "tank.csv")[0] == 0
    three = (
        "data import tank.csv --id mine/tank-v0 --test 0.2",
        "train mine/tank-v0 --init trajworld-small --steps 80 --batch-size 8 -o runs/tank",
        "evaluate runs/tank/best.keras mine/tank-test-v0 --ridge mine/tank-v0 --windows 200 -o evaluation",
    )
    for words in three:
        code, _, err = command(*words.split())
        assert code == 0, err
    assert {path.suffix for path in Path("evaluation").iterdir()} == {".json", ".png"}
    found = json.loads(Path("evaluation", "results.json").read_text())["datasets"][0]
    sides = (found["prediction"], found["copy_last_row"], found["ridges"][0])
    errors = [side["normalised_mae"]["observation"] for side in sides]
    assert errors[0] < 0.7 * min(errors[1:])
