"""Rollouts under both controllers against a plain loop that computes whole windows anew for every prediction."""

import functools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from keras import ops

from trajworld.backend import active_backend
from trajworld.data.batch import Variates
from trajworld.errors import UsageError
from trajworld.models.identity import action_mask
from trajworld.models.rollout import (
    GivenActions,
    PolicyController,
    Rollout,
    compile_rollout,
    draw_uniforms,
)
from trajworld.models.sizes import TrajWorldSizes
from trajworld.models.trajworld import TrajWorld

OBSERVATIONS, ACTIONS, BATCH = 3, 2, 2
LOWER = np.array([-2, -1, 0, -3, -1, -1], np.float32)
UPPER = np.array([2, 3, 1, 5, 1, 1], np.float32)
KNOWN = Variates(action_mask(OBSERVATIONS, ACTIONS), LOWER, UPPER)


@functools.cache
def model_of(window: int = 20) -> TrajWorld:
    keras.utils.set_random_seed(0)
    made = TrajWorld(TrajWorldSizes(blocks=2, width=16, heads=2, window=window, variates=12))
    # Random weights predict nearly the same everywhere: a stronger head makes a wrong row or position show.
    made.head.kernel.assign(made.head.kernel * 6.0)
    return made


@functools.cache
def rolling(window: int = 20) -> Callable[..., Rollout]:
    return compile_rollout(model_of(window), OBSERVATIONS)


def trajectory(horizon: int, rows: int = 14, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    history = rng.uniform(LOWER, UPPER, (BATCH, rows, 6)).astype(np.float32)
    actions = rng.uniform(-1, 1, (BATCH, horizon, 2)).astype(np.float32)
    return history, np.ones((BATCH, rows), np.float32), actions


@functools.cache
def compiled(model: TrajWorld) -> Callable[..., Any]:
    return active_backend().compile(lambda rows, mask, known: model(rows, mask, known), model)


def logits_of_last_row(model: TrajWorld, rows: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The model's answer at the last row; rows after it, which it cannot see, make every window equally long."""
    room = model.sizes.window - rows.shape[1]
    longer = np.pad(rows, [(0, 0), (0, room), (0, 0)]), np.pad(mask, [(0, 0), (0, room)])
    logits = compiled(model)(*longer, KNOWN)
    return ops.convert_to_numpy(logits).astype(float)[:, rows.shape[1] - 1]


def plain_loop(
    model: TrajWorld,
    history: np.ndarray,
    mask: np.ndarray,
    act: Callable[[np.ndarray, int], np.ndarray],
    fed: np.ndarray,
    uniforms: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Chosen values and deviations ``[B, h, O + 1]`` without a cache: each window is computed anew.

    Each step is given the predictions ``fed [B, h, O + 1]`` of the rollout under test as its past: fed its
    own, it would drift away by rounding alone.
    """
    context, chunk = model.context, model.chunk
    rows = np.concatenate([np.zeros((BATCH, context, 6), np.float32), history], axis=1)
    mask = np.concatenate([np.zeros((BATCH, context), np.float32), mask], axis=1)
    values, deviations = [], []
    start = 0
    for step in range(fed.shape[1]):
        if step % chunk == 0:
            start = rows.shape[1] - context
        rows[:, -1, OBSERVATIONS + 1 :] = act(rows[:, -1, :OBSERVATIONS], step)
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


def arrays(found: Rollout) -> tuple[np.ndarray, np.ndarray]:
    return (
        np.concatenate([found.observations, found.rewards[..., None]], -1),
        np.concatenate([found.observation_std, found.reward_std[..., None]], -1),
    )


def given(actions: np.ndarray) -> Callable[[np.ndarray, int], np.ndarray]:
    return lambda observation, step: actions[:, step]


@pytest.mark.parametrize(
    ("horizon", "rows", "window", "padded"),
    [
        (23, 14, 20, 0),
        (11, 10, 20, 3),
        # What is left of a chunk and of the window is cut on the host.
        *(
            pytest.param(*case, marks=pytest.mark.once)
            for case in ((1, 3, 20, 0), (9, 14, 2, 0), (4, 1, 3, 0), (13, 9, 11, 0))
        ),
    ],
)
def test_the_open_loop_equals_a_loop_without_a_cache(
    horizon: int, rows: int, window: int, padded: int
) -> None:
    """Also where variates were added to make a batch rectangular."""
    model = model_of(window)
    history, mask, actions = trajectory(horizon, rows)
    mask[0, : rows // 2] = 0
    wide, known = np.pad(history, [(0, 0), (0, 0), (0, padded)], constant_values=0.7), KNOWN
    if padded:
        ends = np.pad(LOWER, (0, padded)), np.pad(UPPER, (0, padded), constant_values=1)
        known = Variates(np.pad(KNOWN.is_action, (0, padded)), *ends, np.float32([1] * 6 + [0] * padded))
    rollout = rolling(window)(wide, mask, known, GivenActions(actions))
    found = arrays(rollout)
    history[0, : rows // 2] = 0
    history[:, -1, OBSERVATIONS + 1 :] = 0.123  # No action of the newest row is read.
    expected = plain_loop(model, history, mask, given(actions), found[0])
    assert found[0].shape == (BATCH, horizon, 4)
    np.testing.assert_allclose(found[0], expected[0], atol=2e-4)
    np.testing.assert_allclose(found[1], expected[1], atol=2e-4)
    np.testing.assert_array_equal(rollout.actions, actions)


@pytest.mark.once
@pytest.mark.parametrize("window", [2, 3, 11, 19, 20])
def test_no_step_is_at_a_position_that_training_does_not_reach(window: int) -> None:
    """A window's last row is only predicted: its position has the weights that were drawn."""
    model = TrajWorld(TrajWorldSizes(blocks=1, width=16, heads=2, window=window, variates=12))
    table = np.array(model.position_embedding.embeddings)
    table[window - 1] = np.nan
    model.position_embedding.embeddings.assign(table)
    history, mask, actions = trajectory(13)
    rollout = compile_rollout(model, OBSERVATIONS)(history, mask, KNOWN, GivenActions(actions))
    assert np.isfinite(rollout.observations).all()


def policy(weights: Any, observation: Any, noise: Any) -> Any:
    action = ops.tanh(ops.matmul(observation, weights["kernel"]) + weights["bias"])
    return action if noise is None else action + 0.3 * noise


@pytest.mark.parametrize("noisy", [pytest.param(False, marks=pytest.mark.once), True])
def test_a_policy_acts_on_every_predicted_row(noisy: bool) -> None:
    history, mask, _ = trajectory(23)
    rng = np.random.default_rng(1)
    weights = {"kernel": rng.normal(size=(3, 2)).astype("f4"), "bias": rng.normal(size=2).astype("f4")}
    noise = rng.normal(size=(23, BATCH, ACTIONS)).astype("f4") if noisy else None
    controller = PolicyController(policy, weights, 23, noise)

    def act(observation: np.ndarray, step: int) -> np.ndarray:
        action = np.tanh(observation @ weights["kernel"] + weights["bias"])
        return action if noise is None else action + np.float32(0.3) * noise[step]

    rollout = rolling()(history, mask, KNOWN, controller)
    found = arrays(rollout)
    expected = plain_loop(model_of(), history, mask, act, found[0])
    np.testing.assert_allclose(found[0], expected[0], atol=3e-4)
    seen = np.concatenate([history[:, -1:, :3], rollout.observations[:, :-1]], axis=1)
    wanted = np.stack([act(seen[:, step], step) for step in range(23)], axis=1)
    np.testing.assert_allclose(rollout.actions, wanted, atol=1e-5)


def test_sampling_is_a_function_of_the_seed() -> None:
    history, mask, actions = trajectory(13)
    uniforms = draw_uniforms(13, BATCH, 6, seed=5)
    run = functools.partial(rolling(), history, mask, KNOWN, GivenActions(actions))
    found = arrays(run(uniforms))
    assert np.all((found[0] >= LOWER[:4]) & (found[0] <= UPPER[:4]))
    expected = plain_loop(model_of(), history, mask, given(actions), found[0], uniforms)
    # A draw within rounding of a bin's edge falls one bin off; the other draws agree.
    width = ((UPPER - LOWER) / 256)[:4]
    assert np.all(np.abs(found[0] - expected[0]) < 1.5 * width)
    assert np.mean(np.abs(found[0] - expected[0]) < 0.01 * width) > 0.95
    np.testing.assert_array_equal(found[0], arrays(run(uniforms))[0])
    assert not np.allclose(found[0], arrays(run(draw_uniforms(13, BATCH, 6, seed=6)))[0])
    assert not np.allclose(found[0], arrays(run())[0])


def test_every_horizon_and_every_controller_of_a_program_use_one_compilation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compilations: list[Any] = []
    shapes: list[Any] = []

    class Recorder:
        def compile(self, function: Callable[..., Any], model: TrajWorld) -> Callable[..., Any]:
            compilations.append(function)
            inner = active_backend().compile(function, model)

            def run(*arrays: Any) -> Any:
                leaves = [leaf for leaf in keras.tree.flatten(arrays) if leaf is not None]
                shapes.append([(*leaf.shape, keras.backend.standardize_dtype(leaf.dtype)) for leaf in leaves])
                return inner(*arrays)

            return run

    monkeypatch.setattr("trajworld.models.rollout.active_backend", Recorder)
    run = compile_rollout(model_of(), OBSERVATIONS)
    for horizon, rows in ((1, 1), (10, 14), (23, 4), (40, 14)):
        history, mask, actions = trajectory(horizon, rows)
        assert run(history, mask, KNOWN, GivenActions(actions)).rewards.shape == (BATCH, horizon)
    assert len(shapes) == 1 + 1 + 3 + 4
    assert all(found == shapes[0] for found in shapes)
    for bias in (0.0, 1.0):
        weights = {"kernel": np.ones((3, 2), np.float32), "bias": np.float32([bias, 0])}
        run(history, mask, KNOWN, PolicyController(policy, weights, 3))
    assert len(compilations) == 2


def test_in_mixed_precision() -> None:
    half = TrajWorld(model_of().sizes, dtype="mixed_bfloat16")
    half.set_weights(model_of().get_weights())
    history, mask, actions = trajectory(12)
    found = arrays(compile_rollout(half, OBSERVATIONS)(history, mask, KNOWN, GivenActions(actions)))[0]
    exact = arrays(rolling()(history, mask, KNOWN, GivenActions(actions)))[0]
    assert found.dtype == np.float32
    # Later steps may drift: they are fed what differed before them.
    assert np.all(np.abs(found - exact)[:, :2] < 0.1 * (UPPER - LOWER)[:4])
    assert np.all((found >= LOWER[:4]) & (found <= UPPER[:4]))


def test_what_does_not_fit_is_refused() -> None:
    history, mask, actions = trajectory(4)
    for rows, taken, observations, said in (
        (history[:1], actions, 3, "must be"),
        (history[:, :0], actions, 3, "must be"),
        (history[0], actions, 3, "must be"),
        (history, actions[:, :0], 3, "at least one step"),
        (history, actions[..., :1], 3, "2 actions"),
        (history, np.pad(actions, [(0, 0), (0, 0), (0, 1)]), 3, "2 actions"),
    ):
        with pytest.raises(UsageError, match=said):
            compile_rollout(model_of(20), observations)(rows, mask, KNOWN, GivenActions(taken))
    for count in (1, 3):
        weights = {"kernel": np.ones((3, count), np.float32), "bias": np.zeros(count, np.float32)}
        with pytest.raises(UsageError, match=f"gives {count} actions, but the variates have 2"):
            rolling()(history, mask, KNOWN, PolicyController(policy, weights, 4))


def test_draws_and_noise_of_too_few_steps_are_refused() -> None:
    history, mask, actions = trajectory(12)
    act = PolicyController(
        lambda weights, observation, noise: observation[:, :2], (), 12, np.zeros((11, BATCH, 2))
    )
    with pytest.raises(UsageError, match=r"noise .* must be of 12 steps"):
        rolling()(history, mask, KNOWN, act)
    for short in (draw_uniforms(11, BATCH, 6, 0), draw_uniforms(12, 1, 6, 0), draw_uniforms(12, BATCH, 5, 0)):
        with pytest.raises(UsageError, match=r"draws .* must be of 12 steps"):
            rolling()(history, mask, KNOWN, GivenActions(actions), short)
