"""Training policies: snapshots of growing skill by soft actor-critic, and the transitions that they learn from.

A segment of steps is either finished or does not count. Each rebuilds the agent from the results of the last one: its
weights, and the stream of transitions as its replay buffer. So a stopped run continues as if it had not been.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from trajworld.data.episode import Episode
from trajworld.environments.open import open_environment
from trajworld.errors import TrajWorldError, UsageError, one_line
from trajworld.files import atomic_file, one_writer, read_arrays, read_json, write_json
from trajworld.interop.torch_file import read_torch
from trajworld.policies.files import load_policy, save_policy
from trajworld.policies.policy import Policy
from trajworld.policies.sb3 import make_policy
from trajworld.processes import Progress

# What a stream holds: the fields of the replay buffer, and actions as the simulator takes them.
_STREAM = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")


class _Simulator(gymnasium.Env):
    """An environment as Stable-Baselines3 expects it; a step that breaks it cuts the episode and leads nowhere."""

    def __init__(self, name: str) -> None:
        self.environment = open_environment(name)
        self.description = self.environment.description
        self.observation_space, self.action_space = (
            self.description.observation_space,
            self.description.action_space,
        )
        self.steps, self.seen = 0, np.zeros(self.description.observation_size, np.float32)
        self.broken: list[bool] = []  # Whether each step of the segment broke the simulator.

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        self.seen = self.environment.reset(int(self.np_random.integers(1 << 32))).astype(np.float32)
        return self.seen, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        try:
            step = self.environment.step(action)
            with np.errstate(over="ignore"):
                seen = step.observation.astype(np.float32)
            good = bool(np.isfinite(step.reward) and np.all(np.isfinite(seen)))
        except Exception:  # A simulator may raise anything when its state breaks.
            good = False
        self.broken.append(not good)
        if not good:
            return self.seen, 0.0, False, True, {}
        self.seen = seen
        cut = step.truncated or self.steps >= self.description.time_limit
        return seen, step.reward, step.terminated, cut, {}


def train_policies(
    environment: str,
    folder: str | Path,
    *,
    every: int = 10_000,
    snapshots: int = 10,
    network: tuple[int, ...] = (64, 64),
    seed: int = 0,
    progress: Progress = lambda *_: None,
) -> list[Path]:
    """Train by soft actor-critic and keep a policy every ``every`` steps; a stopped training continues.

    ``folder/snapshot-NNN.npz`` are the policies and ``folder/stream-NNN.npz`` the transitions, for
    :func:`stream_episodes`. PyTorch is set to one thread, which such small networks are fastest with.

    Args:
        environment: Its name.
        folder: Where everything is kept; a training run of the same settings there is continued.
        every: Steps of a segment, from one snapshot to the next.
        snapshots: Their number in the end.
        network: The widths of the hidden layers.
        seed: Runs of equal settings on one machine are equal, interrupted or not.
        progress: Called with the number of steps done, the total and a label.

    Returns:
        The snapshots' files.

    Raises:
        UsageError: A number is out of range, or the folder holds a training of other settings.
        TrajWorldError: Another process trains there, the state is damaged, or a file cannot be written.
    """
    if every < 1 or snapshots < 1 or not network or min(network) < 1 or seed < 0:
        raise UsageError(f"every {every}, snapshots {snapshots}, network {network}, seed {seed}: too small")
    # Before torch, which it installs: if neither is there, this is what to ask for.
    import stable_baselines3  # noqa: F401

    folder = Path(folder)
    with one_writer(folder, "a training"):
        simulator = _Simulator(environment)
        name, record = simulator.description.name, folder / "training.json"
        settings = {"environment": name, "every": every, "network": list(network), "seed": seed}
        try:
            if not record.exists():
                write_json(record, settings)
            if (there := read_json(record)) != settings:
                raise UsageError(
                    f"{folder} holds a training of other settings, {there}: choose another folder"
                )
            state = _read_state(folder / "state.pt")
            for segment in range(state.get("finished", 0), snapshots):
                state = _train_segment(
                    simulator,
                    folder,
                    segment,
                    settings,
                    state,
                    lambda done: progress(done, snapshots * every, name),
                )
        finally:
            simulator.environment.close()
    return [_snapshot(folder, segment) for segment in range(snapshots)]


def stream_episodes(folder: str | Path, first: int, last: int) -> Iterator[Episode]:
    """The training episodes of segments ``first`` up to ``last``, exclusive; a segment's end cuts the one it is in.

    One that broke the simulator ends before that step.
    """
    for segment in range(first, last):
        stream = _read_stream(Path(folder), segment)
        for rows in np.split(np.arange(len(stream["dones"])), np.flatnonzero(stream["dones"]) + 1):
            if len(rows := rows[~stream["broken"][rows]]):
                observations, after, actions, rewards, dones, timeouts = (
                    stream[name][rows] for name in _STREAM
                )
                terminated = bool(dones[-1] and not timeouts[-1])
                yield Episode(
                    np.append(observations, after[-1:], 0), actions, rewards, terminated, not terminated
                )


def find_training(policy: Policy, folder: str | Path) -> tuple[Path, int] | None:
    """The training run below ``folder`` that made a policy, and its number of segments then; None if there is none."""
    for record in sorted(Path(folder).rglob("training.json")):
        for path in sorted(record.parent.glob("snapshot-*.npz")):
            if np.array_equal(load_policy(path).mean.kernel, policy.mean.kernel):
                return record.parent, int(path.stem.removeprefix("snapshot-"))
    return None


def _train_segment(
    simulator: _Simulator,
    folder: Path,
    segment: int,
    settings: dict[str, Any],
    state: dict[str, Any],
    progress: Callable[[int], None],
) -> dict[str, Any]:
    """Train for a segment from the state of the last, and keep it; returns the state after it."""
    import torch
    from stable_baselines3 import SAC
    from stable_baselines3.common.logger import Logger

    torch.set_num_threads(1)
    every, box = settings["every"], simulator.action_space
    agent = SAC(
        "MlpPolicy",
        simulator,
        buffer_size=every * (segment + 1),
        seed=int(np.random.SeedSequence([settings["seed"], segment]).generate_state(1)[0] >> 1),
        policy_kwargs={"net_arch": settings["network"]},
        device="cpu",
    )
    # Its own logger makes a folder among the temporary files.
    agent.set_logger(Logger(None, []))
    buffer: Any = agent.replay_buffer
    for before in range(segment):
        stream = _read_stream(folder, before)
        stream["actions"] = agent.policy.scale_action(stream["actions"])
        for name in _STREAM:
            getattr(buffer, name)[before * every : (before + 1) * every, 0] = stream[name]
    buffer.pos = agent.num_timesteps = segment * every
    if state:
        agent.set_parameters(state["parameters"])
        agent.log_ent_coef.data.copy_(state["log_ent_coef"])

    def show(*_: Any) -> bool:
        progress(agent.num_timesteps)
        return True

    simulator.broken.clear()
    agent.learn(every, callback=show, reset_num_timesteps=False)
    stream = {name: getattr(buffer, name)[-every:, 0] for name in _STREAM}
    stream["actions"] = agent.policy.unscale_action(stream["actions"])
    snapshot = make_policy(
        "SACPolicy",
        {name: tensor.numpy() for name, tensor in agent.policy.state_dict().items()},
        arguments={},
        low=box.low,
        high=box.high,
        environment=settings["environment"],
        source=f"SAC, {(segment + 1) * every} steps, seed {settings['seed']}",
    )
    with atomic_file(folder / f"stream-{segment + 1:03}.npz") as temporary:
        np.savez(temporary, broken=np.array(simulator.broken), **stream)
    save_policy(snapshot, _snapshot(folder, segment))
    # Last: it says that the segment is finished.
    state = {
        "finished": segment + 1,
        "parameters": agent.get_parameters(),
        "log_ent_coef": agent.log_ent_coef.data,
    }
    with atomic_file(folder / "state.pt") as temporary:
        torch.save(state, temporary)
    return state


def _snapshot(folder: Path, segment: int) -> Path:
    return folder / f"snapshot-{segment + 1:03}.npz"


def _read_stream(folder: Path, segment: int) -> dict[str, Any]:
    path = folder / f"stream-{segment + 1:03}.npz"
    stream = read_arrays(path)
    if not {*_STREAM, "broken"} <= stream.keys():
        raise TrajWorldError(f"{path} lacks arrays of a training's transitions: train in another folder")
    return stream


def _read_state(path: Path) -> dict[str, Any]:
    """The state after the last finished segment; empty before the first."""
    try:
        return _tensors(read_torch(path)) if path.exists() else {}
    except TrajWorldError as error:
        raise TrajWorldError(f"{path} is damaged ({one_line(error)}): train in another folder") from None


def _tensors(value: Any) -> Any:
    """Values with a tensor in the place of each array."""
    import torch

    if isinstance(value, np.ndarray):
        return torch.from_numpy(value.copy())
    if isinstance(value, dict):
        return {key: _tensors(one) for key, one in value.items()}
    return type(value)(map(_tensors, value)) if isinstance(value, list | tuple) else value
