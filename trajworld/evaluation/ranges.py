"""The range over which a model reads the variates of a dataset."""

import os
from collections.abc import Iterable
from typing import Any, NamedTuple

from trajworld.data.dataset import Dataset
from trajworld.data.resolve import open_dataset
from trajworld.data.statistics import value_range
from trajworld.errors import TrajWorldError
from trajworld.models.identity import Identity
from trajworld.models.interface import WorldModel
from trajworld.models.ranges import Support, pretraining_support


class Ranges(NamedTuple):
    """A support, arrays ``[M]``, and where it came from, for people."""

    support: Support
    origin: str


def named_ranges(
    ranges: Dataset | str | os.PathLike[str] | None, models: Iterable[WorldModel], **options: Any
) -> Dataset | str | None:
    """The user's choice of a range, as :func:`support_for` takes it: the name of one of the models' own datasets, or
    data, which :func:`trajworld.data.resolve.open_dataset` opens with the ``options``.
    """
    own = {source.dataset for model in models for source in model.identity.sources}
    if ranges is None or isinstance(ranges, Dataset) or (isinstance(ranges, str) and ranges in own):
        return ranges
    return open_dataset(ranges, **options)


def support_for(model: WorldModel, dataset: Dataset, ranges_from: Dataset | str | None = None) -> Ranges:
    """The range over which ``model`` reads and predicts the variates of ``dataset``.

    The model's own where it was trained on this dataset, or on one of its environment. A pre-trained model has none for
    an environment that it never saw; then it is the range of ``ranges_from``, or else of the dataset itself, which
    knows more than a model could: the origin says so.

    ``ranges_from`` are data of the same environment, or the name of one of the model's own datasets. It counts only
    where the model has no range of its own, or several: see :meth:`trajworld.models.identity.Identity.source_for`.

    Raises:
        TrajWorldError: The model or ``ranges_from`` is for data of another size, or a pre-trained model has several
            datasets of this environment and ``ranges_from`` names none.
    """

    def sizes(data: Dataset | Identity) -> str:
        return f"{data.observation_size} observation and {data.action_size} action variates"

    identity, table = model.identity, model.sizes.variates
    if dataset.num_variates > table:
        raise TrajWorldError(
            f"{dataset.name} has {dataset.num_variates} variates, more than the {table} this model has "
            "embeddings for: use a model made with a larger table"
        )
    if places := getattr(model, "places", None):
        places(dataset.observation_size, dataset.action_size)
    if dataset.reward and not identity.reward:
        raise TrajWorldError(
            f"the model was trained without rewards, which {dataset.name} has: give it data without a reward"
        )
    if not identity.support.shared:
        size, known = identity.support.lower.size, identity.observation_size is not None
        if size != dataset.num_variates or (known and sizes(identity) != sizes(dataset)):
            raise TrajWorldError(
                f"the model predicts {identity.environment or 'its environment'} "
                f"({sizes(identity) if known else f'{size} variates'}), but {dataset.name} has {sizes(dataset)}: "
                "use a model of that environment, or a pre-trained one"
            )
        return Ranges(identity.support, "the model's own")
    if own := identity.source_for(dataset, ranges_from):
        return Ranges(own.support, own.origin)
    source = ranges_from if isinstance(ranges_from, Dataset) else dataset
    if sizes(source) != sizes(dataset):
        raise TrajWorldError(
            f"the ranges of {source.name} ({sizes(source)}) do not fit {dataset.name} ({sizes(dataset)}): "
            "name a dataset of the same environment"
        )
    return Ranges(pretraining_support(*value_range(source)), f"of {source.name}")
