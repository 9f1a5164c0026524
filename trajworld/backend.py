"""What the core asks of the framework under Keras, where Keras leaves it open; ``trajworld.backends`` answers it.

The active backend is found once, by Keras's own answer, so that no other module ever asks which framework runs.
"""

import functools
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

Tensor = Any


@dataclass(frozen=True)
class Device:
    """The device that computes.

    Attributes:
        kind: ``cpu``, ``gpu`` or ``tpu``.
        name: What the framework or the machine calls it.
        count: How many of them there are.
    """

    kind: str
    name: str
    count: int


class TrainingStep(Protocol):
    """One compiled optimisation step; holds the model's and optimiser's state between calls."""

    def __call__(self, learning_rate: float, *arrays: Any) -> Tensor:
        """Update the weights by the gradient of the loss of ``arrays``; returns the loss, perhaps not computed yet."""
        ...

    def write_back(self) -> None:
        """Write the state into the model's and the optimiser's variables, before anything else reads them."""
        ...


class Backend(Protocol):
    """A framework under Keras."""

    name: str

    def compile(self, function: Callable[..., Any], model: Any) -> Callable[..., Any]:
        """Compile ``function(*arrays)``, which reads ``model``'s weights and changes nothing.

        The weights are arguments of what is compiled, not constants: later updates are seen. Compiles once for each
        set of shapes; takes NumPy arrays and returns the framework's tensors.
        """
        ...

    def training_step(self, model: Any, optimizer: Any, loss: Callable[..., Tensor]) -> TrainingStep:
        """Compile a step of ``optimizer`` on ``loss(*arrays)``, a scalar that reads ``model``'s trainable weights."""
        ...

    def wait(self, value: Any) -> None:
        """Return when every tensor in ``value`` has been computed."""
        ...

    def device(self) -> Device:
        """Describe the device that computes."""
        ...

    def peak_memory(self) -> int | None:
        """The most bytes that were held at once since the process began; None where nothing tells.

        On an accelerator, by the framework's allocator on the first device; on the CPU, the process's resident memory,
        which counts the libraries and what compiling took too: compare two readings.
        """
        ...

    def free_memory(self) -> None:
        """Drop compiled programs and give cached memory back; what is in use stays, and compiles again when called."""
        ...


@functools.cache
def active_backend() -> Backend:
    """The implementation for the framework that Keras runs on in this process."""
    import keras

    return importlib.import_module(f"trajworld.backends.on_{keras.backend.backend()}").BACKEND
