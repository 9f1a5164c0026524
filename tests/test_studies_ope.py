"""The study of off-policy evaluation on a pendulum whose policies' skill is known."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from studies_fixtures import balancer, pendulum_data, tiny_model

from trajworld.charts import Look
from trajworld.errors import UsageError
from trajworld.models.interface import kind_of
from trajworld.policies.files import save_policy, zoo_files
from trajworld.studies import ope
from trajworld.studies.data import Pretrained, shown_names
from trajworld.studies.fine_tuning import FINE_TUNED, FROM_SCRATCH
from trajworld.studies.ope import METHODS, Ope
from trajworld.studies.training_cells import ENSEMBLE

pytestmark = pytest.mark.once

HOPPER = "gymnasium/Hopper-v5"


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
    # Fitted Q alone needs a discount.
    assert Ope(**given, methods=METHODS[:3], discount=1.0).discount == 1
    with pytest.raises(UsageError, match="fitted Q evaluation needs a discount below 1"):
        Ope(**given, discount=1.0)


def test_a_report_needs_no_dataset_and_compares_whole_seeds() -> None:
    datasets = "one/hopper-v5-medium-v0", "two/hopper-v5-medium-v0"
    rows: list[dict[str, Any]] = [
        {"task": "simulate", "environment": HOPPER, "policy": name, "truth": value, "truth error": 0.1}
        for name, value in (("a", 1.0), ("b", 2.0))
    ]
    # The second dataset is worse, and has failed with the second seed.
    for dataset, seed, error in ((datasets[0], 0, 0.1), (datasets[1], 0, 0.5), (datasets[0], 1, 0.1)):
        about = {"task": "fit", "dataset": dataset, "method": METHODS[3], "seed": seed, "environment": HOPPER}
        rows += [{**about, "policy": name, "estimate": value + error} for name, value in (("a", 1), ("b", 2))]
    table = pd.DataFrame(rows)
    study = Ope(datasets=datasets, policies=("zoo/hopper",))
    mean, each, training = study.tables(table).values()
    assert (each["policies"].tolist(), len(training)) == ([2, 2], 0)
    lost = table.assign(estimate=table["estimate"].mask(table["seed"].eq(1) & table["policy"].eq("b")))
    assert study.tables(lost)["Each dataset"]["policies"].tolist() == [1, 2]
    assert mean["absolute error"].tolist() == [pytest.approx(0.3)]
    assert mean["datasets"].tolist() == [2]
    assert each["absolute error"].tolist() == [pytest.approx(0.1), pytest.approx(0.5)]
    # Where each seed lacks a dataset, those count that both have.
    third = table[table["seed"] == 1].assign(dataset="three/hopper-v5-medium-v0", estimate=7.0)
    mean = study.tables(pd.concat([table, third]))["Mean over the datasets"]
    assert (mean["datasets"].tolist(), mean["absolute error"].tolist()) == ([1], [pytest.approx(0.1)])
    [(title, figure)] = study.charts(table, Look()).items()
    assert title == "Estimates and true returns: Hopper-v5"
    # Both are of one level, which does not tell them apart.
    assert [axes.get_title(loc="left") for axes in figure.axes] == list(datasets)
    assert shown_names([datasets[0], "one/hopper-v5-medium-replay-v0"]) == {
        datasets[0]: "medium",
        "one/hopper-v5-medium-replay-v0": "medium-replay",
    }


def test_policies_and_time_limits_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    study = Ope(datasets=("a", "b"), policies=("zoo/hopper",))
    about = {"environment": HOPPER, "reward": True, "observation_size": 11, "action_size": 3}
    data = [SimpleNamespace(name=name, content=name, path="x", **about) for name in study.datasets]
    model = Pretrained(Path("x"), "digest", kind_of("trajworld").preset("tiny"))
    vars(study).update({"_data": data, "_model": model})
    calls: list[Any] = []

    def seen(function: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *given: [calls.append(given[-1]), function(*given)][1]

    for name in ("file_digest", "within_limit"):
        monkeypatch.setattr(ope, name, seen(getattr(ope, name)))
    cells = study.cells(pd.DataFrame())
    for _ in range(2):
        every = study.cells(pd.DataFrame({"cell": [cell.key for cell in cells]}))
    assert len(every) == len(cells) + 2 * 3 * study.seeds
    # What is trained is estimated before more is trained, and the first seed of all datasets comes first.
    training = every[-2 * 3 * study.seeds :]
    assert {cell.task.__name__ for cell in training} == {"train_model"}
    assert [cell.settings["seed"] for cell in training] == [0] * 6 + [1] * 6
    ensemble = training[2].settings["model"]
    assert (ensemble["kind"], ensemble["observations"], ensemble["actions"]) == ("mlp-ensemble", 11, 3)
    assert len(calls) == len(set(calls)) == len(zoo_files("zoo/hopper")) + 1


@pytest.mark.slow
def test_the_study_runs_and_repeats_its_tables(
    tmp_path: Path, command: Callable[..., tuple[int, str, str]]
) -> None:
    for name, gain in {"good": 1.0, "bad": -1.0}.items():
        save_policy(balancer(gain), tmp_path / "policies" / f"{name}.npz")
    data = pendulum_data(tmp_path / "data", 1.0, -1.0)
    model = tiny_model(tmp_path / "tiny.keras")
    plan = ["--datasets", data.path, "--policies", tmp_path / "policies", "--model", model, "--steps", "8"]
    more = (
        "--batch-size 4 --ensemble-steps 10 --iterations 5 --seeds 1 --horizon 20 --discount 0.9 --states 8"
    )
    plan += [*more.split(), "--episodes", "4"]
    code, _, err = command("study", "run", "ope", *plan, "-o", tmp_path / "out", "--workers", "1")
    assert code == 0, err
    table = pd.read_csv(tmp_path / "out" / "table.csv")
    assert set(table["method"].dropna()) == set(METHODS)
    truths = table[table["task"] == "simulate"].set_index("policy")["truth"]
    assert truths["good"] > truths["bad"]
    estimates = table[table["task"].isin(["estimate", "fit"])]
    assert len(estimates) == 8
    assert estimates["estimate"].notna().all()
    sampled = estimates.groupby("method")["sample"].first().dropna()
    assert dict(sampled) == {FINE_TUNED: False, FROM_SCRATCH: False, ENSEMBLE: True}
    report = (tmp_path / "out" / "report.md").read_text()
    assert all(word in report for word in ("Mean over the datasets", "regret@1", *METHODS))
    # Everything is there already.
    code, _, err = command("study", "run", "ope", *plan, "-o", tmp_path / "again", "--workers", "1")
    assert (code, "finished" in err) == (0, False)
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "again" / "table.csv"), table)
