"""The training loop: the same for pre-training, fine-tuning and training from scratch."""

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from types import FrameType
from typing import Any

import numpy as np
from keras import ops
from numpy.typing import NDArray

from trajworld.backend import Layout, active_backend
from trajworld.data.batch import Batch
from trajworld.errors import TrajWorldError
from trajworld.files import one_writer
from trajworld.models.interface import WorldModel
from trajworld.training.checkpoint import TrainingState, newest_checkpoint, save_checkpoint, save_whole_model
from trajworld.training.config import TrainingConfig
from trajworld.training.optimizer import exchange_averages, learning_rate
from trajworld.training.parts import holdout_batches
from trajworld.training.record import MetricsLog, distinct
from trajworld.training.run import Run

_DROPOUT_STREAM = 1
# Agreeing to stop waits for the device, as a step alone need not.
_STEPS_BETWEEN_AGREEMENTS = 10


class DivergedError(TrajWorldError):
    """A loss is no longer finite; ``step`` says where that was found."""

    # The default is for pickle, which makes an exception of its message alone.
    def __init__(self, message: str, step: int = 0) -> None:
        super().__init__(message)
        self.step = step


@dataclass(frozen=True)
class Report:
    """What an observer is given after every step: ``step`` of ``steps``.

    Where this step ended a row of the log, the mean training ``loss`` and the ``rate``, steps per second, since the row
    before; where it ended in an evaluation, ``holdout_loss``, and whether it is the ``best`` so far.
    """

    step: int
    steps: int
    loss: float | None = None
    holdout_loss: float | None = None
    rate: float | None = None
    best: bool = False


@dataclass(frozen=True)
class Outcome:
    """Where a run stands, and whether it has ended: not so after Ctrl-C or SIGTERM, when it can be resumed."""

    state: TrainingState
    finished: bool


def train(
    run: Run, observe: Callable[[Report], None] = lambda report: None, *, at: Collection[int] = ()
) -> Outcome:
    """Train until ``config.steps``, or until Ctrl-C, from where the run stands.

    Batches and dropout depend only on (seed, step), so a resumed run does what an uninterrupted one would have done; on
    JAX on the CPU, bit for bit. Leaves ``last.keras`` and, with a holdout set, ``best.keras``.

    ``observe`` is called after every step. The steps ``at`` end in an evaluation and a checkpoint, beside every
    ``evaluate_every``; after any evaluation ``run.model`` holds the weights of that step, or their averages. A
    ``DivergedError`` is raised where the loss is no longer finite.
    """
    config, model, state = run.config, run.model, run.state
    last = state.step if _ran_out(config, state) else config.steps
    if 0 < state.step < last:
        # What was evaluated or loaded has the averages of the weights, where there are any.
        exchange_averages(model, run.optimizer)
    leads = run.layout.leads  # Every process of several computes all of this; one writes it.
    step_function = active_backend().training_step(
        model, run.optimizer, lambda batch, seed: mean_loss(model, batch, seed, config.targets)
    )
    # A model of several members is evaluated member by member, and chooses among them.
    measure = getattr(model, "member_errors", lambda batch: model.loss_sums(batch, targets=config.targets))
    sums = active_backend().compile(lambda batch: measure(batch), model)
    held = any(len(part.holdout) for part in run.parts)
    with contextlib.ExitStack() as stack:
        log = None
        if leads:
            stack.enter_context(one_writer(run.path, "the run"))
            log = stack.enter_context(MetricsLog(run.path, state.step))
        interrupted = stack.enter_context(_deferred_interrupt())
        losses: list[Any] = list(state.unlogged)
        counted, before = 0, state.seconds
        began = logged = time.perf_counter()
        for batch in run.mixture.iterate(state.step, last):
            rate = learning_rate(config, state.step)
            losses.append(step_function(rate, batch, step_seed(config.seed, state.step)))
            counted, step = counted + 1, state.step + 1
            asked = step in at or step == config.steps
            evaluating = held and (step % config.evaluate_every == 0 or asked)
            due = step % config.checkpoint_every == 0 or asked or evaluating
            stopping = stop_agreed(run.layout, step, due, interrupted)
            saving = due or stopping
            row, best = dict[str, Any](), False
            # Which steps end a row is a function of the step, not of when Ctrl-C came.
            logging = step % config.log_every == 0 or due
            if logging or stopping:
                # Reading the losses waits for the device; every step would cost what a queue of steps saves.
                losses = [float(value) for value in losses]
                _check_finite(float(np.mean(losses)), "loss", step, run)
            if logging:
                now = time.perf_counter()
                row |= {"loss": float(np.mean(losses)), "learning_rate": rate}
                row["steps_per_second"] = counted / (now - logged)
                losses, counted, logged = [], 0, now
            seconds = before + time.perf_counter() - began
            state = replace(state, step=step, seconds=seconds, unlogged=tuple(losses) if saving else ())
            if saving:
                step_function.write_back()
                exchange_averages(model, run.optimizer)
                model.identity = model.identity.at_step(step)
            if evaluating:
                errors, by_dataset = holdout_loss(run, sums)
                _check_finite(float(np.sum(errors)), "holdout loss", step, run)
                loss = model.choose_elites(errors) if errors.ndim else float(errors)
                if step % config.evaluate_every == 0:
                    state = _patience(state, np.atleast_1d(errors), getattr(model, "elite", 1.0))
                best = state.best_loss is None or loss < state.best_loss
                if best:
                    state = replace(state, best_step=step, best_loss=loss)
                    if leads:
                        save_whole_model(model, run.path / "best.keras")
                row |= {"holdout_loss": loss, "holdout": by_dataset}
            if log is not None and row:
                log.write({"step": step, **row, "seconds": state.seconds})
            if saving:
                if leads:
                    save_checkpoint(run.path, model, run.optimizer, state)
                logged = time.perf_counter()
            found = {"holdout_loss": row.get("holdout_loss"), "rate": row.get("steps_per_second")}
            observe(Report(step, config.steps, row.get("loss"), **found, best=best))
            if stopping or step == last or _ran_out(config, state):
                break
            if saving:
                exchange_averages(model, run.optimizer)
        run.state, finished = state, state.step == config.steps or _ran_out(config, state)
        if finished and leads:
            save_whole_model(model, run.path / "last.keras")
    return Outcome(state, finished)


def _check_finite(loss: float, name: str, step: int, run: Run) -> None:
    if not np.isfinite(loss):
        checkpoint = newest_checkpoint(run.path)
        kept = f"; {checkpoint} is the last checkpoint" if checkpoint else ""
        raise DivergedError(
            f"the {name} is not finite at step {step}: start again with a lower learning rate{kept}", step
        )


def mean_loss(model: WorldModel, batch: Batch, seed: Any = None, targets: str = "onehot") -> Any:
    """The training loss of a batch, a scalar."""
    total, count = model.loss_sums(batch, seed, targets)
    return total / count


def holdout_loss(run: Run, sums: Callable[[Batch], Any]) -> tuple[NDArray[np.float64], dict[str, float]]:
    """The loss of held-out windows, without dropout: the mean over datasets, weighted as in training, and of each.

    A model of several members has a loss of each ``[E]``, and its members' mean for each dataset.
    """
    losses, weights = {}, []
    names = distinct([part.dataset.name for part in run.parts])
    for number, (name, part) in enumerate(zip(names, run.parts, strict=True)):
        if len(part.holdout):
            total: Any = 0.0
            count = 0.0
            for batch in holdout_batches(run.config, run.parts, run.mixture, number):
                found = sums(batch)
                total = total + np.asarray(ops.convert_to_numpy(found[0]), np.float64)
                count += float(found[1])
            losses[name] = total / count
            weights.append(part.weight)
    mean = np.average(list(losses.values()), weights=weights, axis=0)
    return np.asarray(mean), {name: float(np.mean(loss)) for name, loss in losses.items()}


def _patience(state: TrainingState, errors: NDArray[np.float64], elite: Any) -> TrainingState:
    """The state after an evaluation: whether any elite's error is 1 % lower than when it last fell."""
    least = np.array(state.least or [np.inf] * len(errors))
    # Losses may be negative.
    fell = ~np.isfinite(least) | (least - errors > 0.01 * np.abs(least))
    kept = tuple(np.where(fell, errors, least).tolist())
    better = bool((fell & (np.asarray(ops.convert_to_numpy(elite)) > 0)).any())
    return replace(state, least=kept, stale=0 if better else state.stale + 1)


def _ran_out(config: TrainingConfig, state: TrainingState) -> bool:
    return 0 < config.patience <= state.stale


def step_seed(seed: int, step: int) -> NDArray[np.int32]:
    """Dropout's seed of a step: a scalar int32, a function of the run's seed and the step."""
    return np.random.SeedSequence([seed, step, _DROPOUT_STREAM]).generate_state(1).view(np.int32).reshape(())


@contextlib.contextmanager
def _deferred_interrupt() -> Iterator[Callable[[], bool]]:
    """Yield a function that says whether Ctrl-C or SIGTERM came; a second Ctrl-C acts at once, as usual."""
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    came: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if came and number == signal.SIGINT:
            raise KeyboardInterrupt
        came.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(came)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def stop_agreed(layout: Layout, step: int, due: bool, interrupted: Callable[[], bool]) -> bool:
    """Whether all processes are to stop after ``step``; ``due`` where the run waits for the device anyway."""
    if layout.processes == 1:
        return interrupted()
    return (due or step % _STEPS_BETWEEN_AGREEMENTS == 0) and active_backend().any_process(interrupted())
