"""D4RL files: episodes against a plain loop over the steps, with every combination of the optional arrays."""

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trajworld.data import d4rl
from trajworld.data.account import Account
from trajworld.data.d4rl import read_d4rl
from trajworld.data.episode import Episode
from trajworld.errors import TrajWorldError

pytestmark = pytest.mark.once


def steps(count: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Steps of chains of states, with random flags, some of which are missing or where no chain ends."""
    rng = np.random.default_rng(seed)
    states = rng.normal(size=(count + 1, 3)).astype(np.float32)
    following = states[1:].copy()
    ends = rng.random(count) < 0.1
    following[ends] += 1
    return {
        "observations": states[:-1],
        "actions": rng.uniform(-1, 1, size=(count, 2)).astype(np.float32),
        "rewards": rng.normal(size=count).astype(np.float32),
        "terminals": rng.random(count) < 0.1,
        "timeouts": (rng.random(count) < 0.1) | (ends & (rng.random(count) < 0.5)),
        "next_observations": following,
    }


def write(path: Path, arrays: dict[str, np.ndarray]) -> Path:
    with h5py.File(path, "w") as file:
        for name, array in arrays.items():
            file[name] = array
    return path


def loop_episodes(arrays: dict[str, np.ndarray], limit: int) -> list[Episode]:
    """The episodes by walking the steps one at a time."""
    found, current, count = [], [], len(arrays["rewards"])
    successors, timeouts = arrays.get("next_observations"), arrays.get("timeouts", np.zeros(count, bool))
    for t in range(count):
        current.append(t)
        terminal = bool(arrays["terminals"][t])
        ended = terminal or bool(timeouts[t]) or t + 1 == count
        if successors is not None and not ended:
            ended = not np.array_equal(successors[t], arrays["observations"][t + 1])
        if successors is None and not timeouts.any():
            ended = ended or len(current) == limit
        if not ended:
            continue
        observations = [arrays["observations"][i] for i in current]
        kept = current
        if successors is not None:
            observations.append(successors[t])
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
        info, found = read_d4rl(path, limit, account := Account())
        episodes = list(found)
    assert account.transitions == count
    assert account.kept == sum(map(len, episodes)) == count - sum(n for n, _ in account.left_out.values())
    assert account.episodes == len(episodes)
    np.testing.assert_allclose(account.reward, arrays["rewards"].sum(), atol=1e-4)
    np.testing.assert_allclose(account.kept_reward, sum(e.rewards.sum() for e in episodes), atol=1e-4)
    assert account.kept == count or "next_observations" not in arrays
    wanted = loop_episodes(arrays, limit)
    np.testing.assert_equal([vars(got) for got in episodes], [vars(want) for want in wanted])
    assert (info.steps, info.arrays) == (count, set(arrays))


def test_old_files_end_after_a_thousand_steps_where_nothing_else_tells(tmp_path: Path) -> None:
    arrays = steps(2500)
    del arrays["next_observations"]
    # Flags may be numbers, and columns have a second dimension of one.
    arrays["terminals"], arrays["timeouts"] = np.eye(2500, 1, -1199, "f4"), np.zeros(2500, bool)
    arrays["rewards"] = arrays["rewards"][:, None]
    for name in ("none set", "none there"):
        path = write(tmp_path / "old.hdf5", arrays)
        assert [len(e) for e in read_d4rl(path)[1]] == [999, 199, 999, 299], name
        arrays.pop("timeouts", None)
    list(read_d4rl(path, account=(account := Account()))[1])
    totals, left_out, note = account.lines()
    assert totals.startswith("2,496 of 2,500 transitions kept, in 4 episodes")
    assert left_out.startswith("left out: 4 transitions, reward")
    assert note.startswith("note: 2 x an episode was cut")


@pytest.mark.parametrize(
    ("name", "sizes", "environment"),
    [
        ("hopper_medium-v2", (11, 3), "gymnasium/Hopper-v4"),
        ("halfcheetah-random-v0", (17, 6), "gymnasium/HalfCheetah-v4"),
        ("hopper_mine", (12, 3), "d4rl/hopper_mine"),
        ("door-human-v1", (17, 6), "d4rl/door-human-v1"),
    ],
)
def test_the_environment_is_known_by_name_and_sizes(
    tmp_path: Path, name: str, sizes: tuple[int, int], environment: str
) -> None:
    arrays = steps(5) | {"actions": np.zeros((5, sizes[1]))}
    arrays |= dict.fromkeys(("observations", "next_observations"), np.zeros((5, sizes[0])))
    assert read_d4rl(write(tmp_path / f"{name}.hdf5", arrays))[0].environment == environment


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"actions": None}, "no array 'actions'"),
        ({"actions": np.zeros((19, 2))}, r"'actions' has shape \(19, 2\), but 'observations'"),
        ({"next_observations": np.zeros((20, 4))}, "'next_observations' has shape"),
        ({"rewards": np.float32(1.0)}, r"'rewards' has shape \(\)"),
        ({"actions": np.full((20, 2), b"x")}, "numbers in 2 dim"),
        ({"observations": np.full((20, 3), np.nan)}, "episode 0: observations hold a NaN"),
        (steps(0), "no step"),
    ],
)
def test_wrong_arrays_are_refused(tmp_path: Path, change: dict[str, np.ndarray | None], message: str) -> None:
    arrays = {name: array for name, array in {**steps(20), **change}.items() if array is not None}
    path = write(tmp_path / "wrong.hdf5", arrays)
    with pytest.raises(TrajWorldError, match=rf"{path}.*{message}"):
        list(read_d4rl(path)[1])


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
    layout = h5py.VirtualLayout((20, 3), "f4")
    layout[:] = h5py.VirtualSource(str(secret), "observations", (20, 3))
    arrays, name = steps(20), "observations"
    del arrays[name]
    link: dict[str, Callable[[h5py.File], object]] = {
        "external": lambda file: file.update({name: h5py.ExternalLink(str(secret), name)}),
        "soft": lambda file: file.update({name: h5py.SoftLink("/next_observations")}),
        "group": lambda file: file.create_group(name),
        "raw": lambda file: file.create_dataset(name, (20, 3), "f4", external=[(str(raw), 0, 240)]),
        "virtual": lambda file: file.create_virtual_dataset(name, layout),
    }
    for kind, make in link.items():
        path = write(tmp_path / f"{kind}.hdf5", arrays)
        with h5py.File(path, "a") as file:
            make(file)
        with pytest.raises(TrajWorldError, match="must be an array of this file"):
            read_d4rl(path)
