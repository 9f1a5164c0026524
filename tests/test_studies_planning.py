"""The study of planning on a pendulum."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from studies_fixtures import PENDULUM, balancer, pendulum_data, tiny_model

from trajworld.charts import Look
from trajworld.errors import UsageError
from trajworld.policies.files import save_policy
from trajworld.studies.planning import MODELS, Planning

pytestmark = pytest.mark.once

HOPPER = "gymnasium/Hopper-v5"


def test_what_cannot_be_run_is_refused() -> None:
    given: dict[str, Any] = {"datasets": ("a",), "proposals": ("b",)}
    for wrong in (
        {"datasets": ()},
        {"proposals": ()},
        {"models": ("magic",)},
        {"method": "magic"},
        {"candidates": 0},
        {"seeds": 0},
    ):
        with pytest.raises(UsageError):
            Planning(**{**given, **wrong})


def test_steps_ahead_and_noise_are_the_published_ones() -> None:
    study = Planning(datasets=("d",), proposals=("zoo/hopper-05",), method="cem", candidates=8)
    found = [study._settings(f"gymnasium/{one}-v5") for one in ("Hopper", "Walker2d", "HalfCheetah", "Ant")]
    assert [(one.horizon, one.noise) for one in found] == [(50, 0.05), (25, 0.2), (25, 0.025), (25, 0.1)]
    assert found[0].elites == 8


def test_returns_stand_beside_the_proposals() -> None:
    about = {"environment": HOPPER, "episodes": 2, "steps": 10.0, "terminated": 0.5}
    rows = [
        {
            "task": "act_alone",
            "acting": "proposal",
            "return": 100.0,
            "return low": 90.0,
            "return high": 110.0,
        },
        {"task": "act_alone", "acting": "random actions", "return": 20.0},
    ]
    plans = {"task": "plan_episodes", "dataset": "d", "acting": "planner"}
    for seed, value in ((0, 120.0), (1, 160.0)):
        rows.append({**plans, "model": MODELS[0], "seed": seed, "return": value, "trained": f"cell {seed}"})
    rows.append({**plans, "model": MODELS[2], "seed": 0, "return": 50.0, "trained": "cell 2"})
    table = pd.DataFrame([{**about, **row} for row in rows])
    study = Planning(datasets=("d",), proposals=("zoo/hopper-05",), seeds=2)
    assert list(
        study.tables(table[:2].drop(columns=["dataset", "model", "seed", "trained"]))["Returns"]["acting"]
    ) == ["proposal", "random actions"]
    returns = study.tables(table)["Returns"].set_index("acting")
    assert list(returns.index) == ["proposal", "random actions", MODELS[0], MODELS[2]]
    assert returns["score"].tolist() == pytest.approx([1.0, 0.0, 1.5, 0.375])
    assert returns.loc[MODELS[0], ["return", "return low", "return high"]].tolist() == [140.0, 120.0, 160.0]
    assert returns.loc["proposal", ["return low", "return high"]].tolist() == [90.0, 110.0]
    assert returns["episodes"].tolist() == [2, 2, 4, 2]
    [figure] = study.charts(table, Look()).values()
    assert {text.get_text() for text in figure.axes[0].get_yticklabels()} == {"d"}
    assert not study.tables(pd.DataFrame())
    assert not study.charts(pd.DataFrame(), Look())


def test_each_environment_has_one_proposal(tmp_path: Path) -> None:
    data = pendulum_data(tmp_path / "data", 1.0, count=3, steps=20)
    for name in ("one", "two"):
        save_policy(balancer(1.0), tmp_path / f"{name}.npz")
    given = {"datasets": (str(data.path),)}
    for files, problem in ((("one.npz", "two.npz"), "names 2 policies for"), ((), "no policy is for")):
        proposals = *(str(tmp_path / name) for name in files), "zoo/hopper-05"
        with pytest.raises(UsageError, match=f"{problem} {PENDULUM}"):
            _ = Planning(**given, proposals=proposals)._proposals


@pytest.mark.slow
def test_the_study_runs_and_repeats_its_tables(
    tmp_path: Path, command: Callable[..., tuple[int, str, str]]
) -> None:
    save_policy(balancer(1.0), tmp_path / "good.npz")
    data = pendulum_data(tmp_path / "data", 1.0)
    model = tiny_model(tmp_path / "tiny.keras")
    plan = ["--datasets", data.path, "--proposals", tmp_path / "good.npz", "--model", model]
    sizes = "--batch-size 4 --steps 8 --ensemble-steps 10 --candidates 6 --horizon 4 --episodes 2"
    plan += [*sizes.split(), "--episode-steps", 30, "--baseline-episodes", 4]
    code, _, err = command("study", "run", "planning", *plan, "-o", tmp_path / "out", "--workers", "1")
    assert code == 0, err
    table = pd.read_csv(tmp_path / "out" / "table.csv")
    planned = table[table["task"] == "plan_episodes"]
    assert planned["model"].tolist() == list(MODELS)
    assert (planned["noise"] == 0.1).all()
    assert (planned["steps"] <= 30).all()
    assert planned["episodes"].tolist() == [2, 2, 2]
    assert table.loc[table["task"] == "act_alone", "episodes"].tolist() == [4, 4]
    assert (table.loc[table["task"] == "train_model", "step"] <= 10).all()
    assert set(table["acting"].dropna()) == {"planner", "proposal", "random actions"}
    good = table.loc[table["acting"] == "proposal", "return"].item()
    assert good > table.loc[table["acting"] == "random actions", "return"].item()
    report = (tmp_path / "out" / "report.md").read_text()
    assert all(word in report for word in ("Returns", "score", *MODELS))
    code, _, err = command("study", "run", "planning", *plan, "-o", tmp_path / "again", "--workers", "1")
    assert (code, "finished" in err) == (0, False)
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "again" / "table.csv"), table)
