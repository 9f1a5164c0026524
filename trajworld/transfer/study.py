"""A study of transfer: what is to be run, what has been, and which learning rate each side may use."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from trajworld.errors import TrajWorldError
from trajworld.transfer.data import EnvironmentData
from trajworld.transfer.plan import FINE_TUNED, SIDES, TransferPlan, Trial
from trajworld.transfer.records import PretrainedModel, read_trial, trial_key, trial_path, write_trial
from trajworld.transfer.trials import TrialResult
from trajworld.transfer.workers import Task, describe, run_tasks

RECORDS = "trials"


class Group(NamedTuple):
    """The trials of one side on one amount of data of one environment."""

    environment: str
    transitions: int
    side: str


@dataclass(frozen=True)
class Progress:
    """What is told of a trial that has finished.

    Attributes:
        trial: Which.
        result: What it gave.
        done: Trials that are finished, with those that were there before.
        total: Of so many.
        seconds_left: As far as can be told.
    """

    trial: Trial
    result: TrialResult
    done: int
    total: int
    seconds_left: float


class Study:
    """The trials of a plan: each is looked up among the records in a folder, and run where it is not there."""

    def __init__(
        self,
        plan: TransferPlan,
        data: Sequence[EnvironmentData],
        folder: Path,
        model: PretrainedModel | None,
        sides: Sequence[str] = SIDES,
    ) -> None:
        """Read the records that are there.

        Args:
            plan: What to do.
            data: Of each of its environments.
            folder: The study's; the records are in a folder of it.
            model: None where no side is fine-tuned.
            sides: Those that this study is to run.

        Raises:
            TrajWorldError: A record is damaged.
        """
        self.plan, self.folder, self.model, self.sides = plan, folder, model, tuple(sides)
        self.data = {one.environment: one for one in data}
        self._found: dict[Trial, TrialResult] = {}
        known = [side for side in SIDES if side != FINE_TUNED or model is not None]
        self.groups = [
            Group(environment, size, side)
            for size in plan.sizes
            for environment in plan.environments
            for side in known
        ]
        for group in self.groups:
            self._look_up(group)

    def results(self, group: Group) -> dict[Trial, TrialResult]:
        """The finished trials of a group."""
        return {trial: found for trial, found in self._found.items() if _group(trial) == group}

    def chosen_rate(self, group: Group) -> float | None:
        """The learning rate that a group's other seeds have too.

        The one with the lowest last holdout loss of the first seed, of those with which no seed that has run diverged.
        None until the first seed has run with all of them, and where every rate diverged.
        """
        if any(trial not in self._found for trial in self._first(group)):
            return None
        losses = {
            trial.learning_rate: self._found[trial].holdout_loss
            for trial in self._first(group)
            if trial.learning_rate not in self.diverged_rates(group)
        }
        return min(losses, key=lambda rate: losses[rate] or 0.0, default=None)

    def diverged_rates(self, group: Group) -> tuple[float, ...]:
        """The learning rates with which training diverged, with whatever seed, ascending."""
        every = (
            trial.learning_rate for trial, found in self.results(group).items() if found.diverged is not None
        )
        return tuple(sorted(set(every)))

    def all_diverged(self, group: Group) -> bool:
        """Whether no learning rate is left, so that nothing more is to be run."""
        return len(self.diverged_rates(group)) == len(self.plan.learning_rates)

    def counts(self) -> tuple[int, int]:
        """How many trials of this study's sides are finished, and of how many."""
        mine = [group for group in self.groups if group.side in self.sides]
        total = self.plan.trials * len(mine)
        return total - sum(self._missing(group) for group in mine), total

    def run(
        self,
        workers: int,
        tell: Callable[[Progress], None] = lambda progress: None,
        complain: Callable[[str], None] = lambda line: None,
    ) -> None:
        """Run what is missing; each finished trial is kept at once. A trial that fails does not stop the others.

        Args:
            workers: Processes.
            tell: Told of each trial that has finished.
            complain: Told at once of each trial that failed.

        Raises:
            TrajWorldError: A trial failed, a worker died, or a record cannot be written.
            KeyboardInterrupt: Ctrl-C: the trials that ran are lost.
        """
        begun: set[Trial] = set()
        seconds: dict[str, list[float]] = {}
        failures: list[str] = []

        def next_task() -> Task | None:
            ready = (trial for trial in self._ready() if trial not in begun)
            trial = next(ready, None)
            if trial is None:
                return None
            begun.add(trial)
            data = self.data[trial.environment]
            init = self.model.path if self.model is not None and trial.side == FINE_TUNED else None
            return Task(trial, self.plan.settings, data.pool.source, data.test.source, init)

        def finish(task: Task, result: TrialResult) -> None:
            key = self._key(task.trial)
            write_trial(trial_path(self.folder / RECORDS, key), key, result)
            self._found[task.trial] = result
            # Which rate the others have, and so which records are theirs, may be known only now.
            self._look_up(_group(task.trial))
            seconds.setdefault(task.trial.environment, []).append(result.seconds)
            tell(Progress(task.trial, result, *self.counts(), self._seconds_left(seconds) / workers))

        def fail(task: Task, error: TrajWorldError) -> None:
            failures.append(f"{describe(task.trial)}: {error}")
            complain(failures[-1])

        run_tasks(next_task, finish, fail, workers)
        if failures:
            others = f" (and {len(failures) - 1} more)" if len(failures) > 1 else ""
            raise TrajWorldError(f"a trial failed{others}; what was finished is kept: {failures[0]}")

    def _ready(self) -> list[Trial]:
        """Missing trials that can be begun: the first seed of every group before the others of any."""
        mine = [group for group in self.groups if group.side in self.sides]
        first = [trial for group in mine for trial in self._first(group)]
        others = [trial for group in mine for trial in self._others(group)]
        return [trial for trial in [*first, *others] if trial not in self._found]

    def _first(self, group: Group) -> list[Trial]:
        return [
            Trial(group.side, group.environment, group.transitions, rate, 0)
            for rate in self.plan.learning_rates
        ]

    def _others(self, group: Group) -> list[Trial]:
        rate = self.chosen_rate(group)
        if rate is None:
            return []
        return [
            Trial(group.side, group.environment, group.transitions, rate, seed)
            for seed in range(1, self.plan.seeds)
        ]

    def _missing(self, group: Group) -> int:
        if self.all_diverged(group):
            return 0
        return self.plan.trials - sum(trial in self._found for trial in self._of_group(group))

    def _seconds_left(self, seconds: Mapping[str, Sequence[float]]) -> float:
        """Of one worker: as long a trial as those of the same environment took, or of any."""
        every = [one for of in seconds.values() for one in of]
        left = 0.0
        for group in self.groups:
            if group.side in self.sides:
                known = seconds.get(group.environment) or every
                left += self._missing(group) * sum(known) / len(known)
        return left

    def _key(self, trial: Trial) -> dict[str, Any]:
        model = self.model.digest if self.model is not None else ""
        return trial_key(trial, self.plan.settings, self.data[trial.environment].digest, model)

    def _look_up(self, group: Group) -> None:
        """Read the records of a group's trials that are there."""
        # Again after each that is found: which trials a group has depends on what the first of them gave.
        looked: set[Trial] = set()
        while left := [trial for trial in self._of_group(group) if trial not in looked]:
            trial = left[0]
            looked.add(trial)
            key = self._key(trial)
            found = None if trial in self._found else read_trial(trial_path(self.folder / RECORDS, key), key)
            if found is not None:
                self._found[trial] = found

    def _of_group(self, group: Group) -> list[Trial]:
        """The trials of a group, as far as they are known."""
        return list(dict.fromkeys([*self._first(group), *self._others(group)]))


def _group(trial: Trial) -> Group:
    return Group(trial.environment, trial.transitions, trial.side)
