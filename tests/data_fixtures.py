"""What the tests of data share: episodes of 3 observations and 2 actions as a Minari dataset or a D4RL file."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from gymnasium.spaces import Box

from trajworld.data.dataset import Dataset
from trajworld.data.episode import Episode
from trajworld.data.minari_datasets import write_minari
from trajworld.data.statistics import value_range
from trajworld.models.ranges import Support, training_support

# What the fixtures make_episodes, memory_dataset and make_store are.
EpisodeMaker = Callable[..., list[Episode]]
DatasetMaker = Callable[..., Dataset]


def own_support(dataset: Dataset) -> Support:
    """The range of a model that was trained on the dataset."""
    return training_support(*value_range(dataset))


def box(size: int, bound: float = np.inf) -> Box:
    return Box(-bound, bound, (size,), np.float32)


def minari_dataset(
    dataset_id: str, episodes: Iterable[Episode], environment: str = "dm_control/cheetah-run", **options: Any
) -> Path:
    spaces = {"observation_space": box(3), "action_space": box(2, 1)}
    return write_minari(dataset_id, episodes, environment=environment, **(spaces | options))


def d4rl_file(path: Path, episodes: Sequence[Episode]) -> Path:
    with h5py.File(path, "w") as file:
        file["observations"] = np.concatenate([e.observations[:-1] for e in episodes])
        file["next_observations"] = np.concatenate([e.observations[1:] for e in episodes])
        file["actions"] = np.concatenate([e.actions for e in episodes])
        file["rewards"] = np.concatenate([e.rewards for e in episodes])
        last = np.concatenate([np.arange(len(e)) == len(e) - 1 for e in episodes])
        file["terminals"] = last & np.repeat([e.terminated for e in episodes], [len(e) for e in episodes])
        file["timeouts"] = last & ~file["terminals"][:]
    return path
