"""The baseline of model-based offline RL: an ensemble of probabilistic perceptrons (Yu et al. 2020, MOPO)."""

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from trajworld.data.batch import Batch, Variates
from trajworld.errors import TrajWorldError
from trajworld.models.identity import Identity
from trajworld.models.interface import Predicted, Short, Step, model_config, model_from_config
from trajworld.models.sizes import EnsembleSizes

Tensor = Any

_FIRST_LOG_VARIANCES = (-10.0, 0.5)
_BOUND_WEIGHT = 0.01
_DECAY = (2.5e-5, 5e-5, 7.5e-5, 7.5e-5, 1e-4)
# How often a row is drawn into a bootstrap sample is Poisson distributed with mean 1: its distribution function.
_POISSON = np.cumsum(np.exp(-1.0) / np.array([math.factorial(count) for count in range(6)]))


class Where(NamedTuple):
    """A rollout's newest row ``[B, M]``, and its variates."""

    row: Tensor
    variates: Variates


@keras.saving.register_keras_serializable("trajworld")
class MLPEnsemble(keras.Model):
    """The change of the observation and the reward as Gaussians of the last row, by members that differ in their first
    weights and in their bootstrap samples.

    Values are scaled by their range to [0, 1] and standardised by the training data's statistics, which
    :meth:`adapt` sets. Observations and actions stand in padded places: one model reads robots of several sizes.
    """

    kind = "mlp-ensemble"
    context = 1
    chunk = None
    samples = True

    def __init__(self, sizes: EnsembleSizes, identity: Identity | None = None, **kwargs: Any) -> None:
        super().__init__(autocast=False, **kwargs)
        self.sizes, self.identity = sizes, identity or Identity()
        inputs, predicted = sizes.observations + sizes.actions, sizes.observations + 1
        widths = (inputs, *[sizes.width] * sizes.layers, 2 * predicted)
        self._kernels, self._biases = [], []
        for number, (rows, columns) in enumerate(itertools.pairwise(widths)):
            first = keras.initializers.TruncatedNormal(stddev=0.5 / math.sqrt(rows))
            kernel = self.add_weight((sizes.members, rows, columns), first, name=f"kernel_{number}")
            self._kernels.append(kernel)
            self._biases.append(self.add_weight((sizes.members, 1, columns), "zeros", name=f"bias_{number}"))
        self._bounds = [
            self.add_weight((predicted,), keras.initializers.Constant(value), name=name)
            for name, value in zip(
                ("least_log_variance", "most_log_variance"), _FIRST_LOG_VARIANCES, strict=True
            )
        ]
        fixed: dict[str, Any] = {"trainable": False}
        self.mean = self.add_weight((inputs + 1,), "zeros", name="mean", **fixed)
        self.scale = self.add_weight((inputs + 1,), "ones", name="scale", **fixed)
        self.elite = self.add_weight((sizes.members,), "ones", name="elite", **fixed)
        # Drawn as the first weights are, by the run's seed: other seeds have other bootstrap samples.
        draw = keras.initializers.RandomUniform(0.0, 1.0)
        self.sampling = self.add_weight((), draw, name="sampling", **fixed)
        self.built = True

    def start_from(self, weights: list[Any]) -> None:
        """Take another ensemble's weights, but draw new bootstrap samples."""
        own = np.array(self.sampling)
        self.set_weights(weights)
        self.sampling.assign(own)

    def adapt(
        self,
        means: Sequence[NDArray[np.floating]],
        stds: Sequence[NDArray[np.floating]],
        sizes: Any,
        fresh: bool = True,
    ) -> None:
        """Standardise by statistics of scaled variates ``[M]`` of several datasets, whose ``sizes`` are (O, A), before
        training; an ensemble that was trained on other data then predicts in units of these, too.

        ``fresh`` weights are scaled as if they were drawn without padding, where all datasets have one size.
        """
        total, square, seen = np.zeros((3, self.sizes.observations + self.sizes.actions + 1))
        for mean, std, (observations, actions) in zip(means, stds, sizes, strict=True):
            where = self.places(observations, actions)
            total[where] += mean
            square[where] += std**2 + mean**2
            seen[where] += 1
        mean = total / np.maximum(seen, 1)
        std = np.sqrt(np.maximum(square / np.maximum(seen, 1) - mean**2, 0))
        self.mean.assign(mean)
        self.scale.assign(np.where(std < 1e-6, 1.0, std))
        if fresh and len({*sizes}) == 1:
            self._kernels[0].assign(np.array(self._kernels[0]) / np.sqrt((seen[:-1] > 0).mean()))

    def places(self, observations: int, actions: int) -> NDArray[np.int64]:
        """Where the variates of a row stand: the reward last, or where there is no action, as one more observation.

        Raises:
            TrajWorldError: There are not as many places.
        """
        room = self.sizes.observations
        if observations > room or actions > self.sizes.actions:
            raise TrajWorldError(
                f"{observations} observation and {actions} action variates are more than the {room} and "
                f"{self.sizes.actions} this model has places for"
            )
        reward = [room + self.sizes.actions if actions else observations]
        return np.concatenate([np.arange(observations), reward, room + np.arange(actions)]).astype(np.int64)

    def _maps(self, variates: Variates, count: int) -> tuple[Tensor, Tensor]:
        """From a row's M variates to the places of inputs ``[M, I]``; from predictions to variates ``[O + 1, M]``."""
        sizes = self.sizes
        real = ops.ones((count,)) if variates.mask is None else ops.cast(variates.mask, "float32")
        action = ops.cast(variates.is_action, "float32") * real
        at, reward = ops.cast(ops.arange(count), "float32"), _reward_place(variates, count)
        seen = ops.cast(at < reward, "float32") * real
        place = ops.where(action > 0, at - reward - 1 + sizes.observations, at)
        inputs = ops.cast(ops.arange(sizes.observations + sizes.actions), "float32")
        known = ops.cast(ops.equal(place[:, None], inputs), "float32") * (action + seen)[:, None]
        found = ops.where(ops.equal(at, reward), float(sizes.observations), at)
        outputs = ops.cast(ops.arange(sizes.observations + 1), "float32")[:, None]
        told = ops.cast(ops.equal(outputs, found), "float32") * (1 - action) * real
        return known, told

    def _members(self, rows: Tensor, variates: Variates) -> tuple[Tensor, Tensor, Tensor]:
        """Mean and log-variance of each member, ``[E, B, M]``, in standard deviations of the scaled variates; and that
        deviation in raw units ``[M]``.

        The mean is the change of an observation, and the reward itself, standardised.
        """
        known, told = self._maps(variates, rows.shape[-1])
        span = variates.upper - variates.lower
        scaled = (rows - variates.lower) / span
        mean, scale = ops.convert_to_tensor(self.mean), ops.convert_to_tensor(self.scale)
        here = ops.sum(known, axis=0)
        x = (ops.matmul(scaled, known) - mean[:-1] * here) / scale[:-1]
        x = ops.repeat(x[None], self.sizes.members, axis=0)
        for kernel, bias in zip(self._kernels[:-1], self._biases[:-1], strict=True):
            x = ops.silu(ops.matmul(x, kernel) + bias)
        out = ops.matmul(x, self._kernels[-1]) + self._biases[-1]
        predicted = self.sizes.observations + 1
        least, most = (ops.convert_to_tensor(bound) for bound in self._bounds)
        spread = most - ops.softplus(most - out[..., predicted:])
        spread = least + ops.softplus(spread - least)
        units = ops.concatenate([scale[: predicted - 1], scale[-1:]])
        unit = ops.matmul(units, told) * span
        return ops.matmul(out[..., :predicted], told), ops.matmul(spread, told), unit

    def _targets(self, before: Tensor, after: Tensor, variates: Variates, unit: Tensor) -> Tensor:
        """``[B, M]``: what a member's mean is compared with; unspecified at actions."""
        safe = ops.where(unit > 0, unit, 1.0)
        return (after - self._base(before, variates)) / safe

    def _base(self, rows: Tensor, variates: Variates) -> Tensor:
        """What is added to a member's mean: the row itself, and the mean reward."""
        count = rows.shape[-1]
        place = ops.cast(ops.arange(count), "float32")
        usual = variates.lower + ops.convert_to_tensor(self.mean)[-1] * (variates.upper - variates.lower)
        return ops.where(ops.equal(place, _reward_place(variates, count)), usual, rows)

    def _predicted_mask(self, variates: Variates) -> Tensor:
        mask = 1.0 - ops.cast(variates.is_action, "float32")
        return mask if variates.mask is None else mask * ops.cast(variates.mask, "float32")

    def loss_sums(
        self, batch: Batch, seed: Tensor | None = None, targets: str = "onehot"
    ) -> tuple[Tensor, Tensor]:
        """The Gaussians' negative log-likelihood without its constant, summed over members, with the weights' decay and
        the bounds' regularisation; see the interface. In training, where there is a ``seed``, each member counts a
        transition as often as its bootstrap sample holds it.
        """
        before, after, variates = batch.values[:, -2], batch.values[:, -1], batch.variates
        mean, log_variance, unit = self._members(before, variates)
        error = (mean - self._targets(before, after, variates, unit)) ** 2
        mask = self._predicted_mask(variates)
        rows = ops.sum((error * ops.exp(-log_variance) + log_variance) * mask, axis=-1) / ops.sum(mask)
        if seed is not None:
            rows = rows * self._bootstrap(ops.concatenate([before, after], axis=-1))
        present = ops.cast(batch.time_mask[:, -2], "float32")
        count = ops.sum(present)
        # Only of existing variates: the bounds of others would diverge.
        _, told = self._maps(variates, before.shape[-1])
        used = ops.matmul(told, mask)
        fixed = _BOUND_WEIGHT * ops.sum((self._bounds[1] - self._bounds[0]) * used)
        for decay, kernel in zip(_DECAY, self._kernels, strict=False):
            fixed = fixed + 0.5 * decay * ops.sum(ops.square(kernel))
        return ops.sum(rows * present) + fixed * count, count

    def _bootstrap(self, rows: Tensor) -> Tensor:
        """How often each member's sample holds each row, ``[E, B]``: a function of its bits and of ``sampling``."""
        sampling = ops.broadcast_to(ops.convert_to_tensor(self.sampling), (*rows.shape[:-1], 1))
        rows = ops.concatenate([ops.cast(rows, "float32"), sampling], axis=-1)
        bits = ops.view(rows, dtype="int32")
        draws = np.random.default_rng(0).integers(2**31, size=(2, self.sizes.members, 1, rows.shape[-1]))
        odd = (2 * draws[0] + 1).astype(np.uint32).view(np.int32)
        mixed = ops.cast(ops.sum(bits[None] * ops.convert_to_tensor(odd), axis=-1), "int32")
        mixed = ops.bitwise_xor(mixed, ops.right_shift(mixed, 15)) * np.int32(0x2C1B3C6D)
        mixed = ops.bitwise_xor(mixed, ops.right_shift(mixed, 12))
        uniform = ops.cast(ops.bitwise_and(mixed, 0xFFFFFF), "float32") / 2**24
        return ops.sum(
            ops.cast(ops.greater(uniform[..., None], _POISSON.astype("float32")), "float32"), axis=-1
        )

    def member_errors(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Squared error of each member in variances, summed over the rows that are real ``[E]``, and their number."""
        before, after, variates = batch.values[:, -2], batch.values[:, -1], batch.variates
        mean, _, unit = self._members(before, variates)
        mask = self._predicted_mask(variates)
        error = (mean - self._targets(before, after, variates, unit)) ** 2 * mask
        present = ops.cast(batch.time_mask[:, -2], "float32")
        return ops.sum(ops.sum(error, axis=-1) / ops.sum(mask) * present, axis=-1), ops.sum(present)

    def choose_elites(self, errors: NDArray[np.floating]) -> float:
        """Predict by the members of the least holdout errors ``[E]``; returns their mean."""
        chosen = np.argsort(errors)[: self.sizes.elites]
        elite = np.zeros(self.sizes.members, np.float32)
        elite[chosen] = 1.0
        self.elite.assign(elite)
        return float(errors[chosen].mean())

    def alone(self) -> list["MLPEnsemble"]:
        """Each elite as its own model."""
        found = []
        for member in np.flatnonzero(ops.convert_to_numpy(self.elite)):
            one = model_from_config(model_config(self))
            one.set_weights(self.get_weights())
            one.elite.assign(np.eye(self.sizes.members)[member])
            found.append(one)
        return found

    def predict(self, batch: Batch, short: Short = "padded") -> Predicted:
        """Mean, deviation and likelihood of the elites' mixture of Gaussians; see the interface."""
        before, after, variates = batch.values[:, -2], batch.values[:, -1], batch.variates
        mean, log_variance, unit = self._members(before, variates)
        nll = 0.5 * (
            (self._targets(before, after, variates, unit) - mean) ** 2 * ops.exp(-log_variance) + log_variance
        )
        nll = nll + 0.5 * math.log(2 * math.pi) + ops.log(ops.where(unit > 0, unit, 1.0))
        elite = ops.convert_to_tensor(self.elite)
        share = ops.log(ops.where(elite > 0, elite / ops.sum(elite), 1.0)) - 1e9 * (1 - elite)
        share = share[:, None, None]
        expected, std = self._mixture(mean, log_variance)
        nll = -ops.logsumexp(share - nll, axis=0)
        return Predicted(self._base(before, variates) + expected * unit, std * unit, nll)

    def _mixture(self, mean: Tensor, log_variance: Tensor) -> tuple[Tensor, Tensor]:
        elite = ops.convert_to_tensor(self.elite)
        share = (elite / ops.sum(elite))[:, None, None]
        expected = ops.sum(share * mean, axis=0)
        variance = ops.sum(share * (ops.exp(log_variance) + (mean - expected) ** 2), axis=0)
        return expected, ops.sqrt(variance)

    def start(self, history: Tensor, mask: Tensor, variates: Variates) -> Where:
        """From the newest row; see the interface."""
        return Where(history[:, -1], variates)

    def step(self, state: Where, action: Tensor, draws: Tensor | None = None) -> tuple[Where, Step]:
        """With draws, those of an elite for each trajectory; without, the elites' mean; see the interface."""
        row, variates = state
        row = ops.where(variates.is_action > 0, action, row)
        mean, log_variance, unit = self._members(row, variates)
        expected, std = self._mixture(mean, log_variance)
        if draws is not None:
            elite = ops.convert_to_tensor(self.elite)
            # The last variate's draw says which; what is left of it is another, for where that variate is predicted.
            first, count = draws[0, :, -1:], ops.sum(elite)
            chosen = ops.sum(ops.cast(first * count >= ops.cumsum(elite), "int32"), axis=-1)
            one = ops.transpose(ops.one_hot(ops.minimum(chosen, self.sizes.members - 1), self.sizes.members))[
                ..., None
            ]
            rest = first * count - ops.floor(first * count)
            radii = ops.concatenate([draws[0, :, :-1], rest], axis=-1)
            noise = ops.sqrt(-2 * ops.log(1 - radii)) * ops.cos(2 * math.pi * draws[1])
            expected = (
                ops.sum(one * mean, axis=0) + ops.exp(0.5 * ops.sum(one * log_variance, axis=0)) * noise
            )
        predicted = self._base(row, variates) + expected * unit
        value = ops.clip(predicted, variates.lower, variates.upper)
        return Where(value, variates), Step(predicted, std * unit, value)

    get_config, from_config = model_config, staticmethod(model_from_config)


def _reward_place(variates: Variates, count: int) -> Tensor:
    """Before the first action; it may be masked. M where there is no action: then it looks like an observation, and is
    read and predicted as one.
    """
    actions = ops.cast(variates.is_action, "int32")
    return ops.where(ops.sum(actions) > 0, ops.cast(ops.argmax(actions), "float32") - 1, float(count))
