"""A kill campaign: ``kill -9`` at random moments of the commands that write, each continued until it has ended.

    python tests/campaigns/kill.py [KILLS [SEED [COMMAND...]]]

Commands run in forks of this process, which has imported everything, so that kills fall into the work. What a command
leaves in the end is compared with what it leaves undisturbed.
"""

import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any
from unittest.mock import patch

os.environ.update(OMP_NUM_THREADS="1", KERAS_BACKEND=os.environ.get("KERAS_BACKEND", "jax"))
sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import pandas as pd
from training_fixtures import store

import trajworld.studies.transfer
import trajworld.training.loop  # noqa: F401
from trajworld.cli.main import main
from trajworld.data.resolve import open_dataset
from trajworld.training.record import read_metrics

TINY = (
    "preset = 'tiny'\nbatch_size = 4\nsteps = 60\nlog_every = 4\nevaluate_every = 20\ncheckpoint_every = 5\n"
)
TINY += "holdout_windows = 16\n[model]\nblocks = 1\nwidth = 8\nwindow = 4\nbins = 16\n"
STUDY = "--side scratch --preset tiny --environments Pendulum-v1 --sizes 450,900 --steps 0,4 --seeds 2 --pool 2400"
COMMANDS = {
    "collect": "data collect Pendulum-v1 MountainCarContinuous-v0 --transitions 4000 --workers 1 --skip-existing",
    "import": "data import UniTraj --id unitraj-v0",
    "pretrain": "pretrain one two -o run --config tiny.toml",
    "train": "train one -o run --config tiny.toml --init pre.keras",
    "study": f"study run transfer {STUDY} --learning-rates 1e-3 --batch-size 4 --windows 32 --workers 1 -o report",
}


def prepare(folder: Path) -> None:
    """What the commands read."""
    rng = np.random.default_rng(0)
    for number in range(40):
        place = folder / "UniTraj/modular-rl" / f"{'abcd'[number % 4]}-v2"
        place.mkdir(parents=True, exist_ok=True)
        arrays = {
            name: rng.normal(1, 1, (400, n)) for name, n in (("observation", 8), ("action", 2), ("reward", 1))
        }
        np.savez(place / f"episode_{number}.npz", **arrays)
    for seed, name in enumerate(("one", "two")):
        store(folder / name, seed=seed)
    (folder / "tiny.toml").write_text(TINY)


def begin(folder: Path, words: list[str]) -> int:
    """A command in a process group of its own."""
    if process := os.fork():
        return process
    code: Any = 99
    with contextlib.suppress(BaseException):
        os.setsid()
        os.chdir(folder)
        log = os.open("log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for stream in (1, 2):
            os.dup2(log, stream)
        with at(folder):
            try:
                code = main(words) or 0
            except SystemExit as end:
                code = end.code
    os._exit(code)


def at(folder: Path) -> Any:
    return patch.dict("os.environ", MINARI_DATASETS_PATH=f"{folder}/minari", TRAJWORLD_HOME=f"{folder}/home")


def finished(folder: Path) -> dict[str, str]:
    """What is finished, by name, with digests of its content; of a run the newest checkpoint."""
    data = [one for one in folder.glob("minari/**/main_data.hdf5") if ".tmp/" not in str(one)]
    files = [*data, *folder.glob("home/cells/[!.]*.json")]
    steps = [one.name for one in folder.glob("run/checkpoints/step-*")]
    return {str(one): hashlib.sha256(one.read_bytes()).hexdigest() for one in files} | {
        "step": max(steps, default="")
    }


def outcome(folder: Path) -> Any:
    """What a command leaves: data, weights, losses, tables; without times."""
    ids = [one.parents[1].relative_to(folder / "minari") for one in folder.glob("minari/**/main_data.hdf5")]
    with at(folder):
        data = {one: open_dataset(one.as_posix()).content for one in sorted(ids)}
    tables = [pd.read_csv(path) for path in folder.glob("report/table.csv")]
    weights = [zipfile.ZipFile(path).read("model.weights.h5") for path in sorted(folder.glob("run/*.keras"))]
    rows = [(row["step"], row.get("loss"), row.get("holdout_loss")) for row in read_metrics(folder / "run")]
    return data, weights, rows, [table.drop(columns="seconds").to_csv() for table in tables]


def leftovers(folder: Path) -> list[str]:
    return [one.name for one in folder.rglob(".*") if ".tmp" in one.name or one.suffix in (".lock", ".old")]


def campaign(kills: int, seed: int, name: str, folder: Path) -> tuple[dict[str, int], list[str]]:
    """Kill a command again and again, each time continued until it has ended; counts and faults."""
    rng, words, faults, wanted, lasts = random.Random(f"{seed} {name}"), COMMANDS[name].split(), [], None, 0.0
    counts = dict.fromkeys(("kills", "resumed", "rounds"), 0)
    while counts["kills"] < kills or wanted is None:
        place, before = folder / f"{name}-{counts['rounds']}", {"step": ""}
        shutil.copytree(folder / "given", place)
        while True:
            resumes = (place / "run/config.toml").is_file()
            began, process = (
                time.monotonic(),
                begin(place, [words[0], "--resume", "run"] if resumes else words),
            )
            # Undisturbed first: how long it takes, and what it leaves.
            until = rng.uniform(0, lasts) if wanted is not None and counts["kills"] < kills else 300.0
            while not (ended := os.waitpid(process, os.WNOHANG))[0] and time.monotonic() - began < until:
                time.sleep(0.002)
            if ended[0]:
                break
            os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
            counts["kills"], counts["resumed"] = counts["kills"] + 1, counts["resumed"] + resumes
            now = finished(place)
            lost = [one for one in before if one != "step" and now.get(one) != before[one]]
            if lost or now["step"] < before["step"]:
                faults.append(f"{name}: lost {lost}, {before['step']} -> {now['step']}")
            before = now
        code, found = os.waitstatus_to_exitcode(ended[1]), outcome(place)
        lasts, wanted = (time.monotonic() - began, found) if wanted is None else (lasts, wanted)
        if code != 0 or found != wanted or leftovers(place):
            faults.append(f"{name}: code {code}, equal {found == wanted}, left {leftovers(place)}")
            faults.append((place / "log").read_text()[-400:])
        counts["rounds"] += 1
        shutil.rmtree(place)
    return counts, faults


if __name__ == "__main__":
    words = sys.argv[1:]
    kills, seed = map(int, [*words[:2], *["200", "0"][len(words) :]])
    names = words[2:] or list(COMMANDS)
    with tempfile.TemporaryDirectory() as temporary:
        given = Path(temporary) / "given"
        given.mkdir()
        prepare(given)
        made = begin(given, ["pretrain", "two", "-o", "pre", "--config", "tiny.toml"])
        assert os.waitpid(made, 0)[1] == 0, (given / "log").read_text()
        (given / "pre/best.keras").rename(given / "pre.keras")
        shutil.rmtree(given / "pre")
        faults = []
        for name in names:
            counts, found = campaign(kills // len(names), seed, name, Path(temporary))
            print(f"{name:10}", json.dumps(counts), flush=True)
            faults += found
    sys.exit("\n".join(faults))
