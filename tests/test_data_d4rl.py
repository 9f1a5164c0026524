"""D4RL files: episodes against a plain loop over the steps, with every combination of the optional arrays."""

from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trajworld.data import d4rl
from trajworld.data.d4rl import read_d4rl
from trajworld.data.episode import Episode
from trajworld.errors import TrajWorldError


def steps(count: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Steps of a chain of states, with random flags."""
    rng = np.random.default_rng(seed)
    return {
        "observations": rng.normal(size=(count, 3)).astype(np.float32),
        "actions": rng.uniform(-1, 1, size=(count, 2)).astype(np.float32),
        "rewards": rng.normal(size=count).astype(np.float32),
        "terminals": rng.random(count) < 0.1,
        "timeouts": rng.random(count) < 0.1,
        "next_observations": rng.normal(size=(count, 3)).astype(np.float32),
    }


def write(path: Path, arrays: dict[str, np.ndarray]) -> Path:
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file[name] = array
    return path


def loop_episodes(arrays: dict[str, np.ndarray], limit: int) -> list[Episode]:
    """The episodes by walking the steps one at a time."""
    found, current = [], []
    for t in range(len(arrays["rewards"])):
        current.append(t)
        terminal = bool(arrays["terminals"][t])
        ended = terminal or (bool(arrays["timeouts"][t]) if "timeouts" in arrays else len(current) == limit)
        if not ended and t + 1 < len(arrays["rewards"]):
            continue
        observations = [arrays["observations"][i] for i in current]
        kept = current
        if "next_observations" in arrays:
            observations.append(arrays["next_observations"][t])
        else:
            kept, terminal = current[:-1], False
        if kept:
            actions = np.stack([arrays["actions"][i] for i in kept])
            rewards = np.stack([arrays["rewards"][i] for i in kept])
            found.append(Episode(np.stack(observations), actions, rewards, terminal, not terminal))
        current = []
    return found


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    count=st.integers(2, 80),
    seed=st.integers(0, 1000),
    left_out=st.sets(st.sampled_from(["timeouts", "next_observations"])),
    limit=st.integers(2, 30),
    block=st.integers(1, 100),
)
def test_episodes_equal_a_loop(
    tmp_path: Path, count: int, seed: int, left_out: set[str], limit: int, block: int
) -> None:
    arrays = {name: array for name, array in steps(count, seed).items() if name not in left_out}
    path = write(tmp_path / "some.hdf5", arrays)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(d4rl, "_STEPS_AT_ONCE", block)
        info, found = read_d4rl(path, max_episode_steps=limit)
        episodes = list(found)
    wanted = loop_episodes(arrays, limit)
    assert len(episodes) == len(wanted)
    for got, want in zip(episodes, wanted, strict=True):
        np.testing.assert_array_equal(got.observations, want.observations)
        np.testing.assert_array_equal(got.actions, want.actions)
        np.testing.assert_array_equal(got.rewards, want.rewards)
        assert (got.terminated, got.truncated) == (want.terminated, want.truncated)
    assert (info.observation_size, info.action_size, info.steps) == (3, 2, count)
    assert info.has_timeouts == ("timeouts" not in left_out)
    assert info.has_next_observations == ("next_observations" not in left_out)


def test_old_files_end_after_a_thousand_steps(tmp_path: Path) -> None:
    arrays = steps(2500)
    arrays["terminals"] = np.zeros(2500, bool)
    arrays["terminals"][1199] = True
    del arrays["timeouts"]
    path = write(tmp_path / "old.hdf5", arrays)
    assert [len(e) for e in read_d4rl(path)[1]] == [1000, 200, 1000, 300]
    assert [e.terminated for e in read_d4rl(path)[1]] == [False, True, False, False]
    del arrays["next_observations"]
    assert [len(e) for e in read_d4rl(write(path, arrays))[1]] == [999, 199, 999, 299]


def test_other_spellings_of_the_arrays_are_read(tmp_path: Path) -> None:
    arrays = steps(40)
    wanted = list(read_d4rl(write(tmp_path / "a.hdf5", arrays))[1])
    arrays["rewards"] = arrays["rewards"][:, None]
    arrays["terminals"] = arrays["terminals"].astype(np.float32)[:, None]
    arrays["timeouts"] = arrays["timeouts"].astype(np.uint8)
    found = list(read_d4rl(write(tmp_path / "b.hdf5", arrays))[1])
    assert [len(e) for e in found] == [len(e) for e in wanted]
    assert all(np.array_equal(a.rewards, b.rewards) for a, b in zip(found, wanted, strict=True))


@pytest.mark.parametrize(
    ("name", "environment"),
    [
        ("hopper_medium-v2.hdf5", "gymnasium/Hopper-v4"),
        ("walker2d_expert-v2.hdf5", "gymnasium/Walker2d-v4"),
        ("halfcheetah-random-v0.hdf5", "gymnasium/HalfCheetah-v4"),
        ("door-human-v1.hdf5", "d4rl/door-human-v1"),
    ],
)
def test_the_environment_is_known_by_the_files_name(tmp_path: Path, name: str, environment: str) -> None:
    assert read_d4rl(write(tmp_path / name, steps(5)))[0].environment == environment


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"actions": None}, "no array 'actions'"),
        ({"terminals": None}, "no array 'terminals'"),
        ({"actions": np.zeros((19, 2))}, "actions holds 19 steps, but observations hold 20"),
        ({"timeouts": np.zeros(21, bool)}, "timeouts holds 21 steps"),
        ({"next_observations": np.zeros((20, 4))}, "different shapes"),
        ({"observations": np.zeros(20)}, r"'observations' has shape \(20,\)"),
        ({"rewards": np.zeros((20, 2))}, r"'rewards' has shape \(20, 2\)"),
        ({"rewards": np.float32(1.0)}, r"'rewards' has shape \(\)"),
        ({"actions": np.full((20, 2), b"x")}, "not numbers"),
        ({"observations": np.full((20, 3), np.nan)}, "episode 0: observations hold a NaN"),
        ({"rewards": np.full(20, np.inf)}, "rewards hold a NaN or infinite"),
    ],
)
def test_wrong_arrays_are_refused(tmp_path: Path, change: dict[str, np.ndarray | None], message: str) -> None:
    arrays = {name: array for name, array in {**steps(20), **change}.items() if array is not None}
    path = write(tmp_path / "wrong.hdf5", arrays)
    with pytest.raises(TrajWorldError, match=message) as error:
        list(read_d4rl(path)[1])
    assert str(path) in str(error.value)


def test_a_file_of_no_step_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrajWorldError, match="no step"):
        read_d4rl(write(tmp_path / "empty.hdf5", steps(0)))


def test_truncated_files_are_refused_in_one_line(tmp_path: Path) -> None:
    path = write(tmp_path / "whole.hdf5", steps(3000))
    whole = path.read_bytes()
    for size in (0, 8, 500, 3000, len(whole) // 2, len(whole) - 100):
        path.write_bytes(whole[:size])
        with pytest.raises(TrajWorldError, match=r"whole\.hdf5") as error:
            list(read_d4rl(path)[1])
        assert "\n" not in str(error.value)
    for missing in (tmp_path / "none.hdf5", tmp_path):
        with pytest.raises(TrajWorldError, match="does not exist"):
            read_d4rl(missing)


def test_links_to_other_files_are_not_followed(tmp_path: Path) -> None:
    secret = write(tmp_path / "secret.hdf5", steps(20))
    raw = tmp_path / "raw.bin"
    raw.write_bytes(bytes(20 * 3 * 4))
    arrays = steps(20)
    del arrays["observations"]
    for name in ("external", "soft", "group", "raw", "virtual"):
        path = write(tmp_path / f"{name}.hdf5", arrays)
        with h5py.File(path, "a") as file:
            if name == "external":
                file["observations"] = h5py.ExternalLink(str(secret), "observations")
            elif name == "soft":
                file["observations"] = h5py.SoftLink("/next_observations")
            elif name == "group":
                file.create_group("observations")
            elif name == "raw":
                file.create_dataset("observations", (20, 3), "f4", external=[(str(raw), 0, 240)])
            else:
                layout = h5py.VirtualLayout((20, 3), "f4")
                layout[:] = h5py.VirtualSource(str(secret), "observations", (20, 3))
                file.create_virtual_dataset("observations", layout)
        with pytest.raises(TrajWorldError, match="must be an array of this file"):
            read_d4rl(path)


def test_a_step_limit_must_be_positive(tmp_path: Path) -> None:
    with pytest.raises(TrajWorldError, match="at least 1"):
        read_d4rl(write(tmp_path / "a.hdf5", steps(5)), max_episode_steps=0)
