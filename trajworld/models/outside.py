"""The share of a dataset outside the range that a model was trained on."""

from typing import Any

import numpy as np

from trajworld.data.dataset import Dataset
from trajworld.data.summary import variate_names
from trajworld.models.identity import Identity

_ROWS_AT_ONCE = 65536


def share_outside(identity: Identity, dataset: Dataset, ranges: str | None = None) -> dict[str, Any]:
    """Compare a dataset with the range of the environment that a model knows it by, as plain JSON values.

    ``range`` names the data of that range, and is empty where the model was trained on no such environment; ``rows`` is
    the share of rows with a value outside it, 1 where there is none; ``variates`` are the shares by variate. Of several
    datasets of this environment that the model was pre-trained on, ``ranges`` names the one.

    Raises:
        TrajWorldError: The model was pre-trained on several datasets of this environment and ``ranges`` names none of
            these, or on other sizes of it.
    """
    support, name = identity.support, identity.environment or "its training data"
    if support.shared and (source := identity.source_for(dataset, ranges)) is not None:
        support, name = source.support, source.dataset
    if support.lower.size != dataset.num_variates or support.shared:
        return {"range": "", "rows": 1.0, "variates": {}}
    size, ends = dataset.observation_size, dataset.episode_offsets
    counts, rows, total = np.zeros(dataset.num_variates), 0, len(dataset.rows)
    for begin in range(0, total, _ROWS_AT_ONCE):
        values = np.asarray(dataset.rows[begin : begin + _ROWS_AT_ONCE])
        out = ((values < support.lower) | (values > support.upper)) & (dataset.mask > 0)
        # Placeholders of an episode's missing first reward and last action do not count.
        here = np.arange(begin, begin + len(values))
        out[np.isin(here, ends), size] = False
        out[np.isin(here, ends - 1), size + 1 :] = False
        counts += out.sum(axis=0)
        rows += int(out.any(axis=1).sum())
    shares = zip(variate_names(dataset), (counts / total).tolist(), strict=True)
    return {"range": name, "rows": rows / total, "variates": dict(shares)}
