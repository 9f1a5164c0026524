"""``trajworld evaluate-transfer``: a small study for real, resumed, and what it refuses."""

import contextlib
import hashlib
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from training_fixtures import SIZES, config_for, store
from transfer_fixtures import made_up_trial

from trajworld.cli.main import cli
from trajworld.errors import TrajWorldError, UsageError
from trajworld.training.loop import train
from trajworld.training.run import start_run
from trajworld.transfer.trials import TrialResult

SMALL = (
    *("--environment", "InvertedPendulum-v5", "--sizes", "400,800", "--steps", "0,2,4", "--pool", "1500"),
    *("--learning-rates", "1e-2", "--seeds", "2", "--batch-size", "4", "--windows", "16"),
)


def invoke(*arguments: str) -> tuple[int, str, str]:
    outcome = CliRunner().invoke(cli, ["evaluate-transfer", *arguments], catch_exceptions=True)
    if outcome.exception is not None and not isinstance(outcome.exception, SystemExit):
        raise outcome.exception
    return outcome.exit_code, outcome.stdout, outcome.stderr


@pytest.fixture
def model(tmp_path: Path) -> str:
    """A model file of a run of no consequence."""
    config = config_for("pretrain", [store(tmp_path / "data")], steps=2, model=SIZES)
    train(start_run(tmp_path / "run", config))
    return str(tmp_path / "run" / "last.keras")


@pytest.mark.slow
def test_a_study_of_both_sides(tmp_path: Path, model: str) -> None:
    out = tmp_path / "out"
    # Both sides apart, the second in two processes, and the results are those of both at once.
    _, text, log = invoke(model, "-o", str(out), *SMALL, "--side", "scratch", "--workers", "1")
    assert "4 trials, 0 of them finished" in log
    assert "4 of 4: gymnasium/InvertedPendulum-v5, from scratch" in log
    assert "Nothing can be said yet" in " ".join(text.split())
    with pytest.raises(UsageError, match="holds trials: --resume"):
        invoke(model, "-o", str(out), *SMALL)
    _, text, log = invoke(model, "-o", str(out), *SMALL, "--resume", "--workers", "2", "--json")
    assert "8 trials, 4 of them finished; 2 processes" in log
    results = json.loads(text)
    digest = results["model"]["digest"]
    place = out / f"last-{digest[:8]}"
    assert results == json.loads((place / "results.json").read_text())
    assert results["kind"] == "transfer"
    assert results["model"]["file"] == hashlib.sha256(Path(model).read_bytes()).hexdigest()
    assert results["model"]["step"] == 2
    (environment,) = results["environments"]
    assert len(environment["curves"]) == 4
    assert all(len(seeds) == 2 for curve in environment["curves"] for seeds in curve["errors"])
    assert environment["factors"]["last"]["target"] > 0
    assert not environment["seen"]
    assert results["findings"]
    assert {path.name for path in out.iterdir()} == {"trials", place.name}
    assert {path.name for path in place.iterdir()} == {
        *("results.json", "results.md", "transfer-data.png", "transfer-steps.png")
    }
    # Nothing is left of the runs but small records.
    records = sorted((out / "trials").rglob("*"))
    assert sum(path.is_file() for path in records) == 8
    assert sum(path.stat().st_size for path in records if path.is_file()) < 8 * 5000

    before = {path: path.read_bytes() for path in records if path.is_file()}
    # A record that is lost is made again: the same numbers.
    lost = next(path for path in before if path.name.startswith("fine-tuned-400-0.01-seed0"))
    lost.unlink()
    _, text, log = invoke(model, "-o", str(out), *SMALL, "--resume", "--workers", "1", "--json")
    again = json.loads(text)
    for one, other in zip(environment["curves"], again["environments"][0]["curves"], strict=True):
        assert one["errors"] == [pytest.approx(seeds, rel=1e-4) for seeds in other["errors"]]
    assert json.loads(lost.read_text())["key"] == json.loads(before[lost])["key"]
    _, _, log = invoke(model, "-o", str(out), *SMALL, "--resume")
    assert "8 trials, 8 of them finished" in log


def descendants(pid: int) -> dict[int, str]:
    """The processes below one, and when each began, so that a number that is given again is not taken for it."""
    found: dict[int, tuple[int, str]] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            found[int(entry.name)] = (int(fields[1]), fields[19])
    below: dict[int, str] = {}
    while new := {
        one: began for one, (parent, began) in found.items() if parent in {pid, *below} and one not in below
    }:
        below |= new
    return below


def alive(pid: int, began: str) -> bool:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return False
    # One that ended and that nobody has asked about is a zombie.
    return fields[19] == began and fields[0] != "Z"


@pytest.mark.slow
@pytest.mark.skipif(
    not Path("/proc/self/stat").is_file(), reason="needs Unix signals and Linux's list of processes"
)
def test_interrupted_and_killed(tmp_path: Path) -> None:
    """Ctrl-C and kill -9 leave whole records and no process; the study goes on."""
    out = tmp_path / "out"
    program = "import sys; from trajworld.cli.main import main; sys.exit(main(sys.argv[1:]))"
    # Trials that last: on a busy machine the others must not be over before the signal is sent.
    options = ["-o", str(out), *SMALL, "--steps", "0,2,100", "--side", "scratch", "--preset", "tiny"]
    for number, until in ((signal.SIGINT, "1 of 4: "), (signal.SIGKILL, " of them finished; 2 processes")):
        process = subprocess.Popen(
            [
                *(sys.executable, "-P", "-c", program, "evaluate-transfer", *options, "--workers", "2"),
                *(["--resume"] if out.exists() else []),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert process.stdout is not None
        read = ""
        while until not in read:
            line = process.stdout.readline()
            assert line, read
            read += line
        deadline = time.monotonic() + 60
        while len(workers := descendants(process.pid)) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(number)
        text, _ = process.communicate(timeout=60)
        assert process.returncode == (130 if number == signal.SIGINT else -signal.SIGKILL)
        # A worker that was just being started when its parent was killed says so by a traceback of Python's own.
        assert number == signal.SIGKILL or "Traceback" not in text
        if number == signal.SIGINT:
            assert "trials are finished and kept: --resume goes on" in text
            assert text.rstrip().endswith("Interrupted.")
        deadline = time.monotonic() + 30
        while left := [pid for pid, began in workers.items() if alive(pid, began)]:
            assert time.monotonic() < deadline, f"left after {number.name}: {left}"
            time.sleep(0.1)
        records = list(out.glob("trials/*/*.json"))
        assert records
        for path in records:
            json.loads(path.read_text())

    kept = {path: path.read_bytes() for path in records}
    code, _, log = invoke(*options, "--resume", "--workers", "1")
    assert code == 0
    assert f"4 trials, {len(kept)} of them finished" in log
    assert len(list(out.glob("trials/*/*.json"))) == 4
    assert {path: path.read_bytes() for path in kept} == kept
    (results,) = out.glob("*/results.json")
    assert len(json.loads(results.read_text())["environments"][0]["curves"]) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "name the MODEL"),
        (("--side", "fine-tuned"), "name the MODEL"),
        (("--side", "scratch", "--resume", "--overwrite"), "choose one"),
        (("model.keras", "--preset", "tiny"), "leave out --preset"),
        (("--side", "scratch", "--sizes", "4,2"), "sizes must ascend"),
        (("--side", "scratch", "--steps", "0"), "the last of the steps"),
        (("--side", "scratch", "--learning-rates", "0"), "must be above 0"),
        (("--side", "scratch", "--pool", "10"), "10 transitions collected cannot give 64000"),
    ],
)
def test_mistakes(tmp_path: Path, arguments: tuple[str, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        invoke(*arguments, "-o", str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_numbers_that_are_none(tmp_path: Path) -> None:
    code, _, log = invoke("--side", "scratch", "-o", str(tmp_path), "--sizes", "1k,2k")
    assert code == 2
    assert "'1k,2k' is not whole numbers with commas between them" in " ".join(log.split())


def test_a_model_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(TrajWorldError, match=r"nothing\.keras"):
        invoke(str(tmp_path / "nothing.keras"), "-o", str(tmp_path / "out"))


def test_a_mistake_beside_overwrite_costs_no_trial(tmp_path: Path) -> None:
    record = tmp_path / "out" / "trials" / "gymnasium-hopper-v5" / "one.json"
    record.parent.mkdir(parents=True)
    record.write_text('{"key": {}, "result": {}}')
    for arguments in (
        ("wrong-name",),
        (str(tmp_path / "nothing.keras"),),
        ("trajworld-small", "--environment", "NoSuch-v0"),
    ):
        with pytest.raises(TrajWorldError):
            invoke(*arguments, "--overwrite", "-o", str(tmp_path / "out"))
        assert record.is_file()


def test_a_trial_that_fails_leaves_the_results_of_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trajworld.transfer import workers

    def run(task: workers.Task, folder: Path) -> TrialResult:
        if task.trial.transitions == 800:
            raise TrajWorldError("the disk is full")
        return made_up_trial(0.5, settings=task.settings)

    monkeypatch.setattr(workers, "run_task", run)
    out = tmp_path / "out"
    arguments = ("--side", "scratch", "--preset", "tiny", "--workers", "1", "-o", str(out), *SMALL)
    with pytest.raises(
        TrajWorldError, match=r"a trial failed; .*from scratch, 800 transitions, .* the disk is full"
    ):
        invoke(*arguments)
    (path,) = out.rglob("results.json")
    (environment,) = json.loads(path.read_text())["environments"]
    assert [curve["transitions"] for curve in environment["curves"]] == [400]
