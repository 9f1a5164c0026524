"""A study's records and its order: what is run, what is skipped, which rate is chosen, and how it ends."""

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transfer_fixtures import SETTINGS, SIZES, made_up_trial, study_data_in, study_plan

from trajworld.errors import TrajWorldError, UsageError
from trajworld.files import file_digest
from trajworld.models.files import load_model, save_model
from trajworld.models.identity import Identity
from trajworld.models.trajworld import TrajWorld
from trajworld.transfer import workers as workers_module
from trajworld.transfer.plan import (
    ENVIRONMENTS,
    FINE_TUNED,
    FROM_SCRATCH,
    Trial,
    default_pool,
    environment_names,
)
from trajworld.transfer.records import (
    PretrainedModel,
    pretrained_model,
    read_trial,
    remove_trials,
    trial_key,
    trial_path,
    write_trial,
)
from trajworld.transfer.report import write_results
from trajworld.transfer.results import results_of
from trajworld.transfer.study import RECORDS, Group, Progress, Study
from trajworld.transfer.trials import Origin, TrialResult
from trajworld.transfer.workers import Task, available_cores, core_shares, run_tasks

TRIAL = Trial(FROM_SCRATCH, "gymnasium/Hopper-v5", 1000, 1e-3, 0)


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[Task]:
    """Replace training by a formula; the tasks that were run."""
    tasks: list[Task] = []

    def run(task: Task, folder: Path) -> TrialResult:
        tasks.append(task)
        trial = task.trial
        value = 1 / trial.transitions + trial.seed / 1000 + (0 if task.init else 1)
        # The lower rate is better from scratch, the higher one from a model.
        return made_up_trial(value, loss=trial.learning_rate * (-1 if task.init else 1))

    monkeypatch.setattr(workers_module, "run_task", run)
    return tasks


def model_in(folder: Path, digest: str = "a" * 16) -> PretrainedModel:
    return PretrainedModel(folder / "model.keras", "model", digest, SIZES, ("test/pool",))


class TestPlans:
    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"environments": ()}, "at least one environment"),
            ({"environments": ("a", "a")}, "named twice"),
            ({"sizes": (40, 20)}, "sizes must ascend"),
            ({"sizes": ()}, "sizes must ascend"),
            ({"sizes": (0,)}, "sizes must ascend"),
            ({"pool": 30}, "30 transitions collected cannot give 40"),
            ({"learning_rates": ()}, "at least one learning rate"),
            ({"learning_rates": (1e-3, 1e-3)}, "each once"),
            ({"learning_rates": (-1.0,)}, "must be above 0"),
            ({"seeds": 0}, "at least 1 seed"),
        ],
    )
    def test_bad_plans(self, changes: dict[str, Any], message: str) -> None:
        with pytest.raises(UsageError, match=message):
            study_plan(**changes)

    @pytest.mark.parametrize(
        "changes",
        [
            {"steps": ()},
            {"steps": (5, 2)},
            {"steps": (0,)},
            {"steps": (-1, 2)},
            {"batch_size": 0},
            {"warmup_steps": -1},
        ],
    )
    def test_bad_settings(self, changes: dict[str, Any]) -> None:
        with pytest.raises(UsageError):
            replace(SETTINGS, **changes)

    def test_names_and_pool(self) -> None:
        assert environment_names(()) == ENVIRONMENTS
        assert environment_names(("Hopper-v5",)) == ("gymnasium/Hopper-v5",)
        assert default_pool((1000, 64_000)) == 80_000
        assert default_pool((100_000,)) == 125_000


class TestRecords:
    def test_a_record_is_found_again(self, tmp_path: Path) -> None:
        key = trial_key(TRIAL, SETTINGS, "data", "model")
        path = trial_path(tmp_path, key)
        assert path.parent.name == "gymnasium-hopper-v5"
        assert path.name.startswith("from-scratch-1000-0.001-seed0-")
        assert read_trial(path, key) is None
        write_trial(path, key, made_up_trial(0.1))
        assert read_trial(path, key) == made_up_trial(0.1)

    def test_a_record_says_what_ran_it(self, tmp_path: Path) -> None:
        key = trial_key(TRIAL, SETTINGS, "data", "model")
        origin = Origin("jax", {"keras": "3.12", "jax": "0.8"}, 2)
        write_trial(tmp_path / "one.json", key, replace(made_up_trial(0.1), origin=origin))
        record = json.loads((tmp_path / "one.json").read_text())
        assert (record["backend"], record["versions"], record["cores"]) == ("jax", origin.versions, 2)
        found = read_trial(tmp_path / "one.json", key)
        assert found is not None
        assert found.origin == origin

    def test_records_of_earlier_versions_are_read(self, tmp_path: Path) -> None:
        """They say nothing of cores, nor of divergence."""
        key = trial_key(TRIAL, SETTINGS, "data", "model")
        write_trial(tmp_path / "one.json", key, made_up_trial(0.1))
        record = json.loads((tmp_path / "one.json").read_text())
        del record["cores"], record["result"]["diverged"]
        (tmp_path / "one.json").write_text(
            json.dumps({**record, "backend": "jax", "versions": {"jax": "0.8"}})
        )
        found = read_trial(tmp_path / "one.json", key)
        assert found == replace(made_up_trial(0.1), origin=Origin("jax", {"jax": "0.8"}))

    def test_only_the_fine_tuned_side_depends_on_the_model(self) -> None:
        tuned = replace(TRIAL, side=FINE_TUNED)
        assert trial_key(TRIAL, SETTINGS, "data", "one") == trial_key(TRIAL, SETTINGS, "data", "other")
        assert trial_key(tuned, SETTINGS, "data", "one") != trial_key(tuned, SETTINGS, "data", "other")

    @pytest.mark.parametrize(
        "change",
        [
            {"side": FINE_TUNED},
            {"environment": "gymnasium/Walker2d-v5"},
            {"transitions": 2000},
            {"learning_rate": 2e-3},
            {"seed": 1},
        ],
    )
    def test_a_trial_has_a_record_of_its_own(self, tmp_path: Path, change: dict[str, Any]) -> None:
        paths = {
            trial_path(tmp_path, trial_key(trial, SETTINGS, "data", "model"))
            for trial in (TRIAL, replace(TRIAL, **change))
        }
        assert len(paths) == 2

    @pytest.mark.parametrize(
        "change",
        [
            {"model": replace(SIZES, width=16)},
            {"steps": (0, 2, 6)},
            {"batch_size": 5},
            {"targets": "gauss"},
            {"warmup_steps": 1},
            {"holdout_windows": 17},
            {"test_windows": 21},
        ],
    )
    def test_settings_are_part_of_the_key(self, change: dict[str, Any]) -> None:
        assert trial_key(TRIAL, SETTINGS, "data", "") != trial_key(
            TRIAL, replace(SETTINGS, **change), "data", ""
        )
        assert trial_key(TRIAL, SETTINGS, "data", "") != trial_key(TRIAL, SETTINGS, "other", "")

    def test_a_key_stays_what_it_was(self) -> None:
        """Finished trials must be known to later versions: a change here needs another version of the key."""
        key = trial_key(TRIAL, SETTINGS, "data", "")
        assert trial_path(Path(), key).name == "from-scratch-1000-0.001-seed0-d7dd1ba9c64b.json"

    def test_damaged_and_misplaced_records(self, tmp_path: Path) -> None:
        key, other = (trial_key(trial, SETTINGS, "d", "") for trial in (TRIAL, replace(TRIAL, seed=1)))
        path = trial_path(tmp_path, key)
        write_trial(path, key, made_up_trial(0.1))
        with pytest.raises(TrajWorldError, match="not the record of the trial"):
            read_trial(path, other)
        record = json.loads(path.read_text())
        changes: tuple[dict[str, Any], ...] = (
            *({"points": []}, {"points": [{"step": 0}]}, {"seconds": "long"}),
            *({"diverged": 2}, {"diverged": "late"}),
        )
        for change in changes:
            path.write_text(json.dumps({**record, "result": {**record["result"], **change}}))
            with pytest.raises(TrajWorldError, match="is damaged"):
                read_trial(path, key)
        path.write_text("{")
        with pytest.raises(TrajWorldError, match="not a readable JSON"):
            read_trial(path, key)
        with pytest.raises(TrajWorldError, match="no variate"):
            write_trial(tmp_path / "nan.json", key, made_up_trial(float("nan")))
        assert not (tmp_path / "nan.json").exists()

    def test_only_records_are_removed(self, tmp_path: Path) -> None:
        folder = tmp_path / RECORDS
        keys = [trial_key(trial, SETTINGS, "d", "") for trial in (TRIAL, replace(TRIAL, seed=1))]
        for key in keys:
            write_trial(trial_path(folder, key), key, made_up_trial(0.1))
        others = {
            folder / "gymnasium-hopper-v5" / "mine.json": '{"key": 1}',
            folder / "gymnasium-hopper-v5" / "damaged.json": "{",
            folder / "notes.txt": "notes",
        }
        for path, text in others.items():
            path.write_text(text)
        (folder / "empty").mkdir()
        remove_trials(folder)
        assert {path for path in folder.rglob("*") if path.is_file()} == set(others)
        assert not (folder / "empty").exists()
        remove_trials(tmp_path / "nowhere")

    def test_a_record_that_cannot_be_removed_is_one_line(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        key = trial_key(TRIAL, SETTINGS, "d", "")
        write_trial(trial_path(tmp_path, key), key, made_up_trial(0.1))

        def refuse(path: Path) -> None:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(Path, "unlink", refuse)
        with pytest.raises(TrajWorldError, match=r"cannot remove .*seed0.*: Permission denied"):
            remove_trials(tmp_path)

    def test_a_models_digest_is_of_its_weights(self, tmp_path: Path) -> None:
        model = TrajWorld(SIZES, Identity(environment="test/pool", history={"seed": 3}))
        for name in ("one.keras", "two.keras"):
            save_model(model, tmp_path / name)
        one, two = (pretrained_model(tmp_path / name, name) for name in ("one.keras", "two.keras"))
        assert one.digest == two.digest
        assert (one.sizes, one.environments, one.history) == (SIZES, ("test/pool",), {"seed": 3})
        # The file's own digest is another matter: it is of its bytes.
        assert one.file == hashlib.sha256((tmp_path / "one.keras").read_bytes()).hexdigest()
        assert one.step is None
        with pytest.raises(TrajWorldError, match=r"cannot read .*nothing\.keras: No such file"):
            file_digest(tmp_path / "nothing.keras")
        save_model(TrajWorld(SIZES, Identity().at_step(7)), tmp_path / "seven.keras")
        assert pretrained_model(tmp_path / "seven.keras", "").as_json()["step"] == 7
        changed = load_model(tmp_path / "one.keras")
        changed.set_weights([weights + 1e-3 for weights in changed.get_weights()])
        save_model(changed, tmp_path / "three.keras")
        assert pretrained_model(tmp_path / "three.keras", "").digest != one.digest


class TestOrder:
    def test_every_rate_once_and_then_the_best(self, tmp_path: Path, ran: list[Task]) -> None:
        told: list[Progress] = []
        study = Study(study_plan(), [study_data_in(tmp_path)], tmp_path, model_in(tmp_path))
        assert study.counts() == (0, 12)
        study.run(1, told.append)
        assert study.counts() == (12, 12)
        assert len(ran) == len({task.trial for task in ran}) == 12
        for size in (20, 40):
            assert study.chosen_rate(Group("test/pool", size, FROM_SCRATCH)) == 1e-3
            assert study.chosen_rate(Group("test/pool", size, FINE_TUNED)) == 1e-2
        # First seeds first; the other seeds have the chosen rate only.
        assert [task.trial.seed for task in ran] == [0] * 8 + [1] * 4
        rates = {(task.trial.side, task.trial.learning_rate) for task in ran[8:]}
        assert rates == {(FROM_SCRATCH, 1e-3), (FINE_TUNED, 1e-2)}
        assert all((task.init is not None) == (task.trial.side == FINE_TUNED) for task in ran)
        assert [(one.done, one.total) for one in told] == [(n, 12) for n in range(1, 13)]
        assert [one.seconds_left for one in told] == [pytest.approx(1.5 * (12 - n)) for n in range(1, 13)]

    def test_what_is_there_is_skipped(self, tmp_path: Path, ran: list[Task]) -> None:
        plan, data = study_plan(), [study_data_in(tmp_path)]
        study = Study(plan, data, tmp_path, model_in(tmp_path))
        study.run(1)
        whole = results_of(study)
        records = sorted((tmp_path / RECORDS).glob("*/*.json"))
        assert len(records) == 12
        for path in records[::3]:
            path.unlink()
        ran.clear()
        again = Study(plan, data, tmp_path, model_in(tmp_path))
        again.run(1)
        assert len(ran) == 4
        assert results_of(again) == whole

    def test_scratch_serves_another_model(self, tmp_path: Path, ran: list[Task]) -> None:
        plan, data = study_plan(), [study_data_in(tmp_path)]
        alone = Study(plan, data, tmp_path, None, (FROM_SCRATCH,))
        assert alone.counts() == (0, 6)
        alone.run(1)
        partial = results_of(alone)
        assert partial.model is None
        assert partial.environments[0].factors is None
        assert len(partial.environments[0].curves) == 2
        for digest in ("a", "b"):
            ran.clear()
            study = Study(plan, data, tmp_path, model_in(tmp_path, digest), (FINE_TUNED,))
            assert study.counts() == (0, 6)
            study.run(1)
            assert {task.trial.side for task in ran} == {FINE_TUNED}
            found = results_of(study).environments[0]
            assert found.factors is not None
            # The least data that was tried is enough, but is half of scratch's.
            assert found.factors.last.data_verdict == "unknown"
            assert found.factors.last.target == pytest.approx((1 / 40 + 1 + 1 / 40 + 1.001) / 2 / 6)
            assert found.seen
        assert len(list((tmp_path / RECORDS).glob("*/*.json"))) == 18

    def test_a_curve_by_hand(self, tmp_path: Path, ran: list[Task]) -> None:
        study = Study(study_plan(), [study_data_in(tmp_path)], tmp_path, None, (FROM_SCRATCH,))
        study.run(1)
        found = results_of(study).environments[0].curve(FROM_SCRATCH, 20)
        assert found is not None
        assert found.learning_rate == 1e-3
        assert found.holdout_losses == {"0.001": 1e-3, "0.01": 1e-2}
        # As every made-up trial had: 900 to train on and 100 held out.
        assert found.mean_transitions == 1000
        low, high = 1 + 1 / 20, 1 + 1 / 20 + 1 / 1000
        assert found.errors[1] == pytest.approx((low / 3, high / 3))
        assert found.mean == pytest.approx([(low + high) / 2 / (1 + step) for step in (0, 2, 5)])
        assert (found.low[0], found.high[0]) == pytest.approx((low, high))

    def test_a_rate_that_diverges_is_ranked_last(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The lower rate has the lower loss, but diverges with the first seed on 20 and the second on 40."""
        lost = {(20, 0), (40, 1)}
        told: list[Progress] = []
        ran: list[Trial] = []

        def run(task: Task, folder: Path) -> TrialResult:
            trial = task.trial
            ran.append(trial)
            found = made_up_trial(0.5, loss=trial.learning_rate)
            if trial.learning_rate == 1e-3 and (trial.transitions, trial.seed) in lost:
                return replace(found, points=found.points[:2], diverged=4)
            return found

        monkeypatch.setattr(workers_module, "run_task", run)
        data = study_data_in(tmp_path)
        study = Study(study_plan(), [data], tmp_path, None, (FROM_SCRATCH,))
        study.run(1, told.append)
        assert study.counts() == (6, 6)
        # On 40 both rates have a second seed: the first choice turned out to diverge.
        assert len(ran) == 7
        again = Study(study_plan(), [data], tmp_path, None, (FROM_SCRATCH,))
        assert again.counts() == (6, 6)
        for size in (20, 40):
            assert again.chosen_rate(Group("test/pool", size, FROM_SCRATCH)) == 1e-2
            curve = results_of(again).environments[0].curve(FROM_SCRATCH, size)
            assert curve is not None
            assert curve.holdout_losses == {"0.001": None, "0.01": 1e-2}
        (record,) = (tmp_path / RECORDS).glob("*/from-scratch-20-0.001-seed0-*.json")
        assert json.loads(record.read_text())["result"]["diverged"] == 4
        text = write_results(results_of(again), tmp_path).findings
        assert any(
            "From scratch, training diverged with the learning rate 0.001 in 2 of 2 cases" in line
            for line in text
        )

    def test_a_group_of_which_every_rate_diverges_is_finished(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def run(task: Task, folder: Path) -> TrialResult:
            found = made_up_trial(0.5)
            diverges = task.trial.transitions == 20
            return replace(found, points=found.points[:1], diverged=1) if diverges else found

        monkeypatch.setattr(workers_module, "run_task", run)
        study = Study(study_plan(), [study_data_in(tmp_path)], tmp_path, None, (FROM_SCRATCH,))
        study.run(1)
        assert study.counts() == (6, 6)
        assert study.chosen_rate(Group("test/pool", 20, FROM_SCRATCH)) is None
        results = write_results(results_of(study), tmp_path)
        (found,) = results.environments
        assert found.diverged == ((FROM_SCRATCH, 20),)
        assert [curve.transitions for curve in found.curves] == [40]
        sentence = "from scratch, training diverged with every learning rate on 20"
        assert any(sentence in line for line in results.findings)

    def test_a_trial_that_fails_stops_no_other(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def run(task: Task, folder: Path) -> TrialResult:
            if (task.trial.transitions, task.trial.learning_rate) == (20, 1e-2):
                raise TrajWorldError("the disk is full")
            return made_up_trial(0.5)

        monkeypatch.setattr(workers_module, "run_task", run)
        study = Study(study_plan(), [study_data_in(tmp_path)], tmp_path, None, (FROM_SCRATCH,))
        complaints: list[str] = []
        name = "test/pool, from scratch, 20 transitions, rate 0.01, seed 0: the disk is full"
        with pytest.raises(TrajWorldError, match=f"a trial failed; what was finished is kept: {name}"):
            study.run(1, complain=complaints.append)
        assert complaints == [name]
        # The other seed on 20 waits for the rate that is missing; on 40 all are there.
        assert study.counts() == (4, 6)
        assert [curve.transitions for curve in results_of(study).environments[0].curves] == [40]

    def test_a_failure_keeps_what_was_finished(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        done = 0

        def run(task: Task, folder: Path) -> TrialResult:
            nonlocal done
            if done == 3:
                raise KeyboardInterrupt
            done += 1
            return made_up_trial(0.5)

        monkeypatch.setattr(workers_module, "run_task", run)
        study = Study(study_plan(), [study_data_in(tmp_path)], tmp_path, None, (FROM_SCRATCH,))
        with pytest.raises(KeyboardInterrupt):
            study.run(1)
        assert study.counts() == (3, 6)
        again = Study(study_plan(), [study_data_in(tmp_path / "again")], tmp_path, None, (FROM_SCRATCH,))
        assert again.counts() == (3, 6)


@given(st.integers(1, 64), st.integers(1, 64))
def test_cores_are_shared_out_evenly(count: int, workers: int) -> None:
    cores = list(range(100, 100 + count))
    shares = core_shares(cores, workers)
    assert len(shares) == workers
    assert all(share for share in shares)
    sizes = [len(share) for share in shares]
    assert max(sizes) - min(sizes) <= 1
    if workers <= count:
        assert sorted(core for share in shares for core in share) == cores


class Bomb:
    """Ends the process that unpickles it."""

    def __reduce__(self) -> tuple[Callable[[int], Any], tuple[int]]:
        return os._exit, (9,)


@pytest.mark.slow
def test_a_task_that_fails_and_a_worker_that_dies() -> None:
    """The first is told of and the next begun; the second is one line."""
    bomb: Any = Bomb()
    failed: list[str] = []
    tasks = [
        Task(TRIAL, SETTINGS, "pool", "no/such-v0", None),
        Task(replace(TRIAL, seed=1), SETTINGS, bomb, "test", None),
    ]

    def next_task() -> Task | None:
        return tasks.pop(0) if len(tasks) > 1 or (tasks and failed) else None

    with pytest.raises(
        TrajWorldError, match=r"a worker process died .*Hopper-v5, from scratch, 1,000 transitions.* seed 1"
    ):
        run_tasks(next_task, lambda task, found: None, lambda task, error: failed.append(str(error)), 2)
    assert len(failed) == 1
    assert "no/such-v0" in failed[0]


def test_some_core_is_available() -> None:
    assert available_cores()
