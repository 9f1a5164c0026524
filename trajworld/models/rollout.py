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


class Controller(Protocol):
    """What acts in a rollout of B trajectories, for ``horizon`` steps.

    Controllers of one ``program`` run the same :meth:`act` on other arrays, and share compilations.
    """

    @property
    def horizon(self) -> int: ...

    @property
    def program(self) -> Hashable: ...

    def arrays(self, begin: int, steps: int) -> Any:
        """What :meth:`act` is given in ``steps`` steps from ``begin`` on, of the same shapes for every ``begin``."""

    def act(self, arrays: Any, observation: Tensor, k: Tensor) -> Tensor:
        """Act, in Keras ops: ``[B, A]`` float32, in step ``k`` (a scalar int32) of the arrays, as tensors.

        In a rollout, the row's observation, ``[B, O]``, is the predicted one.
        """


@dataclass(frozen=True, eq=False)
class GivenActions:
    """The open loop: actions that are known beforehand, ``[B, h, A]``; the first is taken in the newest real row."""

    actions: Floats
    program = "given actions"

    @property
    def horizon(self) -> int:
        return self.actions.shape[1]

    def arrays(self, begin: int, steps: int) -> Floats:
        return _piece(np.swapaxes(_host(self.actions), 0, 1), begin, steps)

    def act(self, arrays: Tensor, observation: Tensor, k: Tensor) -> Tensor:
        return _at(arrays, k)


@dataclass(frozen=True, eq=False)
class PolicyController:
    """The closed loop: a policy that reads each row.

    From its ``weights``, a structure of arrays, observations ``[B, O]`` and noise ``[B, A]`` (of ``[h, B, A]``; None
    where none is given) to actions ``[B, A]``, in Keras ops. Controllers of the same function share compilations.
    """

    policy: Callable[[Any, Tensor, Tensor | None], Tensor]
    weights: Any
    horizon: int
    noise: Floats | None = None

    @property
    def program(self) -> Hashable:
        return self.policy

    def arrays(self, begin: int, steps: int) -> tuple[Any, Floats | None]:
        return self.weights, _piece(self.noise, begin, steps)

    def act(self, arrays: tuple[Any, Tensor | None], observation: Tensor, k: Tensor) -> Tensor:
        weights, noise = arrays
        return self.policy(weights, observation, _at(noise, k))


class Rollout(NamedTuple):
    """What is predicted of B trajectories over h steps, as NumPy float32.

    Attributes:
        observations: ``[B, h, O]``: expected, or sampled where that was asked for; these were fed back.
        rewards: ``[B, h]``; NaN where the variates mask the reward, which is not recorded then.
        observation_std: ``[B, h, O]``: standard deviation of each predicted distribution, given its past.
        reward_std: ``[B, h]``.
        actions: ``[B, h, A]``: what the controller did; the first in the newest real row.
        unclipped: ``[B, h, O + 1]``: observations and rewards as they were predicted, before they were clipped.
    """

    observations: Floats
    rewards: Floats
    observation_std: Floats
    reward_std: Floats
    actions: Floats
    unclipped: Floats


def compile_rollout(model: WorldModel, observation_size: int) -> Callable[..., Rollout]:
    """Compile rollouts of a model in data of one observation size.

    Returns:
        A function of a history ``[B, H, M]`` whose last row is the one to start from (its action is not read; only the
        last W rows are), its mask ``[B, H]``, the variates ``[observation..., reward, action..., padding...]``, a
        controller, and perhaps draws ``[h, 2, B, M]`` to sample the predictions instead of expecting them. It is
        compiled once for each number of trajectories and variates and each controller's program, for any horizon, reads
        the model's weights as they are at the call, and raises ``UsageError`` where shapes do not fit.
    """
    steps = steps_at_once(model)
    programs: dict[Hashable, Callable[..., Any]] = {}

    def run(
        history: Any, mask: Any, variates: Variates, controller: Controller, draws: Any = None
    ) -> Rollout:
        taken = int(np.sum(_host(variates.is_action)))
        _check(np.shape(history), controller, observation_size, taken, draws)
        if variates.mask is None:
            # Not every backend's loop carries None.
            variates = variates._replace(mask=np.ones(len(variates.lower), np.float32))
        program = controller.program, taken
        if program not in programs:
            programs[program] = _compiled(model, observation_size, taken, controller, steps)
        # The last W rows, zeros before them where there are fewer.
        rows, mask = (_host(array)[:, -model.context :] for array in (history, mask))
        missing = [(0, 0), (model.context - rows.shape[1], 0)]
        rows, mask = np.pad(rows, [*missing, (0, 0)]), np.pad(mask, missing)
        state, found = None, []
        for begin in range(0, controller.horizon, steps):
            arrays, drawn = controller.arrays(begin, steps), _piece(draws, begin, steps)
            state, rows, *predicted = programs[program](rows, mask, variates, state, arrays, drawn)
            mask = np.pad(mask, [(0, 0), (0, steps)], constant_values=1)[:, steps:]
            found.append(predicted)
        # Read only at the end: until then the device always has the next chunk to work on.
        values, unclipped, stds, actions = (
            np.concatenate([_host(part) for part in parts], axis=1)[:, : controller.horizon]
            for parts in zip(*found, strict=True)
        )
        observations = slice(observation_size)
        if not _host(variates.mask)[observation_size]:
            values[..., -1] = stds[..., -1] = np.nan
        return Rollout(
            values[..., observations],
            values[..., -1],
            stds[..., observations],
            stds[..., -1],
            actions[..., :taken],
            unclipped,
        )

    return run


def steps_at_once(model: WorldModel) -> int:
    """How many steps of a rollout are compiled together: a model's chunk, 10 of one that never starts again."""
    return model.chunk or 10


def draw_uniforms(horizon: int, batch: int, variates: int, seed: int) -> Floats:
    """Draws to sample a rollout with, ``[h, 2, B, M]`` float32 in [0, 1), of which a shorter one takes the first."""
    return np.random.default_rng(seed).random((horizon, 2, batch, variates), np.float32)


def _compiled(
    model: WorldModel, observation_size: int, taken: int, controller: Controller, steps: int
) -> Callable[..., Any]:
    """Some steps from a state, or from a history where there is none or the model starts again from its last rows."""
    predicted = observation_size + 1

    def chunk(
        rows: Tensor, mask: Tensor, variates: Variates, state: State, arrays: Any, draws: Tensor | None
    ) -> tuple[Any, ...]:
        """The state and the last rows ``[B, W, M]`` after the steps; what was predicted and done in them."""
        state = model.start(rows, mask, variates) if state is None else state
        batch, context, count = rows.shape
        rows = ops.pad(rows, [[0, 0], [0, steps], [0, 0]])
        nothing = ops.zeros((batch, steps, predicted), "float32")

        def one_step(k: Tensor, carry: tuple[State, Tensor, Tensor, Tensor]) -> tuple[Any, ...]:
            state, rows, unclipped, deviations = carry
            newest = context - 1 + k
            observation = ops.slice(rows, (0, newest, 0), (batch, 1, observation_size))[:, 0]
            action = ops.cast(controller.act(arrays, observation, k), "float32")
            if action.shape[1] != taken:
                raise UsageError(
                    f"the controller gives {action.shape[1]} actions, but the variates have {taken}"
                )
            action = ops.pad(action, [[0, 0], [predicted, count - predicted - taken]])
            state, step = model.step(state, action, _at(draws, k))
            rows = ops.slice_update(rows, (0, newest, predicted), action[:, None, predicted:])
            rows = ops.slice_update(rows, (0, newest + 1, 0), step.value[:, None, :predicted])
            unclipped = ops.slice_update(unclipped, (0, k, 0), step.predicted[:, None, :predicted])
            deviations = ops.slice_update(deviations, (0, k, 0), step.std[:, None, :predicted])
            return state, rows, unclipped, deviations

        carry = (state, rows, nothing, nothing)
        state, rows, unclipped, deviations = ops.fori_loop(0, steps, one_step, carry)
        actions = rows[:, context - 1 : -1, predicted:]
        kept = state if model.chunk is None else None
        return kept, rows[:, steps:], rows[:, context:, :predicted], unclipped, deviations, actions

    return active_backend().compile(chunk, model)


def _piece(array: Any, begin: int, steps: int) -> Any:
    """``steps`` entries of the first axis from ``begin`` on, zeros where it ends before; None of None."""
    if array is None:
        return None
    piece = _host(array[begin : begin + steps])
    return np.pad(piece, [(0, steps - len(piece)), *[(0, 0)] * (piece.ndim - 1)])


def _at(array: Tensor | None, k: Tensor) -> Tensor | None:
    """Entry ``k`` of the first axis; None of None."""
    if array is None:
        return None
    return ops.slice(array, (k, *[0] * (len(array.shape) - 1)), (1, *array.shape[1:]))[0]


def _host(array: Any) -> Floats:
    return np.asarray(ops.convert_to_numpy(array), np.float32)


def _check(
    history: tuple[int, ...], controller: Controller, observation_size: int, taken: int, draws: Any
) -> None:
    """Refuse shapes and sizes that do not fit, by name."""
    if len(history) != 3 or not history[1] or controller.horizon < 1:
        found = f"a history {history} must be [B, H, M] of at least one row"
        raise UsageError(f"{found}, and the horizon {controller.horizon} at least one step")
    if isinstance(controller, GivenActions):
        actions = np.shape(controller.actions)
        if len(actions) != 3 or actions[0] != history[0] or actions[2] != taken:
            found = f"a history {history} of {observation_size} observations, a reward and {taken} actions"
            raise UsageError(f"actions {actions} must be [B, h, A] beside {found}")
    # Those of further steps are not read; zeros in place of missing ones would be values like others.
    given: dict[str, tuple[Any, tuple[int, ...]]] = {"draws": (draws, (2, history[0], history[2]))}
    given["noise"] = getattr(controller, "noise", None), history[:1]
    for name, (array, rest) in given.items():
        shape = np.shape(array)
        if array is not None and (shape[0] < controller.horizon or shape[1 : 1 + len(rest)] != rest):
            raise UsageError(f"{name} {shape} must be of {controller.horizon} steps of {rest}")
