"""LeRobot, robomimic and TD-MPC2 files of the published layouts, against readings with pyarrow and h5py."""

import itertools
import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from torch_fixtures import Made, Name, torch_file

from trajworld.data.account import BROKEN
from trajworld.data.dataset import Dataset
from trajworld.data.resolve import open_dataset
from trajworld.errors import TrajWorldError

pytestmark = pytest.mark.once

LENGTHS = (5, 1, 9, 2, 30)
RNG = np.random.default_rng(0)


def assert_episodes(
    dataset: Dataset, observations: list[Any], actions: list[Any], rewards: list[Any]
) -> None:
    """The store's rows are (s_t, r_{t-1}, a_t) of these transitions."""
    bounds = itertools.pairwise(dataset.episode_offsets)
    size = dataset.observation_size
    found = [np.asarray(dataset.rows[begin:end]) for begin, end in bounds]
    for rows, seen, acted, paid in zip(found, observations, actions, rewards, strict=True):
        np.testing.assert_array_equal(rows[:, :size], np.asarray(seen, np.float32))
        np.testing.assert_array_equal(rows[1:, size], np.asarray(paid, np.float32))
        np.testing.assert_array_equal(rows[:-1, size + 1 :], np.asarray(acted, np.float32))


def lerobot_folder(root: Path, version: str, reward: bool = False) -> Path:
    feature = {"dtype": "float32", "names": None}
    vectors = {"observation.state": 3, "observation.environment_state": 1, "action": 2}
    numbers = ("frame_index", "episode_index", "index", "task_index")
    features = {name: {**feature, "shape": [size]} for name, size in vectors.items()}
    features["action"]["names"] = (
        {"motors": ["gripper", "wrist"]} if version == "v2.1" else ["gripper", "wrist"]
    )
    features |= {name: {"dtype": "int64", "shape": [1], "names": None} for name in numbers}
    features |= {"timestamp": {**feature, "shape": [1]}}
    features |= {"observation.images.top": {"dtype": "video", "shape": [4, 4, 3], "names": None}}
    features |= {"next.reward": {**feature, "shape": [1]}} if reward else {}
    legacy = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
    path = legacy if version == "v2.1" else "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
    info = {"codebase_version": version, "robot_type": "so101", "total_episodes": len(LENGTHS)}
    info |= {"total_frames": sum(LENGTHS), "total_tasks": 1, "chunks_size": 2, "fps": 20}
    info |= {"splits": {"train": "0:5"}, "data_path": path, "features": features}
    (root / "meta").mkdir(parents=True)
    (root / "meta" / "info.json").write_text(json.dumps(info))
    offset, rows, files = 0, [], {}
    for episode, length in enumerate(LENGTHS):
        # State and action as lists of one size or of any, one-element features as plain numbers.
        fixed = 3 if version == "v3.0" else -1
        columns = {
            "observation.state": pa.array(list(RNG.normal(size=(length, 3))), pa.list_(pa.float32(), fixed)),
            "observation.environment_state": pa.array(RNG.normal(size=length), pa.float32()),
            "action": pa.array(list(RNG.normal(size=(length, 2))), pa.list_(pa.float32())),
            "timestamp": pa.array(np.arange(length) / 20, pa.float32()),
            "frame_index": np.arange(length),
            "episode_index": np.full(length, episode),
            "index": np.arange(offset, offset + length),
            "task_index": np.zeros(length, int),
        }
        if reward:
            columns["next.reward"] = pa.array(RNG.normal(size=length), pa.float32())
        chunk, file = divmod(episode // 2, 2)
        place = {
            "episode_chunk": episode // 2,
            "episode_index": episode,
            "chunk_index": chunk,
            "file_index": file,
        }
        files.setdefault(root / path.format(**place), []).append(pa.table(columns))
        row = {"episode_index": episode, "tasks": ["lift"], "length": length}
        more = {"data/chunk_index": chunk, "data/file_index": file, "dataset_from_index": offset}
        rows.append(row | ({} if version == "v2.1" else more | {"dataset_to_index": offset + length}))
        offset += length
    for file, parts in files.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.concat_tables(parts), file)
    if version == "v2.1":
        (root / "meta" / "episodes.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    else:
        (root / "meta" / "episodes" / "chunk-000").mkdir(parents=True)
        pq.write_table(
            pa.Table.from_pylist(rows), root / "meta" / "episodes" / "chunk-000" / "file-000.parquet"
        )
    return root


@pytest.mark.parametrize("version", ["v2.1", "v3.0"])
@pytest.mark.parametrize("reward", [False, True])
def test_lerobot_equals_pyarrow(tmp_path: Path, version: str, reward: bool) -> None:
    root = lerobot_folder(tmp_path / "pick", version, reward)
    frames = [
        row for path in sorted(root.glob("data/*/*.parquet")) for row in pq.read_table(path).to_pylist()
    ]
    by_episode = [list(rows) for _, rows in itertools.groupby(frames, lambda row: row["episode_index"])]
    whole = [rows for rows in by_episode if len(rows) > 1]
    dataset = open_dataset(root)
    observations = [
        [[*row["observation.state"], row["observation.environment_state"]] for row in rows] for rows in whole
    ]
    actions = [[row["action"] for row in rows[:-1]] for rows in whole]
    rewards = [[row["next.reward"] if reward else 0.0 for row in rows[:-1]] for rows in whole]
    assert_episodes(dataset, observations, actions, rewards)
    assert dataset.reward == reward
    state = [f"observation.state {number}" for number in range(3)]
    assert dataset.names == (*state, "observation.environment_state", "action gripper", "action wrist")
    account = dataset.account
    assert account is not None
    assert (account.transitions, account.kept) == (sum(LENGTHS), sum(LENGTHS) - len(LENGTHS))


def robomimic_file(path: Path, following: bool) -> Path:
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["total"] = sum(LENGTHS)
        data.attrs["env_args"] = json.dumps({"env_name": "Lift", "env_type": 1, "env_kwargs": {}})
        for number, length in enumerate(LENGTHS * 3):
            demo = data.create_group(f"demo_{number}")
            demo.attrs["num_samples"] = length
            demo["actions"], demo["rewards"] = RNG.normal(size=(length, 2)), RNG.normal(size=length)
            demo["dones"] = (np.arange(length) == length - 1).astype(int)
            demo["states"] = RNG.normal(size=(length, 7))
            seen = {
                "robot0_eef_pos": RNG.normal(size=(length + 1, 3)),
                "object": RNG.normal(size=(length + 1, 2)),
            }
            for first, kind in enumerate(("obs", "next_obs")[: 1 + following]):
                for key, values in seen.items():
                    demo[f"{kind}/{key}"] = values[first : first + length]
                demo[f"{kind}/agentview_image"] = np.zeros((length, 4, 4, 3), np.uint8)
        file["mask/train"] = np.array([b"demo_2", b"demo_11", b"demo_0"])
    return path


@pytest.mark.parametrize("following", [False, True])
def test_robomimic_equals_h5py(tmp_path: Path, command: Any, following: bool) -> None:
    path = robomimic_file(tmp_path / "low_dim.hdf5", following)
    observations, actions, rewards = [], [], []
    with h5py.File(path) as file:
        demos = [file[f"data/demo_{number}"] for number in range(3 * len(LENGTHS))]
        for demo in demos:
            rows = np.hstack([demo["obs/object"], demo["obs/robot0_eef_pos"]])
            count = len(rows) - (not following)
            if following:
                last = np.hstack([demo["next_obs/object"][-1:], demo["next_obs/robot0_eef_pos"][-1:]])
                rows = np.vstack([rows, last])
            if count:
                observations.append(rows)
                actions.append(demo["actions"][:count])
                rewards.append(demo["rewards"][:count])
    dataset = open_dataset(path)
    assert_episodes(dataset, observations, actions, rewards)
    assert dataset.environment == "robomimic/Lift"
    position = [f"robot0_eef_pos {number}" for number in range(3)]
    assert dataset.names == ("object 0", "object 1", *position, "actions 0", "actions 1")
    assert dataset.terminated.all() == following
    code, out, _ = command("data", "import", path, "--id", "lift-v0", "--mask", "train")
    assert code == 0
    # demo_0, demo_2 and demo_11, which has one step.
    total = LENGTHS[0] + LENGTHS[2] + LENGTHS[1]
    assert f"{total if following else total - 3} of {total} transitions kept" in out
    assert command("data", "import", path, "--id", "lift-v1", "--mask", "valid")[0] == 2
    with h5py.File(path, "r+") as file:
        del file["mask"]
        file["mask"] = np.array([b"demo_2"])
    code, _, err = command("data", "import", path, "--id", "lift-v1", "--mask", "train")
    assert (code, "no filter 'train': it has none\n" in err) == (2, True)


def test_robomimic_is_cut_where_the_next_row_is_not_the_successor(tmp_path: Path) -> None:
    path = robomimic_file(tmp_path / "low_dim.hdf5", True)
    with h5py.File(path, "r+") as file:
        # demo_2 has nine steps.
        file["data/demo_2/next_obs/object"][3] += 1
        file["data/demo_1"].attrs["num_samples"] = np.array([LENGTHS[1]])
        wanted = {kind: np.array(file[f"data/demo_2/{kind}/object"]) for kind in ("obs", "next_obs")}
    dataset = open_dataset(path)
    lengths = [*LENGTHS[:2], 4, 5, *LENGTHS[3:], *LENGTHS, *LENGTHS]
    assert dataset.transitions_per_episode.tolist() == lengths
    assert dataset.terminated.tolist() == [number != 2 for number in range(len(lengths))]
    begin = dataset.episode_offsets[2]
    pieces = [wanted["obs"][:4], wanted["next_obs"][3:4], wanted["obs"][4:], wanted["next_obs"][-1:]]
    np.testing.assert_array_equal(dataset.rows[begin : begin + 11, :2], np.concatenate(pieces).astype("f4"))
    assert dataset.account is not None
    assert dataset.account.notes == {BROKEN: 1}
    assert dataset.account.kept == sum(LENGTHS) * 3


def test_a_filter_of_robomimic_may_name_anything(tmp_path: Path, command: Any) -> None:
    path = robomimic_file(tmp_path / "low_dim.hdf5", True)
    with h5py.File(path, "r+") as file:
        file["mask/mine"] = np.array([b"demo_2", "d\u00e9mo_0".encode(), b"\xff"])
    code, out, _ = command("data", "import", path, "--id", "lift-v0", "--mask", "mine")
    assert (code, f"{LENGTHS[2]} of {LENGTHS[2]} transitions kept" in out) == (0, True)


def tdmpc2_fields(tasks: tuple[int, ...] = (0, 3, 0, 3, 3, 0)) -> dict[str, np.ndarray]:
    """Six episodes of two tasks; task 3 has two observations of five and one action of two."""
    sizes = {"obs": (6, 8, 5), "action": (6, 8, 2), "reward": (6, 8)}
    fields = {name: RNG.normal(size=size).astype("f4") for name, size in sizes.items()}
    fields["task"] = np.repeat(np.int32(tasks)[:, None], 8, axis=1)
    narrow = fields["task"][:, 0] == 3
    fields["obs"][narrow, :, 2:], fields["action"][narrow, :, 1:] = 0, 0
    fields["action"][:, 0], fields["reward"][:, 0] = np.nan, np.nan
    return fields


def tensordict(version: str, fields: Any) -> Any:
    """What tensordict's versions make of fields."""
    state = {"_batch_size": Made("torch Size", ((6, 8),)), "_device": Made("torch device", ("cpu",))}
    if version == "0.2":
        held = Made("tensordict.utils _StringOnlyDict", items=fields)
        more = {"_lock_id": Made("__builtin__ set", ([],))}
        return Made("tensordict.tensordict TensorDict", state={"_tensordict": held, **state, **more})
    state = {"_tensordict": fields, **state, "_td_dim_names": None}
    if version == "0.3":
        return Made("tensordict._td TensorDict", state=state)
    return Made("tensordict._reductions _make_td", (Name("tensordict._td TensorDict"), state))


@pytest.mark.parametrize("version", ["", "0.2", "0.3", "0.15"])
def test_tdmpc2(tmp_path: Path, command: Any, version: str) -> None:
    path, fields = tmp_path / "chunk_0.pt", tdmpc2_fields()
    path.write_bytes(torch_file(tensordict(version, fields) if version else fields))
    code, out, _ = command("data", "import", path, "--id", "mt-v0")
    assert (code, out.count("21 of 21 transitions kept, in 3 episodes")) == (0, 2)
    assert out.count("note: 4 x a last column that is 0 in every row of the task is left out as padding") == 1
    for task, episodes, observation, action in ((0, [0, 2, 5], 5, 2), (3, [1, 3, 4], 2, 1)):
        dataset = open_dataset(f"mt/task-{task}-v0")
        assert (dataset.observation_size, dataset.action_size) == (observation, action)
        observations = fields["obs"][episodes, :, :observation].tolist()
        actions = fields["action"][episodes, 1:, :action].tolist()
        assert_episodes(dataset, observations, actions, fields["reward"][episodes, 1:].tolist())
    assert command("data", "inspect", path)[0] == 2
    for option in ("--mask", "--columns", "--max-episode-steps"):
        code, _, err = command("data", "import", path, "--id", "mt-v1", option, 7)
        assert (code, f"{option} is for" in err) == (2, True)


def test_only_the_padding_of_several_tasks_is_left_out_of_tdmpc2(tmp_path: Path) -> None:
    fields = tdmpc2_fields((3,) * 6)
    path = tmp_path / "one.pt"
    path.write_bytes(torch_file(fields))
    dataset = open_dataset(path)
    assert (dataset.observation_size, dataset.action_size) == (5, 2)
    assert dataset.account is not None
    assert dataset.account.notes == {}


CHANGES = {
    "lerobot version": ("v3.0", "v4.0"),
    "lerobot outside": ("data/chunk-{chunk", "../../chunk-{chunk"),
    "lerobot chunks": ('"chunks_size": 2', '"chunks_size": 0'),
    "lerobot shape": ('"shape": [3]', '"shape": [1e999]'),
    "lerobot size": ('"shape": [3]', '"shape": [1e12]'),
    "lerobot width": ("{file_index:03d}", "{file_index:999999999999d}"),
    "lerobot nested width": ("{file_index:03d}", "{file_index:{file_index}d}"),
}


def spoil(kind: str, folder: Path) -> Path:
    """A bad file of each kind."""
    if kind.startswith("lerobot"):
        root = lerobot_folder(folder / "pick", "v3.0")
        info, data = root / "meta" / "info.json", root / "data" / "chunk-000" / "file-000.parquet"
        if kind == "lerobot cut":
            data.write_bytes(data.read_bytes()[:300])
        elif kind == "lerobot text":
            table = pq.read_table(data)
            column = table.column_names.index("observation.environment_state")
            text = pa.array(["open"] * len(table))
            pq.write_table(table.set_column(column, "observation.environment_state", text), data)
        elif kind == "lerobot frames":
            pq.write_table(pq.read_table(data).slice(1), data)
        else:
            old, new = CHANGES[kind]
            info.write_text(info.read_text().replace(old, new))
            assert new in info.read_text()
        return root
    path = folder / ("bad.pt" if kind.startswith("tdmpc2") else "bad.hdf5")
    if kind == "tdmpc2 code":
        path.write_bytes(torch_file({"obs": Made("builtins print", ("it ran",))}))
    elif kind == "tdmpc2 cut":
        path.write_bytes(torch_file(tdmpc2_fields())[:400])
    elif kind == "tdmpc2 tasks":
        path.write_bytes(torch_file({**tdmpc2_fields(), "task": np.full((6, 8), np.nan)}))
    elif kind == "tdmpc2 arrays":
        path.write_bytes(torch_file({"obs": np.zeros((3, 4, 2)), "action": np.zeros((3, 4, 1))}))
    else:
        robomimic_file(path, True)
        with h5py.File(path, "r+") as file:
            if kind == "robomimic link":
                del file["data/demo_0/actions"]
                file["data/demo_0/actions"] = h5py.ExternalLink("/etc/passwd", "x")
            elif kind == "robomimic group":
                other = robomimic_file(folder / "other.hdf5", True)
                del file["data/demo_0"]
                file["data/demo_0"] = h5py.ExternalLink(str(other), "data/demo_0")
            elif kind == "robomimic number":
                del file["data/demo_1/actions"]
                file["data/demo_1/actions"] = 1.0
            elif kind == "robomimic lengths":
                file["data/demo_2"].attrs["num_samples"] = 4
            elif kind == "robomimic counts":
                file["data/demo_2"].attrs["num_samples"] = np.array([9, 4])
            elif kind == "robomimic successors":
                del file["data/demo_2/next_obs"]
                file["data/demo_2/next_obs/object"] = np.zeros((4, 2))
                file["data/demo_2/next_obs/robot0_eef_pos"] = np.zeros((4, 3))
            elif kind == "robomimic rows":
                del file["data/demo_2/obs/object"]
                file["data/demo_2/obs/object"] = np.zeros((1, 2))
            else:
                del file["data/demo_0/obs"]
                if kind == "robomimic array":
                    file["data/demo_0/obs"] = np.zeros((5, 2))
    return path


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("lerobot cut", "not a readable file of this dataset"),
        ("lerobot frames", "not all there in order|disagree on the frames"),
        ("lerobot text", "could not convert string to float"),
        ("lerobot outside", "not there or lies outside"),
        ("lerobot version", "version v4.0 is not read"),
        ("lerobot chunks", "metadata are missing or damaged"),
        ("lerobot shape", "metadata are missing or damaged"),
        ("lerobot size", "a vector of 1000000000000 values"),
        ("lerobot width", "data_path .* is too wide"),
        ("lerobot nested width", "data_path .* is too wide"),
        ("tdmpc2 code", "nothing in it was run"),
        ("tdmpc2 cut", "not a readable PyTorch file"),
        ("tdmpc2 arrays", "'reward' must be an array of numbers"),
        ("tdmpc2 tasks", "'task' must be a whole number"),
        ("robomimic link", "must be an array of this file"),
        ("robomimic group", "must be an array of this file"),
        ("robomimic number", r"shape \(\) .* numbers in 2 dimension"),
        ("robomimic lengths", "it is damaged"),
        ("robomimic counts", "it is damaged"),
        ("robomimic successors", r"count \(9, 9, 9, 4, 9\): it is damaged"),
        ("robomimic rows", "its observations disagree on the rows"),
        ("robomimic observations", "no demonstration with observations"),
        ("robomimic array", "no demonstration with observations"),
    ],
)
def test_bad_files_end_in_one_line(tmp_path: Path, command: Any, kind: str, message: str) -> None:
    path = spoil(kind, tmp_path)
    with pytest.raises(TrajWorldError, match=message):
        open_dataset(path)
    code, out, err = command("data", "import", path, "--id", "bad-v0")
    assert (code, out, len(err.splitlines())) == (1, "", 1)
    listed = json.loads(command("data", "list", "--json")[1])
    assert listed == {"minari": [], "stores": []}
