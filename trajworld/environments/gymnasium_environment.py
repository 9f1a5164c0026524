"""Gymnasium's environments and the procedural robots, with plain or changed physics."""

import contextlib
import inspect
import warnings
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec, load_env_creator, registry
from numpy.typing import NDArray

from trajworld.environments import interface
from trajworld.environments.names import ROBOT, EnvironmentName, Value
from trajworld.errors import UsageError

# Attributes that the classic environments read at every step but take no argument for; all must be positive.
_ATTRIBUTES = {"PendulumEnv": ("m", "l"), "Continuous_MountainCarEnv": ("power",)}

# Where the actions are discrete, what to use instead.
_CONTINUOUS = {
    "CartPole": "InvertedPendulum-v5 or dm_control/cartpole-swingup",
    "MountainCar": "MountainCarContinuous-v0",
    "Acrobot": "dm_control/acrobot-swingup",
    "LunarLander": "LunarLander-v3?continuous=true",
}

# Constructor arguments that concern pictures only.
_PICTURES = ("render_mode", "width", "height", "camera_id", "camera_name", "max_geom", "screen_size")


class GymnasiumEnvironment:
    """A registered Gymnasium environment with Box actions, or a procedural robot."""

    def __init__(self, name: EnvironmentName) -> None:
        identifier, fixed = _robot(name) if name.family == ROBOT else (name.identifier, {})
        spec = registry.get(identifier)
        if spec is None:
            raise interface.unknown_environment(
                name, registry, "gymnasium.pprint_registry() in Python lists them"
            )
        creator, arguments = _constructor(spec, name)
        arguments = {key: default for key, default in arguments.items() if key not in fixed}
        is_mujoco = hasattr(creator, "do_simulation")
        attributes = (
            interface.MUJOCO_CHANGES if is_mujoco else _ATTRIBUTES.get(getattr(creator, "__name__", ""), ())
        )
        changes = dict(name.changes)
        interface.check_changes(name, changes, {*attributes, *arguments})
        options = {
            key: _typed(changes.pop(key), default, f"{name}: {key}")
            for key, default in arguments.items()
            if key in changes
        }
        if options.get("frame_skip", 1) < 1:
            raise UsageError(f"{name}: frame_skip must be at least 1")
        self._silent = interface.silent_mujoco if is_mujoco else contextlib.nullcontext
        try:
            with self._silent(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                self._env = gymnasium.make(identifier, disable_env_checker=True, **fixed, **options)
        except Exception as error:
            raise interface.cannot_start(name, error) from error
        simulator = self._env.unwrapped
        self._warning_counts: NDArray[np.integer] | None = None
        if is_mujoco:
            interface.change_mujoco(simulator.model, simulator.data, changes, str(name))
            self._warning_counts = simulator.data.warning.number
        else:
            for key, value in changes.items():
                setattr(simulator, key, interface.checked_number(value, key, str(name)))
        self._flatten = not isinstance(self._env.observation_space, spaces.Box)
        actions = self._env.action_space
        if not isinstance(actions, spaces.Box):
            instead = _CONTINUOUS.get(name.identifier.split("-")[0])
            hint = f"use {instead}" if instead else "choose an environment with Box actions"
            raise UsageError(
                f"{name} has {type(actions).__name__} actions, and only continuous ones are supported: {hint}"
            )
        self._action_shape = actions.shape
        self.description = interface.Description(
            name=str(name),
            observation_space=_observation_box(self._env.observation_space, str(name)),
            action_space=interface.action_box(actions.low, actions.high, str(name)),
            time_limit=spec.max_episode_steps or interface.DEFAULT_TIME_LIMIT,
        )

    def reset(self, seed: int) -> NDArray[np.floating]:
        """Begin the episode of ``seed``, as ``env.reset(seed=seed)`` does."""
        with self._silent():
            return self._flat(self._env.reset(seed=seed)[0])

    def place(self, observation: NDArray[np.floating]) -> None:
        """For MuJoCo's that observe all velocities and all positions, or all but the root's x (and y)."""
        simulator = self._env.unwrapped
        positions, velocities = (getattr(getattr(simulator, "model", None), name, 0) for name in ("nq", "nv"))
        hidden = positions + velocities - len(observation)
        if not hasattr(simulator, "set_state") or not 0 <= hidden <= 2:
            raise interface.not_placed(self.description.name)
        state = np.concatenate([np.zeros(hidden), observation])
        simulator.set_state(state[:positions], state[positions:])

    def step(self, action: NDArray[np.float32]) -> interface.Step:
        """Act with ``action [action_size]``; an ``UnstableSimulationError`` where MuJoCo found an invalid state."""
        with self._silent():
            observation, reward, terminated, truncated, _ = self._env.step(action.reshape(self._action_shape))
        # It then resets the state silently. The counts are a view of its own; resetting an episode zeroes them.
        if self._warning_counts is not None and self._warning_counts.any():
            raise interface.UnstableSimulationError("MuJoCo warned of an invalid state or full buffers")
        return interface.Step(self._flat(observation), float(reward), bool(terminated), bool(truncated))

    def close(self) -> None:
        """Close the environment."""
        self._env.close()

    def _flat(self, observation: Any) -> NDArray[np.floating]:
        if self._flatten:
            return spaces.flatten(self._env.observation_space, observation)
        return np.asarray(observation)


def _robot(name: EnvironmentName) -> tuple[str, dict[str, Any]]:
    """The Gymnasium id of a robot and the arguments that its name fixes."""
    from trajworld.environments.robots.environment import ROBOT_ID, register_robots
    from trajworld.environments.robots.kinds import parse_robot

    kind, number = parse_robot(name.identifier)
    register_robots()
    return ROBOT_ID, {"kind": kind, "number": number}


def _constructor(spec: EnvSpec, name: EnvironmentName) -> tuple[Any, dict[str, Value]]:
    """The environment's class or function, and the arguments that a name may set, with their defaults."""
    creator = spec.entry_point
    try:
        if isinstance(creator, str):
            creator = load_env_creator(creator)
        parameters = inspect.signature(creator).parameters.values()
    except (ImportError, AttributeError, gymnasium.error.Error) as error:
        raise interface.cannot_start(name, error) from error
    return creator, {
        parameter.name: parameter.default
        for parameter in parameters
        if isinstance(parameter.default, bool | int | float) and parameter.name not in _PICTURES
    }


def _typed(value: Value, default: Value, where: str) -> Value:
    """``value`` as the type of the argument's default."""
    wanted: dict[type[Value], str] = {bool: "true or false", int: "a whole number", float: "a number"}
    # A bool is an int too, and NumPy's double precision a float.
    kind = next(kind for kind in wanted if isinstance(default, kind))
    if isinstance(default, bool) != isinstance(value, bool) or kind(value) != value:
        raise UsageError(f"{where} must be {wanted[kind]}, not {str(value).lower()}")
    return kind(value)


def _observation_box(space: spaces.Space, where: str) -> spaces.Box:
    flat = space
    with contextlib.suppress(NotImplementedError):
        flat = space if isinstance(space, spaces.Box) else spaces.flatten_space(space)
    if not isinstance(flat, spaces.Box) or len(flat.shape) != 1:
        raise UsageError(
            f"{where}: observations of {space} are no vector of numbers; pictures are not supported"
        )
    with np.errstate(over="ignore"):
        return spaces.Box(flat.low.astype(np.float32), flat.high.astype(np.float32), dtype=np.float32)
