"""The readers of outside files: how good files are made, which are mutated, and how one is read and checked."""

import importlib.util
import json
import pickle
from pathlib import Path
from typing import Any
from unittest.mock import patch

import h5py
import numpy as np
import test_data_robot_logs as logs
import test_data_tables as tables
import test_policies_import as policies
from data_fixtures import d4rl_file, minari_dataset
from test_data_resolve import unitraj_folder
from test_interop_pickle import assert_inert
from test_interop_published import tree_of
from torch_fixtures import torch_file
from training_fixtures import config_for, store

from trajworld.data.account import Account
from trajworld.data.episode import Episode
from trajworld.data.minari_datasets import local_datasets
from trajworld.data.resolve import converted_stores, open_dataset
from trajworld.data.summary import summarise
from trajworld.data.unitraj import unitraj_range
from trajworld.interop.published import import_published
from trajworld.interop.restricted_pickle import read_pickle
from trajworld.models.files import describe_model, load_model
from trajworld.policies.files import read_policy, save_policy
from trajworld.training.loop import train
from trajworld.training.picture import draw_losses
from trajworld.training.record import MetricsLog, read_metrics
from trajworld.training.run import resume_run, start_run

CANARY, ID = 12345.0, "hopper/a-v0"
RNG = np.random.default_rng(0)
EPISODES = [
    Episode(RNG.normal(1, 1, (n + 1, 3)).astype("f4"), RNG.uniform(-1, 1, (n, 2)), RNG.normal(size=n), n > 7)
    for n in (9, 6, 8, 7)
]


def joined(observations: Any, actions: Any, rewards: Any, following: Any) -> np.ndarray:
    """Transitions, ``[N, 2 O + A + 1]``: observation, action, reward and successor."""
    parts = observations, actions, np.reshape(rewards, (-1, 1)), following
    with np.errstate(over="ignore"):
        return np.concatenate([np.asarray(part).astype("f4") for part in parts], axis=1)


def transitions(rows: np.ndarray, offsets: np.ndarray, size: int) -> np.ndarray:
    before, after = np.delete(rows, offsets[1:] - 1, 0), np.delete(rows, offsets[:-1], 0)
    return joined(before[:, :size], before[:, size + 1 :], after[:, size], after[:, :size])


def check(dataset: Any, real: np.ndarray) -> None:
    """The dataset holds transitions of the file, in their order; its account is right."""
    found = transitions(np.asarray(dataset.rows), dataset.episode_offsets, dataset.observation_size)
    left, account = (
        iter(real.tolist()),
        dataset.account or Account(len(real), 0.0, len(found), 0.0, dataset.num_episodes),
    )
    assert all(one in left for one in found.tolist()), "a transition is not one of the file"
    assert (account.kept, account.episodes) == (len(found), dataset.num_episodes)
    assert account.transitions == len(real) or account.notes, "transitions were lost without a word"
    assert not (found == CANARY).any()
    json.dumps(summarise(dataset))


def make_d4rl(folder: Path) -> None:
    for name in ("hopper_a", "b"):
        d4rl_file(folder / f"{name}.hdf5", EPISODES)
    with h5py.File(folder / "b.hdf5", "r+") as file:
        del file["next_observations"]


def read_d4rl(folder: Path, path: Path) -> None:
    dataset = open_dataset(path)
    with h5py.File(path) as file:
        held = {name: array[()] for name, array in file.items() if isinstance(array, h5py.Dataset)}
    following = held.get("next_observations", np.roll(held["observations"], -1, axis=0))
    check(dataset, joined(held["observations"], held["actions"], held["rewards"], following))


def make_unitraj(folder: Path) -> None:
    place = unitraj_folder(folder / "modular-rl/a-v2", EPISODES)
    np.savez(place / "max_min_values.npz", min=np.full(6, -7.0), max=np.full(6, 7.0))


def read_unitraj(folder: Path, path: Path) -> None:
    dataset, parts = open_dataset(path.parent), []
    for file in sorted(path.parent.glob("episode_*.npz")):
        with np.load(file) as held:
            o, a, r = (held[name] for name in ("observation", "action", "reward"))
        parts.append(joined(o[:-1], a[1:], r[1:], o[1:]))
    check(dataset, np.concatenate(parts))
    low, high = unitraj_range(path.parent) or (np.zeros(6), np.ones(6))
    assert np.isfinite(high - low).all()
    assert (low <= high).all()


def make_minari(folder: Path) -> None:
    with patch.dict("os.environ", MINARI_DATASETS_PATH=str(folder / "minari")):
        minari_dataset(ID, EPISODES)


def read_minari(folder: Path, path: Path) -> None:
    json.dumps(local_datasets())
    dataset, parts = open_dataset(ID), []
    with h5py.File(folder / "minari" / ID / "data/main_data.hdf5") as file:
        for number in range(len(file)):
            o, a, r = (
                file[f"episode_{number}/{name}"][()] for name in ("observations", "actions", "rewards")
            )
            parts.append(joined(o[:-1], a, r, o[1:]))
    check(dataset, np.concatenate(parts))


def make_store(folder: Path) -> None:
    make_d4rl(folder)
    with patch.dict("os.environ", TRAJWORLD_HOME=str(folder / "home")):
        open_dataset(folder / "hopper_a.hdf5").path.rename(folder / "home/stores/a")


def read_store(folder: Path, path: Path) -> None:
    json.dumps(converted_stores())
    dataset = open_dataset(path.parent)
    rows, offsets = (np.load(path.parent / f"{name}.npy") for name in ("rows", "episode_offsets"))
    check(dataset, transitions(rows, offsets, 3))


def make_table(folder: Path) -> None:
    tables.log(60, 0).dropna().to_csv(folder / "log.csv", index=False)
    columns = 'observation = ["a", "b"]\naction = ["u"]\nreward = "r"\nepisode = "run"\ndone = "done"\n'
    (folder / "log.toml").write_text(f'{columns}missing = "cut"\n')


def make_logs(folder: Path) -> None:
    logs.lerobot_folder(folder / "new", "v3.0", True)
    logs.lerobot_folder(folder / "old", "v2.1")
    logs.robomimic_file(folder / "demo.hdf5", True)
    # Only a file of one task is read as a dataset.
    (folder / "chunk_0.pt").write_bytes(torch_file(logs.tdmpc2_fields(tasks=(0,) * 6)))


def read_log(folder: Path, path: Path) -> None:
    """No file says which transitions it must give: that what is read is finite, and counted rightly."""
    top = folder / path.relative_to(folder).parts[0]
    dataset = open_dataset(top.with_suffix(".csv") if top.suffix == ".toml" else top)
    rows = np.asarray(dataset.rows)
    assert np.isfinite(rows).all()
    assert not (rows == CANARY).any()
    found, account = transitions(rows, dataset.episode_offsets, dataset.observation_size), dataset.account
    assert (account.kept, account.episodes) == (len(found), dataset.num_episodes)
    assert account.transitions >= account.kept
    json.dumps(summarise(dataset))


def make_policies(folder: Path) -> None:
    policies.written(folder / "hopper_online_0.pkl", policies.dope())
    save_policy(read_policy(folder / "hopper_online_0.pkl"), folder / "a.npz")
    policies.agent_file(folder / "A2C.zip")
    if importlib.util.find_spec("sb3_contrib"):
        for name in ("PPO", "SAC", "TD3"):
            policies.agent(name).save(folder / f"{name}.zip")


def read_a_policy(folder: Path, path: Path) -> None:
    policy = read_policy(path)
    actions = policy.act(np.zeros((4, len(policy.observation_mean)), "f4"), np.random.default_rng(0))
    assert np.isfinite(actions).all()
    assert ((policy.low <= actions) & (actions <= policy.high)).all()


def make_run(folder: Path) -> None:
    data = [store(folder / "data"), store(folder / "more", seed=1)]
    train(start_run(folder / "run", config_for("pretrain", data)))


def read_model(folder: Path, path: Path) -> None:
    weights, described = load_model(path).get_weights(), describe_model(path)
    json.dumps(described, allow_nan=False)
    assert described["parameters"] == sum(array.size for array in weights)
    assert all(np.isfinite(array).all() for array in weights)


def read_run(folder: Path, path: Path) -> None:
    run, _ = resume_run(folder / "run")
    assert run.state.step == int(run.optimizer.iterations)
    moments = [np.asarray(one) for one in run.optimizer.variables]
    assert all(np.isfinite(one).all() for one in (*run.model.get_weights(), *moments))
    with MetricsLog(run.path, run.state.step):
        draw_losses(read_metrics(run.path), run.path / "losses.png")


def make_pickles(folder: Path) -> None:
    ends = {"min_values": np.zeros(4, "f4"), "max_values": np.ones(4, "f4")}
    (folder / "trm_dynamics.pkl").write_bytes(pickle.dumps({"params": {"params": tree_of(2)}, **ends}))
    given = Path(__file__).parents[3] / "shared/dope/policies/hopper_online_0.pkl"
    made = {f"fc{n}/weight": RNG.normal(size=(8, 8)) for n in range(3)} | {"nonlinearity": "relu"}
    (folder / "policy.pkl").write_bytes(given.read_bytes() if given.is_file() else pickle.dumps(made))


def read_pickles(folder: Path, path: Path) -> None:
    assert_inert(read_pickle(path))
    if path.name != "policy.pkl":
        model = import_published(path, heads=2)
        assert all(np.isfinite(one).all() and one.dtype == np.float32 for one in model.get_weights())


# By name: how the good files are made, which of them are mutated, how one is read, and the share of the campaign.
READERS: dict[str, Any] = {
    "d4rl": (make_d4rl, "*.hdf5", read_d4rl, 2),
    "unitraj": (make_unitraj, "modular-rl/a-v2/*.npz", read_unitraj, 2),
    "minari": (make_minari, f"minari/{ID}/data/*.*", read_minari, 2),
    "store": (make_store, "home/stores/a/*", read_store, 2),
    "model": (make_run, "run/last.keras", read_model, 2),
    "run": (make_run, "run/*.json* run/*.toml run/checkpoints/*12/*", read_run, 2),
    "pickles": (make_pickles, "*.pkl", read_pickles, 2),
    "tables": (make_table, "log.*", read_log, 1),
    "policies": (make_policies, "*.*", read_a_policy, 1),
    "logs": (make_logs, "*.* new/*/*.* new/*/*/*.* old/*/*.* old/*/*/*.*", read_log, 1),
}
