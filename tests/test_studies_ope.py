"""The study of off-policy evaluation on a pendulum whose policies' skill is known."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from test_ope import PENDULUM, balancer

from trajworld.collect.collector import run_episodes
from trajworld.data.store import write_store
from trajworld.errors import UsageError
from trajworld.models.files import save_model
from trajworld.models.identity import Identity
from trajworld.models.interface import kind_of, new_model
from trajworld.policies.files import save_policy
from trajworld.studies.ope import METHODS, Ope

pytestmark = pytest.mark.once


def test_what_cannot_be_run_is_refused() -> None:
    given = {"datasets": ("a",), "policies": ("b",)}
    for wrong in (
        {"datasets": ()},
        {"policies": ()},
        {"methods": ("magic",)},
        {"seeds": 0},
        {"discount": 2.0},
    ):
        with pytest.raises(UsageError):
            Ope(**{**given, **wrong})


@pytest.mark.slow
def test_the_study_runs_and_repeats_its_tables(
    tmp_path: Path, command: Callable[..., tuple[int, str, str]]
) -> None:
    episodes = []
    for name, gain in {"good": 1.0, "bad": -1.0}.items():
        save_policy(balancer(gain), tmp_path / "policies" / f"{name}.npz")
        episodes += [one.episode for one in run_episodes(PENDULUM, balancer(gain), 0, 0, 10, 60)]
    data = write_store(tmp_path / "data", episodes, name="pendulum", source="", environment=PENDULUM)
    model = tmp_path / "tiny.keras"
    save_model(new_model(kind_of("trajworld").preset("tiny"), Identity()), model)
    plan = ["--datasets", data.path, "--policies", tmp_path / "policies", "--model", model, "--steps", "8"]
    plan += [
        "--batch-size",
        "4",
        "--ensemble-steps",
        "10",
        "--iterations",
        "5",
        "--seeds",
        "1",
        "--horizon",
        "20",
    ]
    plan += ["--discount", "0.9", "--states", "8", "--episodes", "4"]
    code, _, err = command("study", "run", "ope", *plan, "-o", tmp_path / "out", "--workers", "1")
    assert code == 0, err
    table = pd.read_csv(tmp_path / "out" / "table.csv")
    assert set(table["method"].dropna()) == set(METHODS)
    truths = table[table["task"] == "simulate"].set_index("policy")["truth"]
    assert truths["good"] > truths["bad"]
    estimates = table[table["task"].isin(["estimate", "fit"])]
    assert len(estimates) == 8
    assert estimates["estimate"].notna().all()
    report = (tmp_path / "out" / "report.md").read_text()
    assert all(word in report for word in ("Mean over the datasets", "regret@1", *METHODS))
    # Everything is there already.
    code, _, err = command("study", "run", "ope", *plan, "-o", tmp_path / "again", "--workers", "1")
    assert (code, "finished" in err) == (0, False)
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "again" / "table.csv"), table)
