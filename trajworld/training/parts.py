"""The datasets of a run: which episodes are trained on, which are held out, and the ranges of both."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trajworld.collect.corpus import PREFIX, training_members
from trajworld.data.batch import Batch
from trajworld.data.dataset import Dataset
from trajworld.data.mixture import Mixture, Sampling, Source, windows_in_order
from trajworld.data.resolve import open_dataset
from trajworld.data.split import limit_transitions, set_aside, split_episodes
from trajworld.data.statistics import value_range
from trajworld.data.unitraj import (
    UniTrajEnvironment,
    is_unitraj_root,
    unitraj_datasets,
    unitraj_environment,
    unitraj_range,
)
from trajworld.errors import TrajWorldError, UsageError
from trajworld.files import user_path
from trajworld.models.identity import DatasetRange, Identity
from trajworld.models.ranges import Support, pretraining_support, training_support
from trajworld.processes import Progress
from trajworld.training.config import TrainingConfig


@dataclass(frozen=True, eq=False, kw_only=True)
class Part(Source):
    """One dataset of a run: a source of batches, and the numbers of the episodes that are held out."""

    holdout: NDArray[np.int64]

    @property
    def support(self) -> Support:
        """The range of its variates."""
        return Support(self.lower, self.upper)

    @property
    def transitions(self) -> int:
        """How many transitions are trained on: each ends a window."""
        return len(self.index)

    def describe(self) -> dict[str, Any]:
        """What a run's record says of the dataset."""
        return {
            **{name: getattr(self.dataset, name) for name in ("name", "environment", "content")},
            "variates": self.dataset.num_variates,
            **({} if self.dataset.reward else {"reward": False}),
            "transitions": self.transitions,
            "training_episodes": len(self.index.first_rows),
            "holdout_episodes": len(self.holdout),
            "weight": self.weight,
        }


def open_parts(config: TrainingConfig, progress: Progress | None = None) -> list[Part]:
    """Open, split and measure the datasets of a run."""
    return [
        _part(config, open_dataset(spec, progress=progress), choice.weight * share, environment)
        for choice in config.datasets
        for spec, share, environment in expanded(choice.spec, config.kind)
    ]


def holdout_batches(
    config: TrainingConfig, parts: list[Part], mixture: Mixture, number: int
) -> Iterator[Batch]:
    """The holdout windows of a part, padded like its training batches so that few shapes are compiled."""
    part, variates, size = parts[number], mixture.variates[number], config.batch_size
    given = size, config.model.window, config.holdout_windows, config.seed
    for values, mask in windows_in_order(part.dataset, part.holdout, *given):
        missing = (size - len(values), len(variates.lower) - values.shape[2])
        # Windows added to fill the last batch have no real row, and do not enter the sums.
        values = np.pad(values, ((0, missing[0]), (0, 0), (0, missing[1])))
        yield Batch(values, np.pad(mask, ((0, missing[0]), (0, 0))), variates, number)


def identity_of(config: TrainingConfig, parts: list[Part], history: dict[str, Any]) -> Identity:
    """What the trained model's file says of its data."""
    if config.kind == "train":
        (part,), data = parts, parts[0].dataset
        sizes = data.observation_size, data.action_size
        return Identity(part.support, data.environment, *sizes, history=history, reward=data.reward)
    ranges = [
        DatasetRange(part.dataset.name, part.dataset.environment, part.dataset.content, part.support)
        for part in parts
    ]
    # By content: a dataset that is given twice is one.
    distinct = {one.content or one.dataset: one for one in ranges}
    return Identity(sources=tuple(distinct.values()), history=history)


def _part(
    config: TrainingConfig, dataset: Dataset, weight: float, unitraj: UniTrajEnvironment | None
) -> Part:
    try:
        # Limited first: a run on little data must not choose its best by a holdout set that is larger than its data.
        others, _ = set_aside(dataset.num_episodes, config.test_fraction)
        used = np.sort(limit_transitions(dataset, others, config.transitions, config.seed))
        chosen, held = split_episodes(len(used), config.holdout_fraction, config.seed)
    except UsageError as error:
        raise TrajWorldError(f"{dataset.name}: {error}") from None
    published = unitraj_range(unitraj.folder) if unitraj is not None and config.kind == "pretrain" else None
    fit = pretraining_support if config.kind == "pretrain" else training_support
    support = fit(*(published or value_range(dataset, used[chosen])))
    sampling: Sampling = "window" if unitraj is None else "episode"
    return Part(dataset, support.lower, support.upper, weight, sampling, used[chosen], holdout=used[held])


def expanded(spec: str, kind: str) -> list[tuple[str, float, UniTrajEnvironment | None]]:
    """A dataset, or for pre-training all of a corpus or of a UniTraj root: (spec, share, its UniTraj folder)."""
    if spec.startswith(PREFIX):
        if kind != "pretrain":
            raise UsageError(f"{spec} is a whole corpus, for pretrain; train takes one of its datasets")
        members = training_members(spec.removeprefix(PREFIX))
        return [(member.dataset_id, member.weight, None) for member in members]
    path = user_path(spec)
    environment = unitraj_environment(path) if path.is_dir() else None
    if environment is not None or not is_unitraj_root(path) or kind != "pretrain":
        return [(spec, 1.0, environment)]
    return [(str(item.folder), item.weight, item) for item in unitraj_datasets(path)]
