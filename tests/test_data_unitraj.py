"""UniTraj folders: dm_env order, the published choice and weights of environments, hostile files."""

import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest

from trajworld.data.episode import rows_of_episode
from trajworld.data.unitraj import read_unitraj, unitraj_datasets, unitraj_environment, unitraj_range
from trajworld.errors import TrajWorldError

pytestmark = pytest.mark.once


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


@pytest.fixture
def published(tmp_path: Path) -> dict[tuple[str, str], Path]:
    """A UniTraj root; the file of each (source, environment) that is used."""
    for pattern, used, unused in LAYOUTS.values():
        for name in (*used.split(), *unused.split()):
            save(tmp_path / pattern.format(name), **arrays(4))
    return {
        (source, name): tmp_path / pattern.format(name)
        for source, (pattern, used, _) in LAYOUTS.items()
        for name in used.split()
    }


def test_the_published_environments_are_chosen_and_weighted(
    tmp_path: Path, published: dict[tuple[str, str], Path]
) -> None:
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


def test_a_folder_of_one_environment_is_known_by_its_place(
    tmp_path: Path, published: dict[tuple[str, str], Path]
) -> None:
    for (source, name), file in published.items():
        one = unitraj_environment(next(folder for folder in file.parents if folder.name == name))
        assert one is not None
        assert (one.source, one.environment, one.weight, one.episodes) == (source, name, 1.0, (file,))
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
    assert len(episodes_of(tmp_path)) == 1
    for values, message in (
        ({"max": np.ones(5), "min": np.zeros(5)}, "ranges of 5 variates for episodes of 6"),
        ({"max": np.ones(6), "min": np.zeros(5)}, "of one size"),
        ({"max": np.full(6, np.nan), "min": np.zeros(6)}, "finite"),
        ({"max": np.zeros(6), "min": np.ones(6)}, "no min above"),
        ({"max": np.zeros(6)}, "no array 'min'"),
    ):
        save(tmp_path / "max_min_values.npz", **values)
        with pytest.raises(TrajWorldError, match=message):
            episodes_of(tmp_path)


class Trap:
    """An object whose unpickling would make a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.path,)


def test_hostile_files_run_nothing(tmp_path: Path) -> None:
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
def test_wrong_arrays_are_refused(tmp_path: Path, change: dict[str, np.ndarray | None], message: str) -> None:
    values = {name: array for name, array in {**arrays(5), **change}.items() if array is not None}
    save(tmp_path / "episode_0.npz", **arrays(5))
    save(tmp_path / "episode_1.npz", **values)
    with pytest.raises(TrajWorldError, match=rf"episode_1\.npz: {message}|episode_1\.npz has {message}"):
        episodes_of(tmp_path)


def test_truncated_files_are_refused_in_one_line(tmp_path: Path) -> None:
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
