"""A model's input: windows of rows and the properties of their variates, as NumPy arrays or tensors."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from trajworld.data.dataset import Dataset
from trajworld.errors import TrajWorldError

Array = Any


class Variates(NamedTuple):
    """Properties of the M variates of a batch.

    Attributes:
        is_action: ``[M]`` int32, 1 for an action; 0 where padded.
        lower: ``[M]`` float32, lower ends of the support; 0 where padded.
        upper: ``[M]`` float32, upper ends of the support; 1 where padded.
        mask: ``[M]`` float32, 0 for variates added to make a batch rectangular, and for a reward that is not recorded;
            None where all are real.
    """

    is_action: Array
    lower: Array
    upper: Array
    mask: Array | None = None


class Batch(NamedTuple):
    """Windows of one dataset.

    Attributes:
        values: ``[B, T, M]`` float32: rows ``[observation, reward, action, padding]``, unscaled; 0 where padded.
        time_mask: ``[B, T]`` float32: 1 for real rows, 0 for left padding.
        variates: Properties of the M variates.
        dataset: The number of the windows' source in its mixture.
    """

    values: Array
    time_mask: Array
    variates: Variates
    dataset: int = 0


def variates_of(
    dataset: Dataset, lower: NDArray[np.float32], upper: NDArray[np.float32], size: int | None = None
) -> Variates:
    """The variates of a dataset over their support, ends ``[M]``, padded to ``size``.

    If ``size`` is None and all are recorded, they have no mask.
    """
    real = dataset.num_variates
    if not np.shape(lower) == np.shape(upper) == (real,):
        raise TrajWorldError(
            f"a support of {np.size(lower)} ranges does not fit the {real} variates of {dataset.name}"
        )
    if size is None:
        return Variates(dataset.is_action, lower, upper, None if dataset.reward else dataset.mask)
    ends = [np.asarray(end, np.float32) for end in (lower, upper)]
    parts = zip((dataset.is_action, *ends, dataset.mask), (0, 0, 1, 0), strict=True)
    padded = [np.pad(array, (0, size - real), constant_values=value) for array, value in parts]
    for array in padded:
        array.setflags(write=False)  # Every batch holds these very arrays.
    return Variates(*padded)
