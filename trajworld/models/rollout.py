"""Rollouts: what a world model predicts when its predictions are fed back, under any controller.

A controller says which action is taken in each row: given actions (open loop), or a policy that reads the row (closed
loop). A chunk of K steps is what is compiled: its shapes are the same for any horizon.
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from keras import ops
from numpy.typing import NDArray

from trajworld.backend import active_backend
from trajworld.data.batch import Variates
from trajworld.errors import UsageError
from trajworld.models.interface import State, WorldModel

Tensor = Any
Floats = NDArray[np.float32]

_STEPS_AT_ONCE = 10
"""How many steps are compiled together of a model that never starts again."""


class Controller(Protocol):
    """What acts in a rollout of B trajectories.

    Attributes:
        horizon: h, how many steps it acts for.
        program: What :meth:`act` computes: controllers of one program differ in arrays alone, and share compilations.
    """

    @property
    def horizon(self) -> int: ...

    @property
    def program(self) -> Hashable: ...

    def arrays(self, begin: int, steps: int) -> Any:
        """What :meth:`act` is given in ``steps`` steps from ``begin`` on, of the same shapes for every ``begin``."""
        ...

    def act(self, arrays: Any, observation: Tensor, k: Tensor) -> Tensor:
        """Act, in Keras ops: ``[B, A]`` float32.

        Args:
            arrays: Of :meth:`arrays`, as tensors.
            observation: ``[B, O]``: the row's observation, in a rollout the one that was predicted.
            k: Scalar int32, which step of these arrays it is.
        """
        ...


@dataclass(frozen=True, eq=False)
class GivenActions:
    """The open loop: actions that are known beforehand, ``[B, h, A]``; the first is taken in the newest real row."""

    actions: Floats
    program = "given actions"

    @property
    def horizon(self) -> int:
        return self.actions.shape[1]

    def arrays(self, begin: int, steps: int) -> Floats:
        return _piece(self.actions, begin, steps, axis=1)

    def act(self, arrays: Tensor, observation: Tensor, k: Tensor) -> Tensor:
        batch, _, actions = arrays.shape
        return ops.slice(arrays, (0, k, 0), (batch, 1, actions))[:, 0]


@dataclass(frozen=True, eq=False)
class PolicyController:
    """The closed loop: a policy that reads each row.

    Attributes:
        policy: From its weights, observations ``[B, O]`` and noise ``[B, A]`` (None where none is given) to actions
            ``[B, A]``, in Keras ops. Controllers of the same function share compilations.
        weights: A structure of arrays.
        horizon: h, steps.
        noise: ``[h, B, A]`` draws that a stochastic policy makes its actions of.
    """

    policy: Callable[[Any, Tensor, Tensor | None], Tensor]
    weights: Any
    horizon: int
    noise: Floats | None = None

    @property
    def program(self) -> Hashable:
        return self.policy

    def arrays(self, begin: int, steps: int) -> tuple[Any, Floats | None]:
        return self.weights, None if self.noise is None else _piece(self.noise, begin, steps)

    def act(self, arrays: tuple[Any, Tensor | None], observation: Tensor, k: Tensor) -> Tensor:
        weights, noise = arrays
        if noise is not None:
            noise = ops.slice(noise, (k, 0, 0), (1, *noise.shape[1:]))[0]
        return self.policy(weights, observation, noise)


class Rollout(NamedTuple):
    """What is predicted of B trajectories over h steps, as NumPy float32.

    Attributes:
        observations: ``[B, h, O]``: expected, or sampled where that was asked for; these were fed back.
        rewards: ``[B, h]``; NaN where the variates mask the reward, which is not recorded then.
        observation_std: ``[B, h, O]``: standard deviation of each predicted distribution, given its past.
        reward_std: ``[B, h]``.
        actions: ``[B, h, A]``: what the controller did; the first in the newest real row.
    """

    observations: Floats
    rewards: Floats
    observation_std: Floats
    reward_std: Floats
    actions: Floats


RollOut = Callable[..., Rollout]
"""What :func:`compile_rollout` returns."""


def compile_rollout(model: WorldModel, observation_size: int) -> RollOut:
    """Compile rollouts of a model in data of one observation size.

    Returns:
        A function of a history ``[B, H, M]`` whose last row is the one to start from (its action is not read; only the
        last W rows are), its mask ``[B, H]``, the variates ``[observation..., reward, action..., padding...]``, a
        controller, and perhaps draws ``[h, 2, B, M]`` to sample the predictions instead of expecting them. It is
        compiled once for each number of trajectories and variates and each controller's program, whatever the horizon,
        reads the model's weights as they are at the call, and raises ``UsageError`` where shapes do not fit.
    """
    steps = model.chunk or _STEPS_AT_ONCE
    programs: dict[Hashable, tuple[Callable[..., Any], Callable[..., Any]]] = {}

    def run(
        history: Any, mask: Any, variates: Variates, controller: Controller, draws: Any = None
    ) -> Rollout:
        _check(np.shape(history), controller, observation_size, model.sizes.window)
        if variates.mask is None:
            # Not every backend's loop carries None.
            variates = variates._replace(mask=np.ones(len(variates.lower), np.float32))
        if controller.program not in programs:
            programs[controller.program] = _compiled(model, observation_size, controller, steps)
        first, further = programs[controller.program]
        # The last W rows, zeros before them where there are fewer.
        rows, mask = (_host(array)[:, -model.context :] for array in (history, mask))
        missing = [(0, 0), (model.context - rows.shape[1], 0)]
        rows, mask = np.pad(rows, [*missing, (0, 0)]), np.pad(mask, missing)
        state, found = None, []
        for begin in range(0, controller.horizon, steps):
            arrays = controller.arrays(begin, steps)
            drawn = None if draws is None else _piece(draws, begin, steps)
            if state is None:
                state, rows, mask, *predicted = first(rows, mask, variates, arrays, drawn)
            else:
                state, rows, *predicted = further(state, rows, arrays, drawn)
            found.append(predicted)
        # Read at the end alone: until then the device has always the next chunk to work on.
        values, stds, actions = (
            np.concatenate([_host(part) for part in parts], axis=1)[:, : controller.horizon]
            for parts in zip(*found, strict=True)
        )
        reward, taken = observation_size, int(np.sum(variates.is_action))
        if not _host(variates.mask)[reward]:
            values[..., reward] = stds[..., reward] = np.nan
        return Rollout(
            values[..., :reward],
            values[..., reward],
            stds[..., :reward],
            stds[..., reward],
            actions[..., :taken],
        )

    return run


def draw_uniforms(horizon: int, batch: int, variates: int, seed: int) -> Floats:
    """Draws to sample a rollout with, ``[h, 2, B, M]`` float32 in [0, 1): the same for a seed on every backend.

    A longer horizon begins with the draws of a shorter one.
    """
    return np.random.default_rng(seed).random((horizon, 2, batch, variates), np.float32)


def _compiled(
    model: WorldModel, observation_size: int, controller: Controller, steps: int
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """The first steps from a history, and further ones from a state."""
    predicted = observation_size + 1

    def further(state: State, rows: Tensor, arrays: Any, draws: Tensor | None) -> tuple[Any, ...]:
        """The state and the last rows ``[B, W, M]`` after the steps; values, deviations and actions of the steps."""
        batch, context, count = rows.shape
        rows = ops.pad(rows, [[0, 0], [0, steps], [0, 0]])
        deviations = ops.zeros((batch, steps, predicted), "float32")

        def one_step(k: Tensor, carry: tuple[State, Tensor, Tensor]) -> tuple[State, Tensor, Tensor]:
            state, rows, deviations = carry
            newest = context - 1 + k
            observation = ops.slice(rows, (0, newest, 0), (batch, 1, observation_size))[:, 0]
            action = ops.cast(controller.act(arrays, observation, k), "float32")
            action = ops.pad(action, [[0, 0], [predicted, count - predicted - action.shape[1]]])
            drawn = None if draws is None else ops.slice(draws, (k, 0, 0, 0), (1, 2, batch, count))[0]
            state, step = model.step(state, action, drawn)
            rows = ops.slice_update(rows, (0, newest, predicted), action[:, None, predicted:])
            rows = ops.slice_update(rows, (0, newest + 1, 0), step.value[:, None, :predicted])
            deviations = ops.slice_update(deviations, (0, k, 0), step.std[:, None, :predicted])
            return state, rows, deviations

        state, rows, deviations = ops.fori_loop(0, steps, one_step, (state, rows, deviations))
        actions = rows[:, context - 1 : -1, predicted:]
        return state, rows[:, steps:], rows[:, context:, :predicted], deviations, actions

    def first(
        rows: Tensor, mask: Tensor, variates: Variates, arrays: Any, draws: Tensor | None
    ) -> tuple[Any, ...]:
        state, *found = further(model.start(rows, mask, variates), rows, arrays, draws)
        mask = ops.concatenate([mask, ops.ones((mask.shape[0], steps), "float32")], axis=1)[:, steps:]
        return state if model.chunk is None else None, found[0], mask, *found[1:]

    backend = active_backend()
    return backend.compile(first, model), backend.compile(further, model)


def _piece(array: Any, begin: int, steps: int, axis: int = 0) -> Floats:
    """``steps`` entries along an axis from ``begin`` on, zeros where it ends before."""
    array = _host(array)
    piece = np.take(array, np.arange(begin, min(begin + steps, array.shape[axis])), axis)
    return np.pad(piece, [(0, (steps - piece.shape[axis]) * (at == axis)) for at in range(array.ndim)])


def _host(array: Any) -> Floats:
    return np.asarray(ops.convert_to_numpy(array), np.float32)


def _check(history: tuple[int, ...], controller: Controller, observation_size: int, window: int) -> None:
    """Refuse shapes and sizes that do not fit, by name."""
    if window < 2:
        raise UsageError("a rollout needs a model whose window holds at least 2 rows")
    if len(history) != 3 or not history[1] or controller.horizon < 1:
        raise UsageError(
            f"a history {history} must be [B, H, M] of at least one row, and the horizon {controller.horizon} at least "
            "one step"
        )
    if isinstance(controller, GivenActions):
        actions = np.shape(controller.actions)
        if len(actions) != 3 or actions[0] != history[0] or observation_size + 1 + actions[2] > history[2]:
            raise UsageError(
                f"actions {actions} must be [B, h, A] beside a history {history} of {observation_size} observations "
                "and a reward"
            )
