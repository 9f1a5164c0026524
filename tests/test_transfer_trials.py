"""A trial measures on its way what shorter runs would measure at their ends; the data it draws from."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from training_fixtures import config_for, plain_steps, store, weights_of
from transfer_fixtures import SETTINGS, study_data_in, study_plan

from trajworld.backend import active_backend
from trajworld.data.dataset import Dataset
from trajworld.data.minari_datasets import dataset_path
from trajworld.data.resolve import open_dataset
from trajworld.data.statistics import value_range
from trajworld.errors import TrajWorldError, UsageError
from trajworld.evaluation.brief import brief_errors
from trajworld.evaluation.prediction import prediction_errors
from trajworld.evaluation.ranges import Ranges
from trajworld.models.files import load_model
from trajworld.models.ranges import training_support
from trajworld.training.loop import Report, train
from trajworld.training.optimizer import learning_rate
from trajworld.training.run import start_run
from trajworld.transfer.data import EnvironmentData, returns_by_behaviour, study_data
from trajworld.transfer.plan import FINE_TUNED, FROM_SCRATCH, Trial
from trajworld.transfer.records import read_trial, trial_key, write_trial
from trajworld.transfer.trials import run_trial, trial_config
from trajworld.transfer.workers import available_cores

_ = plain_steps


@pytest.mark.usefixtures("plain_steps")
def test_the_loop_evaluates_where_it_is_asked_to(tmp_path: Path) -> None:
    """Against runs that end there; with a step that needs no compiler."""
    data = [store(tmp_path / "data")]
    schedule = {"evaluate_every": 100, "checkpoint_every": 100, "decay_steps": 10**9, "warmup_steps": 3}
    run = start_run(tmp_path / "long", config_for("train", data, steps=12, **schedule))
    seen: dict[int, tuple[Report, list[np.ndarray]]] = {}

    def look(report: Report) -> None:
        if report.holdout_loss is not None:
            seen[report.step] = report, run.model.get_weights()

    assert train(run, look, at=(4, 7)).finished
    assert sorted(seen) == [4, 7, 12]
    for steps, (report, weights) in seen.items():
        short = start_run(tmp_path / f"short-{steps}", config_for("train", data, steps=steps, **schedule))
        reports: list[Report] = []
        train(short, reports.append)
        assert reports[-1].holdout_loss == report.holdout_loss
        for one, other in zip(weights_of(tmp_path / f"short-{steps}" / "last.keras"), weights, strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.usefixtures("plain_steps")
def test_without_a_holdout_set_the_weights_are_there_all_the_same(tmp_path: Path) -> None:
    config = config_for("train", [store(tmp_path / "data")], steps=6, evaluate_every=6, holdout_fraction=0.0)
    run = start_run(tmp_path / "run", config)
    seen: list[float] = [float(np.abs(run.model.get_weights()[0]).sum())]

    def look(report: Report) -> None:
        if report.step in (2, 4):
            assert report.holdout_loss is None
            seen.append(float(np.abs(run.model.get_weights()[0]).sum()))

    train(run, look, at=(2, 4))
    assert len(set(seen)) == 3


def test_the_rate_is_constant_after_its_warm_up() -> None:
    trial = Trial(FROM_SCRATCH, "gymnasium/Hopper-v5", 1000, 3e-3, 1)
    config = trial_config(trial, replace(SETTINGS, steps=(0, 5000), warmup_steps=20))
    rates = [learning_rate(config, step) for step in range(5000)]
    assert rates[:20] == pytest.approx([3e-3 * step / 20 for step in range(20)])
    assert rates[20:] == pytest.approx([3e-3] * 4980, rel=1e-6)


@pytest.mark.slow
def test_errors_on_the_way_are_those_of_shorter_runs(tmp_path: Path) -> None:
    data = study_data_in(tmp_path)
    pool = data.pool.source or str(data.pool.path)
    scratch = Trial(FROM_SCRATCH, "test/pool", 40, 1e-2, 3)
    found = run_trial(scratch, SETTINGS, pool, data.test, None, tmp_path / "run")
    assert [point.step for point in found.points] == [0, 2, 5]
    assert found.points[0].holdout_loss is None
    assert found.origin.backend == active_backend().name
    assert {"keras", "trajworld"} < set(found.origin.versions)
    assert found.origin.cores == len(available_cores())
    for point in found.points[1:]:
        shorter = replace(SETTINGS, steps=(point.step,))
        run = start_run(tmp_path / f"run-{point.step}", trial_config(scratch, shorter, pool))
        reports: list[Report] = []
        train(run, reports.append)
        model = load_model(tmp_path / f"run-{point.step}" / "last.keras")
        part = run.parts[0]
        # The ranges are those of the data that it was trained on.
        support = training_support(*value_range(part.dataset, part.training))
        errors = prediction_errors(model, data.test, support=Ranges(support, ""), limit=20)
        ours, theirs = vars(point.errors), vars(brief_errors(errors))
        assert ours == pytest.approx(theirs, rel=1e-5)
        assert point.holdout_loss == pytest.approx(reports[-1].holdout_loss, rel=1e-5)
        assert found.training_transitions == part.transitions
        assert found.training_transitions + found.holdout_transitions <= 40

    # The other side begins with the weights that it is given, and has the same data.
    init = tmp_path / "run-5" / "last.keras"
    tuned = run_trial(replace(scratch, side=FINE_TUNED), SETTINGS, pool, data.test, init, tmp_path / "tuned")
    assert vars(tuned.points[0].errors) == pytest.approx(vars(found.points[-1].errors), rel=1e-5)
    assert tuned.training_transitions == found.training_transitions


@pytest.mark.slow
def test_a_run_that_diverges_is_a_result(tmp_path: Path) -> None:
    data = study_data_in(tmp_path)
    trial = Trial(FROM_SCRATCH, "test/pool", 40, 1e30, 0)
    found = run_trial(
        trial, SETTINGS, data.pool.source or str(data.pool.path), data.test, None, tmp_path / "run"
    )
    assert found.diverged in (2, 5)
    assert [point.step for point in found.points] == [
        step for step in SETTINGS.steps if step < found.diverged
    ]
    assert found.holdout_loss is None
    key = trial_key(trial, SETTINGS, "data", "")
    write_trial(tmp_path / "record.json", key, found)
    assert read_trial(tmp_path / "record.json", key) == found


PLAN = study_plan(environments=("gymnasium/InvertedPendulum-v5",), sizes=(100,), pool=300)


def folder_of(name: str) -> Path:
    return dataset_path(f"transfer/gymnasium-invertedpendulum-v5/{name}")


def metadata_of(name: str) -> Path:
    return folder_of(name) / "data" / "metadata.json"


def edit(name: str, old: str, new: str) -> None:
    text = metadata_of(name).read_text()
    assert old in text
    metadata_of(name).write_text(text.replace(old, new))


class TestData:
    def test_pool_and_test_set(self) -> None:
        said: list[str] = []
        (one,) = study_data(PLAN, 2, said.append)
        assert len(said) == 1
        assert "330 transitions collected" in said[0]
        assert one.pool.num_transitions + one.test.num_transitions == 330
        assert one.pool.num_transitions <= 300
        assert one.test.num_transitions >= 30
        assert one.pool.environment == one.test.environment == "gymnasium/InvertedPendulum-v5"
        assert sum(kind.transitions for kind in one.behaviours) == one.pool.num_transitions
        # Other episodes: no row of observations is in both.
        rows = [{row.tobytes() for row in np.asarray(part.rows)[:, :4]} for part in (one.pool, one.test)]
        assert not rows[0] & rows[1]
        # Again: what is there is used.
        (again,) = study_data(PLAN, 1, said.append)
        assert len(said) == 1
        assert again.digest == one.digest
        assert again.behaviours == one.behaviours

    @pytest.mark.parametrize("changed", ["pool-300-v0", "test-300-v0"])
    @pytest.mark.parametrize("alone", [False, True])
    def test_data_that_were_made_otherwise_are_refused(self, changed: str, alone: bool) -> None:
        study_data(PLAN, 1)
        names = ("pool-300-v0", "test-300-v0")
        edit(changed, '"search": 3750', '"search": 1')
        if alone:
            shutil.rmtree(folder_of(next(name for name in names if name != changed)))
        with pytest.raises(TrajWorldError, match="was made otherwise: remove") as raised:
            study_data(PLAN, 1)
        assert all(str(folder_of(name)) in str(raised.value) for name in names)
        assert folder_of(changed).exists()

    def test_a_pool_and_a_test_set_of_different_versions_are_refused(self) -> None:
        study_data(PLAN, 1)
        edit("test-300-v0", f'"numpy": "{np.__version__}"', '"numpy": "1.0"')
        message = rf"different versions \(numpy 1\.0 and {np.__version__}\).* remove .*test-300-v0 and .*pool-300-v0"
        with pytest.raises(TrajWorldError, match=message):
            study_data(PLAN, 1)

    @pytest.mark.parametrize("lost", ["pool-300-v0", "test-300-v0"])
    def test_both_are_made_again_where_one_is_missing(self, lost: str) -> None:
        (before,) = study_data(PLAN, 1)
        kept = next(name for name in ("pool-300-v0", "test-300-v0") if name != lost)
        # As if other versions had made them.
        edit(kept, f'"numpy": "{np.__version__}"', '"numpy": "1.0"')
        shutil.rmtree(folder_of(lost))
        said: list[str] = []
        (again,) = study_data(PLAN, 1, said.append)
        assert len(said) == 1
        assert again.digest == before.digest
        assert '"numpy": "1.0"' not in metadata_of(kept).read_text()

    def test_an_environment_that_is_not_there(self) -> None:
        with pytest.raises(UsageError):
            study_data(study_plan(environments=("gymnasium/NoSuch-v0",), pool=100), 1)

    def test_digest_is_of_the_contents(self, tmp_path: Path) -> None:
        one, same, other = (
            open_dataset(store(tmp_path / name, seed=seed)) for name, seed in (("a", 0), ("b", 0), ("c", 1))
        )

        def digest(pool: Dataset, test: Dataset) -> str:
            return EnvironmentData("test/pool", pool, test, ()).digest

        assert digest(one, other) == digest(same, other) != digest(one, one)
        assert digest(one, other) != digest(other, one)

    def test_returns_by_hand(self, make_episodes) -> None:  # type: ignore[no-untyped-def]
        episodes = make_episodes([3, 5, 2])
        found = returns_by_behaviour(episodes, ["gait", "policy", "gait"])
        assert [one.kind for one in found] == ["gait", "policy"]
        gait = found[0]
        total = float(episodes[0].rewards.sum() + episodes[2].rewards.sum())
        assert (gait.episodes, gait.transitions, gait.mean_length) == (2, 5, 2.5)
        assert gait.mean_return == pytest.approx(total / 2)
        assert gait.reward == pytest.approx(total / 5)
