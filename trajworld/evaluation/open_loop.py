"""How far a model sees ahead: errors of open-loop rollouts along the real actions, by the number of steps."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from trajworld.data.batch import variates_of
from trajworld.data.dataset import Dataset
from trajworld.data.windows import gather_windows
from trajworld.errors import TrajWorldError
from trajworld.evaluation.one_step import drawn, scaled_errors
from trajworld.models.interface import WorldModel
from trajworld.models.ranges import Support
from trajworld.processes import Progress

HORIZON = 100
STARTS = 64
BATCH_SIZE = 32
_LEAST_SHARE = 0.1


class Foreseen(NamedTuple):
    """N open-loop rollouts beside what really happened, each ``[N, h, P]``; P = ``Dataset.num_predicted``.

    ``mean`` and ``std`` are of the predicted distributions, whose mean is fed back as input; ``real`` are the dataset's
    own rows; ``present [N, h]`` is false beyond an episode's end, where the others mean nothing.
    """

    mean: NDArray[np.float32]
    std: NDArray[np.float32]
    real: NDArray[np.float32]
    present: NDArray[np.bool_]


@dataclass(frozen=True)
class OpenLoopErrors:
    """Errors of rollouts along real actions, at each of their ``horizon`` h steps, all inside one episode.

    Every error is absolute, divided by the variate's standard deviation over the dataset, and averaged over the
    predicted variates that vary (over all, undivided, where none does). ``mae [h]`` and the quartiles are over the
    ``starts`` rollouts; ``held_row [h]`` is the mean error of predicting that the starting row stays as it is;
    ``ranges`` says which ranges the model binned over.
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

        A ``TrajWorldError`` is raised where the support does not fit the dataset.
        """
        from trajworld.models.rollout import compile_rollout

        self.dataset, self.batch_size = dataset, batch_size
        self.horizon = fitting_horizon(dataset, horizon)
        self._variates = variates_of(dataset, support.lower, support.upper)
        self.context = model.context
        self._run = compile_rollout(model, dataset.observation_size)

    def __call__(self, starts: NDArray[np.int64], progress: Progress | None = None) -> Foreseen:
        """Roll out from the rows ``starts [N]``, with the rows before them in their episodes as history.

        A ``TrajWorldError`` is raised where the predictions are not finite.
        """
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

    At most ``starts`` rollouts start at random rows, drawn by ``seed`` from those with the whole horizon before them in
    their episode, so that every step's mean is over the same rollouts. ``ranges`` says where the model's ranges come
    from; ``progress`` is called after each batch. A ``TrajWorldError`` is raised where the predictions are not finite.
    """
    dataset, steps = foresight.dataset, foresight.horizon
    chosen = drawn(_starting_rows(dataset, steps), starts, seed)
    found = foresight(chosen, progress)
    first = dataset.rows[chosen][:, None, : found.real.shape[-1]]
    error, held = (scaled_errors(dataset, values - found.real) for values in (found.mean, first))
    curves = (error.mean(axis=0), *np.quantile(error, [0.25, 0.75], axis=0), held.mean(axis=0))
    about = (dataset.name, dataset.environment, ranges, steps, len(chosen))
    return OpenLoopErrors(*about, *(tuple(curve.tolist()) for curve in curves))


def fitting_horizon(dataset: Dataset, horizon: int) -> int:
    """The longest horizon up to ``horizon`` that at least a tenth of the dataset's transitions can start."""
    # For each number of steps from 0 on: the episodes of at least that length, then the transitions that can start it.
    episodes = np.bincount(dataset.transitions_per_episode)[::-1].cumsum()
    starts = episodes.cumsum()[::-1]
    return int(np.flatnonzero(starts[1 : horizon + 1] >= _LEAST_SHARE * starts[1])[-1]) + 1


def _starting_rows(dataset: Dataset, horizon: int) -> NDArray[np.int64]:
    """Every row that has ``horizon`` rows after it in its episode."""
    counts = np.maximum(dataset.transitions_per_episode - horizon + 1, 0)
    before = np.cumsum(counts) - counts
    return np.arange(counts.sum()) + np.repeat(dataset.episode_offsets[:-1] - before, counts)
