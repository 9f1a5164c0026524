"""Trajectory world models across heterogeneous environments.

Importing this package chooses Keras's backend: ``KERAS_BACKEND`` where it is set, JAX otherwise. The framework is
imported by the functions that need it.
"""

import importlib
import os
from typing import TYPE_CHECKING, Any

# Keras reads this once, when it is first imported, and falls back to TensorFlow: so it is set here, before anything
# in the package can import Keras, and nowhere else.
os.environ.setdefault("KERAS_BACKEND", "jax")

from trajworld.version import __version__

if TYPE_CHECKING:
    from trajworld.api import evaluate, load, open_dataset, planner, predict, rollout, save, train

__all__ = [
    "__version__",
    "evaluate",
    "load",
    "open_dataset",
    "planner",
    "predict",
    "rollout",
    "save",
    "train",
]


def __getattr__(name: str) -> Any:
    """The functions of :mod:`trajworld.api`, imported on first use."""
    if name not in __all__:
        raise AttributeError(f"module 'trajworld' has no attribute {name!r}")
    return getattr(importlib.import_module("trajworld.api"), name)


def __dir__() -> list[str]:
    """The names of this module and of the functions that are imported later."""
    return sorted({*globals(), *__all__})
