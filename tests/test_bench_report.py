"""Joining results into a report: rows, gains, memory, failures, findings, tables, the picture, damaged files."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trajworld.benchmarks.accuracy import arrays_path, write_arrays
from trajworld.benchmarks.findings import findings
from trajworld.benchmarks.pictures import draw_report
from trajworld.benchmarks.report import read_report
from trajworld.benchmarks.results import Result
from trajworld.benchmarks.tables import as_json, as_markdown, duration, memory_size, tables
from trajworld.errors import TrajWorldError, UsageError

SPEED = {"jax": 1.0, "tensorflow": 1.02, "torch": 2.0}


def training(
    backend: str, seconds: float, size: str = "small", dtype: str = "float32", flops: int = 10**9
) -> Result:
    return Result(
        backend, "training", "training step", size, 15, dtype, 32, seconds, 0.9 * seconds, 5, seconds + 4, flops, 608,
        peak_float32=2e11, peak_bfloat16=3e11,
    )  # fmt: skip


def rollout(backend: str, seconds: float, compilations: int = 3) -> Result:
    facts = {"horizons": [10, 25, 100], "compilations": compilations}
    return Result(
        backend, "rollout", "100 steps", "small", 15, "float32", 32, seconds, seconds, 5, None, 10**9, 3200,
        facts=facts,
    )  # fmt: skip


def memory(backend: str, measure: str, size: str, held: int) -> Result:
    return Result(backend, "memory", measure, size, 15, "float32", 32, memory=held)


def write(folder: Path, backend: str, suite: str, results: list[Any]) -> Path:
    """A file as pytest-benchmark writes it, as far as the report reads it."""
    extras = [one.to_extra() if isinstance(one, Result) else one for one in results]
    content = {
        "machine_info": {"processor": "Abacus 3000", "cores": 2, "features": ["avx2"]},
        "benchmarks": [{"name": "test", "stats": {}, "extra_info": extra} for extra in extras],
    }
    path = folder / f"{backend}-{suite}.json"
    path.write_text(json.dumps(content))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three backends' results; TensorFlow's rollout failed, and PyTorch has no bfloat16."""
    for backend, factor in SPEED.items():
        steps = [training(backend, 0.1 * factor), training(backend, 2 * factor, "paper", flops=10**11)]
        if backend != "torch":
            steps.append(training(backend, 0.05 * factor, dtype="mixed_bfloat16"))
        write(tmp_path, backend, "training", steps)
        held = [
            memory(backend, "training step", "small", 300_000_000),
            memory(backend, "rollout", "small", 50_000_000),
        ]
        write(tmp_path, backend, "memory", [*held, memory(backend, "training step", "tiny", 7_000_000)])
        losses = np.linspace(6, 3, 200) * (1 + 1e-5 * factor)
        write_arrays(
            arrays_path(tmp_path, backend),
            {"logits/tiny": np.full((2, 3), factor * 1e-5), "losses": losses, "holdout_error": np.array(0.5)},
        )
    write(tmp_path, "jax", "rollout", [rollout("jax", 0.3)])
    write(tmp_path, "torch", "rollout", [rollout("torch", 0.1, compilations=0)])
    write(
        tmp_path, "jax", "startup", [Result("jax", "startup", "import", seconds=1.5, minimum=1.4, rounds=2)]
    )
    outcomes = [
        {"backend": "jax", "suite": "training", "passed": True, "seconds": 1.0, "problem": ""},
        {
            "backend": "tensorflow",
            "suite": "rollout",
            "passed": False,
            "seconds": 1.0,
            "problem": "out of memory",
        },
    ]
    run = {"versions": {"jax": "0.1", "keras": "3.12", "tensorflow-cpu": "2.19"}, "outcomes": outcomes}
    (tmp_path / "run.json").write_text(json.dumps(run))
    return tmp_path


def test_results_of_the_same_thing_make_a_row(folder: Path) -> None:
    report = read_report(folder)
    assert report.backends == ("jax", "tensorflow", "torch")
    assert report.machine["processor"] == "Abacus 3000"
    assert [(row.first.size, row.first.dtype) for row in report.of("training")] == [
        ("small", "float32"),
        ("small", "mixed_bfloat16"),
        ("paper", "float32"),
    ]
    small = report.of("training")[0]
    assert list(small.results) == ["jax", "tensorflow", "torch"]
    assert small.fastest == "jax"
    jax = small.results["jax"]
    assert jax.flops_per_second == pytest.approx(1e10)
    assert jax.share_of_peak == pytest.approx(0.05)
    assert jax.rows_per_second == pytest.approx(6080)
    assert jax.compile_seconds == pytest.approx(4)
    assert report.peaks["torch"] == (2e11, 3e11)


def test_a_missing_backend_leaves_the_others(folder: Path) -> None:
    (row,) = read_report(folder).of("rollout")
    assert list(row.results) == ["jax", "torch"]
    assert row.fastest == "torch"
    (start,) = read_report(folder).of("startup")
    assert start.fastest is None


def test_bfloat16_gain_is_against_the_same_backend_in_float32(folder: Path) -> None:
    narrow = read_report(folder).of("training")[1]
    assert narrow.bfloat16_gain("jax") == pytest.approx(2)
    assert narrow.bfloat16_gain("tensorflow") == pytest.approx(2)
    assert narrow.bfloat16_gain("torch") is None
    assert read_report(folder).of("training")[0].bfloat16_gain("jax") is None


def test_memory_joins_the_step_that_it_was_measured_of(folder: Path) -> None:
    report = read_report(folder)
    small, narrow, _ = report.of("training")
    assert small.memory["torch"] == 300_000_000
    assert narrow.memory == {}
    assert report.of("rollout")[0].memory["jax"] == 50_000_000
    # Of the size tiny no step was timed.
    (alone,) = report.of("memory")
    assert (alone.first.size, alone.memory["jax"]) == ("tiny", 7_000_000)


def test_failures_and_accuracy_are_told(folder: Path) -> None:
    report = read_report(folder)
    assert report.failures == ("tensorflow rollout: out of memory",)
    tensorflow, torch = report.accuracy
    assert tensorflow.largest_logits == pytest.approx(2e-7)
    assert torch.largest_logits == pytest.approx(1e-5)
    assert torch.largest_loss == pytest.approx(1e-5, rel=1e-3)
    assert torch.holdout == 0


def test_findings_answer_in_sentences(folder: Path) -> None:
    said = findings(read_report(folder))
    assert said[0] == "FAILED: tensorflow rollout: out of memory"
    text = "\n".join(said)
    assert "Training, fastest in float32: small: JAX and TensorFlow (2.0 × faster than PyTorch)" in text
    assert "Rollouts, fastest in float32: small: PyTorch (3.0 × faster than JAX)" in text
    assert "2.00 × on JAX" in text
    assert "PyTorch 200 in float32, 300 in bfloat16" in text
    assert "JAX 3 for 3 lengths, PyTorch none" in text
    assert "PyTorch against JAX: the same model" in text
    assert "1.0e-05" in text


def test_timings_on_a_busy_machine_are_named(folder: Path) -> None:
    assert not any("busy" in line for line in findings(read_report(folder)))
    slow = training("torch", 0.4, "d64x2").to_extra() | {"peak_float32": 1.3e11}
    write(folder, "torch", "forward", [slow | {"suite": "forward"}])
    said = findings(read_report(folder))
    assert "busy during 1 of 9 timings" in said[1]
    assert said[1].endswith("repeat torch forward.")


def test_a_model_that_is_not_the_same_is_named(folder: Path) -> None:
    write_arrays(arrays_path(folder, "torch"), {"logits/tiny": np.full((2, 3), 1.0)})
    report = read_report(folder)
    assert "PyTorch against JAX: NOT the same" in "\n".join(findings(report))
    assert "NO" in as_markdown(report)


def test_tables_hold_every_row_and_mark_the_fastest(folder: Path) -> None:
    text = as_markdown(read_report(folder), "report.png")
    assert "## How fast is a training step?" in text
    assert "| small M=15 float32 | JAX | **100 ms** | 90 ms | 10 | 5% | 6,080 | 4 s | 300 MB |" in text
    assert "![Training" in text
    assert "Abacus 3000" in text
    assert "TensorFlow 2.19" in text
    for table in tables(read_report(folder)):
        assert all(len(row) == len(table.header) for row in table.rows)
    started = next(table for table in tables(read_report(folder)) if "first answer" in table.title)
    assert started.header == ("", "backend", "median", "best")


def test_json_holds_what_the_tables_hold(folder: Path) -> None:
    found = json.loads(json.dumps(as_json(read_report(folder)), allow_nan=False))
    row = found["rows"][0]
    assert row["fastest"] == "jax"
    assert row["backends"]["jax"]["share_of_peak"] == pytest.approx(0.05)
    assert row["backends"]["jax"]["memory"] == 300_000_000
    assert found["accuracy"][1]["backend"] == "torch"
    assert len(found["accuracy"][1]["relative_loss_differences"]) == 200
    assert found["failures"] == ["tensorflow rollout: out of memory"]


def test_the_picture_is_drawn_of_much_and_of_little(folder: Path, tmp_path: Path) -> None:
    draw_report(tmp_path / "full.png", read_report(folder))
    assert (tmp_path / "full.png").read_bytes().startswith(b"\x89PNG")
    alone = tmp_path / "alone"
    alone.mkdir()
    write(
        alone,
        "torch",
        "tokenizing",
        [Result("torch", "tokenizing", "target bins", "small", 15, "float32", 32, 0.1)],
    )
    report = read_report(alone)
    draw_report(tmp_path / "little.png", report)
    assert "not measured" in findings(report)[-1]
    assert report.failures == ()


def test_a_run_in_which_everything_failed_is_still_a_report(tmp_path: Path) -> None:
    outcome = {"backend": "jax", "suite": "training", "passed": False, "seconds": 1.0, "problem": "no room"}
    (tmp_path / "run.json").write_text(json.dumps({"versions": {}, "outcomes": [outcome]}))
    report = read_report(tmp_path)
    assert report.failures == ("jax training: no room",)
    assert as_markdown(report)
    draw_report(tmp_path / "empty.png", report)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"benchmarks": [', "not a readable JSON file"),
        ("[1, 2]", "not pytest-benchmark's"),
        ('{"benchmarks": 3}', "not pytest-benchmark's"),
        ('{"benchmarks": [{"extra_info": {"answer": 42}}]}', "not of `trajworld bench run`"),
        ('{"benchmarks": [7]}', "not of `trajworld bench run`"),
        ('{"benchmarks": [{"extra_info": {"trajworld_benchmark": 1}}]}', "it lacks backend"),
        ("\xff\xfe", "x.json"),
    ],
)
def test_foreign_and_truncated_files_are_refused_by_name(folder: Path, text: str, message: str) -> None:
    (folder / "x.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(TrajWorldError, match=message) as caught:
        read_report(folder)
    assert "x.json" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        {"seconds": "fast"},
        {"seconds": -1.0},
        {"variates": "many"},
        {"size": 3},
        {"facts": []},
        {"memory": float("inf")},
    ],
)
def test_records_of_wrong_types_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        Result.from_extra(training("jax", 1.0).to_extra() | change)


def test_records_survive_json() -> None:
    result = rollout("jax", 0.25)
    assert Result.from_extra(json.loads(json.dumps(result.to_extra()))) == result


@pytest.mark.parametrize(
    "run", ["[]", '{"versions": 3, "outcomes": []}', '{"versions": {}, "outcomes": [1]}']
)
def test_a_foreign_run_file_is_refused(folder: Path, run: str) -> None:
    (folder / "run.json").write_text(run)
    with pytest.raises(TrajWorldError, match=r"run\.json"):
        read_report(folder)


def test_benchmarks_that_failed_before_a_result_are_left_out(folder: Path) -> None:
    write(folder, "jax", "forward", [{}])
    assert read_report(folder).of("forward") == []


def test_folders_without_results_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no folder"):
        read_report(tmp_path / "nowhere")
    with pytest.raises(TrajWorldError, match="holds no results"):
        read_report(tmp_path)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "–"),
        (0.0, "0 s"),
        (12.345, "12.3 s"),
        (0.0123, "12.3 ms"),
        (1.5e-5, "15 µs"),
        (150.0, "150 s"),
        (1.0, "1 s"),
    ],
)
def test_durations_have_three_digits(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


def test_memory_sizes() -> None:
    assert (memory_size(None), memory_size(2_345_678), memory_size(1_234_567_890)) == ("–", "2 MB", "1.23 GB")
