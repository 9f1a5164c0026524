"""Open-loop rollouts against a plain loop that computes whole windows anew for every prediction."""

import functools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest

from trajworld.backend import active_backend
from trajworld.errors import UsageError
from trajworld.models.identity import action_mask
from trajworld.models.rollout import OpenLoop, chunk_sizes, compile_open_loop, draw_uniforms, open_loop
from trajworld.models.sizes import ModelSizes
from trajworld.models.trajworld import TrajWorld, Variates

SIZES = ModelSizes(blocks=2, width=16, heads=2, variates=12)
OBSERVATIONS, ACTIONS, BATCH = 3, 2, 2
LOWER = np.array([-2, -1, 0, -3, -1, -1], np.float32)
UPPER = np.array([2, 3, 1, 5, 1, 1], np.float32)


@pytest.fixture(scope="module")
def model() -> TrajWorld:
    keras.utils.set_random_seed(0)
    made = TrajWorld(SIZES)
    # Random weights predict nearly the same everywhere: a stronger head makes a wrong row or position show.
    made.head.kernel.assign(made.head.kernel * 6.0)
    return made


def variates() -> Variates:
    return Variates(action_mask(OBSERVATIONS, ACTIONS), LOWER, UPPER)


def trajectory(horizon: int, rows: int = 14, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    history = rng.uniform(LOWER, UPPER, (BATCH, rows, 6)).astype(np.float32)
    return (
        history,
        np.ones((BATCH, rows), np.float32),
        rng.uniform(-1, 1, (BATCH, horizon, 2)).astype(np.float32),
    )


@functools.cache
def compiled(model: TrajWorld) -> Callable[..., Any]:
    return active_backend().compile(lambda rows, mask, known: model(rows, mask, known), model)


def logits_of_last_row(model: TrajWorld, rows: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The model's answer at the last row; rows after it, which it cannot see, make every window 20 long."""
    room = 20 - rows.shape[1]
    longer = np.pad(rows, [(0, 0), (0, room), (0, 0)]), np.pad(mask, [(0, 0), (0, room)])
    logits = compiled(model)(*longer, variates())
    return keras.ops.convert_to_numpy(logits).astype(float)[:, rows.shape[1] - 1]


def plain_loop(
    model: TrajWorld,
    history: np.ndarray,
    mask: np.ndarray,
    actions: np.ndarray,
    fed: np.ndarray,
    context: int = 10,
    chunk: int = 10,
    uniforms: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Chosen values and deviations ``[B, h, O + 1]`` without a cache: each window is computed anew.

    Each step is given the predictions ``fed [B, h, O + 1]`` of the rollout under test as its past: fed its
    own, it would drift away by rounding alone.
    """
    horizon = actions.shape[1]
    rows = np.concatenate([np.zeros((BATCH, context, 6), np.float32), history], axis=1)
    mask = np.concatenate([np.zeros((BATCH, context), np.float32), mask], axis=1)
    values, deviations = [], []
    start = 0
    for step in range(horizon):
        if step % chunk == 0:
            start = rows.shape[1] - context
        rows[:, -1, OBSERVATIONS + 1 :] = actions[:, step]
        logits = logits_of_last_row(model, rows[:, start:], mask[:, start:])
        probabilities = np.exp(logits - logits.max(axis=-1, keepdims=True))
        probabilities /= probabilities.sum(axis=-1, keepdims=True)
        centres = LOWER[:, None] + (np.arange(256) + 0.5) / 256 * (UPPER - LOWER)[:, None]
        mean = (probabilities * centres).sum(axis=-1)
        deviations.append(np.sqrt((probabilities * (centres - mean[..., None]) ** 2).sum(axis=-1)))
        if uniforms is not None:
            cumulative = np.cumsum(probabilities, axis=-1)
            bins = np.minimum((cumulative <= uniforms[step, 0][..., None]).sum(axis=-1), 255)
            mean = LOWER + (bins + uniforms[step, 1]) / 256 * (UPPER - LOWER)
        values.append(mean)
        row = np.concatenate([fed[:, step], np.zeros((BATCH, ACTIONS), np.float32)], axis=-1)
        rows = np.concatenate([rows, row[:, None]], axis=1)
        mask = np.concatenate([mask, np.ones((BATCH, 1), np.float32)], axis=1)
    return np.stack(values, 1)[..., :4], np.stack(deviations, 1)[..., :4]


def arrays(found: OpenLoop) -> tuple[np.ndarray, np.ndarray]:
    observations, rewards, std, reward_std = (keras.ops.convert_to_numpy(array) for array in found)
    return (
        np.concatenate([observations, rewards[..., None]], -1),
        np.concatenate([std, reward_std[..., None]], -1),
    )


@pytest.mark.parametrize(("horizon", "rows"), [(23, 14), (1, 3), (10, 1), (11, 10)])
def test_open_loop_equals_a_loop_without_a_cache(model: TrajWorld, horizon: int, rows: int) -> None:
    history, mask, actions = trajectory(horizon, rows)
    found = arrays(open_loop(model, history, mask, actions, variates(), OBSERVATIONS))
    expected = plain_loop(model, history, mask, actions, found[0])
    assert found[0].shape == (BATCH, horizon, 4)
    np.testing.assert_allclose(found[0], expected[0], atol=2e-4)
    np.testing.assert_allclose(found[1], expected[1], atol=2e-4)


def test_masked_history_and_other_chunks(model: TrajWorld) -> None:
    history, mask, actions = trajectory(9, rows=5)
    mask[0, :3] = 0
    found = arrays(open_loop(model, history, mask, actions, variates(), OBSERVATIONS, context=7, chunk=4))
    # What stands in masked rows is not read.
    history[0, :3] = 0
    expected = plain_loop(model, history, mask, actions, found[0], context=7, chunk=4)
    np.testing.assert_allclose(found[0], expected[0], atol=2e-4)


def test_compiled_and_sampled_with_a_seed(model: TrajWorld) -> None:
    history, mask, actions = trajectory(13)
    uniforms = draw_uniforms(13, BATCH, 6, seed=5)
    run = compile_open_loop(model, OBSERVATIONS)
    found = arrays(run(history, mask, actions, variates(), uniforms))
    expected = plain_loop(model, history, mask, actions, found[0], uniforms=uniforms)
    # A draw within rounding of a bin's edge falls one bin off; the other draws agree.
    width = ((UPPER - LOWER) / 256)[:4]
    assert np.all(np.abs(found[0] - expected[0]) < 1.5 * width)
    assert np.mean(np.abs(found[0] - expected[0]) < 0.01 * width) > 0.95
    again = arrays(run(history, mask, actions, variates(), uniforms))
    np.testing.assert_array_equal(found[0], again[0])
    other = arrays(run(history, mask, actions, variates(), draw_uniforms(13, BATCH, 6, seed=6)))
    assert not np.allclose(found[0], other[0])
    expectation = arrays(run(history, mask, actions, variates(), None))
    expected = plain_loop(model, history, mask, actions, expectation[0])
    np.testing.assert_allclose(expectation[0], expected[0], atol=2e-4)


def test_every_horizon_uses_one_compilation(model: TrajWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes: list[Any] = []

    class Recorder:
        def compile(self, function: Callable[..., Any], model: TrajWorld) -> Callable[..., Any]:
            inner = active_backend().compile(function, model)

            def run(*arrays: Any) -> Any:
                leaves = [leaf for leaf in keras.tree.flatten(arrays) if leaf is not None]
                dtype = keras.backend.standardize_dtype
                shapes.append([(tuple(leaf.shape), dtype(leaf.dtype)) for leaf in leaves])
                return inner(*arrays)

            return run

    monkeypatch.setattr("trajworld.models.rollout.active_backend", Recorder)
    run = compile_open_loop(model, OBSERVATIONS)
    for horizon, rows in ((1, 1), (10, 14), (23, 4), (40, 14)):
        history, mask, actions = trajectory(horizon, rows)
        assert run(history, mask, actions, variates()).rewards.shape == (BATCH, horizon)
    assert len(shapes) == 1 + 1 + 3 + 4
    assert all(found == shapes[0] for found in shapes)


def test_every_action_matters_from_its_own_step_on_and_the_history_has_none(model: TrajWorld) -> None:
    history, mask, actions = trajectory(14)
    run = compile_open_loop(model, OBSERVATIONS)
    before = arrays(run(history, mask, actions, variates()))[0]
    for step in (0, 4, 10, 13):
        changed = actions.copy()
        changed[:, step] = -changed[:, step]
        after = arrays(run(history, mask, changed, variates()))[0]
        np.testing.assert_allclose(before[:, :step], after[:, :step], atol=1e-6)
        assert not np.allclose(before[:, step], after[:, step], atol=1e-6)
    history[:, -1, 4:] = 0.123
    np.testing.assert_allclose(arrays(run(history, mask, actions, variates()))[0], before, atol=1e-6)


def test_variates_added_to_make_a_batch_rectangular_change_nothing(model: TrajWorld) -> None:
    history, mask, actions = trajectory(12)
    wide = np.concatenate([history, np.full((BATCH, 14, 3), 0.7, np.float32)], axis=-1)
    known = Variates(
        action_mask(OBSERVATIONS, ACTIONS, 9),
        np.concatenate([LOWER, np.zeros(3, np.float32)]),
        np.concatenate([UPPER, np.ones(3, np.float32)]),
        np.array([1] * 6 + [0] * 3, np.float32),
    )
    found = arrays(open_loop(model, wide, mask, actions, known, OBSERVATIONS))
    expected = plain_loop(model, history, mask, actions, found[0])
    np.testing.assert_allclose(found[0], expected[0], atol=2e-4)


def test_predictions_stay_in_the_support(model: TrajWorld) -> None:
    history, mask, actions = trajectory(21)
    values, std = arrays(open_loop(model, history * 50, mask, actions * 50, variates(), OBSERVATIONS))
    assert np.all(values >= LOWER[:4])
    assert np.all(values <= UPPER[:4])
    assert np.all(std > 0)


def test_in_mixed_precision(model: TrajWorld) -> None:
    half = TrajWorld(SIZES, dtype="mixed_bfloat16")
    half.set_weights(model.get_weights())
    history, mask, actions = trajectory(12)
    found = arrays(compile_open_loop(half, OBSERVATIONS)(history, mask, actions, variates()))[0]
    exact = arrays(open_loop(model, history, mask, actions, variates(), OBSERVATIONS))[0]
    assert found.dtype == np.float32
    # Later steps may drift: they are fed what differed before them.
    assert np.all(np.abs(found - exact)[:, :2] < 0.1 * (UPPER - LOWER)[:4])
    assert np.all((found >= LOWER[:4]) & (found <= UPPER[:4]))


@pytest.mark.parametrize("window", [2, 3, 8, 19, 20, 40])
def test_chunks_fit_every_window(window: int) -> None:
    context, chunk = chunk_sizes(window)
    assert context >= 1
    assert chunk >= 2
    assert context + chunk - 1 <= window
    assert window < 19 or (context, chunk) == (10, 10)


def test_what_does_not_fit_is_refused(model: TrajWorld) -> None:
    history, mask, actions = trajectory(4)
    with pytest.raises(UsageError, match="window of 20"):
        open_loop(model, history, mask, actions, variates(), OBSERVATIONS, context=12)
    with pytest.raises(UsageError, match="at least 2 rows"):
        chunk_sizes(1)
    with pytest.raises(UsageError, match="chunks of 1"):
        open_loop(model, history, mask, actions, variates(), OBSERVATIONS, chunk=1)
    with pytest.raises(UsageError, match="must be"):
        open_loop(model, history[:1], mask, actions, variates(), OBSERVATIONS)
    with pytest.raises(UsageError, match="must be"):
        open_loop(model, history, mask, actions[:, :0], variates(), OBSERVATIONS)
    with pytest.raises(UsageError, match="more than the 6"):
        open_loop(model, history, mask, actions, variates(), 4)
