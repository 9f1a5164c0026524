"""The training loop: what it writes when, and that an interrupted run goes on as if it had not been interrupted."""

import os
import resource
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from training_fixtures import SIZES, PlainStep, config_for, weights_of

from trajworld.errors import TrajWorldError
from trajworld.training import loop
from trajworld.training.loop import Report, step_seed, train
from trajworld.training.record import read_metrics
from trajworld.training.run import Run, resume_run, start_run

pytestmark = [pytest.mark.once, pytest.mark.usefixtures("plain_steps")]


def resumed(path: Path) -> Run:
    run, warnings = resume_run(path)
    assert warnings == []
    return run


def numbers(path: Path) -> list[dict[str, Any]]:
    """What a log says apart from times, which no two runs share."""
    return [
        {name: value for name, value in row.items() if name not in ("seconds", "steps_per_second")}
        for row in read_metrics(path)
    ]


@pytest.mark.parametrize("average", [0.0, 0.8])
def test_crashes_and_signals_anywhere_lead_to_the_same_end(tmp_path: Path, data: str, average: float) -> None:
    every = {"evaluate_every": 7, "checkpoint_every": 5, "log_every": 4}
    config = config_for("train", [data], steps=30, average=average, **every)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    train(start_run(whole, config))
    run, before = start_run(cut, config), signal.getsignal(signal.SIGINT)
    crash, ctrl_c, term = None, signal.SIGINT, signal.SIGTERM
    ends = {1: ctrl_c, 3: crash, 6: ctrl_c, 8: term, 12: crash, 16: ctrl_c, 18: crash, 24: crash, 26: term}
    for at, kind in ends.items():

        def observe(report: Report, at: int = at, kind: signal.Signals | None = kind) -> None:
            if report.step == at and kind is None:
                raise EOFError
            if report.step == at:
                os.kill(os.getpid(), kind)

        if kind is crash:
            with pytest.raises(EOFError):
                train(run, observe)
            run = resumed(cut)
            assert at - 5 <= run.state.step <= at
            continue
        outcome = train(run, observe)
        assert signal.getsignal(signal.SIGINT) is before
        # The signal came in the observer of a step: the next one is the last.
        assert (outcome.finished, outcome.state.step) == (False, at + 1)
        assert not (cut / "last.keras").exists()
        run = resumed(cut)
        assert run.state == outcome.state
    assert train(run).finished
    assert numbers(whole) == numbers(cut)
    for name in ("last.keras", "best.keras"):
        for one, other in zip(weights_of(whole / name), weights_of(cut / name), strict=True):
            np.testing.assert_array_equal(one, other)
    steps = [4, 5, 7, 8, 10, 12, 14, 15, 16, 20, 21, 24, 25, 28, 30]
    assert [row["step"] for row in numbers(whole)] == steps


def test_a_second_ctrl_c_acts_at_once_and_the_run_stays_resumable(tmp_path: Path, data: str) -> None:
    config = config_for("train", [data])

    def press(report: Report) -> None:
        if report.step == 6:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(start_run(tmp_path / "run", config), press)
    assert resumed(tmp_path / "run").state.step == 4


def test_two_checkpoints_are_kept_and_torn_ones_are_ignored_and_removed(tmp_path: Path, data: str) -> None:
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


def test_a_damaged_checkpoint_is_one_line_that_says_how_to_go_on(tmp_path: Path, data: str) -> None:
    path, foreign = tmp_path / "run", tmp_path / "foreign"
    train(start_run(path, config_for("train", [data], steps=8)))
    train(start_run(foreign, config_for("train", [data], steps=8, model={**SIZES, "blocks": 2})))
    checkpoint, other = (run / "checkpoints" / "step-000000008" for run in (path, foreign))
    content = {file.name: file.read_bytes() for file in checkpoint.iterdir()}
    assert set(content) == {"model.keras", "optimizer.h5", "state.json"}
    cases = [
        (file, harm, file)
        for file, whole in content.items()
        for harm in (None, b"", whole[: len(whole) // 2], b"\x80garbage" * 99)
    ]
    states = (b"[]", b'{"step": -4}', b'{"step": 4, "unlogged": ["a"]}', b'{"stop": 4}')
    cases += [("state.json", state, "state.json") for state in states]
    cases += [
        ("optimizer.h5", (other / "optimizer.h5").read_bytes(), "to another model"),
        ("model.keras", (other / "model.keras").read_bytes(), "is not of the run that"),
    ]
    for file, harm, message in cases:
        (checkpoint / file).unlink()
        if harm is not None:
            (checkpoint / file).write_bytes(harm)
        with pytest.raises(TrajWorldError, match=message) as caught:
            resume_run(path)
        assert str(caught.value).endswith(("restore one of them", f"remove {checkpoint} to go further back"))
        assert "\n" not in str(caught.value)
        (checkpoint / file).write_bytes(content[file])
    shutil.rmtree(checkpoint)
    assert resumed(path).state.step == 4


@pytest.mark.parametrize(("every", "name"), [(100, "step-000000008"), (6, "best.keras")])
@pytest.mark.parametrize("limit", [100, 9000, 40_000])
def test_files_that_may_not_grow_end_in_one_line(
    tmp_path: Path, data: str, every: int, name: str, limit: int
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


def test_the_best_model_is_that_of_the_lowest_holdout_loss(tmp_path: Path, data: str) -> None:
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


def test_averaged_weights_are_evaluated_saved_and_observed(
    tmp_path: Path, data: str, plain_steps: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    call, held = plain_steps.__call__, list[np.ndarray]()

    def step(self: PlainStep, *arguments: Any) -> float:
        loss = call(self, *arguments)
        held.append(self._held.copy())
        return loss

    monkeypatch.setattr(plain_steps, "__call__", step)
    run, seen = start_run(tmp_path / "run", config_for("train", [data], average=0.8)), dict[int, np.ndarray]()

    def observe(report: Report) -> None:
        if report.holdout_loss is not None:
            seen[report.step] = run.model.get_weights()[0]

    train(run, observe)
    averages = [held[0].astype(np.float64)]
    for one in held[1:]:
        averages.append(0.8 * averages[-1] + 0.2 * one)
    losses = {row["step"]: row["holdout_loss"] for row in numbers(run.path) if "holdout_loss" in row}
    assert list(losses) == list(seen) == [4, 8, 12]
    for number, loss in losses.items():
        np.testing.assert_allclose(seen[number], averages[number - 1], rtol=1e-4, atol=1e-6)
        assert loss == pytest.approx(np.abs(averages[number - 1]).mean(), rel=1e-5)
        assert np.abs(averages[number - 1] - held[number - 1]).max() > 1e-3
    for kept in ("last.keras", "checkpoints/step-000000012/model.keras"):
        np.testing.assert_allclose(weights_of(run.path / kept)[0], averages[-1], rtol=1e-4, atol=1e-6)


def test_without_a_holdout_set_there_is_no_best_model(tmp_path: Path, data: str) -> None:
    outcome = train(start_run(tmp_path / "run", config_for("train", [data], holdout_fraction=0.0)))
    assert (outcome.state.best_loss, outcome.state.best_step) == (None, 0)
    assert (tmp_path / "run" / "last.keras").is_file()
    assert not (tmp_path / "run" / "best.keras").exists()


def test_a_loss_that_is_not_finite_ends_in_one_line(tmp_path: Path, data: str, monkeypatch: Any) -> None:
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
