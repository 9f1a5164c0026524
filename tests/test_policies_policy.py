"""Policies: what they compute, in NumPy and inside rollouts; their files; what is refused."""

import io
import os
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from trajworld.data.batch import Variates
from trajworld.errors import TrajWorldError, UsageError
from trajworld.models.identity import action_mask
from trajworld.models.rollout import PolicyController, compile_rollout
from trajworld.models.sizes import TrajWorldSizes
from trajworld.models.trajworld import TrajWorld
from trajworld.policies.files import load_policy, save_policy
from trajworld.policies.policy import ACTIVATIONS, Layer, Policy

LOW, HIGH = np.float32([-1, 0]), np.float32([1, 4])


def layer(rng: np.random.Generator, inputs: int, outputs: int) -> Layer:
    return Layer(
        rng.normal(size=(inputs, outputs)).astype("f4") / 2, rng.normal(size=outputs).astype("f4") / 4
    )


def made(seed: int = 0, stochastic: bool = True, **options: Any) -> Policy:
    rng = np.random.default_rng(seed)
    parts = (layer(rng, 3, 8), layer(rng, 8, 5)), layer(rng, 5, 2), layer(rng, 5, 2)
    more = {
        "observation_mean": rng.normal(size=3),
        "observation_scale": rng.uniform(0.5, 2, 3),
        "observation_clip": 1.5,
        "mean_limit": 2.0,
        "log_std_range": (-1.5, 0.5),
    }
    return Policy(parts[0], parts[1], parts[2] if stochastic else None, LOW, HIGH, **(more | options))


def by_hand(policy: Policy, observation: np.ndarray, noise: np.ndarray | None) -> np.ndarray:
    """One observation's action, in float64 with each formula as it is usually written."""
    activations = {
        "relu": lambda x: x * (x > 0),
        "tanh": np.tanh,
        "elu": lambda x: np.where(x > 0, x, np.expm1(x)),
        "leaky_relu": lambda x: np.where(x > 0, x, 0.01 * x),
        "silu": lambda x: x / (1 + np.exp(-x)),
        "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    }
    scaled = (observation.astype(float) - policy.observation_mean) / policy.observation_scale
    x = np.clip(scaled, -policy.observation_clip, policy.observation_clip)
    for kernel, bias in policy.layers:
        x = activations[policy.activation](kernel.T.astype(float) @ x + bias)
    action = np.clip(policy.mean.kernel.T @ x + policy.mean.bias, -policy.mean_limit, policy.mean_limit)
    if policy.log_std is not None and noise is not None:
        action = action + noise * np.exp(
            np.clip(policy.log_std.kernel.T @ x + policy.log_std.bias, *policy.log_std_range)
        )
    return LOW + (np.tanh(action) + 1) / 2 * (HIGH - LOW) if policy.squash else np.clip(action, LOW, HIGH)


@pytest.mark.once
@pytest.mark.parametrize("squash", [True, False])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_actions_are_those_of_the_definition(activation: str, squash: bool) -> None:
    policy = made(activation=activation, squash=squash)
    observations = np.random.default_rng(1).normal(size=(20, 3)).astype("f4") * 3
    noise = np.random.default_rng(7).standard_normal((20, 2), np.float32)
    expected = [by_hand(policy, *pair) for pair in zip(observations, noise, strict=True)]
    drawn = policy.act(observations, np.random.default_rng(7))
    assert drawn.dtype == np.float32
    np.testing.assert_allclose(drawn, expected, atol=1e-5)
    for mean in (
        policy.act(observations),
        policy.deterministic().act(observations, np.random.default_rng(7)),
    ):
        np.testing.assert_allclose(mean, [by_hand(policy, one, None) for one in observations], atol=1e-5)
    act = policy.controller(LOW, HIGH - 1, np.random.default_rng(7))
    np.testing.assert_allclose(
        [act(one, 0.0) for one in observations], np.minimum(drawn, HIGH - 1), atol=1e-6
    )


def test_all_policies_of_a_shape_act_in_one_compiled_rollout(monkeypatch: pytest.MonkeyPatch) -> None:
    from trajworld.models import rollout as module

    compiled = []
    compile_ = module._compiled
    monkeypatch.setattr(module, "_compiled", lambda *rest: compiled.append(1) or compile_(*rest))
    keras.utils.set_random_seed(0)
    model = TrajWorld(TrajWorldSizes(blocks=1, width=16, heads=2, window=20, variates=12))
    run = compile_rollout(model, 3)
    known = Variates(action_mask(3, 2), np.full(6, -3, "f4"), np.full(6, 3, "f4"))
    history = np.random.default_rng(0).uniform(-3, 3, (4, 9, 6)).astype("f4")
    for number, policy in enumerate([made(1), made(2), made(3, stochastic=False), made(4, squash=False)]):
        noise = policy.draws(13, 4, np.random.default_rng(number))
        controller = PolicyController(policy.function, policy.weights, 13, noise)
        found = run(history, np.ones((4, 9), "f4"), known, controller)
        seen = np.concatenate([history[:, -1:, :3], found.observations[:, :-1]], axis=1)
        generator = np.random.default_rng(number)
        expected = np.stack([policy.act(seen[:, step], generator) for step in range(13)], axis=1)
        np.testing.assert_allclose(found.actions, expected, atol=1e-5)
    assert len(compiled) == 2, "one for each form: tanh, and clipped"


@pytest.mark.once
def test_a_file_gives_the_policy_back(tmp_path: Path) -> None:
    for policy in (made(environment="gymnasium/Hopper-v5", source="mäde up"), made(1, stochastic=False)):
        save_policy(policy, tmp_path / "one.npz")
        read = load_policy(tmp_path / "one.npz")
        assert (read.environment, read.source, read.sizes) == (
            policy.environment,
            policy.source,
            (3, 8, 5, 2),
        )
        assert (read.function, read.log_std_range) == (policy.function, policy.log_std_range)
        assert repr(keras.tree.flatten(read.weights)) == repr(keras.tree.flatten(policy.weights))
        save_policy(read, tmp_path / "two.npz")
        assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["one.npz", "two.npz"]
    with pytest.raises(UsageError, match=r"ends in \.npz"):
        save_policy(made(), tmp_path / "policy.zip")


def edited(path: Path, **arrays: Any) -> None:
    """A policy's file with some arrays changed; None removes one."""
    save_policy(made(), path)
    with np.load(path) as file:
        found = {name: file[name] for name in file.files} | arrays
    np.savez(path, **{name: array for name, array in found.items() if array is not None})


def huge(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("low.npy", bytes(257 << 20))


def declares(path: Path) -> None:
    """An array whose header promises far more than there is."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": (1 << 45,)})
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("low.npy", file.getvalue())


BAD = {
    "shapes": (lambda p: edited(p, layer_1_kernel=np.zeros((7, 5))), r"hidden layer 1: .*\(8, 5\)"),
    "NaN": (lambda p: edited(p, mean_bias=np.float32([0, np.nan])), "NaN"),
    "too large": (lambda p: edited(p, mean_bias=np.array([0, 1e300])), "infinite"),
    "objects": (lambda p: edited(p, mean_bias=np.array([None, print], object)), "not a readable .npz file"),
    "an array missing": (lambda p: edited(p, low=None), "KeyError: .*low"),
    "a later version": (lambda p: edited(p, version=9), "version 9"),
    "another activation": (lambda p: edited(p, activation="gelu"), "gelu"),
    "no limit": (lambda p: edited(p, mean_limit=np.nan), "no room"),
    "unpacks to much": (huge, "more than 256 MB"),
    "promises much": (declares, "not a readable .npz file"),
    "an empty file": (lambda p: p.write_bytes(b""), "it is empty"),
}


@pytest.mark.once
@pytest.mark.parametrize("case", BAD)
def test_bad_files_are_refused_in_one_line(tmp_path: Path, case: str) -> None:
    path = tmp_path / "policy.npz"
    write, said = BAD[case]
    write(path)
    with pytest.raises(TrajWorldError, match=said) as error:
        load_policy(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.once
def test_a_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    save_policy(made(), tmp_path / "whole.npz")
    data = (tmp_path / "whole.npz").read_bytes()
    for length in range(0, len(data), 97):
        (tmp_path / "cut.npz").write_bytes(data[:length])
        with pytest.raises(TrajWorldError, match=r"cut\.npz"):
            load_policy(tmp_path / "cut.npz")


@pytest.mark.once
def test_sizes_that_do_not_fit_an_environment() -> None:
    with pytest.raises(UsageError, match="2 actions and the environment 3"):
        made().controller(np.zeros(3), np.ones(3), np.random.default_rng(0))
    with pytest.raises(TrajWorldError, match="standard deviations"):
        replace(made(), log_std=layer(np.random.default_rng(0), 5, 3))
