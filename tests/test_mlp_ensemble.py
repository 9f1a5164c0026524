"""The ensemble beside a plain NumPy forward pass, a known linear system, and the definition of its parts."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from keras import ops
from linear_model import motion

import trajworld as tw
from trajworld.backend import active_backend
from trajworld.cli.main import main
from trajworld.data.batch import Batch, Variates
from trajworld.data.dataset import Dataset
from trajworld.data.episode import Episode
from trajworld.data.store import write_store
from trajworld.errors import TrajWorldError, UsageError
from trajworld.evaluation.ranges import support_for
from trajworld.models.identity import Identity
from trajworld.models.interface import new_model
from trajworld.models.mlp_ensemble import MLPEnsemble
from trajworld.models.sizes import EnsembleSizes

SIZES = EnsembleSizes(members=3, elites=2, layers=2, width=8, observations=5, actions=3)


def ensemble() -> MLPEnsemble:
    model = new_model(SIZES, Identity())
    rng = np.random.default_rng(1)
    model.set_weights([0.3 * rng.normal(size=weight.shape) for weight in model.get_weights()])
    model.mean.assign(rng.uniform(0.3, 0.7, 9))
    model.scale.assign(rng.uniform(0.1, 0.3, 9))
    model._bounds[0].assign(np.full(6, -10.0))
    model._bounds[1].assign(np.full(6, 0.5))
    model.elite.assign(np.ones(3))
    return model


def variates(padding: int = 0) -> Variates:
    """3 observations, the reward, 2 actions, padding."""
    is_action = np.array([0, 0, 0, 0, 1, 1] + [0] * padding, np.int32)
    lower = np.array([-1, -2, 0, -1, -1, -1] + [0] * padding, np.float32)
    upper = np.array([1, 2, 3, 4, 1, 1] + [1] * padding, np.float32)
    mask = None if not padding else np.array([1] * 6 + [0] * padding, np.float32)
    return Variates(is_action, lower, upper, mask)


def by_hand(model: MLPEnsemble, row: np.ndarray, acts: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Each member's mean and standard deviation of the next observation and reward, in raw units, ``[E, B, 4]``.

    Of rows without actions, whose reward is one more observation, if not ``acts``.
    """
    known, weights = variates(), {w.path.rpartition("/")[2]: np.asarray(w, np.float64) for w in model.weights}
    count = row.shape[1]
    span = (known.upper - known.lower).astype(np.float64)[:count]
    scaled = (row - known.lower[:count]) / span
    seen, read = ([0, 1, 2, 4, 5], [0, 1, 2, 5, 6]) if acts else ([0, 1, 2, 3],) * 2
    x = np.zeros((len(row), 8))
    x[:, read] = (scaled[:, seen] - weights["mean"][read]) / weights["scale"][read]
    means, stds = [], []
    unit = weights["scale"][[0, 1, 2, 8 if acts else 3]] * span[:4]
    base = row[:, :4].astype(np.float64)
    if acts:
        base[:, 3] = -1 + weights["mean"][8] * 5
    for member in range(3):
        h = x
        for layer in (0, 1):
            h = h @ weights[f"kernel_{layer}"][member] + weights[f"bias_{layer}"][member]
            h = h / (1 + np.exp(-h))
        out = h @ weights["kernel_2"][member] + weights["bias_2"][member]
        softplus = lambda value: np.log1p(np.exp(value))  # noqa: E731
        spread = 0.5 - softplus(0.5 - out[:, 6:])
        spread = -10 + softplus(spread + 10)
        chosen = [0, 1, 2, 5 if acts else 3]
        means.append(base + out[:, chosen] * unit)
        stds.append(np.exp(0.5 * spread[:, chosen]) * unit)
    return np.stack(means), np.stack(stds)


def rows(count: int) -> np.ndarray:
    """Rows and those that follow them, ``[2, count, 6]``."""
    known = variates()
    return np.random.default_rng(0).uniform(known.lower, known.upper, (2, count, 6)).astype(np.float32)


def test_a_masked_reward_changes_nothing_else() -> None:
    model, values = ensemble(), np.stack(rows(5), axis=1)
    run = active_backend().compile(lambda batch: model.predict(batch), model)
    whole, masked = (
        [ops.convert_to_numpy(part)[:, :3] for part in run(Batch(values, np.ones((5, 2), np.float32), known))]
        for known in (variates(), variates()._replace(mask=np.array([1, 1, 1, 0, 1, 1], np.float32)))
    )
    for one, other in zip(whole, masked, strict=True):
        np.testing.assert_allclose(other, one, atol=1e-5)


@pytest.mark.parametrize("padding", [0, 2])
def test_predictions_are_those_of_a_plain_forward_pass(padding: int) -> None:
    model, (before, after) = ensemble(), rows(5)
    model.choose_elites(np.array([0.3, 0.1, 0.2]))
    means, stds = by_hand(model, before)
    means, stds = means[1:], stds[1:]
    values = np.pad(np.stack([before, after], axis=1), [(0, 0), (0, 0), (0, padding)])
    run = active_backend().compile(lambda batch: model.predict(batch), model)
    found = run(Batch(values, np.ones((5, 2), np.float32), variates(padding)))
    mean, std, nll = (ops.convert_to_numpy(array)[:, :4] for array in found)
    np.testing.assert_allclose(mean, means.mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(std, np.sqrt((stds**2).mean(axis=0) + means.var(axis=0)), atol=1e-5)
    density = np.exp(-0.5 * ((after[:, :4] - means) / stds) ** 2) / (stds * math.sqrt(2 * math.pi))
    np.testing.assert_allclose(nll, -np.log(density.mean(axis=0)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("recorded", [True, False])
def test_without_an_action_the_reward_is_one_more_observation(recorded: bool) -> None:
    model, values = ensemble(), np.stack(rows(5), axis=1)
    model.adapt([np.full(4, 0.4)], [np.full(4, 0.2)], [(3, 0)])
    values[:, :, 4:] = 0
    known = Variates(
        np.zeros(6, np.int32), variates().lower, variates().upper, np.float32([1, 1, 1, recorded, 0, 0])
    )
    run = active_backend().compile(lambda batch: model.predict(batch), model)
    found = ops.convert_to_numpy(run(Batch(values, np.ones((5, 2), np.float32), known)).mean)
    if recorded:
        np.testing.assert_allclose(
            found[:, :4], by_hand(model, values[:, 0, :4], False)[0].mean(axis=0), atol=1e-5
        )
    values[:, 0, 3] += 1.0
    moved = ops.convert_to_numpy(run(Batch(values, np.ones((5, 2), np.float32), known)).mean)
    assert (np.abs(moved[:, :3] - found[:, :3]).max() > 1e-3) == recorded


def test_the_loss_is_its_definition() -> None:
    model, (before, after) = ensemble(), rows(6)
    means, stds = by_hand(model, before)
    known = variates()
    weights = {w.path.rpartition("/")[2]: np.asarray(w, np.float64) for w in model.weights}
    unit = np.append(weights["scale"][:3], weights["scale"][8]) * (known.upper - known.lower)[:4]
    error, variance = ((means - after[:, :4]) / unit) ** 2, (stds / unit) ** 2
    members = (error / variance + np.log(variance)).mean(axis=-1).sum(axis=0)
    decay = sum(
        0.5 * rate * (weights[f"kernel_{layer}"] ** 2).sum()
        for layer, rate in enumerate((2.5e-5, 5e-5, 7.5e-5))
    )
    bounds = 0.01 * 4 * (0.5 + 10)
    mask = np.array([[0, 1], [1, 1], [1, 1], [1, 1], [1, 1], [1, 1]], np.float32)
    batch = Batch(np.stack([before, after], axis=1), mask, known)
    total, count = active_backend().compile(lambda batch: model.loss_sums(batch), model)(batch)
    assert float(count) == 5
    np.testing.assert_allclose(float(total), members[1:].sum() + 5 * (decay + bounds), rtol=1e-4)
    errors, count = active_backend().compile(lambda batch: model.member_errors(batch), model)(batch)
    np.testing.assert_allclose(
        ops.convert_to_numpy(errors), error[:, 1:].mean(axis=-1).sum(axis=-1), rtol=1e-4
    )


def test_a_bootstrap_sample_is_a_function_of_the_row() -> None:
    model, rng = ensemble(), np.random.default_rng(0)
    many = rng.normal(size=(4000, 12)).astype(np.float32)
    run = active_backend().compile(lambda rows: model._bootstrap(rows), model)
    counts = ops.convert_to_numpy(run(many))
    shuffled = rng.permutation(4000)
    own = float(ops.convert_to_numpy(model.sampling))
    model.sampling.assign(own + 1)
    others = ops.convert_to_numpy(run(many))
    model.sampling.assign(own)
    assert np.abs(np.corrcoef(counts, others)[:3, 3:]).max() < 0.06, "another run's samples are others"
    np.testing.assert_array_equal(ops.convert_to_numpy(run(many[shuffled])), counts[:, shuffled])
    # Poisson with mean 1, of each member for itself.
    expected = np.exp(-1) / np.array([1, 1, 2, 6])
    for member in counts:
        np.testing.assert_allclose([np.mean(member == k) for k in range(4)], expected, atol=0.03)
    assert np.abs(np.corrcoef(counts)[np.triu_indices(3, 1)]).max() < 0.06
    # The same on every backend: the arithmetic of 32-bit integers.
    draws = np.random.default_rng(0).integers(2**31, size=(2, 3, 1, 13))[0]
    many = np.append(many, np.full((4000, 1), own, np.float32), axis=1)
    mixed = (many.view(np.uint32).astype(object) * (2 * draws + 1)).sum(axis=-1) % 2**32

    def shifted(number: int, by: int) -> int:
        # Arithmetic, as of signed numbers.
        return ((number - (number >> 31 << 32)) >> by) % 2**32

    for member in range(3):
        for place in range(20):
            bits = int(mixed[member, place])
            bits = (bits ^ shifted(bits, 15)) * 0x2C1B3C6D % 2**32
            bits = (bits ^ shifted(bits, 12)) & 0xFFFFFF
            passed = np.cumsum(np.exp(-1) / np.array([1, 1, 2, 6, 24, 120]))
            assert counts[member, place] == (bits / 2**24 > passed).sum()


NOISE = 0.05


def noisy_motion(folder: Path) -> Dataset:
    """A linear system with noise of a twentieth of its states, and the reward a function of the state after it."""
    rng, episodes = np.random.default_rng(0), []
    turn, push = 0.9 * np.linalg.qr(rng.normal(size=(3, 3)))[0], rng.normal(size=(2, 3))
    for _ in range(60):
        actions, states = rng.uniform(-1, 1, (50, 2)), [rng.normal(size=3)]
        for action in actions:
            states.append(states[-1] @ turn + 0.3 * action @ push + NOISE * rng.normal(size=3))
        seen = np.stack(states)
        episodes.append(Episode(seen, actions, (seen[:-1] @ [1.0, -1.0, 0.5]) + NOISE * rng.normal(size=50)))
    return write_store(folder, episodes, name=folder.name, source="", environment="test/noisy")


@pytest.mark.once
@pytest.mark.slow
def test_it_learns_a_linear_system_to_its_noise_floor(tmp_path: Path) -> None:
    data = noisy_motion(tmp_path / "data")
    settings: dict[str, Any] = {"steps": 3000, "evaluate_every": 100, "log_every": 100, "seed": 1}
    model = tw.train(data, model={"kind": "mlp-ensemble"}, preset="tiny", run=tmp_path / "run", **settings)
    # It ends where nothing more is learned, and is then as good as can be: the mean absolute value of the noise.
    state = json.loads(next((tmp_path / "run" / "checkpoints").glob("*/state.json")).read_text())
    assert 500 < state["step"] <= 3000
    floor = NOISE * math.sqrt(2 / math.pi)
    table = tw.evaluate(model, data)
    assert table.loc["all", "mae"] < 1.15 * floor
    assert table.loc["all", "copy_mae"] > 5 * floor
    assert int(np.asarray(model.elite).sum()) == 2
    assert np.asarray(model.scale)[:3] == pytest.approx(
        np.std(data.rows[:, :3], axis=0) / (data.rows[:, :3].max(axis=0) - data.rows[:, :3].min(axis=0)),
        rel=0.1,
    )
    again = tw.load(tmp_path / "run" / "best.keras")
    history, actions = data.rows[None, 3:8], data.rows[None, 7:20, 4:]
    one, other = (tw.rollout(each, history, actions, seed=3) for each in (model, again))
    np.testing.assert_array_equal(one.observations, other.observations)
    assert np.abs(one.observations - tw.rollout(model, history, actions, seed=4).observations).max() > 1e-3


@pytest.mark.once
@pytest.mark.slow
def test_it_is_pretrained_on_robots_of_several_sizes_and_resumed(tmp_path: Path) -> None:
    data = [motion(tmp_path / "three"), motion(tmp_path / "four", observations=4, seed=1)]
    settings: dict[str, Any] = {"preset": "tiny", "evaluate_every": 10, "padded_sizes": 1, "patience": 2}
    whole = tw.train(data, model={"kind": "mlp-ensemble"}, run=tmp_path / "whole", steps=40, **settings)
    tw.train(
        data, model={"kind": "mlp-ensemble"}, run=tmp_path / "parts", steps=20, decay_steps=10**7, **settings
    )
    assert main(["pretrain", "--resume", str(tmp_path / "parts"), "--steps", "40"]) == 0
    parts = tw.load(tmp_path / "parts" / "last.keras")
    last = tw.load(tmp_path / "whole" / "last.keras")
    for one, other in zip(parts.get_weights(), last.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    history = data[1].rows[None, 3:8]
    assert tw.predict(whole, history, ranges=data[1])[0].shape == (1, 5)


def test_members_are_models_of_their_own() -> None:
    model, (before, after) = ensemble(), rows(5)
    model.choose_elites(np.array([0.3, 0.1, 0.2]))
    means, stds = by_hand(model, before)
    values = np.stack([before, after], axis=1)
    alone = model.alone()
    assert len(alone) == 2
    for one, mean, std in zip(alone, means[1:], stds[1:], strict=True):
        run = active_backend().compile(lambda batch, one=one: one.predict(batch), one)
        found = run(Batch(values, np.ones((5, 2), np.float32), variates()))
        np.testing.assert_allclose(ops.convert_to_numpy(found.mean)[:, :4], mean, atol=1e-5)
        np.testing.assert_allclose(ops.convert_to_numpy(found.std)[:, :4], std, rtol=1e-4)


@pytest.mark.once
def test_first_weights_are_drawn_for_the_inputs_that_there_are() -> None:
    model: Any = new_model(SIZES, Identity())
    before, about = np.array(model._kernels[0]), ([np.zeros(6)] * 2, [np.ones(6)] * 2)
    model.adapt([np.zeros(6), np.zeros(5)], [np.ones(6), np.ones(5)], [(3, 2), (3, 1)])
    np.testing.assert_array_equal(np.array(model._kernels[0]), before)
    model.adapt(*about, [(3, 2)] * 2)
    np.testing.assert_allclose(np.array(model._kernels[0]), before * math.sqrt(8 / 5), rtol=1e-6)


def sampled(model: MLPEnsemble, rows: np.ndarray, known: Variates, draws: np.ndarray) -> np.ndarray:
    """The predicted observation and reward ``[B, 4]`` of a step with draws."""

    def step(rows: Any, known: Variates, draws: Any) -> Any:
        return model.step(model.start(rows[:, None], None, known), rows, draws)[1].predicted

    compiled = active_backend().compile(step, model)
    return ops.convert_to_numpy(compiled(rows, known, draws))[:, :4]


@pytest.mark.parametrize("acts", [True, False])
def test_a_sampled_step_is_an_elite_and_its_noise(acts: bool) -> None:
    """The draw of the elite and that of the reward's noise are independent, also where no action stands last."""
    model, count = ensemble(), 3000
    model.set_weights(
        [weight if weight.ndim < 3 else weight[:1].repeat(3, 0) for weight in model.get_weights()]
    )
    row = np.repeat(rows(1)[0], count, axis=0)[:, : 6 if acts else 4]
    known = Variates(*(np.asarray(part)[: row.shape[1]] for part in variates()[:3]), None)
    draws = np.random.default_rng(0).random((2, count, row.shape[1])).astype(np.float32)
    means, stds = by_hand(model, row, acts)
    noise = (sampled(model, row, known, draws) - means[0]) / stds[0]
    # Of any elite, three thirds of the draws, each variate's noise is standard normal.
    for third in range(3):
        chosen = noise[np.floor(3 * draws[0, :, -1]) == third]
        np.testing.assert_allclose(chosen.mean(axis=0), 0, atol=0.15)
        np.testing.assert_allclose(chosen.std(axis=0), 1, atol=0.1)
    np.testing.assert_allclose(np.corrcoef(noise.T) - np.eye(4), 0, atol=0.1)


def test_which_elite_is_drawn() -> None:
    model = ensemble()
    model.choose_elites(np.array([0.1, 0.3, 0.2]))
    row = np.repeat(rows(1)[0], 4, axis=0)
    draws = np.zeros((2, 4, 6), np.float32)
    draws[0, :, -1] = [0.0, 0.49, 0.5, 0.99]
    means = by_hand(model, row)[0]
    expected = [means[member, 0] for member in (0, 0, 2, 2)]
    np.testing.assert_allclose(sampled(model, row, variates(), draws), expected, atol=1e-5)


def test_sizes_that_do_not_fit_are_refused() -> None:
    for wrong in ({"elites": 8}, {"layers": 5}, {"width": 0}):
        with pytest.raises(UsageError):
            EnsembleSizes(**wrong)
    model: Any = new_model(SIZES, Identity())
    with pytest.raises(TrajWorldError, match="6 observation and 2 action variates are more than the 5 and 3"):
        model.adapt([np.zeros(9)], [np.ones(9)], [(6, 2)])


def test_a_pre_trained_ensemble_refuses_data_for_which_it_has_no_places(tmp_path: Path) -> None:
    """Six observations, a reward and two actions are as many variates as there are places in all."""
    model: Any = new_model(SIZES, Identity())
    with pytest.raises(TrajWorldError, match="6 observation and 2 action variates are more than the 5 and 3"):
        support_for(model, motion(tmp_path / "wide", 6))
