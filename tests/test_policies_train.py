"""Training policies: what it keeps, and that a run that was stopped continues as if it had not been."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trajworld.environments.gymnasium_environment import GymnasiumEnvironment
from trajworld.errors import TrajWorldError, UsageError
from trajworld.policies.files import load_policy
from trajworld.policies.train import stream_episodes, train_policies

pytest.importorskip("stable_baselines3")
OPTIONS: dict[str, Any] = {"every": 230, "network": (8, 6), "seed": 3}


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.slow
def test_an_interrupted_training_gives_the_same_files(tmp_path: Path) -> None:
    made = train_policies("Pendulum-v1", tmp_path / "whole", snapshots=3, **OPTIONS)

    def stop(done: int, total: int | None, what: str) -> None:
        if done == 300:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_policies("Pendulum-v1", tmp_path / "cut", snapshots=2, progress=stop, **OPTIONS)
    assert "snapshot-001.npz" in files(tmp_path / "cut")
    assert "snapshot-002.npz" not in files(tmp_path / "cut")
    train_policies("Pendulum-v1", tmp_path / "cut", snapshots=2, **OPTIONS)
    again = train_policies("Pendulum-v1", tmp_path / "cut", snapshots=3, **OPTIONS)
    assert files(tmp_path / "cut") == files(tmp_path / "whole")
    assert [path.name for path in again] == [path.name for path in made]
    policies = [load_policy(path) for path in made]
    assert policies[2].source == "SAC, 690 steps, seed 3"
    assert policies[0].sizes == (3, 8, 6, 1)
    assert policies[0].environment == "gymnasium/Pendulum-v1"
    assert not np.array_equal(policies[1].mean.kernel, policies[2].mean.kernel)
    with pytest.raises(UsageError, match="other settings"):
        train_policies("Pendulum-v1", tmp_path / "cut", snapshots=3, **{**OPTIONS, "seed": 4})
    (tmp_path / "cut" / "state.pt").write_bytes(b"damaged")
    with pytest.raises(TrajWorldError, match=r"state\.pt is damaged"):
        train_policies("Pendulum-v1", tmp_path / "cut", snapshots=4, **OPTIONS)


@pytest.mark.slow
def test_the_stream_holds_what_happened_in_the_simulator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (temporary := tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    train_policies("Pendulum-v1", tmp_path, snapshots=2, **OPTIONS)
    assert not [*temporary.glob("SB3-*")], "logs of Stable-Baselines3"
    episodes = list(stream_episodes(tmp_path, 0, 2))
    assert [len(episode) for episode in episodes] == [200, 30, 200, 30]
    assert not any(episode.terminated for episode in episodes)
    for episode in episodes:
        # The pendulum's own equations (g 10, mass and length 1, steps of 0.05 s) lead from each row to the next.
        cosine, sine, speed = episode.observations.astype(float).T
        force = episode.actions[:, 0].astype(float)
        assert np.abs(force).max() > 1, "actions are those of the simulator, in [-2, 2]"
        next_speed = np.clip(speed[:-1] + (15 * sine[:-1] + 3 * force) * 0.05, -8, 8)
        np.testing.assert_allclose(speed[1:], next_speed, atol=1e-4)
        cost = np.arctan2(sine, cosine)[:-1] ** 2 + 0.1 * speed[:-1] ** 2 + 0.001 * force**2
        np.testing.assert_allclose(episode.rewards, -cost, atol=1e-3)
    with pytest.raises(TrajWorldError, match="stream-003"):
        list(stream_episodes(tmp_path, 0, 3))


@pytest.mark.slow
def test_an_episode_of_the_stream_ends_before_a_step_that_breaks_the_simulator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = GymnasiumEnvironment.step

    def breaking(self: Any, action: Any) -> Any:
        self.count = getattr(self, "count", 0) + 1
        if self.count in (50, 51, 300):  # The second in the first step of an episode.
            raise RuntimeError
        return step(self, action)

    monkeypatch.setattr(GymnasiumEnvironment, "step", breaking)
    train_policies("Pendulum-v1", tmp_path, snapshots=2, **OPTIONS)
    episodes = list(stream_episodes(tmp_path, 0, 2))
    assert [len(episode) for episode in episodes] == [49, 179, 69, 160]
    assert not any(episode.terminated for episode in episodes)
    assert all((episode.rewards < 0).all() for episode in episodes)
    for episode in episodes:
        assert (np.diff(episode.observations, axis=0) != 0).any(axis=1).all()


@pytest.mark.slow
def test_the_command_trains_in_dm_control(command: Any, tmp_path: Path) -> None:
    pytest.importorskip("dm_control")
    words = "policy train dm_control/cartpole-swingup --every 120 --snapshots 1 -o"
    arguments = (*words.split(), tmp_path)
    code, out, _ = command(*arguments, "--network", "5")
    assert (code, "snapshot-001.npz" in out) == (0, True)
    assert load_policy(tmp_path / "snapshot-001.npz").sizes == (5, 5, 1)
    assert command(*arguments, "--network", "wide")[0] == 2
