"""The quickstart, tiny: every stage for real, and the commands it prints."""

import json
import os
import shlex
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from trajworld.cli.main import cli
from trajworld.errors import UsageError
from trajworld.models.files import describe_model, load_model
from trajworld.models.names import find_model
from trajworld.models.sizes import model_sizes
from trajworld.quickstart.plan import PLANS, quickstart_plan
from trajworld.quickstart.stages import command_line, datasets_in


@pytest.mark.slow
def test_tiny_story_end_to_end(tmp_path: Path) -> None:
    folder = tmp_path / "quick"
    outcome = CliRunner().invoke(
        cli, ["quickstart", "--scale", "tiny", "-o", str(folder), "--json"], catch_exceptions=False
    )
    assert outcome.exit_code == 0
    results = json.loads(outcome.stdout)
    plan = PLANS["tiny"]
    assert len(results["trials"]) == 2 * len(plan.sizes) * len(plan.learning_rates)
    assert {row["transitions"] for row in results["trials"]} == set(plan.sizes)
    assert all(np.isfinite(row["errors"]["normalised_mae"]) for row in results["trials"])
    assert results["copy_last_row"]["normalised_mae"] > 0
    assert results["model"]["name"] == plan.model
    assert results["model"]["environments"]
    assert not any("hopper" in name.lower() for name in results["model"]["environments"])
    page = (folder / "index.html").read_text(encoding="utf-8")
    assert f"{results['copy_last_row']['normalised_mae']:.3f}" in page
    for name in results["pictures"].values():
        assert (folder / name).read_bytes().startswith(b"\x89PNG")

    # A command that it prints repeats its step: the same weights, in another process.
    lines = {command["title"]: command["line"] for command in results["commands"]}
    title = next(title for title in lines if title.startswith("from scratch"))
    words = shlex.split(lines[title])
    original = Path(words[words.index("-o") + 1])
    words[words.index("-o") + 1] = str(tmp_path / "again")
    environment = {**os.environ, "MINARI_DATASETS_PATH": str(folder / "datasets")}
    program = "import sys; from trajworld.cli.main import main; sys.exit(main(sys.argv[1:]))"
    subprocess.run([sys.executable, "-c", program, *words[1:]], env=environment, check=True, timeout=300)
    first = load_model(original / "last.keras").get_weights()
    second = load_model(tmp_path / "again" / "last.keras").get_weights()
    for one, other in zip(first, second, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_folder_in_use_is_refused(tmp_path: Path) -> None:
    (tmp_path / "something").write_text("kept")
    outcome = CliRunner().invoke(cli, ["quickstart", "--scale", "tiny", "-o", str(tmp_path)])
    assert isinstance(outcome.exception, UsageError)
    assert "not empty" in str(outcome.exception)
    assert (tmp_path / "something").read_text() == "kept"


def test_both_sides_of_a_plan_are_models_of_one_size() -> None:
    for plan in PLANS.values():
        assert describe_model(find_model(plan.model))["sizes"] == asdict(model_sizes(plan.preset))
        assert max(plan.sizes) <= plan.pool_transitions


def test_bad_plans_are_refused() -> None:
    with pytest.raises(UsageError, match="no quickstart scale"):
        quickstart_plan("huge")
    with pytest.raises(UsageError, match="negative"):
        quickstart_plan("tiny", -1)


def test_command_line_quotes_for_the_shell() -> None:
    line = command_line("data collect", "Pendulum-v1?g=5.0&l=1.5", batch_size=3, o="a b")
    assert shlex.split(line) == [
        *("trajworld", "data", "collect", "Pendulum-v1?g=5.0&l=1.5"),
        *("--batch-size", "3", "-o", "a b"),
    ]


def test_datasets_folder_is_given_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", "before")
    with datasets_in(tmp_path):
        assert os.environ["MINARI_DATASETS_PATH"] == str(tmp_path)
    assert os.environ["MINARI_DATASETS_PATH"] == "before"
