"""D4RL files, against a plain loop over their steps, and UniTraj folders: order, choice, weights; hostile files."""

import pickle
import shutil
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
from trajworld.data.episode import Episode, rows_of_episode
from trajworld.data.unitraj import read_unitraj, unitraj_datasets, unitraj_environment, unitraj_range
from trajworld.errors import TrajWorldError
from trajworld.training.parts import expanded

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
        file.update(arrays)
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


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
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
        source = read_d4rl(path, limit)
        episodes = list(source.episodes(account := Account()))
    assert account.transitions == count
    assert account.kept == sum(map(len, episodes)) == count - sum(n for n, _ in account.left_out.values())
    assert account.episodes == len(episodes)
    np.testing.assert_allclose(account.reward, arrays["rewards"].sum(), atol=1e-4)
    np.testing.assert_allclose(account.kept_reward, sum(e.rewards.sum() for e in episodes), atol=1e-4)
    assert account.kept == count or "next_observations" not in arrays
    wanted = loop_episodes(arrays, limit)
    np.testing.assert_equal([vars(got) for got in episodes], [vars(want) for want in wanted])
    assert source.transitions == count


def test_old_files_end_after_a_thousand_steps_where_nothing_else_tells(tmp_path: Path) -> None:
    arrays = steps(2500)
    del arrays["next_observations"]
    # Flags may be numbers, and columns have a second dimension of one.
    arrays["terminals"], arrays["timeouts"] = np.eye(2500, 1, -1199, "f4"), np.zeros(2500, bool)
    arrays["rewards"] = arrays["rewards"][:, None]
    for name in ("none set", "none there"):
        path = write(tmp_path / "old.hdf5", arrays)
        assert [len(e) for e in read_d4rl(path).episodes(Account())] == [999, 199, 999, 299], name
        arrays.pop("timeouts", None)
    list(read_d4rl(path).episodes(account := Account()))
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
    assert read_d4rl(write(tmp_path / f"{name}.hdf5", arrays)).environment == environment


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
def test_wrong_arrays_in_d4rl_files(
    tmp_path: Path, change: dict[str, np.ndarray | None], message: str
) -> None:
    arrays = {name: array for name, array in {**steps(20), **change}.items() if array is not None}
    path = write(tmp_path / "wrong.hdf5", arrays)
    with pytest.raises(TrajWorldError, match=rf"{path}.*{message}"):
        list(read_d4rl(path).episodes(Account()))


def test_truncated_d4rl_files_are_refused_in_one_line(tmp_path: Path) -> None:
    path = write(tmp_path / "whole.hdf5", steps(3000))
    whole = path.read_bytes()
    for size in (0, 8, 500, 3000, len(whole) // 2, len(whole) - 100):
        path.write_bytes(whole[:size])
        with pytest.raises(TrajWorldError, match=r"whole\.hdf5") as error:
            list(read_d4rl(path).episodes(Account()))
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


def arrays(length: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    sizes = {"observation": 3, "action": 2, "reward": 1}
    return {name: rng.normal(size=(length, size)).astype(np.float32) for name, size in sizes.items()}


def save(path: Path, **values: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **values)
    return path


def episodes_of(folder: Path) -> list[np.ndarray]:
    environment = unitraj_environment(folder)
    assert environment is not None
    return [rows_of_episode(episode) for episode in read_unitraj(environment)]


def test_rows_of_zeros_are_skipped_and_nothing_is_joined_over_them(tmp_path: Path) -> None:
    data = arrays(12)
    data["observation"][[0, 4, 6, 10, 11]] = 0
    save(tmp_path / "episode_0.npz", **data)
    found = episodes_of(tmp_path)
    # Real rows are 1-3, 5 and 7-9; row 5 alone makes no transition.
    assert [len(rows) for rows in found] == [3, 3]
    np.testing.assert_array_equal(found[0][:, :3], data["observation"][1:4])
    np.testing.assert_array_equal(found[1][:, :3], data["observation"][7:10])
    np.testing.assert_array_equal(found[1][:-1, 4:], data["action"][8:10])
    np.testing.assert_array_equal(found[1][1:, 3], data["reward"][8:10, 0])


# Of each source: where its files lie, environments that are used, and others that are not.
LAYOUTS = {
    "exorl": ("exorl/datasets/{}/rnd/buffer/episode_1.npz", "cartpole walker", "cheetah"),
    "rl_unplugged": ("rl_unplugged/preprocessed_d4rl_format/{}/run/episode_1.npz", "fish", "cheetah"),
    "modular_rl": ("modular-rl/{}/episode_1.npz", "walker_3_main-v2", "other"),
    "tdmpc2": ("tdmpc2/preprocessed_data_no_padding_new/{}/episode_1.npz", "task_0 task_29", "other"),
    "db1": ("db1/{}/episode_1.npz", "dmc-finger", "dmc-cheetah-run walker_7_main rl_minimal_exp_data_1"),
    "jat": (
        "jat/{}/train_eps_1.npz",
        "mujoco-pendulum",
        "mujoco-ant mujoco-halfcheetah mujoco-standup atari-pong",
    ),
}


Published = dict[tuple[str, str], Path]


@pytest.fixture
def published(tmp_path: Path) -> Published:
    """A UniTraj root; the file of each (source, environment) that is used."""
    for pattern, used, unused in LAYOUTS.values():
        for name in (*used.split(), *unused.split()):
            save(tmp_path / pattern.format(name), **arrays(4))
    return {
        (source, name): tmp_path / pattern.format(name)
        for source, (pattern, used, _) in LAYOUTS.items()
        for name in used.split()
    }


def test_the_published_environments_are_chosen_and_weighted(tmp_path: Path, published: Published) -> None:
    save(tmp_path / "jat/mujoco-pendulum/max_min_values.npz", max=np.ones(6), min=np.zeros(6))
    found = unitraj_datasets(tmp_path)
    assert {(one.source, one.environment): one.episodes for one in found} == {
        key: (file,) for key, file in published.items()
    }
    total = 0.75 + 0.05 + 0.30 + 0.9 + 0.01 + 0.9
    weights = {one.name: one.weight for one in found}
    assert sum(weights.values()) == pytest.approx(1)
    assert weights["unitraj/exorl/walker"] == pytest.approx(0.75 / total / 2)
    assert weights["unitraj/tdmpc2/task_0"] == pytest.approx(0.9 / total / 2)
    assert weights["unitraj/db1/dmc-finger"] == pytest.approx(0.01 / total)
    # Absent sources leave their weight to the others.
    for name in ("exorl", "rl_unplugged", "tdmpc2", "jat"):
        shutil.rmtree(tmp_path / name)
    weights = {one.source: one.weight for one in unitraj_datasets(tmp_path)}
    assert weights == {"modular_rl": pytest.approx(0.30 / 0.31), "db1": pytest.approx(0.01 / 0.31)}


def test_a_folder_of_one_environment_is_known_by_its_place(tmp_path: Path, published: Published) -> None:
    for (source, name), file in published.items():
        one = unitraj_environment(next(folder for folder in file.parents if folder.name == name))
        assert one is not None
        assert (one.source, one.environment, one.weight, one.episodes) == (source, name, 1.0, (file,))
    assert [len(expanded(str(tmp_path), kind)) for kind in ("pretrain", "train")] == [len(published), 1]
    # What is no root of UniTraj's is read as train reads it: a Minari dataset's folder, LeRobot data.
    (tmp_path / "other" / "data").mkdir(parents=True)
    assert expanded(str(tmp_path / "other"), "pretrain") == [(str(tmp_path / "other"), 1.0, None)]
    # A folder above several environments is none.
    assert unitraj_environment(tmp_path / "modular-rl") is None
    assert unitraj_environment(tmp_path) is None
    for name in ("modular-rl", "missing"):
        with pytest.raises(TrajWorldError, match="holds no UniTraj episodes"):
            unitraj_datasets(tmp_path / name)


def test_published_ranges(tmp_path: Path) -> None:
    assert unitraj_range(tmp_path) is None
    save(tmp_path / "max_min_values.npz", max=np.arange(6.0), min=-np.arange(6.0))
    np.testing.assert_array_equal(unitraj_range(tmp_path), [-np.arange(6), np.arange(6)])
    save(tmp_path / "episode_0.npz", **arrays(5))
    for values, message in (
        ({"max": np.ones(5), "min": np.zeros(5)}, "ranges of 5 variates for episodes of 6"),
        ({"max": np.ones(6), "min": np.zeros(5)}, "of one size"),
        ({"max": np.full(6, np.nan), "min": np.zeros(6)}, "finite"),
        ({"max": np.zeros(6), "min": np.ones(6)}, "no min above"),
        ({"max": np.zeros(6)}, "no array 'min'"),
    ):
        save(tmp_path / "max_min_values.npz", **values)
        with pytest.raises(TrajWorldError, match=message):
            unitraj_range(tmp_path)
        assert len(episodes_of(tmp_path)) == 1, "which are read without it"


class Trap:
    """An object whose unpickling would make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.path,)


def test_pickles_run_nothing(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    trap = np.empty(5, object)
    trap[:] = [Trap(mark)] * 5
    save(tmp_path / "a" / "episode_0.npz", **{**arrays(5), "action": trap})
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "episode_0.npz").write_bytes(pickle.dumps(Trap(mark)))
    for folder in ("a", "b"):
        with pytest.raises(TrajWorldError, match=r"episode_0\.npz") as error:
            episodes_of(tmp_path / folder)
        assert "\n" not in str(error.value)
    assert not mark.exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"action": None}, "no array 'action'"),
        ({"reward": np.zeros((5, 2))}, ".* do not make an episode"),
        ({"action": np.zeros((4, 2))}, ".* do not make an episode"),
        ({"observation": np.float32(1)}, ".* do not make an episode"),
        ({"action": np.full((5, 2), "x")}, "'action' holds no numbers"),
        ({"observation": np.full((5, 3), np.nan)}, "observations hold a NaN"),
        ({"observation": np.ones((5, 4))}, "4 observation and 2 action values"),
    ],
)
def test_wrong_arrays_in_unitraj_files(
    tmp_path: Path, change: dict[str, np.ndarray | None], message: str
) -> None:
    values = {name: array for name, array in {**arrays(5), **change}.items() if array is not None}
    save(tmp_path / "episode_0.npz", **arrays(5))
    save(tmp_path / "episode_1.npz", **values)
    with pytest.raises(TrajWorldError, match=rf"episode_1\.npz: {message}|episode_1\.npz has {message}"):
        episodes_of(tmp_path)


def test_truncated_unitraj_files_are_refused_in_one_line(tmp_path: Path) -> None:
    path = save(tmp_path / "episode_0.npz", **arrays(200))
    whole = path.read_bytes()
    for size in (0, 3, 100, 2000, len(whole) - 30):
        path.write_bytes(whole[:size])
        with pytest.raises(TrajWorldError, match=r"episode_0\.npz") as error:
            episodes_of(tmp_path)
        assert "\n" not in str(error.value)
    path.write_bytes(whole[:400] + bytes([whole[400] ^ 0xFF]) + whole[401:])
    with pytest.raises(TrajWorldError, match="not a readable"):
        episodes_of(tmp_path)
    environment = unitraj_environment(tmp_path)
    assert environment is not None
    path.unlink()
    with pytest.raises(TrajWorldError, match=r"episode_0\.npz is not .*No such file"):
        list(read_unitraj(environment))
