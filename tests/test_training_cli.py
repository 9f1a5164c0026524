"""``trajworld train`` and ``pretrain`` as a person runs them: processes, signals, exit codes, messages."""

import json
import os
import random
import signal
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from training_fixtures import newest, store, weights_of
from waiting import start, wait_for

from trajworld.models.files import load_model
from trajworld.training.config import resolve_config
from trajworld.training.record import read_metrics

TINY = "preset = 'tiny'\nbatch_size = 4\nholdout_windows = 16\n[model]\nblocks = 1\nwidth = 8\nwindow = 4\nbins = 16\n"


@pytest.fixture
def settings(tmp_path: Path) -> str:
    path = tmp_path / "tiny.toml"
    path.write_text(TINY)
    return str(path)


@pytest.mark.once
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("DATA", "name the run directory with -o, or continue one with --resume"),
        ("DATA --resume b", "--resume takes a run as it is"),
        ("DATA -o run --model mlp", "no kind of model is called 'mlp': there is trajworld"),
        ("DATA -o run --init m.keras --blocks 2", "leave out blocks"),
        ("DATA -o DATA", "exists already: name another place"),
        ("nowhere -o run", "nowhere names no dataset"),
        # What is wrong outside ends with 1.
        ("DATA -o run --config none.toml", "cannot read none.toml"),
        ("DATA -o run --init none.keras", "none.keras does not exist"),
        ("DATA -o run --init bad.keras", "bad.keras is not a model file"),
        ("DATA -o bad.toml/run", "cannot write"),
        ("ONE -o run", "one episode cannot be split"),
    ],
)
def test_mistakes_end_in_one_line(
    tmp_path: Path, data: str, monkeypatch: Any, command: Any, arguments: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.toml").write_text("steps = = 3")
    (tmp_path / "bad.keras").write_text("not a model")
    words = {"DATA": data, "ONE": store(tmp_path / "one", [9])}
    code, out, err = command("train", *[words.get(word, word) for word in arguments.split()])
    outside = ("cannot", "bad.", "none.", "one episode")
    assert (code, out) == (1 if message.startswith(outside) else 2, "")
    assert message in err
    assert "Traceback" not in err
    assert code == 2 or err.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("plain_steps")
def test_a_run_ends_in_its_models(tmp_path: Path, data: str, settings: str, command: Any) -> None:
    run = tmp_path / "run [a] b"
    code, _, err = command("train", data, "-o", run, "--config", settings, "--steps", 20)
    assert code == 0
    for words in ("train: ", "20 steps in", run / "last.keras", run / "best.keras", "step 2 of 20  loss"):
        assert str(words) in err
    assert len(read_metrics(run)) == 20
    outcome = json.loads(command("train", "--resume", run, "--json")[1])
    assert (outcome["run"], outcome["step"], outcome["finished"]) == (str(run), 20, True)
    losses = {row["step"]: row["holdout_loss"] for row in read_metrics(run) if "holdout_loss" in row}
    assert outcome["best_holdout_loss"] == min(losses.values()) == losses[outcome["best_step"]]
    assert (run / "losses.png").read_bytes().startswith(b"\x89PNG")
    # Each file says of which step it is.
    for name, step in (("last", 20), ("best", outcome["best_step"])):
        assert load_model(run / f"{name}.keras").identity.steps == step


@pytest.mark.once
@pytest.mark.usefixtures("plain_steps")
def test_options_reach_the_configuration(tmp_path: Path, settings: str, command: Any) -> None:
    options, sizes = (
        dict(word.split("=") for word in words.split())
        for words in (
            "steps=6 batch_size=3 learning_rate=0.25 warmup_steps=2 decay_steps=9 weight_decay=0.5 clip_norm=2.0 "
            "targets=gauss dtype=mixed_bfloat16 transitions=40 holdout_fraction=0.4 holdout_windows=5 "
            "evaluate_every=2 checkpoint_every=3 log_every=4 seed=11 padded_sizes=1 augment=0.5",
            "blocks=2 width=6 heads=3 variates=9 dropout=0.125",
        )
    )
    words = [f"--{name.replace('_', '-')}={value}" for name, value in {**options, **sizes}.items()]
    run, plain, odd = tmp_path / "run", store(tmp_path / "plain"), store(tmp_path / "a=b", observations=3)
    code, _, err = command("pretrain", f"{plain}=2.5", odd, "-o", run, "--config", settings, *words)
    assert code == 0, err
    config = resolve_config("pretrain", file=run / "config.toml")
    assert {name: str(getattr(config, name)) for name in options} == options
    assert {name: str(getattr(config.model, name)) for name in sizes} == sizes
    assert (config.model.window, config.model.bins) == (4, 16)
    # A number after the last = is a weight.
    assert "2 datasets (plain, a=b), M padded to [5]" in err
    record = json.loads((run / "run.json").read_text())
    assert [(part["name"], part["weight"]) for part in record["datasets"]] == [("plain", 2.5), ("a=b", 1.0)]


@pytest.mark.once
@pytest.mark.usefixtures("plain_steps")
def test_an_interrupt_before_the_first_step_says_how_to_go_on(
    tmp_path: Path, data: str, settings: str, command: Any
) -> None:
    run = tmp_path / "my run"
    with patch("trajworld.training.loop.train", side_effect=KeyboardInterrupt):
        code, _, err = command("train", data, "-o", run, "--config", settings, "--steps", 4)
    assert code == 130
    assert f"continue from the last checkpoint with: trajworld train --resume '{run}'" in err
    assert command("train", "--resume", run)[0] == 0


@pytest.mark.once
@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again_ends_like_one_that_was_not(tmp_path: Path, data: str) -> None:
    """SIGKILL before the first checkpoint, SIGKILL at a random moment and Ctrl-C, each followed by ``--resume``."""
    settings, wide = tmp_path / "settings.toml", store(tmp_path / "wide", observations=4, seed=1)
    every = "log_every = 3\nevaluate_every = 40\ncheckpoint_every = 10\npadded_sizes = 1\n"
    # More steps than anybody waits for: whenever it is killed, it is not over.
    settings.write_text(f"steps = 1000000\nwarmup_steps = 6\ndecay_steps = 120\n{every}{TINY}")
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    first = ["pretrain", data, wide, "--config", settings, "-o"]
    rng = random.Random(0)
    kills = [(0, signal.SIGKILL), (1, signal.SIGKILL), (1, signal.SIGINT)]
    for number, (checkpoints, kind) in enumerate(kills):
        process = start(*(["pretrain", "--resume", cut] if number else [*first, cut]))
        before = newest(cut)
        ready = (lambda before=before: newest(cut) > before) if checkpoints else (cut / "config.toml").is_file
        wait_for(ready, process)
        time.sleep(rng.uniform(0, 0.1 if checkpoints else 0.5))
        process.send_signal(kind)
        out, err = process.communicate(timeout=240)
        if kind == signal.SIGINT:
            assert process.returncode == 130, err
            assert f"Stopped at step {newest(cut)}; continue with: trajworld pretrain --resume {cut}" in err
            assert "Traceback" not in err
        else:
            assert process.returncode == -signal.SIGKILL
    steps = newest(cut) + 50
    # A process like the others: another number of threads would round otherwise.
    undisturbed = start(*first, whole, "--steps", steps, "--json")
    for process in (start("pretrain", "--resume", cut, "--steps", steps, "--json"), undisturbed):
        out, err = process.communicate(timeout=240)
        assert process.returncode == 0, err
        assert json.loads(out)["step"] == steps
    for row, other in zip(read_metrics(whole), read_metrics(cut), strict=True):
        assert row["step"] == other["step"]
        for name in ("loss", "holdout_loss", "holdout", "learning_rate"):
            assert row.get(name, 0) == other.get(name, 0)
    for name in ("last.keras", "best.keras"):
        for one, two in zip(weights_of(whole / name), weights_of(cut / name), strict=True):
            np.testing.assert_array_equal(one, two)
    assert not list(cut.rglob(".*"))
    assert os.listdir(cut / "tensorboard")
