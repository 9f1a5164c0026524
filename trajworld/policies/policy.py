"""Policies that are multilayer perceptrons: from observation to action, in NumPy and inside a compiled rollout."""

import math
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trajworld.errors import TrajWorldError, UsageError
from trajworld.policies.behaviour import Controller

Floats = NDArray[np.float32]
Tensor = Any

ACTIVATIONS = ("relu", "tanh", "elu", "leaky_relu", "silu", "sigmoid")


class Layer(NamedTuple):
    """``x @ kernel + bias``: kernel ``[in, out]``, bias ``[out]``."""

    kernel: Floats
    bias: Floats


@dataclass(frozen=True)
class PolicyFunction:
    """What policies of one form compute, from their weights on.

    It is the function that a ``PolicyController`` of a rollout takes: policies with equal ones share compilations.
    """

    activation: str
    squash: bool

    def __call__(self, weights: Any, observation: Tensor, noise: Tensor | None = None) -> Tensor:
        """Actions ``[B, A]`` of observations ``[B, O]`` and standard normal noise ``[B, A]`` (None: mean actions), in
        Keras ops.
        """
        from keras import ops

        return self.compute(ops, weights, observation, noise)

    def compute(self, ops: Any, weights: Any, observation: Tensor, noise: Tensor | None) -> Tensor:
        """The same in the operations of ``ops``: NumPy, or Keras's."""
        x = (observation - weights["observation_mean"]) / weights["observation_scale"]
        x = _clip(ops, x, -weights["observation_clip"], weights["observation_clip"])
        for kernel, bias in weights["layers"]:
            x = self._activate(ops, ops.matmul(x, kernel) + bias)
        kernel, bias = weights["mean"]
        action = _clip(ops, ops.matmul(x, kernel) + bias, -weights["mean_limit"], weights["mean_limit"])
        if noise is not None and "log_std" in weights:
            kernel, bias = weights["log_std"]
            least, most = weights["log_std_range"][0], weights["log_std_range"][1]
            log_std = _clip(ops, ops.matmul(x, kernel) + bias, least, most)
            action = action + ops.exp(log_std) * noise
        low, high = weights["low"], weights["high"]
        if self.squash:
            action = low + 0.5 * (ops.tanh(action) + 1.0) * (high - low)
        return _clip(ops, action, low, high)

    def _activate(self, ops: Any, x: Tensor) -> Tensor:
        if self.activation == "relu":
            return ops.maximum(x, 0.0)
        if self.activation == "tanh":
            return ops.tanh(x)
        if self.activation == "elu":
            return ops.maximum(x, 0.0) + ops.exp(ops.minimum(x, 0.0)) - 1.0
        if self.activation == "leaky_relu":
            return ops.maximum(x, 0.01 * x)
        # The logistic function, without an exponential that overflows.
        gate = 0.5 * (1.0 + ops.tanh(0.5 * x))
        return gate if self.activation == "sigmoid" else x * gate


@dataclass(frozen=True, eq=False)
class Policy:
    """A multilayer perceptron that acts, by a Gaussian's draws or by its mean; a ``Behaviour`` too.

    ``hidden = activation(layer(...clip((observation - observation_mean) / observation_scale)))``; the action is
    ``mean(hidden) + exp(log_std(hidden)) * noise``, which tanh squashes into the bounds, or which is clipped to them.

    Attributes:
        layers: The hidden layers, from O values on.
        mean: The layer of the mean action, to A values.
        log_std: The layer of the logarithm of the standard deviation; None where the policy is deterministic.
        low: ``[A]``, the least actions.
        high: ``[A]``, the greatest actions.
        activation: Of the hidden layers, one of ``ACTIVATIONS``.
        squash: Whether tanh maps actions into the bounds; otherwise they are clipped.
        observation_mean: ``[O]``, subtracted from observations.
        observation_scale: ``[O]``, what they are then divided by.
        observation_clip: What the quotients are then clipped to.
        mean_limit: What the mean is clipped to, before any squashing.
        log_std_range: What the logarithm of the standard deviation is clipped to.
        environment: The environment it was made for, by its canonical name; empty where unknown.
        source: Where it is from, in words.

    Raises:
        TrajWorldError: When made: shapes do not fit together, or a number is not finite.
    """

    layers: tuple[Layer, ...]
    mean: Layer
    log_std: Layer | None
    low: Floats
    high: Floats
    activation: str = "relu"
    squash: bool = True
    observation_mean: Floats = field(default_factory=lambda: np.zeros(0, np.float32))
    observation_scale: Floats = field(default_factory=lambda: np.zeros(0, np.float32))
    observation_clip: float = math.inf
    mean_limit: float = math.inf
    log_std_range: tuple[float, float] = (-math.inf, math.inf)
    environment: str = ""
    source: str = ""

    def __post_init__(self) -> None:
        if self.activation not in ACTIVATIONS:
            raise TrajWorldError(f"the activation {self.activation!r} is none of {', '.join(ACTIVATIONS)}")
        if not (self.observation_clip > 0 and self.mean_limit > 0) or np.isnan(self.log_std_range).any():
            raise TrajWorldError("a limit of observations, means or deviations is no limit")
        size = inputs = len(np.atleast_1d((self.layers or (self.mean,))[0].kernel))
        layers = []
        for number, layer in enumerate(self.layers):
            layers.append(_layer(layer, f"hidden layer {number}", size))
            size = len(layers[-1].bias)
        mean = _layer(self.mean, "the layer of mean actions", size)
        actions = len(mean.bias)
        found: dict[str, Any] = {"layers": tuple(layers), "mean": mean}
        if self.log_std is not None:
            found["log_std"] = _layer(self.log_std, "the layer of standard deviations", size, actions)
        for name, shape, default in (("observation_mean", inputs, 0.0), ("observation_scale", inputs, 1.0)):
            given = getattr(self, name)
            found[name] = _numbers(given if np.size(given) else np.full(shape, default), name, (shape,))
        found |= {
            name: _numbers(getattr(self, name), f"the {name} actions", (actions,)) for name in ("low", "high")
        }
        if np.any(found["low"] >= found["high"]) or np.any(found["observation_scale"] <= 0):
            raise TrajWorldError("the bounds of actions, or the scale of observations, leave no room")
        for name, value in found.items():
            object.__setattr__(self, name, value)

    @property
    def observation_size(self) -> int:
        """O."""
        return len(self.observation_mean)

    @property
    def action_size(self) -> int:
        """A."""
        return len(self.low)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Values in an observation, in each hidden layer and in an action."""
        return self.observation_size, *(len(layer.bias) for layer in self.layers), self.action_size

    @property
    def function(self) -> PolicyFunction:
        """What :attr:`weights` are given to."""
        return PolicyFunction(self.activation, self.squash)

    @property
    def weights(self) -> dict[str, Any]:
        """All numbers, as float32 arrays: ``PolicyController(policy.function, policy.weights, horizon, noise)``."""
        vectors = "low", "high", "observation_mean", "observation_scale", "observation_clip", "mean_limit"
        weights = {name: np.asarray(getattr(self, name), np.float32) for name in vectors}
        weights["log_std_range"] = np.asarray(self.log_std_range, np.float32)
        layers = {"layers": [tuple(layer) for layer in self.layers], "mean": tuple(self.mean)}
        return weights | layers | ({} if self.log_std is None else {"log_std": tuple(self.log_std)})

    def draws(self, horizon: int, batch: int, generator: np.random.Generator) -> Floats | None:
        """The noise of a rollout's actions, ``[horizon, batch, A]`` standard normal; None if deterministic."""
        if self.log_std is None:
            return None
        return generator.standard_normal((horizon, batch, self.action_size), np.float32)

    def deterministic(self) -> "Policy":
        """The policy that does the mean action."""
        return replace(self, log_std=None)

    def act(self, observations: NDArray[np.floating], generator: np.random.Generator | None = None) -> Floats:
        """Actions ``[N, A]`` of observations ``[N, O]``, drawn where there is a generator and a deviation."""
        noise = None if generator is None else self.draws(1, len(observations), generator)
        observations = np.asarray(observations, np.float32)
        return self.function.compute(np, self.weights, observations, None if noise is None else noise[0])

    def controller(self, low: Floats, high: Floats, generator: np.random.Generator) -> Controller:
        """See ``Behaviour``: actions are clipped to the environment's bounds, too."""
        if len(low) != self.action_size:
            raise UsageError(f"the policy has {self.action_size} actions and the environment {len(low)}")
        compute, weights = self.function.compute, self.weights

        def act(observation: NDArray[np.float32]) -> Floats:
            noise = self.draws(1, 1, generator)
            action = compute(np, weights, observation[None], None if noise is None else noise[0])
            return np.clip(action[0], low, high)

        return act


def _clip(ops: Any, x: Tensor, low: Any, high: Any) -> Tensor:
    return ops.minimum(ops.maximum(x, low), high)


def _layer(layer: Layer, name: str, inputs: int, outputs: int | None = None) -> Layer:
    outputs = outputs or len(np.atleast_1d(layer.bias))
    return Layer(_numbers(layer.kernel, name, (inputs, outputs)), _numbers(layer.bias, name, (outputs,)))


def _numbers(value: Any, name: str, shape: tuple[int, ...]) -> Floats:
    """The value as float32 of exactly this shape."""
    array = np.asarray(value)
    if array.dtype.kind not in "fiu" or array.shape != shape or not array.size:
        raise TrajWorldError(f"{name}: an array {array.dtype} {array.shape} where numbers {shape} are wanted")
    with np.errstate(over="ignore"):
        array = np.ascontiguousarray(array, np.float32)
    if not np.all(np.isfinite(array)):
        raise TrajWorldError(f"{name} holds a NaN or infinite value")
    return array
