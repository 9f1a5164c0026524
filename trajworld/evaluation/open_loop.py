"""How far a model sees ahead: errors of open-loop rollouts along the real actions, by the number of steps."""

from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from trajworld.data.batch import variates_of
from trajworld.data.dataset import Dataset
from trajworld.data.windows import gather_windows
from trajworld.errors import TrajWorldError, UsageError
from trajworld.evaluation.one_step import Progress, scaled_errors
from trajworld.models.interface import WorldModel
from trajworld.models.ranges import Support

HORIZON = 100
STARTS = 64
BATCH_SIZE = 32
_LEAST_SHARE = 0.1


class Foreseen(NamedTuple):
    """N open-loop rollouts beside what really happened; P = ``Dataset.num_predicted``.

    Attributes:
        mean: ``[N, h, P]``: the predictions, each fed back as the next step's past.
        std: ``[N, h, P]``: standard deviation of each predicted distribution.
        real: ``[N, h, P]``: the dataset's own rows.
        present: ``[N, h]`` bool: false beyond an episode's end, where the others mean nothing.
    """

    mean: NDArray[np.float32]
    std: NDArray[np.float32]
    real: NDArray[np.float32]
    present: NDArray[np.bool_]


@dataclass(frozen=True)
class OpenLoopErrors:
    """Errors of rollouts along real actions, at each step of them.

    Every error is absolute, divided by the variate's standard deviation over the dataset, and averaged over
    the predicted variates that vary (over all, undivided, where none does).

    Attributes:
        dataset: Its name.
        environment: Its environment.
        ranges: Which ranges the model binned over.
        horizon: h; less than was asked for where the episodes are too short.
        starts: How many rollouts; each has all of its h steps inside one episode.
        mae: ``[h]``: mean over the rollouts.
        lower_quartile: ``[h]``: the first quartile of the errors.
        upper_quartile: ``[h]``: their third quartile.
        held_row: ``[h]``: mean error of predicting that the starting row stays as it is.
    """

    dataset: str
    environment: str
    ranges: str
    horizon: int
    starts: int
    mae: tuple[float, ...]
    lower_quartile: tuple[float, ...]
    upper_quartile: tuple[float, ...]
    held_row: tuple[float, ...]

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


class Foresight:
    """Open-loop rollouts of one model along the real actions of one dataset, compiled for one batch shape."""

    def __init__(
        self,
        model: WorldModel,
        dataset: Dataset,
        support: Support,
        horizon: int = HORIZON,
        batch_size: int = BATCH_SIZE,
    ) -> None:
        """Set up rollouts of :func:`fitting_horizon` steps, ``batch_size`` at once; compiled at the first call.

        Raises:
            UsageError: A number is less than 1.
            TrajWorldError: The support does not fit the dataset.
        """
        from trajworld.models.rollout import compile_rollout

        if batch_size < 1:
            raise UsageError(f"the batch size must be at least 1, not {batch_size}")
        self.dataset, self.batch_size = dataset, batch_size
        self.horizon = fitting_horizon(dataset, horizon)
        self._variates = variates_of(dataset, support.lower, support.upper)
        self.context = model.context
        self._run = compile_rollout(model, dataset.observation_size)

    def __call__(self, starts: ArrayLike, progress: Progress | None = None) -> Foreseen:
        """Roll out from the rows ``starts [N]``, with the rows before them in their episodes as history.

        Raises:
            UsageError: A start is no row of the dataset.
            TrajWorldError: The predictions are not finite.
        """
        starts = np.asarray(starts, np.int64)
        if starts.ndim != 1 or not len(starts) or starts.min() < 0 or starts.max() >= len(self.dataset.rows):
            raise UsageError(f"{self.dataset.name} has rows 0 to {len(self.dataset.rows) - 1} to start from")
        parts = []
        for begin in range(0, len(starts), self.batch_size):
            chosen = starts[begin : begin + self.batch_size]
            filled = np.concatenate([chosen, np.full(self.batch_size - len(chosen), chosen[0])])
            parts.append([array[: len(chosen)] for array in self._batch(filled)])
            if progress is not None:
                done, total = (number * self.horizon for number in (begin + len(chosen), len(starts)))
                progress(done, total, f"{self.dataset.name}, open loop")
        found = Foreseen(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))
        if not np.isfinite([found.mean, found.std]).all():
            raise TrajWorldError(
                f"the model predicts NaN or infinite values on {self.dataset.name}: its weights are damaged"
            )
        return found

    def _batch(self, starts: NDArray[np.int64]) -> Foreseen:
        from trajworld.models.rollout import GivenActions

        dataset, predicted = self.dataset, self.dataset.num_predicted
        episode = np.searchsorted(dataset.episode_offsets, starts, side="right") - 1
        history, mask = gather_windows(dataset, starts, dataset.episode_offsets[episode], self.context)
        places = starts[:, None] + np.arange(self.horizon + 1)
        present = places < dataset.episode_offsets[episode + 1][:, None]
        rows = np.asarray(dataset.rows)[np.minimum(places, len(dataset.rows) - 1)]
        answer = self._run(history, mask, self._variates, GivenActions(rows[:, :-1, dataset.is_action > 0]))
        return Foreseen(
            mean=np.concatenate([answer.observations, answer.rewards[..., None]], axis=-1)[..., :predicted],
            std=np.concatenate([answer.observation_std, answer.reward_std[..., None]], axis=-1)[
                ..., :predicted
            ],
            real=rows[:, 1:, :predicted],
            present=present[:, 1:],
        )


def open_loop_errors(
    foresight: Foresight,
    *,
    ranges: str = "given",
    starts: int = STARTS,
    seed: int = 0,
    progress: Progress | None = None,
) -> OpenLoopErrors:
    """How the error of open-loop rollouts grows with the number of steps.

    At most ``starts`` rollouts start at random rows, drawn by ``seed`` without replacement from those with the whole
    horizon before them in their episode, so that every step's mean is over the same rollouts. ``ranges`` says where the
    model's ranges come from; ``progress`` is called after each batch.

    Raises:
        UsageError: A number is less than 1.
        TrajWorldError: The predictions are not finite.
    """
    if starts < 1:
        raise UsageError(f"at least 1 rollout is needed, not {starts}")
    dataset, steps = foresight.dataset, foresight.horizon
    candidates = _starting_rows(dataset, steps)
    count = min(starts, len(candidates))
    drawn = np.sort(np.random.default_rng(seed).choice(candidates, count, replace=False))
    found = foresight(drawn, progress)
    first = dataset.rows[drawn][:, None, : found.real.shape[-1]]
    error, held = (scaled_errors(dataset, values - found.real) for values in (found.mean, first))
    curves = (error.mean(axis=0), *np.quantile(error, [0.25, 0.75], axis=0), held.mean(axis=0))
    about = (dataset.name, dataset.environment, ranges, steps, count)
    return OpenLoopErrors(*about, *(tuple(curve.tolist()) for curve in curves))


def fitting_horizon(dataset: Dataset, horizon: int) -> int:
    """The longest horizon up to ``horizon`` that at least a tenth of the dataset's transitions start.

    Raises:
        UsageError: ``horizon`` is less than 1.
    """
    if horizon < 1:
        raise UsageError(f"the horizon must be at least 1 step, not {horizon}")
    lengths = dataset.transitions_per_episode
    low, high = 1, min(horizon, int(lengths.max()))
    # The number of starts falls with the horizon: bisect.
    while low < high:
        middle = (low + high + 1) // 2
        enough = np.maximum(lengths - middle + 1, 0).sum() >= _LEAST_SHARE * lengths.sum()
        low, high = (middle, high) if enough else (low, middle - 1)
    return low


def _starting_rows(dataset: Dataset, horizon: int) -> NDArray[np.int64]:
    """Every row that has ``horizon`` rows after it in its episode."""
    counts = np.maximum(dataset.transitions_per_episode - horizon + 1, 0)
    before = np.cumsum(counts) - counts
    return np.arange(counts.sum()) + np.repeat(dataset.episode_offsets[:-1] - before, counts)
