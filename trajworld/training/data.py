"""The data of a run: which episodes are trained on, which are held out, and the ranges of both."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from trajworld.collect.corpus import PREFIX, training_members
from trajworld.data.batch import Batch
from trajworld.data.dataset import Dataset
from trajworld.data.mixture import Mixture, Source, windows_in_order
from trajworld.data.padding import padded_sizes
from trajworld.data.resolve import open_dataset
from trajworld.data.split import limit_transitions, split_episodes
from trajworld.data.statistics import value_range
from trajworld.data.unitraj import UniTrajEnvironment, unitraj_datasets, unitraj_environment, unitraj_range
from trajworld.errors import TrajWorldError, UsageError
from trajworld.files import user_path
from trajworld.models.identity import DatasetRange, Identity
from trajworld.models.ranges import Support, pretraining_support, training_support
from trajworld.training.config import TrainingConfig

Progress = Callable[[int, int | None, str], None]
Sampling = Literal["window", "episode"]


@dataclass(frozen=True, eq=False)
class Part:
    """One dataset of a run, with the numbers of the episodes that are trained on and held out.

    ``support`` is the range of its variates, ``weight`` its share of the batches, and ``sampling`` how windows are
    drawn, see :class:`trajworld.data.mixture.Source`.
    """

    dataset: Dataset
    training: NDArray[np.int64]
    holdout: NDArray[np.int64]
    support: Support
    weight: float
    sampling: Sampling

    @property
    def transitions(self) -> int:
        """How many transitions are trained on."""
        return int(self.dataset.transitions_per_episode[self.training].sum())

    def describe(self) -> dict[str, Any]:
        """What a run's record says of the dataset."""
        return {
            "name": self.dataset.name,
            "environment": self.dataset.environment,
            "content": self.dataset.content,
            "variates": self.dataset.num_variates,
            **({} if self.dataset.reward else {"reward": False}),
            "transitions": self.transitions,
            "training_episodes": len(self.training),
            "holdout_episodes": len(self.holdout),
            "weight": self.weight,
        }


def open_parts(config: TrainingConfig, progress: Progress | None = None) -> list[Part]:
    """Open, split and measure the datasets of a run.

    Raises:
        TrajWorldError: A dataset is missing or damaged, or has too few episodes to hold any out.
    """
    return [
        _part(config, open_dataset(spec, progress=progress), choice.weight * share, environment)
        for choice in config.datasets
        for spec, share, environment in _expanded(choice.spec, config.kind)
    ]


def make_mixture(config: TrainingConfig, parts: list[Part]) -> Mixture:
    """The batches of a run; M is padded only where there are several datasets."""
    sources = []
    for part in parts:
        ends = part.support.lower, part.support.upper
        sources.append(Source(part.dataset, *ends, part.weight, part.sampling, part.training))
    variates, weights = [part.dataset.num_variates for part in parts], [part.weight for part in parts]
    sizes = padded_sizes(variates, config.padded_sizes, weights)
    return Mixture(sources, config.batch_size, config.model.window, config.seed, sizes, config.augment)


def holdout_batches(
    config: TrainingConfig, parts: list[Part], mixture: Mixture, number: int
) -> Iterator[Batch]:
    """The holdout windows of a part, padded like its training batches so that few shapes are compiled."""
    part, variates, size = parts[number], mixture.variates[number], config.batch_size
    given = size, config.model.window, config.holdout_windows, config.seed
    for values, mask in windows_in_order(part.dataset, part.holdout, *given):
        missing = (size - len(values), len(variates.lower) - values.shape[2])
        # Windows added to fill the last batch have no real row, and so no part in the sums.
        values = np.pad(values, ((0, missing[0]), (0, 0), (0, missing[1])))
        yield Batch(values, np.pad(mask, ((0, missing[0]), (0, 0))), variates, number)


def identity_of(config: TrainingConfig, parts: list[Part], history: dict[str, Any]) -> Identity:
    """What the trained model's file is to say of its data."""
    if config.kind == "pretrain":
        # By content: a dataset that is given twice is one.
        sources = {
            part.dataset.content or part.dataset.name: DatasetRange(
                part.dataset.name, part.dataset.environment, part.dataset.content, part.support
            )
            for part in parts
        }
        return Identity(sources=tuple(sources.values()), history=history)
    dataset = parts[0].dataset
    sizes = dataset.observation_size, dataset.action_size
    return Identity(parts[0].support, dataset.environment, *sizes, history=history, reward=dataset.reward)


def _part(
    config: TrainingConfig, dataset: Dataset, weight: float, unitraj: UniTrajEnvironment | None
) -> Part:
    try:
        # Limited first: a run on little data must not choose its best by a holdout set that is larger than its data.
        used = np.sort(
            limit_transitions(dataset, np.arange(dataset.num_episodes), config.transitions, config.seed)
        )
        chosen, held = split_episodes(len(used), config.holdout_fraction, config.seed)
    except UsageError as error:
        raise TrajWorldError(f"{dataset.name}: {error}") from None
    training = used[chosen]
    if config.kind == "pretrain":
        published = unitraj_range(unitraj.folder) if unitraj is not None else None
        support = pretraining_support(*(published or value_range(dataset, training)))
    else:
        support = training_support(*value_range(dataset, training))
    sampling: Sampling = "window" if unitraj is None else "episode"
    return Part(dataset, training, used[held], support, weight, sampling)


def _expanded(spec: str, kind: str) -> list[tuple[str, float, UniTrajEnvironment | None]]:
    """A dataset, or for pre-training all of a corpus or of a UniTraj root: (spec, share, its UniTraj folder)."""
    if spec.startswith(PREFIX):
        if kind != "pretrain":
            raise UsageError(f"{spec} is a whole corpus, for pretrain; train takes one of its datasets")
        members = training_members(spec.removeprefix(PREFIX))
        return [(member.dataset_id, member.weight, None) for member in members]
    path = user_path(spec)
    environment = unitraj_environment(path) if path.is_dir() else None
    known = environment is not None or not path.is_dir() or (path / "dataset.json").is_file()
    if known or kind != "pretrain":
        return [(spec, 1.0, environment)]
    return [(str(item.folder), item.weight, item) for item in unitraj_datasets(path)]
