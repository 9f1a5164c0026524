"""Which range a model bins the variates of a dataset over: its own wherever it has one (DESIGN §6)."""

from dataclasses import dataclass

from trajworld.data.dataset import Dataset
from trajworld.data.statistics import value_range
from trajworld.errors import TrajWorldError
from trajworld.models.ranges import Support, pretraining_support
from trajworld.models.trajworld import TrajWorld


@dataclass(frozen=True, eq=False)
class Ranges:
    """A support and where it came from.

    Attributes:
        support: Arrays ``[M]``.
        origin: For people: ``the model's own``, or the dataset that an unseen environment's range comes from.
    """

    support: Support
    origin: str


def support_for(model: TrajWorld, dataset: Dataset, ranges_from: Dataset | None = None) -> Ranges:
    """The range over which ``model`` reads and predicts the variates of ``dataset``.

    The model's own where it has one: it was trained on this dataset's environment. A pre-trained model has
    none for an environment that it never saw; then it is the range of ``ranges_from``, or else of the dataset
    itself, which knows more than a model could: the origin says so.

    Args:
        model: The model.
        dataset: What it is to predict.
        ranges_from: Data of the same environment, used only where the model has no range of its own.

    Raises:
        TrajWorldError: The model or ``ranges_from`` is of data of another size.
    """
    _check_fits(model, dataset)
    own = model.identity.support_for(dataset.environment, dataset.num_variates)
    if own is not None:
        return Ranges(own, "the model's own")
    source = ranges_from or dataset
    if (source.observation_size, source.action_size) != (dataset.observation_size, dataset.action_size):
        raise TrajWorldError(
            f"the ranges of {source.name} ({_sizes(source)}) do not fit {dataset.name} ({_sizes(dataset)}): "
            "name a dataset of the same environment"
        )
    return Ranges(pretraining_support(*value_range(source)), f"of {source.name}")


def _check_fits(model: TrajWorld, dataset: Dataset) -> None:
    """Refuse what the model could not read, before anything is compiled."""
    identity, table = model.identity, model.sizes.variates
    if dataset.num_variates > table:
        raise TrajWorldError(
            f"{dataset.name} has {dataset.num_variates} variates, more than the {table} this model has "
            "embeddings for: use a model made with a larger table"
        )
    own = (identity.observation_size, identity.action_size)
    if (
        not identity.support.shared
        and None not in own
        and own != (dataset.observation_size, dataset.action_size)
    ):
        whose = identity.environment or "its environment"
        raise TrajWorldError(
            f"the model predicts {whose} ({own[0]} observation and {own[1]} action variates), but "
            f"{dataset.name} has {_sizes(dataset)}: use a model of that environment, or a pre-trained one"
        )


def _sizes(dataset: Dataset) -> str:
    return f"{dataset.observation_size} observation and {dataset.action_size} action variates"
