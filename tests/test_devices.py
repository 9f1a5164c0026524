"""Several devices and processes: refusals on every backend, and JAX on two CPU devices against one."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from training_fixtures import newest, store, weights_of
from waiting import start, wait_for

from trajworld.backend import Layout, active_backend
from trajworld.training.config import resolve_config
from trajworld.training.loop import stop_agreed
from trajworld.training.record import read_metrics
from trajworld.training.run import start_run

ON_JAX = keras.backend.backend() == "jax"
jax_only = pytest.mark.skipif(not ON_JAX, reason="several devices need JAX")

SETTINGS = """preset = 'tiny'
steps = 24
log_every = 1
evaluate_every = 12
checkpoint_every = 6
batch_size = 8
holdout_windows = 30
[model]
blocks = 1
width = 16
window = 6
bins = 16
dropout = 0.1
"""


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A folder with a dataset and settings, to run commands in."""
    store(tmp_path / "data", (40, 30, 35, 45, 32, 40, 50, 33))
    (tmp_path / "settings.toml").write_text(SETTINGS)
    return tmp_path


@pytest.fixture
def port() -> Iterator[int]:
    """A port that nothing else gets: held here, and shared with the coordinator alone, which asks to share it."""
    with socket.socket(socket.AF_INET6 if socket.has_ipv6 else socket.AF_INET) as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        held.bind(("::" if socket.has_ipv6 else "", 0))
        yield held.getsockname()[1]


def test_one_device_and_process_need_nothing() -> None:
    backend = active_backend()
    for devices, usual in ((1, None), (1, 2)):
        assert backend.distribute(devices, 7, usual) == Layout(1, 1, 0)
    assert backend.distribute(None, 1) == Layout()
    assert keras.distribution.distribution() is None
    assert backend.lead_first(lambda: "done") == "done"
    assert [backend.any_process(flag) for flag in (True, False)] == [True, False]
    backend.leave()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--devices 0", "not 0"),
        ("--devices 4096", "JAX finds" if ON_JAX else "one device, not 4096: several need KERAS_BACKEND=jax"),
        ("--processes 2", "need --coordinator"),
        ("--coordinator here", "HOST:PORT or auto, not 'here'"),
        ("--coordinator here:1", "needs --processes and --process"),
        ("--coordinator here:1 --processes 2 --process 2", "2 of 2 cannot be"),
        pytest.param(
            "--coordinator here:1 --processes 2 --process 1",
            "trains in one process: several need KERAS_BACKEND=jax",
            marks=pytest.mark.skipif(ON_JAX, reason="JAX can"),
        ),
    ],
)
def test_wrong_options(work: Path, command: Any, words: str, message: str) -> None:
    code, _, err = command("train", work / "data", "-o", work / "run", *words.split())
    assert (code, err.count("\n")) == (2, 1)
    assert message in err
    assert not (work / "run").exists()


@pytest.mark.usefixtures("plain_steps")
def test_a_run_says_what_it_was_trained_on(work: Path, command: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(work)
    command(*train("run", "--devices", "1"))
    record = json.loads(Path("run/run.json").read_text())
    assert record["layout"] == {"devices": 1, "processes": 1}
    Path("run/run.json").write_text(json.dumps({**record, "layout": {"devices": 4096, "processes": 2}}))
    assert "the run began on 4096 devices and continues on 1" in command("train", "--resume", "run")[2]


def test_processes_agree_to_stop_after_the_same_steps() -> None:
    alone, together = Layout(), Layout(2, 2, 1)
    came = lambda: True  # noqa: E731
    assert stop_agreed(alone, 3, False, came)
    assert [step for step in range(1, 25) if stop_agreed(together, step, step == 7, came)] == [7, 10, 20]


ON_TWO_DEVICES = """
import random
import jax, keras, numpy as np, pytest
from numpy_reference import known_variates, windows
from trajworld.backend import Layout, active_backend
from trajworld.errors import UsageError
from trajworld.evaluation.one_step import compile_one_step
from trajworld.models.sizes import TrajWorldSizes
from trajworld.models.rollout import GivenActions, compile_rollout, draw_uniforms
from trajworld.data.batch import Batch
from trajworld.models.trajworld import TrajWorld
from trajworld.training.loop import mean_loss

backend = active_backend()
assert backend.device().count == 2 and backend.device().training == 1
sizes = TrajWorldSizes(blocks=1, width=16, heads=2, window=6, bins=16, variates=12, dropout=0.2)
# As many variates as windows: which of the two an axis is must not be guessed from its length. Windows have unequal
# shares: the mean over rows is not the mean of the devices' means.
count = batch = 6
variates = known_variates(3, 2)
drawn = lambda number, seed: windows(variates, number, seed=seed)
actions = np.random.default_rng(0).uniform(-1, 1, (batch, 13, 2)).astype(np.float32)

def everything(devices):
    assert backend.distribute(devices, batch) == Layout(devices)
    random.seed(3)
    model = TrajWorld(sizes)
    optimizer = keras.optimizers.AdamW(1e-3, global_clipnorm=0.25)
    shares = []
    def loss(batch, seed):
        for array in (batch.values, batch.variates.lower):
            jax.debug.inspect_array_sharding(array, callback=lambda s, n=array.shape: shares.append(s.shard_shape(n)))
        return mean_loss(model, batch, seed)
    step = backend.training_step(model, optimizer, loss)
    losses = [float(step(3e-3, Batch(*drawn(batch, n), variates), np.int32(n))) for n in range(20)]
    assert {shape for shape in shares} == {(batch // devices, 6, count), (count,)}, shares
    step.write_back()
    sums = backend.compile(model.loss_sums, model)
    rollout, one_step = compile_rollout(model, 3), compile_one_step(model)
    found = {"losses": losses, "iterations": int(optimizer.iterations.value)}
    for number in (batch, 5):  # Five do not divide: whole on each device.
        found[f"sums {number}"] = [float(value) for value in sums(Batch(*drawn(number, 99), variates))]
        found[f"one step {number}"] = np.stack(one_step(*drawn(number, 97), variates))[..., :4]
    history = [array[:, :4] for array in drawn(batch, 98)]
    for draws in (None, draw_uniforms(13, batch, count, 5)):
        seen = rollout(*history, variates, GivenActions(actions), draws)
        found[f"rollout {draws is None}"] = np.concatenate([np.ravel(a) for a in seen])
    found["weights"] = np.concatenate([np.ravel(weight) for weight in model.get_weights()])
    return found

two, one = everything(2), everything(1)
for name in one:
    tolerance = {"losses": {"rtol": 1e-5}, "weights": {"atol": 1e-4}}.get(name, {"rtol": 1e-5, "atol": 1e-5})
    np.testing.assert_allclose(one[name], two[name], err_msg=name, **tolerance)
assert one["losses"][-1] < one["losses"][0] - 0.05, one["losses"]

for arguments, words in ((3, 9), "JAX_NUM_CPU_DEVICES=3"), ((2, 7), "a multiple of 2, such as 8"):
    with pytest.raises(UsageError, match=words):
        backend.distribute(*arguments)
for devices, arguments in (1, (8,)), (2, (8, 2)), (1, (7, 2)), (1, (8, 3)):
    assert backend.distribute(None, *arguments) == Layout(devices)
"""


@jax_only
@pytest.mark.slow
def test_two_devices_compute_what_one_does(tmp_path: Path) -> None:
    command, paths = [sys.executable, "-P", "-c", ON_TWO_DEVICES], {"PYTHONPATH": str(Path(__file__).parent)}
    environment = os.environ | on(2) | paths
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr


def on(devices: int) -> dict[str, str]:
    """Environment variables for a process that sees so many devices."""
    return {"JAX_NUM_CPU_DEVICES": str(devices), "JAX_PLATFORMS": "cpu"}


def start_two(work: Path, port: int, arguments: list[str]) -> list[subprocess.Popen[str]]:
    """The same command in two processes over loopback."""
    cluster = ["--coordinator", f"127.0.0.1:{port}", "--processes", "2", "--process"]
    return [start(*arguments, *cluster, process, folder=work, **on(1)) for process in range(2)]


def finish(process: subprocess.Popen[str], code: int = 0) -> tuple[str, str]:
    try:
        out, err = process.communicate(timeout=240)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    assert process.returncode == code, err
    assert "Traceback" not in err
    return out, err


def train(run: str, *words: str) -> list[str]:
    return ["train", "data", "--config", "settings.toml", "-o", run, *words]


def assert_alike(one: Path, other: Path) -> None:
    for name in ("step", "loss", "holdout_loss"):
        found, expected = ([row.get(name, 0) for row in read_metrics(run)] for run in (one, other))
        assert found == pytest.approx(expected, rel=1e-5)
    for name in ("last.keras", "best.keras"):
        for weight, like in zip(weights_of(one / name), weights_of(other / name), strict=True):
            # A weight whose gradient is all but zero moves by AdamW's whole step, whichever way rounding points.
            np.testing.assert_allclose(weight, like, rtol=0, atol=1e-3)


@jax_only
@pytest.mark.slow
def test_a_run_ends_the_same_on_any_devices_and_however_it_was_stopped(work: Path, port: int) -> None:
    """On one device; and in two processes, Ctrl-C in one, one killed, then on two devices to the end."""
    # More steps than anybody waits for: whenever it is stopped, it is not over. The last of them change nothing.
    schedule = ("--warmup-steps", "6", "--decay-steps", "120", "--steps")
    cut = work / "cut"
    leader, other = start_two(work, port, train("cut", *schedule, "1000000"))
    wait_for(lambda: read_metrics(cut), leader, other)
    other.send_signal(signal.SIGINT)
    _, err = finish(leader, 130)
    assert finish(other, 130) == ("", "")
    step = newest(cut)
    assert f"Stopped at step {step}; continue with: trajworld train --resume cut" in err
    assert step > 0

    leader, other = start_two(work, port, ["train", "--resume", "cut"])
    wait_for(lambda: newest(cut) > step, leader, other)
    other.kill()
    _, err = finish(leader, 1)
    assert "on 2 devices of 2 processes" in err
    lost = "Error: another process has ended or cannot be reached; --resume in all of them"
    assert lost in err.splitlines()[-1]
    other.communicate()

    steps = str(newest(cut) + 60)
    whole = start(*train("whole", *schedule, steps), folder=work, **on(1))
    # As many devices as it began on, without being told.
    resumed = start("train", "--resume", "cut", "--steps", steps, "--json", folder=work, **on(2))
    out, err = finish(resumed)
    assert json.loads(out)["finished"] is True
    assert "on 2 devices" in err
    assert not list(cut.rglob(".*"))
    finish(whole)
    assert_alike(work / "whole", cut)
    for run, layout in ("whole", (1, 1)), ("cut", (2, 2)):
        record = json.loads((work / run / "run.json").read_text())["layout"]
        assert (record["devices"], record["processes"]) == layout


@jax_only
@pytest.mark.slow
def test_processes_that_fail_end_together_in_one_line_each(work: Path, port: int) -> None:
    (work / "run").mkdir()
    (work / "run" / "mine").touch()
    leader, other = start_two(work, port, train("run"))
    assert finish(leader, 2)[1] == "Error: run exists already: name another place\n"
    assert finish(other, 2)[1] == "Error: process 0: run exists already: name another place\n"

    # A full disk, as it were, at the leader's first checkpoint: the other waits for it inside a computation.
    options = {"datasets": [str(work / "data")], "steps": 3000}
    start_run(work / "late", resolve_config("train", file=work / "settings.toml", options=options))
    (work / "late" / "checkpoints").touch()
    leader, other = start_two(work, port, ["train", "--resume", "late"])
    _, err = finish(leader, 1)
    assert err.splitlines()[-1].startswith("Error: cannot write late/checkpoints")
    _, err = finish(other, 1)
    assert err.splitlines()[-1].startswith("Error: process 0 has ended: cannot write late/checkpoints")
