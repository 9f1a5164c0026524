"""Training policies: snapshots of growing skill by soft actor-critic, and the transitions that they learn from.

A segment of steps is what is finished or not. Each makes the agent anew from what the last one left: its weights,
and as its replay buffer the stream itself. So a run that was stopped continues as if it had not been.
"""

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from trajworld.data.episode import Episode
from trajworld.environments.open import open_environment
from trajworld.errors import TrajWorldError, UsageError, one_line
from trajworld.files import atomic_file, one_writer, read_json, write_json
from trajworld.policies.npz import save_policy
from trajworld.policies.sb3 import make_policy

_SETTINGS, _STATE = "training.json", "state.pt"
_STREAM = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")
Arrays = dict[str, np.ndarray[Any, Any]]


class _Simulator(gymnasium.Env):
    """An environment as Stable-Baselines3 wants it; a step that breaks it cuts the episode and leads nowhere."""

    def __init__(self, name: str) -> None:
        self._environment = open_environment(name)
        self.description = self._environment.description
        self.observation_space = self.description.observation_space
        self.action_space = self.description.action_space
        self._steps, self._seen = 0, np.zeros(self.description.observation_size, np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self._steps = 0
        self._seen = self._environment.reset(int(self.np_random.integers(1 << 32))).astype(np.float32)
        return self._seen, {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self._steps += 1
        try:
            step = self._environment.step(action)
            with np.errstate(over="ignore"):
                seen, reward = step.observation.astype(np.float32), float(step.reward)
            good = bool(np.isfinite(reward) and np.all(np.isfinite(seen)))
        except Exception:  # A simulator may raise anything when its state breaks.
            good = False
        if not good:
            return self._seen, 0.0, False, True, {}
        self._seen = seen
        cut = step.truncated or self._steps >= self.description.time_limit
        return seen, reward, step.terminated, cut, {}

    def close(self) -> None:
        self._environment.close()


def train_policies(
    environment: str,
    folder: str | Path,
    *,
    every: int = 10_000,
    snapshots: int = 10,
    network: tuple[int, ...] = (64, 64),
    seed: int = 0,
    progress: Callable[[int, int | None, str], None] = lambda *_: None,
) -> list[dict[str, Any]]:
    """Train by soft actor-critic and keep a policy after every so many steps; continue where there is a beginning.

    ``folder/snapshot-NNN.npz`` are the policies, ``folder/stream-NNN.npz`` the transitions of each segment: see
    :func:`stream_episodes`. PyTorch is set to one thread, which such small networks are fastest with.

    Args:
        environment: Its name.
        folder: Where everything is kept; a training of the same settings there is continued.
        every: Steps of a segment.
        snapshots: How many segments there are in the end.
        network: The widths of the hidden layers.
        seed: Runs with equal settings on one machine are alike, interrupted or not.
        progress: Told of steps: how many are done, of how many, of what.

    Returns:
        For each snapshot its ``file``, ``steps``, and of the training episodes that ended in its segment the number
        ``episodes`` and mean ``return`` (None where there is none).

    Raises:
        UsageError: A number is out of range, or the folder holds a training of other settings.
        TrajWorldError: Another process trains there, the state is damaged, or a file cannot be written.
    """
    if every < 1 or snapshots < 1 or not network or min(network) < 1 or seed < 0:
        raise UsageError(f"every {every}, snapshots {snapshots}, network {network}, seed {seed}: too small")
    folder = Path(folder)
    with one_writer(folder, "a training"):
        simulator = _Simulator(environment)
        try:
            name = simulator.description.name
            settings = {"environment": name, "every": every, "network": list(network), "seed": seed}
            if not (folder / _SETTINGS).exists():
                write_json(folder / _SETTINGS, settings)
            if (there := read_json(folder / _SETTINGS)) != settings:
                raise UsageError(
                    f"{folder} holds a training of other settings, {there}: choose another folder"
                )
            state = _read_state(folder)
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
            simulator.close()
    return [_row(folder, segment, every) for segment in range(snapshots)]


def stream_episodes(folder: str | Path, first: int, last: int) -> Iterator[Episode]:
    """The training episodes of segments ``first`` up to ``last``, exclusive; a segment's end cuts the one it is in.

    Raises:
        TrajWorldError: A segment's stream is missing or damaged.
    """
    for segment in range(first, last):
        stream = _read_stream(Path(folder), segment)
        ends = np.flatnonzero(stream["dones"]) + 1
        for begin, end in zip([0, *ends], [*ends, len(stream["dones"])], strict=True):
            if begin < end:
                part = {name: array[begin:end] for name, array in stream.items()}
                terminated = bool(part["dones"][-1] and not part["timeouts"][-1])
                observations = np.concatenate([part["observations"], part["next_observations"][-1:]])
                yield Episode(observations, part["actions"], part["rewards"], terminated, not terminated)


def _train_segment(
    simulator: _Simulator,
    folder: Path,
    segment: int,
    settings: dict[str, Any],
    state: dict[str, Any],
    progress: Callable[[int], None],
) -> dict[str, Any]:
    """Train for a segment from what the one before left, and keep it; the state after it."""
    import torch
    from stable_baselines3 import SAC

    torch.set_num_threads(1)
    every, seed = settings["every"], np.random.SeedSequence([settings["seed"], segment]).generate_state(1)[0]
    agent = SAC(
        "MlpPolicy",
        simulator,
        buffer_size=every * (segment + 1),
        seed=int(seed >> 1),
        policy_kwargs={"net_arch": settings["network"]},
        device="cpu",
    )
    buffer, policy = agent.replay_buffer, agent.policy
    assert buffer is not None
    for before in range(segment):
        stream = _read_stream(folder, before)
        stream["actions"] = policy.scale_action(stream["actions"])
        for name in _STREAM:
            getattr(buffer, name)[before * every : (before + 1) * every, 0] = stream[name]
    buffer.pos = agent.num_timesteps = segment * every
    if state:
        agent.set_parameters(state["parameters"])
        agent.log_ent_coef.data.copy_(state["log_ent_coef"])

    def show(*_: Any) -> bool:
        progress(agent.num_timesteps)
        return True

    agent.learn(every, callback=show, reset_num_timesteps=False)
    stream = {name: getattr(buffer, name)[-every:, 0] for name in _STREAM}
    stream["actions"] = policy.unscale_action(stream["actions"])
    box = simulator.action_space
    snapshot = make_policy(
        "SACPolicy",
        {name: tensor.numpy() for name, tensor in policy.state_dict().items()},
        low=box.low,
        high=box.high,
        arguments={},
        environment=settings["environment"],
        source=f"SAC, {(segment + 1) * every} steps, seed {settings['seed']}",
    )
    state = {
        "finished": segment + 1,
        "parameters": agent.get_parameters(),
        "log_ent_coef": agent.log_ent_coef.data,
    }
    with atomic_file(folder / f"stream-{segment + 1:03}.npz") as temporary:
        np.savez(temporary, **stream)  # type: ignore[arg-type]
    save_policy(snapshot, folder / f"snapshot-{segment + 1:03}.npz")
    # Last: it says that the segment is finished.
    with atomic_file(folder / _STATE) as temporary:
        torch.save(state, temporary)
    return state


def _read_stream(folder: Path, segment: int) -> Arrays:
    path = folder / f"stream-{segment + 1:03}.npz"
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in _STREAM}
    except Exception as error:  # Damaged archives make Python and NumPy raise a dozen types.
        raise TrajWorldError(f"{path} is missing or damaged ({one_line(error)})") from None


def _read_state(folder: Path) -> dict[str, Any]:
    """What the last finished segment left; empty before the first is finished."""
    import torch

    if not (folder / _STATE).exists():
        return {}
    try:
        return torch.load(io.BytesIO((folder / _STATE).read_bytes()), map_location="cpu", weights_only=True)
    except Exception as error:  # As above.
        raise TrajWorldError(
            f"{folder / _STATE} is damaged ({one_line(error)}): train in another folder"
        ) from None


def _row(folder: Path, segment: int, every: int) -> dict[str, Any]:
    ended = np.flatnonzero(_read_stream(folder, segment)["dones"])
    episodes = list(stream_episodes(folder, segment, segment + 1))[: len(ended)]
    returns = [float(episode.rewards.sum(dtype=np.float64)) for episode in episodes]
    mean = sum(returns) / len(returns) if returns else None
    file, steps = str(folder / f"snapshot-{segment + 1:03}.npz"), (segment + 1) * every
    return {"file": file, "steps": steps, "episodes": len(returns), "return": mean}
