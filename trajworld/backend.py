"""What the core needs from the framework beyond what Keras offers; ``trajworld.backends`` implements it."""

import functools
import importlib
import importlib.util
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from trajworld.errors import TrajWorldError, UsageError
from trajworld.versions import pip_command

Tensor = Any

BACKENDS = {"jax": "jax", "tensorflow": "tensorflow-cpu", "torch": "torch"}
"""The backends, and the extra of this package that installs each."""

_T = TypeVar("_T")


@dataclass(frozen=True)
class Device:
    """The device that computes: a ``cpu``, ``gpu`` or ``tpu``, by its own name, and how many of them there are.

    A run trains on ``training`` of them by default.
    """

    kind: str
    name: str
    count: int
    training: int = 1


@dataclass(frozen=True)
class Layout:
    """How computations are spread: data parallel, the weights on every device, a share of each batch on each.

    ``devices`` are those of all ``processes`` together; this one is number ``process``.
    """

    devices: int = 1
    processes: int = 1
    process: int = 0

    @property
    def leads(self) -> bool:
        """Whether this process is the one that writes files: process 0."""
        return self.process == 0


class TrainingStep(Protocol):
    """One compiled optimisation step; holds the model's and optimiser's state between calls."""

    def __call__(self, learning_rate: float, *arrays: Any) -> Tensor:
        """Update the weights by the gradient of the loss of ``arrays``; returns the loss, perhaps not yet computed."""

    def write_back(self) -> None:
        """Write the state into the model's and the optimiser's variables, before anything else reads them."""


class Backend(Protocol):
    """A framework under Keras."""

    name: str

    def compile(self, function: Callable[..., Any], model: Any) -> Callable[..., Any]:
        """Compile ``function(*arrays)``, which reads ``model``'s weights as they are at each call and changes nothing.

        Compiles once for each set of shapes; takes NumPy arrays and returns the framework's tensors.
        """

    def product(self, x: Tensor, kernel: Tensor) -> Tensor:
        """``x @ kernel``, ``[N, k]`` by ``[k, m]`` of one dtype, by the fastest way to it and to its gradient."""

    def training_step(self, model: Any, optimizer: Any, loss: Callable[..., Tensor]) -> TrainingStep:
        """Compile a step of ``optimizer`` on ``loss(*arrays)``, a scalar that reads ``model``'s trainable weights."""

    def wait(self, value: Any) -> None:
        """Return when every tensor in ``value`` has been computed."""

    def device(self) -> Device:
        """Describe the device that computes."""

    def join(self, coordinator: str, processes: int | None = None, process: int | None = None) -> None:
        """Make this process one of several that compute together; before anything is computed.

        ``coordinator`` is ``HOST:PORT`` of process 0, or ``auto``, without numbers, for what the cluster (Slurm, a TPU
        pod, Open MPI) says. A ``UsageError`` where the framework cannot; a ``TrajWorldError`` where they do not meet.
        """

    def leave(self, problem: str | None = None) -> None:
        """Leave the processes that were joined, if any: when all others do, or because of a problem.

        The problem is sent to the others, which end too. The caller must then end this process by ``os._exit``.
        """

    def distribute(self, devices: int | None, batch_size: int, usual: int | None = None) -> Layout:
        """Spread what is made and compiled from now on over several devices; in several processes, over all of them.

        A training step then gives the loss and weights that one device would, within rounding. Compiled functions take
        NumPy arrays as before, the same in every process: those as long as the first, if the number of devices divides
        that length, are split among them.

        ``devices`` counts this process's; None takes ``usual`` if that many are available, else the most of
        ``device().training`` that divide ``batch_size``. A ``UsageError`` where there are fewer, or ``batch_size``
        cannot be divided among them.
        """

    def lead_first(self, action: Callable[[], _T]) -> _T:
        """Do something in process 0, then in the others; return when all have done it, raise what any raised."""

    def any_process(self, flag: bool) -> bool:
        """Whether ``flag`` is true in any process; each must ask at the same point of its computations."""

    def peak_memory(self) -> int | None:
        """Peak memory in bytes of the first accelerator, or on a CPU of the process; None if unknown."""

    def free_memory(self) -> None:
        """Drop compiled programs and release cached memory; functions in use compile again when called."""


def require_framework() -> None:
    """Refuse, before Keras is imported, a ``KERAS_BACKEND`` that is not known or not installed."""
    chosen = os.environ.get("KERAS_BACKEND", "jax")
    if chosen not in BACKENDS:
        raise UsageError(f"KERAS_BACKEND is {chosen!r}, not one of {', '.join(BACKENDS)}")
    if importlib.util.find_spec(chosen) is None:
        there = [name for name in BACKENDS if importlib.util.find_spec(name) is not None]
        other = f", or set KERAS_BACKEND to {' or '.join(there)}" if there else ""
        raise TrajWorldError(
            f"{chosen}, the backend that computes, is not installed: {pip_command(BACKENDS[chosen])}{other}"
        )


@functools.cache
def active_backend() -> Backend:
    """The implementation for the framework that Keras runs on in this process; see :func:`require_framework`."""
    require_framework()
    import keras

    return importlib.import_module(f"trajworld.backends.on_{keras.backend.backend()}").BACKEND
