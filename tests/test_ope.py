"""Metrics of off-policy evaluation beside plain computations, and estimates of several policies."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from linear_model import LinearSizes, motion
from scipy.stats import t
from studies_fixtures import PENDULUM, balancer, pendulum_data
from test_returns import SUPPORT, Linear, model  # noqa: F401

from trajworld.data.dataset import Dataset
from trajworld.data.episode import Episode
from trajworld.data.store import write_store
from trajworld.errors import TrajWorldError, UsageError
from trajworld.evaluation.coverage import Coverage
from trajworld.evaluation.imagined import imagined_returns
from trajworld.evaluation.ope import imagined_values, of_robot
from trajworld.evaluation.ope_settings import OpeSettings
from trajworld.evaluation.returns import Returns
from trajworld.evaluation.true_values import read_true_values
from trajworld.models.ranges import Support
from trajworld.models.rollout import compile_rollout
from trajworld.policies.files import save_policy
from trajworld.policies.policy import Layer, Policy
from trajworld.study.tables import half_width


@pytest.mark.once
def test_coverage_tells_rows_like_the_data_from_others(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    episodes = [
        Episode(rng.normal(size=(101, 3)), rng.uniform(-1, 1, (100, 2)), np.zeros(100)) for _ in range(30)
    ]
    coverage = Coverage.of(write_store(tmp_path / "x", episodes, name="x", source="", environment=""))
    like = np.concatenate([rng.normal(size=(400, 3)), rng.uniform(-1, 1, (400, 2))], axis=1).astype(
        np.float32
    )
    places = np.stack([np.repeat(np.arange(4), 100), np.zeros(400, int)])

    def measure(rows: np.ndarray) -> dict[str, float]:
        parts = np.full((4, 1, 3), [0.0, 100.0, 0.0])
        return coverage.measure(
            Returns(parts, np.ones((4, 1), bool), np.ones(1), rows, places, np.arange(400.0))
        )

    same = measure(like)
    assert same["state distance"] == pytest.approx(1, abs=0.15)
    assert same["state and action"] == pytest.approx(1, abs=0.15)
    assert same["left the data"] <= 0.5
    strange = like.copy()
    strange[:, 3:] += 4
    assert measure(strange)["state and action"] > 3
    assert measure(strange)["state distance"] == pytest.approx(same["state distance"])
    gone = like.copy()
    gone[:100, :3] += 30
    assert measure(gone)["left the data"] >= max(0.25, same["left the data"])
    assert measure(gone)["state distance"] > 5


@pytest.fixture
def data(tmp_path: Path) -> Dataset:
    return motion(tmp_path / "data")


def linear_policy(seed: int, noisy: bool, size: int = 3) -> Policy:
    rng = np.random.default_rng(seed)
    mean = Layer(rng.normal(size=(size, 2)).astype(np.float32), np.zeros(2, np.float32))
    spread = Layer(np.zeros((size, 2), np.float32), np.full(2, -1, np.float32)) if noisy else None
    return Policy((), mean, spread, np.full(2, -1, np.float32), np.ones(2, np.float32))


@pytest.mark.once
def test_estimates_of_several_policies(model: Linear, data: Dataset) -> None:  # noqa: F811
    policies = {
        "first": linear_policy(0, True),
        "second": linear_policy(1, False),
        "third": linear_policy(2, True),
    }
    settings = OpeSettings(horizon=25, states=24, batch_size=2, seed=1)
    told: list[tuple[int, int | None]] = []
    table = imagined_values(
        [(model, SUPPORT)], data, policies, settings, lambda done, total, what: told.append((done, total))
    )
    assert list(table["policy"]) == ["first", "second", "third"]
    # As many as there are episodes.
    assert (table["states"] == 4).all()
    assert (table["estimate low"] < table["estimate"]).all()
    assert told[-1] == (12, 12)
    again = imagined_values([(model, SUPPORT)], data, {"second": policies["second"]}, settings)
    # A policy's estimate does not depend on which others there are.
    np.testing.assert_array_equal(again["estimate"], table["estimate"][1:2])
    wide = imagined_values(
        [(model, SUPPORT)], data, policies, OpeSettings(horizon=25, states=24, batch_size=2, half_width=1e9)
    )
    assert (wide["states"] == 2).all()


@pytest.mark.once
def test_real_rows_are_measured_to_those_of_other_episodes(tmp_path: Path) -> None:
    """Seven episodes, each at a point of its own, equally far from all others."""
    episodes = [
        Episode(np.tile(10.0 * np.eye(7)[number], (11, 1)), np.zeros((10, 1)), np.zeros(10))
        for number in range(7)
    ]
    coverage = Coverage.of(write_store(tmp_path / "x", episodes, name="x", source="", environment=""))
    # All but two points lie in the rows that are kept, of 70 those of five episodes.
    apart = 10.0 * np.sqrt(2) / coverage.scale[coverage.scale != 1.0].max()
    assert coverage.usual[0] >= apart


@pytest.mark.once
def test_distances_are_the_same_where_rollouts_fade(tmp_path: Path) -> None:
    rng, drift, drifting = np.random.default_rng(0), np.zeros((12, 12)), Linear(LinearSizes())
    episodes = [
        Episode(rng.normal(size=3) + np.zeros((9, 3)), rng.uniform(-1, 1, (8, 2)), np.zeros(8))
        for _ in range(256)
    ]
    data = write_store(tmp_path / "x", episodes, name="x", source="", environment="")
    # Away from the middle of the range, ever faster.
    drift[:3, :3] = 0.02 * np.eye(3)
    drifting.set_weights([drift, -0.5 * drift[:6].sum(axis=0), np.zeros(12)])
    support = Support(np.full(6, -30, np.float32), np.full(6, 30, np.float32))
    settings = OpeSettings(discount=0.95, horizon=100, states=256, batch_size=256, negligible=0)
    whole, faded = (
        imagined_values(
            [(drifting, support)], data, {"it": linear_policy(0, True)}, replace(settings, fading=on)
        )
        for on in (False, True)
    )
    assert 0.8 < whole["left the data"][0] < 1
    assert faded["left the data"][0] == pytest.approx(whole["left the data"][0], abs=0.07)
    for name in ("state distance", "state and action"):
        assert whole[name][0] > 3
        assert faded[name][0] == pytest.approx(whole[name][0], rel=0.25)


@pytest.mark.once
def test_several_models_give_their_mean_and_their_spread(model: Linear, data: Dataset) -> None:  # noqa: F811
    other = Linear(model.sizes)
    kernel, *rest = model.get_weights()
    other.set_weights([1.1 * kernel, *rest])
    policies = {"one": linear_policy(0, True), "two": linear_policy(1, False)}
    settings = OpeSettings(horizon=25)
    one, two, both = (
        imagined_values([(each, SUPPORT) for each in models], data, policies, settings)
        for models in ([model], [other], [model, other])
    )
    np.testing.assert_array_equal(model.get_weights()[0], kernel)
    estimates = np.stack([one["estimate"], two["estimate"]])
    np.testing.assert_allclose(both["estimate"], estimates.mean(axis=0))
    widths = np.stack([each["estimate high"] - each["estimate"] for each in (one, two)])
    # Of two models Student's t has one degree of freedom.
    between = t.ppf(0.975, 1) ** 2 * estimates.var(axis=0, ddof=1) / 2
    np.testing.assert_allclose(
        both["estimate high"] - both["estimate"], np.sqrt((widths**2).mean(axis=0) + between)
    )
    np.testing.assert_allclose(both["between models"], estimates.std(axis=0, ddof=1))


@pytest.mark.once
def test_a_model_without_an_estimate_does_not_narrow_the_interval_of_the_others(
    model: Linear,  # noqa: F811
    data: Dataset,
) -> None:
    broken = Linear(model.sizes)
    broken.set_weights([weight * np.nan for weight in model.get_weights()])
    other = Linear(model.sizes)
    other.set_weights([1.1 * model.get_weights()[0], *model.get_weights()[1:]])
    policies, settings = {"one": linear_policy(0, True)}, OpeSettings(horizon=25)
    two, three = (
        imagined_values([(each, SUPPORT) for each in models], data, policies, settings)
        for models in ([model, other], [model, other, broken])
    )
    for column in ("estimate", "estimate low", "estimate high"):
        np.testing.assert_allclose(three[column], two[column])
    assert three["problem"].str.contains("are left out").all()


@pytest.mark.once
def test_states_are_added_until_the_interval_is_narrow(model: Linear, data: Dataset) -> None:  # noqa: F811
    starts = np.random.default_rng(2).uniform(-1.9, 1.9, (200, 3)).astype(np.float32)
    policies = {str(seed): linear_policy(seed, True) for seed in range(3)}
    settings = OpeSettings(horizon=30, batch_size=32, discount=0.95)
    run, ends = compile_rollout(model, 3), lambda seen: np.abs(seen[..., 0]) > 2

    def returns(**given: float) -> dict[str, Returns]:
        options = replace(settings, **given)
        return imagined_returns(model, run, data, SUPPORT, starts, policies, ends, options)

    whole = {name: one.discounted for name, one in returns(negligible=0, fading=False).items()}
    wanted = 2.5 * max(map(half_width, whole.values()))
    found = returns(half_width=wanted, fading=False)
    counts = [len(one.discounted) for one in found.values()]
    assert 8 <= min(counts) < max(counts) < 200
    for name, one in found.items():
        assert half_width(one.discounted) <= wanted
        np.testing.assert_allclose(one.discounted, whole[name][: len(one.discounted)], atol=0.1 * wanted)


def test_a_policy_of_another_robot_is_refused_by_name(model: Linear, data: Dataset) -> None:  # noqa: F811
    with pytest.raises(TrajWorldError, match="policy strange reads 5 observation values"):
        imagined_values([(model, SUPPORT)], data, {"strange": linear_policy(0, True, 5)}, OpeSettings())
    with pytest.raises(TrajWorldError, match="records no rewards"):
        imagined_values(
            [(model, SUPPORT)], replace(data, reward=False), {"one": linear_policy(0, True)}, OpeSettings()
        )


@pytest.mark.once
def test_true_values_over_another_horizon_are_refused(tmp_path: Path) -> None:
    path, given = tmp_path / "truth.json", OpeSettings(discount=0.9, horizon=50)

    def read(horizon: int | None, limit: float, where: str = "", **other: float) -> list[float]:
        row = {"policy": "one", "horizon": horizon, "gamma": 0.9, "discounted": 3, "discounted_stderr": 1}
        path.write_text(json.dumps({"policies": [row | {"environment": where}]}))
        return read_true_values(path, ["one"], replace(given, **other), limit, PENDULUM)["truth"].tolist()

    # Without a horizon it is the environment's limit, of which nothing may be known.
    for known, limit in ((50, 1000), (None, 50), (80, 50), (50, np.inf), (None, np.inf)):
        assert read(known, limit) == [3]
    for known, limit in ((80, 1000), (None, 1000), (20, 50)):
        with pytest.raises(UsageError, match="and 50 are asked for"):
            read(known, limit)
    with pytest.raises(UsageError, match=r"discount of 0\.9 over at most 50 steps, where 0\.8 and 50"):
        read(50, 1000, discount=0.8)
    assert read(50, 1000, PENDULUM.replace("v5", "v4")) == [3]
    with pytest.raises(TrajWorldError, match="and the data are of"):
        read(50, 1000, f"{PENDULUM}?gravity=5.0")
    with pytest.raises(TrajWorldError, match="is not what `trajworld policy evaluate -o` writes"):
        read("long", 1000)


@pytest.mark.once
def test_policies_of_other_robots_are_left_out() -> None:
    own, other, unknown = (
        balancer(1.0),
        replace(balancer(1.0), environment="gymnasium/Hopper-v5"),
        balancer(0.5),
    )
    policies = {"own": own, "other": other, "unknown": replace(unknown, environment="")}
    assert list(of_robot(policies, PENDULUM)) == ["own", "unknown"]
    assert list(of_robot(policies, "")) == list(policies)


@pytest.mark.once
@pytest.mark.slow
def test_from_the_command_line(tmp_path: Path, command: Callable[..., tuple[int, str, str]]) -> None:
    """Three policies of very different skill: the simulator ranks them; a model and fitted Q are held against it."""
    gains = {"good": 1.0, "weak": 0.12, "bad": -1.0}
    for name, gain in gains.items():
        save_policy(balancer(gain), tmp_path / "policies" / f"{name}.npz")
    data = pendulum_data(tmp_path / "data", *gains.values())
    given = [
        str(data.path),
        "--policies",
        str(tmp_path / "policies"),
        "--horizon",
        "60",
        "--discount",
        "0.95",
    ]
    code, printed, err = command("ope", "simulator", *given, "--states", "12", "--simulate", "12", "--json")
    assert code == 0, err
    found = {row["policy"]: row for row in json.loads(printed)["policies"]}
    assert found["good"]["estimate"] > found["weak"]["estimate"] > found["bad"]["estimate"]
    for row in found.values():
        half = (row["estimate high"] - row["estimate low"]) / 2
        assert abs(row["estimate"] - row["truth"]) < 2 * (half + 2 * row["truth error"]) + 1e-9

    sizes = ["--model", "mlp-ensemble", "--preset", "tiny", "--steps", "400"]
    assert command("train", str(data.path), *sizes, "-o", str(tmp_path / "run"))[0] == 0
    truth = tmp_path / "truth.json"
    policies = sorted(map(str, (tmp_path / "policies").iterdir()))
    assert (
        command("policy", "evaluate", *policies, "--horizon", "60", "--gamma", "0.95", "-o", str(truth))[0]
        == 0
    )
    out = tmp_path / "ope"
    options = ["--states", "8", "--truth", str(truth), "--fitted-q", "20", "-o", str(out)]
    code, printed, err = command("ope", str(tmp_path / "run" / "best.keras"), *given, *options)
    assert code == 0, err
    assert "Estimates beside the true values" in printed
    assert {path.name for path in out.iterdir()} == {
        "results.json",
        "policies.csv",
        "metrics.csv",
        "estimates.png",
    }
    metrics = json.loads((out / "results.json").read_text())["metrics"]
    assert {(row["method"], row["metric"]) for row in metrics} >= {
        ("model", "Spearman"),
        ("fitted Q", "regret@1"),
    }
    (tmp_path / "other.json").write_text('{"policies": []}')
    code, _, err = command("ope", "simulator", *given, "--truth", str(tmp_path / "other.json"))
    assert (code, "has no true value of bad" in err) == (1, True)
