"""The holdout loss of a run: of each dataset's held-out episodes, and their mean."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from trajworld.backend import active_backend
from trajworld.data.mixture import windows_in_order
from trajworld.models.trajworld import Variates
from trajworld.training.loss import window_loss_sums
from trajworld.training.record import distinct
from trajworld.training.run import Run


class HoldoutLoss:
    """Cross-entropy of held-out windows, without dropout; compiled once for each size of M."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._parts = [(number, part) for number, part in enumerate(run.parts) if len(part.holdout)]
        self._names = distinct([part.dataset.name for part in run.parts])
        model, targets = run.model, run.config.targets
        self._sums = active_backend().compile(
            lambda values, mask, variates: window_loss_sums(model, values, mask, variates, targets=targets),
            model,
        )

    def __bool__(self) -> bool:
        """Whether any episode is held out."""
        return bool(self._parts)

    def __call__(self) -> tuple[float, dict[str, float]]:
        """The mean over datasets, each weighted as in training, and each dataset's own, by name."""
        losses, weights = {}, []
        for number, part in self._parts:
            total = rows = 0.0
            for values, mask, variates in self._batches(number):
                batch_total, batch_rows = self._sums(values, mask, variates)
                total, rows = total + float(batch_total), rows + float(batch_rows)
            losses[self._names[number]] = total / rows
            weights.append(part.weight)
        return float(np.average(list(losses.values()), weights=weights)), losses

    def _batches(self, number: int) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32], Variates]]:
        """The holdout windows of a part, padded like its training batches so that few shapes are compiled."""
        config, part = self._run.config, self._run.parts[number]
        frame = self._run.mixture.frame(number)
        variates = Variates(frame.is_action, frame.lower, frame.upper, frame.variate_mask)
        size, limit = config.batch_size, config.holdout_windows
        batches = windows_in_order(part.dataset, part.holdout, size, config.model.window, limit, config.seed)
        for values, mask in batches:
            missing = (size - len(values), len(frame.variate_mask) - values.shape[2])
            # Windows added to fill the last batch have no real row, and so no part in the sums.
            values = np.pad(values, ((0, missing[0]), (0, 0), (0, missing[1])))
            yield values, np.pad(mask, ((0, missing[0]), (0, 0))), variates
