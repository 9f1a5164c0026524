"""TDM against a plain float64 NumPy implementation that computes every window whole, token by token."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from linear_model import motion
from numpy_reference import Array, FlatReference, known_variates, numpy, weights_of_model, windows
from test_trajworld import randomised

import trajworld as tw
from trajworld.backend import active_backend
from trajworld.cli.main import main
from trajworld.data.batch import Batch, Variates
from trajworld.data.dataset import Dataset
from trajworld.data.episode import Episode
from trajworld.data.store import write_store
from trajworld.errors import TrajWorldError
from trajworld.models.interface import predictions_of
from trajworld.models.rollout import GivenActions, compile_rollout, draw_uniforms
from trajworld.models.sizes import TDMSizes
from trajworld.models.tdm import TDM
from trajworld.studies import fine_tuning

SIZES = TDMSizes(blocks=2, width=8, heads=2, window=6, bins=16, dropout=0.2)
CASES = {
    "real": known_variates(3, 2),
    "padded": known_variates(3, 2, 12),
    "no reward": known_variates(3, 2)._replace(mask=np.float32([1, 1, 1, 0, 1, 1])),
    "no action": known_variates(3, 0, 6),
}
each_case = pytest.mark.parametrize("case", CASES)


@pytest.fixture(scope="module")
def model() -> TDM:
    return randomised(SIZES)


@pytest.fixture(scope="module")
def reference(model: TDM) -> FlatReference:
    return FlatReference(SIZES, weights_of_model(model))


def run(model: TDM, function: Callable[..., Any], *arrays: Any) -> Any:
    return active_backend().compile(function, model)(*arrays)


def predicted(variates: Variates) -> list[int]:
    """Observations, and the reward where there is one."""
    real = np.ones(len(variates.lower)) if variates.mask is None else variates.mask
    return [int(place) for place in np.flatnonzero((variates.is_action == 0) & (real > 0))]


def distribution(
    reference: FlatReference, values: Array, mask: Array, variates: Variates, row: int, variate: int
) -> Array:
    """What a window says of a token: probabilities of bins, by the last real token before it, whatever is behind."""
    count = len(variates.lower)
    real = np.ones(count) if variates.mask is None else variates.mask
    before = [place for place in range(row * count + variate) if real[place % count] > 0][-1]
    logits = reference.window(values, mask, variates)[before // count, before % count]
    weights = np.exp(logits - logits.max())
    return weights / weights.sum()


def moments(probabilities: Array, variates: Variates, variate: int) -> tuple[float, float]:
    lower, span = variates.lower[variate], variates.upper[variate] - variates.lower[variate]
    centres = lower + (np.arange(SIZES.bins) + 0.5) / SIZES.bins * span
    mean = (probabilities * centres).sum()
    return mean, math.sqrt((probabilities * (centres - mean) ** 2).sum())


def bin_of(value: float, variates: Variates, variate: int) -> int:
    span = variates.upper[variate] - variates.lower[variate]
    return int(np.clip((value - variates.lower[variate]) / span * SIZES.bins, 0, SIZES.bins - 1))


@each_case
def test_the_forward_pass_is_the_definition(model: TDM, reference: FlatReference, case: str) -> None:
    """Padding, of rows and of variates, changes no real token."""
    variates = CASES[case]
    values, mask = windows(variates)
    found = numpy(run(model, model, values, mask, variates))
    real = np.ones(len(variates.lower)) if variates.mask is None else variates.mask
    there = mask[:, :, None] * real > 0
    expected = reference(values, mask, variates)
    np.testing.assert_allclose(found[there], expected[there], atol=2e-4)
    other = np.where(there, values, 0.5 * (variates.lower + variates.upper)).astype(np.float32)
    again = numpy(run(model, model, other, mask, variates))
    np.testing.assert_array_equal(again[there], found[there])
    if case == "padded":
        narrow = Variates(*(array[:6] for array in variates[:3]))
        alone = numpy(run(model, model, values[..., :6], mask, narrow))
        np.testing.assert_allclose(found[:, :, :6][mask > 0], alone[mask > 0], atol=1e-5)


@each_case
def test_both_predictions_and_the_loss(model: TDM, reference: FlatReference, case: str) -> None:
    """The last row, from the true values before each, and from what was predicted of them."""
    variates = CASES[case]
    values, mask = windows(variates)
    known = variates._replace(mask=np.ones(len(variates.lower)) if variates.mask is None else variates.mask)
    ways = predictions_of(model)

    def everything(*arrays: Any) -> Any:
        batch = Batch(*arrays)
        return {name: predict(batch) for name, predict in ways.items()}, model.loss_sums(batch)

    found, (total, count) = run(model, everything, values, mask, variates)
    assert [*ways] == ["autoregressive model", "teacher-forced model"]
    for name, answer in found.items():
        mean, std, nll = (numpy(part) for part in answer)
        for window in range(len(values)):
            told = values[window].astype(np.float64)
            for variate in predicted(known):
                truth = values[window, -1, variate]
                chances = distribution(reference, told, mask[window], known, SIZES.window - 1, variate)
                expected = moments(chances, known, variate)
                likelihood = -math.log(chances[bin_of(truth, known, variate)])
                got = [part[window, variate] for part in (mean, std, nll)]
                np.testing.assert_allclose(got, [*expected, likelihood], atol=5e-4)
                if name == "autoregressive model":
                    told[-1, variate] = mean[window, variate]
    losses = [
        np.mean([
            -math.log(
                distribution(reference, values[window], mask[window], known, row, variate)[
                    bin_of(values[window, row, variate], known, variate)
                ]
            )
            for variate in predicted(known)
        ])
        for window in range(len(values))
        for row in range(1, SIZES.window)
        if mask[window, row - 1]
    ]  # fmt: skip
    assert float(count) == len(losses)
    np.testing.assert_allclose(float(total), sum(losses), rtol=1e-4)


@pytest.mark.parametrize(("case", "sampled"), [("padded", False), ("no reward", True)])
def test_cached_decoding_equals_whole_windows(
    model: TDM, reference: FlatReference, case: str, sampled: bool
) -> None:
    """Over three chunks, each step from the rollout's own predictions in the last rows."""
    horizon, variates = 7, CASES[case]
    assert (model.context, model.chunk) == (3, 3)
    values, mask = windows(variates, batch=2, rows=5)
    mask[0, :3] = 0
    actions = np.random.default_rng(0).uniform(-1, 1, (2, horizon, 2)).astype(np.float32)
    draws = draw_uniforms(horizon, 2, len(variates.lower), seed=1) if sampled else None
    roll = compile_rollout(model, 3)(values, mask, variates, GivenActions(actions), draws)
    found = np.concatenate([roll.observations, roll.rewards[..., None]], axis=-1)
    deviations = np.concatenate([roll.observation_std, roll.reward_std[..., None]], axis=-1)
    told = np.pad(values, [(0, 0), (0, horizon), (0, 0)]).astype(np.float64)
    told[:, 4:-1, 4:6] = actions
    told[:, 5:, :4] = np.nan_to_num(found)
    whole, off = np.pad(mask, [(0, 0), (0, horizon)], constant_values=1), []
    assert np.isnan(roll.rewards).all() == (case == "no reward")
    for step in range(horizon):
        first = 4 + step - step % 3 - 2
        for window in range(2):
            rows, there = told[window, first : first + 6], whole[window, first : first + 6]
            rows = np.pad(rows, [(0, 6 - len(rows)), (0, 0)])
            there = np.pad(there, (0, 6 - len(there)), constant_values=1)
            for variate in predicted(variates):
                chances = distribution(reference, rows, there, variates, 5 + step - first, variate)
                mean, std = moments(chances, variates, variate)
                np.testing.assert_allclose(deviations[window, step, variate], std, atol=1e-4)
                if draws is not None:
                    width = (variates.upper[variate] - variates.lower[variate]) / SIZES.bins
                    which, where = draws[step, :, window, variate]
                    chosen = min((np.cumsum(chances) <= which).sum(), SIZES.bins - 1)
                    mean = variates.lower[variate] + (chosen + where) * width
                off.append(abs(found[window, step, variate] - mean))
    # A draw within rounding of a bin's edge falls one bin off.
    assert np.mean(np.array(off) < 1e-4) >= (0.95 if sampled else 1.0)


def test_sizes(model: TDM) -> None:
    small = TDMSizes.presets["small"]
    assert (small.parameters, TDMSizes.presets["paper"].parameters) == pytest.approx(
        (0.39e6, 10.9e6), rel=0.01
    )
    assert model.count_params() == SIZES.parameters
    variates = CASES["real"]
    values, mask = windows(variates, rows=7)
    batch = Batch(values, mask, variates)
    for call in (lambda: model(*batch[:3]), lambda: model.loss_sums(batch), lambda: model.predict(batch)):
        with pytest.raises(TrajWorldError, match=r"^a window of 7 rows is longer than the model's 6$"):
            call()


# What the noise of two observations and the reward is made of: that of each depends on that of those before it.
NOISE = np.array([[0.3, 0, 0], [0.2, 0.2, 0], [0, 0.2, 0.2]])


def correlated_motion(folder: Path) -> Dataset:
    rng, episodes = np.random.default_rng(0), []
    turn, push = np.array([[0.6, 0.5], [-0.5, 0.6]]), np.array([[0.4, -0.3]])
    for _ in range(200):
        actions, states, rewards = rng.uniform(-1, 1, (50, 1)), [rng.normal(0, 0.5, 2)], []
        for action in actions:
            noise = NOISE @ rng.normal(size=3)
            rewards.append(states[-1] @ [0.5, -0.5] + noise[2])
            states.append(states[-1] @ turn + action @ push + noise[:2])
        episodes.append(Episode(np.stack(states), actions, np.array(rewards)))
    return write_store(folder, episodes, name=folder.name, source="", environment="test/correlated")


@pytest.mark.once
@pytest.mark.slow
def test_it_learns_a_linear_system_to_its_noise_floor(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Told the true values before it in the row, a variate's noise is what theirs does not tell."""
    data, folder = correlated_motion(tmp_path / "data"), tmp_path / "run"
    settings: dict[str, Any] = {"steps": 1500, "batch_size": 64, "seed": 1, "run": folder}
    model = tw.train(data, model={"kind": "tdm", "window": 2}, preset="tiny", **settings)
    table = tw.evaluate(model, data).iloc[:3]
    floor, told = (
        math.sqrt(2 / math.pi) * noise for noise in (np.sqrt((NOISE @ NOISE.T).diagonal()), NOISE.diagonal())
    )
    assert table["mae"].between(0.95 * floor, 1.15 * floor).all(), table["mae"]
    # What the variates before tell of the noise is learned last.
    assert (table["teacher_forced_mae"] > 0.95 * told).all(), table["teacher_forced_mae"]
    assert table["teacher_forced_mae"].mean() < 0.97 * table["mae"].mean(), table["teacher_forced_mae"]
    assert table["teacher_forced_nll"].mean() < table["nll"].mean()
    assert (table["copy_mae"] > 1.5 * table["mae"]).all()

    words = ["evaluate", str(folder / "best.keras"), str(data.path), "--horizon", "0"]
    assert main([*words, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["datasets"][0]
    other = found["other_predictions"][0]
    names = [found["prediction"]["predictor"], other["predictor"]]
    assert names == ["autoregressive model", "teacher-forced model"]
    for one, column in ((found["prediction"], "mae"), (other, "teacher_forced_mae")):
        assert [variate["mae"] for variate in one["variates"]] == pytest.approx([*table[column]], rel=1e-4)
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in names)


@pytest.mark.once
@pytest.mark.slow
def test_it_is_pretrained_on_robots_of_several_sizes_and_studied(tmp_path: Path) -> None:
    data = [motion(tmp_path / "three"), motion(tmp_path / "four", observations=4, seed=1)]
    words = ["--model", "tdm", "--preset", "tiny", "--window", "4", "--steps", "20", "-o", tmp_path / "run"]
    assert main(["pretrain", *map(str, [*(one.path for one in data), *words])]) == 0
    file = tmp_path / "run" / "best.keras"
    model = tw.load(file)
    assert (model.kind, model.sizes.window) == ("tdm", 4)
    future = tw.rollout(model, data[1].rows[None, 3:6], data[1].rows[None, 5:9, 5:], ranges=data[1])
    assert np.isfinite(future.observations).all()
    path = str(data[0].path)
    settings = {"transitions": 100, "seed": 0, "test": {"windows": 50, "seed": 0}}
    (row,) = fine_tuning.predict_zero_shot(settings, {"test": path, "pool": path, "init": str(file)})
    assert min(row["mae_std"], row["mae_std, teacher-forced model"]) > 0
