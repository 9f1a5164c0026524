"""Policies that are multilayer perceptrons: from observation to action, in NumPy and inside a compiled rollout."""

import functools
import hashlib
import importlib
import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trajworld.errors import TrajWorldError, UsageError
from trajworld.policies.behaviour import Controller

Floats = NDArray[np.float32]
Tensor = Any

ACTIVATIONS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "relu": lambda ops, x: ops.maximum(x, 0.0),
    "tanh": lambda ops, x: ops.tanh(x),
    "elu": lambda ops, x: ops.maximum(x, 0.0) + ops.exp(ops.minimum(x, 0.0)) - 1.0,
    "leaky_relu": lambda ops, x: ops.maximum(x, 0.01 * x),
    # By tanh: an exponential would overflow.
    "sigmoid": lambda ops, x: 0.5 * (1.0 + ops.tanh(0.5 * x)),
    "silu": lambda ops, x: 0.5 * x * (1.0 + ops.tanh(0.5 * x)),
}
"""The activations of hidden layers: functions of an array and of the operations to use, NumPy's or Keras's."""


class Layer(NamedTuple):
    """``x @ kernel + bias``: kernel ``[in, out]``, bias ``[out]``."""

    kernel: Floats
    bias: Floats


@functools.cache
def policy_function(activation: str, squash: bool) -> Callable[..., Tensor]:
    """The function of policies of one form, as a rollout's ``PolicyController`` takes it.

    Policies of one form have the same function, and so share compilations. It computes actions ``[B, A]`` from weights,
    observations ``[B, O]`` and standard normal noise ``[B, A]`` (None: mean actions), in Keras ops or those of ``ops``.
    """

    def act(weights: Any, observation: Tensor, noise: Tensor | None, ops: Any = None) -> Tensor:
        ops = ops or importlib.import_module("keras.ops")

        def clip(x: Tensor, low: Tensor, high: Tensor) -> Tensor:
            return ops.minimum(ops.maximum(x, low), high)

        x = (observation - weights["observation_mean"]) / weights["observation_scale"]
        x = clip(x, -weights["observation_clip"], weights["observation_clip"])
        for kernel, bias in weights["layers"]:
            x = ACTIVATIONS[activation](ops, ops.matmul(x, kernel) + bias)
        kernel, bias = weights["mean"]
        action = clip(ops.matmul(x, kernel) + bias, -weights["mean_limit"], weights["mean_limit"])
        if noise is not None and "log_std" in weights:
            kernel, bias = weights["log_std"]
            log_std = clip(ops.matmul(x, kernel) + bias, weights["log_std_least"], weights["log_std_most"])
            action = action + ops.exp(log_std) * noise
        low, high = weights["low"], weights["high"]
        if squash:
            action = low + 0.5 * (ops.tanh(action) + 1.0) * (high - low)
        return clip(action, low, high)

    return act


@functools.cache
def _each_its_own(act: Callable[..., Tensor]) -> Callable[..., Tensor]:

    def several(weights: Any, observation: Tensor, noise: Tensor | None) -> Tensor:
        return act(weights, observation[:, None], None if noise is None else noise[:, None])[:, 0]

    return several


def _unset() -> Floats:
    return np.zeros(0, np.float32)


@dataclass(frozen=True, eq=False)
class Policy:
    """A multilayer perceptron that acts, by a Gaussian's draws or by its mean; a ``Behaviour`` too.

    With ``hidden = layers(clip((observation - observation_mean) / observation_scale))`` the action is
    ``mean(hidden) + exp(log_std(hidden)) * noise``; tanh squashes it into the bounds, or it is clipped to them.

    Attributes:
        layers: The hidden layers, from O values on.
        mean: The layer of the mean action, to A values.
        log_std: The layer of the logarithm of the standard deviation; None where the policy is deterministic.
        low: ``[A]``, the least actions; -1 where not given.
        high: ``[A]``, the greatest actions; 1 where not given.
        activation: Of the hidden layers, one of ``ACTIVATIONS``.
        squash: Whether tanh maps actions into the bounds; otherwise they are clipped.
        observation_mean: ``[O]``, subtracted from observations.
        observation_scale: ``[O]``, what they are then divided by.
        observation_clip: What the quotients are then clipped to.
        mean_limit: What the mean is clipped to, before it is squashed.
        log_std_range: What the logarithm of the standard deviation is clipped to.
        environment: The environment it was made for, by its canonical name; empty where unknown.
        source: Where it is from, in words.

    Raises:
        TrajWorldError: When made: shapes do not fit together, or a number is not finite.
    """

    layers: tuple[Layer, ...]
    mean: Layer
    log_std: Layer | None = None
    low: Floats = field(default_factory=_unset)
    high: Floats = field(default_factory=_unset)
    activation: str = "relu"
    squash: bool = True
    observation_mean: Floats = field(default_factory=_unset)
    observation_scale: Floats = field(default_factory=_unset)
    observation_clip: float = math.inf
    mean_limit: float = math.inf
    log_std_range: tuple[float, float] = (-math.inf, math.inf)
    environment: str = ""
    source: str = ""

    def __post_init__(self) -> None:
        if self.activation not in ACTIVATIONS:
            raise TrajWorldError(f"the activation {self.activation!r} is none of {', '.join(ACTIVATIONS)}")
        size = inputs = len(np.atleast_1d((*self.layers, self.mean)[0].kernel))
        layers = []
        for number, layer in enumerate(self.layers):
            layers.append(_layer(layer, f"hidden layer {number}", size))
            size = len(layers[-1].bias)
        mean = _layer(self.mean, "the layer of mean actions", size)
        actions = len(mean.bias)
        found: dict[str, Any] = {"layers": tuple(layers), "mean": mean}
        if self.log_std is not None:
            found["log_std"] = _layer(self.log_std, "the layer of standard deviations", size, actions)
        defaults = {"observation_mean": 0.0, "observation_scale": 1.0, "low": -1.0, "high": 1.0}
        for name, default in defaults.items():
            given, shape = getattr(self, name), inputs if name.startswith("observation") else actions
            found[name] = _numbers(given if np.size(given) else np.full(shape, default), name, (shape,))
        found |= {name: float(getattr(self, name)) for name in ("observation_clip", "mean_limit")}
        least, most = found["log_std_range"] = tuple(map(float, self.log_std_range))
        room = (
            found["high"] - found["low"],
            found["observation_scale"],
            found["observation_clip"],
            found["mean_limit"],
        )
        if not (all(np.all(one > 0) for one in room) and least <= most):
            raise TrajWorldError("the bounds of actions, or a limit or scale, leave no room")
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
    def form(self) -> Hashable:
        """What policies in one batch have in common, see :func:`stacked_weights`."""
        return self.sizes, self.function, self.log_std is None

    @property
    def each_function(self) -> Callable[..., Tensor]:
        """As :attr:`function`, of weights ``[B, ...]``: one policy for each observation."""
        return _each_its_own(self.function)

    @property
    def function(self) -> Callable[..., Tensor]:
        """See :func:`policy_function`; its first argument is :attr:`weights`."""
        return policy_function(self.activation, self.squash)

    @functools.cached_property
    def weights(self) -> dict[str, Any]:
        """All numbers, as float32 arrays: ``PolicyController(policy.function, policy.weights, horizon, noise)``."""
        vectors = "low", "high", "observation_mean", "observation_scale"
        weights: dict[str, Any] = {"layers": list(map(tuple, self.layers)), "mean": tuple(self.mean)}
        for name in (*vectors, "observation_clip", "mean_limit"):
            weights[name] = np.asarray(getattr(self, name), np.float32)
        weights["log_std_least"], weights["log_std_most"] = map(np.float32, self.log_std_range)
        return weights if self.log_std is None else {**weights, "log_std": tuple(self.log_std)}

    @property
    def digest(self) -> str:
        """Eight hexadecimal digits of the SHA-256 of all that decides its actions."""
        options = self.sizes, self.activation, self.squash, self.log_std_range
        found = hashlib.sha256(repr((*options, self.observation_clip, self.mean_limit)).encode())
        for array in (self.low, self.high, self.observation_mean, self.observation_scale):
            found.update(array.data)
        for layer in self._layers:
            found.update(layer.kernel.data)
            found.update(layer.bias.data)
        return found.hexdigest()[:8]

    @property
    def _layers(self) -> tuple[Layer, ...]:
        return (*self.layers, self.mean, *filter(None, [self.log_std]))

    def draws(self, horizon: int, batch: int, generator: np.random.Generator) -> Floats | None:
        """The noise of a rollout's actions, ``[horizon, batch, A]`` standard normal; None if deterministic."""
        if self.log_std is None:
            return None
        return generator.standard_normal((horizon, batch, self.action_size), np.float32)

    def deterministic(self) -> "Policy":
        """The policy that takes the mean action."""
        return replace(self, log_std=None)

    def act(self, observations: NDArray[np.floating], generator: np.random.Generator | None = None) -> Floats:
        """Actions ``[N, A]`` of observations ``[N, O]``, drawn where there is a generator and a deviation."""
        noise = None if generator is None else self.draws(1, len(observations), generator)
        observations = np.asarray(observations, np.float32)
        return self.function(self.weights, observations, None if noise is None else noise[0], np)

    def controller(self, low: Floats, high: Floats, generator: np.random.Generator) -> Controller:
        """See ``Behaviour``: actions are clipped to the environment's bounds, too."""
        if len(low) != self.action_size:
            raise UsageError(f"the policy has {self.action_size} actions and the environment {len(low)}")
        return lambda observation, reward: np.clip(self.act(observation[None], generator)[0], low, high)

    def describe(self) -> dict[str, Any]:
        """Its properties, as JSON values."""
        return {
            "environment": self.environment,
            "kind": f"{'Gaussian' if self.log_std else 'deterministic'}, {'tanh' if self.squash else 'clipped'}",
            "sizes": list(self.sizes),
            "activation": self.activation,
            "normalises_observations": bool(
                np.any(self.observation_mean) or np.any(self.observation_scale != 1)
            ),
            "parameters": sum(layer.kernel.size + layer.bias.size for layer in self._layers),
            "low": self.low.tolist(),
            "high": self.high.tolist(),
            "source": self.source,
        }


def stacked_weights(policies: Sequence[Policy]) -> Any:
    """The weights ``[B, ...]`` for :attr:`Policy.each_function`, of B policies of one form, some of them the same."""
    from keras import tree

    # A single number, or a layer's biases, as a row: it stands beside the one row of its trajectory.
    rows = lambda *values: np.stack([np.atleast_2d(value) for value in values])  # noqa: E731
    return tree.map_structure(rows, *(policy.weights for policy in policies))


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
