"""The training loop: what it writes when, and that an interrupted run goes on as if it had not been interrupted."""

import os
import random
import resource
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from training_fixtures import SIZES, PlainStep, config_for, plain_steps, store, weights_of

from trajworld.errors import TrajWorldError
from trajworld.training import loop
from trajworld.training.checkpoint import newest_checkpoint
from trajworld.training.loop import Report, step_seed, train
from trajworld.training.record import read_metrics
from trajworld.training.run import Run, resume_run, start_run

__all__ = ["plain_steps"]


class CrashError(Exception):
    """What an observer raises to end a process's training without warning."""


def crash_at(step: int) -> Any:
    def observe(report: Report) -> None:
        if report.step == step:
            raise CrashError

    return observe


def resumed(path: Path) -> Run:
    run, warnings = resume_run(path)
    assert warnings == []
    return run


def checkpoint_of(path: Path, data: str, **options: Any) -> Path:
    """Train a run; its newest checkpoint."""
    train(start_run(path, config_for("train", [data], **options)))
    found = newest_checkpoint(path)
    assert found is not None
    return found


def numbers(path: Path) -> list[dict[str, Any]]:
    """What a log says apart from times, which no two runs share."""
    return [
        {name: value for name, value in row.items() if name not in ("seconds", "steps_per_second")}
        for row in read_metrics(path)
    ]


def assert_same_files(one: Path, other: Path) -> None:
    for name in ("last.keras", "best.keras"):
        for first, second in zip(weights_of(one / name), weights_of(other / name), strict=True):
            np.testing.assert_array_equal(first, second)


@pytest.mark.once
@pytest.mark.usefixtures("plain_steps")
class TestInterruption:
    """With a step that needs no compiler."""

    @pytest.fixture
    def data(self, tmp_path: Path) -> str:
        return store(tmp_path / "data")

    def test_crashes_anywhere_lead_to_the_same_end(self, tmp_path: Path, data: str) -> None:
        config = config_for("train", [data], steps=30, evaluate_every=7, checkpoint_every=5, log_every=4)
        train(start_run(tmp_path / "whole", config))
        rng = random.Random(0)
        run = start_run(tmp_path / "cut", config)
        for _ in range(8):
            at = rng.randrange(run.state.step + 1, 30)
            with pytest.raises(CrashError):
                train(run, crash_at(at))
            run = resumed(tmp_path / "cut")
            assert at - 5 <= run.state.step <= at
        assert train(run).finished
        assert numbers(tmp_path / "whole") == numbers(tmp_path / "cut")
        assert_same_files(tmp_path / "whole", tmp_path / "cut")
        steps = [4, 5, 7, 8, 10, 12, 14, 15, 16, 20, 21, 24, 25, 28, 30]
        assert [row["step"] for row in numbers(tmp_path / "whole")] == steps

    def test_ctrl_c_at_any_step_leaves_no_trace_in_the_log(self, tmp_path: Path, data: str) -> None:
        config = config_for("train", [data], steps=20, evaluate_every=9, checkpoint_every=6, log_every=5)
        train(start_run(tmp_path / "whole", config))

        def press(at: int, number: int) -> Any:
            return lambda report: os.kill(os.getpid(), number) if report.step == at else None

        run = start_run(tmp_path / "cut", config)
        for at in (1, 3, 8, 12, 16):
            before = signal.getsignal(signal.SIGINT)
            # SIGTERM stops it like Ctrl-C.
            outcome = train(run, press(at, signal.SIGTERM if at == 8 else signal.SIGINT))
            assert signal.getsignal(signal.SIGINT) is before
            assert not outcome.finished
            # The signal came in the observer of a step: the next one is the last.
            assert outcome.state.step == at + 1
            assert not (tmp_path / "cut" / "last.keras").exists()
            run = resumed(tmp_path / "cut")
            assert run.state == outcome.state
        assert train(run).finished
        assert numbers(tmp_path / "whole") == numbers(tmp_path / "cut")
        assert_same_files(tmp_path / "whole", tmp_path / "cut")

    def test_a_second_ctrl_c_acts_at_once_and_the_run_stays_resumable(
        self, tmp_path: Path, data: str
    ) -> None:
        config = config_for("train", [data])

        def press(report: Report) -> None:
            if report.step == 6:
                os.kill(os.getpid(), signal.SIGINT)
                os.kill(os.getpid(), signal.SIGINT)

        with pytest.raises(KeyboardInterrupt):
            train(start_run(tmp_path / "run", config), press)
        assert resumed(tmp_path / "run").state.step == 4

    def test_two_checkpoints_are_kept_and_torn_ones_are_ignored_and_removed(
        self, tmp_path: Path, data: str
    ) -> None:
        path = tmp_path / "run"
        train(start_run(path, config_for("train", [data], steps=16, checkpoint_every=2)))
        folder = path / "checkpoints"
        assert sorted(item.name for item in folder.iterdir()) == ["step-000000014", "step-000000016"]
        shutil.copytree(folder / "step-000000016", folder / ".step-000000018.abc.tmp")
        (folder / ".step-000000018.abc.tmp" / "model.keras").unlink()
        (path / ".best.1.tmp.keras").write_text("half")
        (path / ".last.1.tmp.weights.h5").write_text("half")
        assert resumed(path).state.step == 16
        assert sorted(item.name for item in folder.iterdir()) == ["step-000000014", "step-000000016"]
        assert not [item for item in path.iterdir() if item.name.startswith(".")]

    @pytest.mark.parametrize("file", ["model.keras", "optimizer.h5", "state.json"])
    @pytest.mark.parametrize("damage", ["missing", "empty", "cut", "garbage"])
    def test_a_damaged_checkpoint_is_one_line_that_says_how_to_go_on(
        self, tmp_path: Path, data: str, file: str, damage: str
    ) -> None:
        path, checkpoint = tmp_path / "run", checkpoint_of(tmp_path / "run", data, steps=8)
        content = (checkpoint / file).read_bytes()
        (checkpoint / file).unlink()
        if damage != "missing":
            harm = {"empty": b"", "cut": content[: len(content) // 2], "garbage": b"\x80garbage" * 99}
            (checkpoint / file).write_bytes(harm[damage])
        with pytest.raises(TrajWorldError) as caught:
            resume_run(path)
        message = str(caught.value)
        assert file in message
        assert message.endswith(f"remove {checkpoint} to go further back")
        assert "\n" not in message
        shutil.rmtree(checkpoint)
        assert resumed(path).state.step == 4

    @pytest.mark.parametrize("state", ["[]", '{"step": -4}', '{"step": 4, "unlogged": ["a"]}', '{"stop": 4}'])
    def test_a_state_that_is_none(self, tmp_path: Path, data: str, state: str) -> None:
        checkpoint = checkpoint_of(tmp_path / "run", data, steps=4)
        (checkpoint / "state.json").write_text(state)
        with pytest.raises(TrajWorldError, match=r"state\.json.*to go further back"):
            resume_run(tmp_path / "run")

    def test_an_optimiser_of_another_model(self, tmp_path: Path, data: str) -> None:
        checkpoint = checkpoint_of(tmp_path / "run", data, steps=4)
        foreign = checkpoint_of(tmp_path / "other", data, steps=4, model={**SIZES, "blocks": 2})
        for file, message in (
            ("optimizer.h5", "to another model"),
            ("model.keras", "is not of the run that"),
        ):
            shutil.copy(foreign / file, checkpoint / file)
            with pytest.raises(TrajWorldError, match=message):
                resume_run(tmp_path / "run")

    @pytest.mark.parametrize(("every", "name"), [(100, "step-000000008"), (6, "best.keras")])
    @pytest.mark.parametrize("limit", [100, 9000, 40_000])
    def test_files_that_may_not_grow_end_in_one_line(
        self, tmp_path: Path, data: str, every: int, name: str, limit: int
    ) -> None:
        """The same by the system's own means, at whatever size it fails."""
        path = tmp_path / "run"
        run = start_run(path, config_for("train", [data], evaluate_every=every, log_every=100))
        before = resource.getrlimit(resource.RLIMIT_FSIZE)

        def observe(report: Report) -> None:
            if report.step == 4:
                resource.setrlimit(
                    resource.RLIMIT_FSIZE, (limit + (path / "metrics.jsonl").stat().st_size, before[1])
                )

        try:
            with pytest.raises(TrajWorldError) as caught:
                train(run, observe)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert "\n" not in str(caught.value)
        assert name in str(caught.value) or "cannot write the log" in str(caught.value)
        assert "File too large" in str(caught.value)
        assert [item.name for item in (path / "checkpoints").iterdir()] == ["step-000000004"]
        assert not [item for item in path.iterdir() if item.name.startswith(".")]
        assert resumed(path).state.step == 4

    def test_the_best_model_is_that_of_the_lowest_holdout_loss(self, tmp_path: Path, data: str) -> None:
        every = {"evaluate_every": 3, "checkpoint_every": 3}
        config = config_for("train", [data], steps=24, learning_rate=1.0, warmup_steps=24, **every)
        told: list[Report] = []
        seen: dict[int, list[np.ndarray]] = {}

        def observe(report: Report) -> None:
            told.append(report)
            if report.best:
                seen[report.step] = weights_of(tmp_path / "run" / "best.keras")

        outcome = train(start_run(tmp_path / "run", config), observe)
        evaluated = [row for row in numbers(tmp_path / "run") if "holdout_loss" in row]
        losses = {row["step"]: row["holdout_loss"] for row in evaluated}
        assert list(losses) == list(range(3, 25, 3))
        assert len(set(losses.values())) > 2
        best = min(losses, key=lambda step: losses[step])
        assert best < 24, "a last model that is the best one shows nothing"
        assert (outcome.state.best_step, outcome.state.best_loss) == (best, losses[best])
        for one, other in zip(seen[best], weights_of(tmp_path / "run" / "best.keras"), strict=True):
            np.testing.assert_array_equal(one, other)
        assert float(np.abs(seen[best][0]).mean()) == pytest.approx(losses[best], rel=1e-6)
        assert [report.step for report in told] == list(range(1, 25))
        assert {one.step: one.holdout_loss for one in told if one.holdout_loss is not None} == losses

    def test_without_a_holdout_set_there_is_no_best_model(self, tmp_path: Path, data: str) -> None:
        outcome = train(start_run(tmp_path / "run", config_for("train", [data], holdout_fraction=0.0)))
        assert (outcome.state.best_loss, outcome.state.best_step) == (None, 0)
        assert (tmp_path / "run" / "last.keras").is_file()
        assert not (tmp_path / "run" / "best.keras").exists()

    def test_a_loss_that_is_not_finite_ends_in_one_line(
        self, tmp_path: Path, data: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        step = PlainStep.__call__

        def diverge(self: PlainStep, *arguments: Any) -> float:
            value = step(self, *arguments)
            return value if self._steps < 7 else float("nan")

        monkeypatch.setattr(PlainStep, "__call__", diverge)
        with pytest.raises(
            TrajWorldError, match=r"loss is not finite at step 8: .*lower learning rate; .*step-000000004"
        ):
            train(start_run(tmp_path / "run", config_for("train", [data], log_every=8)))
        with pytest.raises(TrajWorldError, match="not finite at step 8"):
            train(resumed(tmp_path / "run"))
        assert all(np.isfinite(row["loss"]) for row in read_metrics(tmp_path / "run"))
        monkeypatch.setattr(loop, "holdout_loss", lambda run, sums: (float("inf"), {}))
        with pytest.raises(TrajWorldError, match=r"holdout loss is not finite at step 4.*rate$"):
            train(start_run(tmp_path / "other", config_for("train", [data])))
        assert not (tmp_path / "other" / "best.keras").exists()


def test_each_step_and_each_seed_has_its_own_dropout() -> None:
    seeds = {int(step_seed(seed, step)) for seed in range(20) for step in range(500)}
    assert len(seeds) > 9990
    assert (step_seed(1, 2).dtype, step_seed(1, 2).shape) == (np.int32, ())


@pytest.mark.slow
def test_training_learns_and_a_rate_that_is_far_too_high_is_one_line(tmp_path: Path) -> None:
    data = store(tmp_path / "data", [40] * 6)
    options = {"log_every": 10, "evaluate_every": 40, "checkpoint_every": 40, "batch_size": 16}
    train(start_run(tmp_path / "run", config_for("train", [data], steps=80, learning_rate=3e-2, **options)))
    losses = [row["loss"] for row in read_metrics(tmp_path / "run")]
    assert losses[0] == pytest.approx(np.log(16), abs=0.7)
    assert losses[-1] < losses[0] - 0.5
    wild = config_for("train", [data], steps=80, learning_rate=1e30, **options)
    with pytest.raises(TrajWorldError, match="lower learning rate") as caught:
        train(start_run(tmp_path / "wild", wild))
    assert "\n" not in str(caught.value)
