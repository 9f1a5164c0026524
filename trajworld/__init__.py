"""Trajectory world models across heterogeneous environments.

Importing this package chooses Keras's backend: ``KERAS_BACKEND`` where it is set, JAX otherwise. It imports no
deep-learning framework by itself; the modules that need one do.
"""

import os
from typing import TYPE_CHECKING

# Keras reads this once, when it is first imported, and falls back to TensorFlow: so it is set here, before anything
# in the package can import Keras, and nowhere else.
os.environ.setdefault("KERAS_BACKEND", "jax")

from trajworld.version import __version__

if TYPE_CHECKING:
    from trajworld.models.trajworld import TrajWorld

__all__ = ["__version__", "load", "save"]


def load(name: str | os.PathLike[str]) -> "TrajWorld":
    """Read a model, on whatever backend; nothing in its file is trusted.

    Args:
        name: A model that ships (``trajworld-small``), one on the Hugging Face hub
            (``hf://USER/REPO[@REVISION][/FILE.keras]``), or a ``.keras`` file.

    Raises:
        trajworld.errors.TrajWorldError: There is no such model, or its file is damaged or hostile.
    """
    from trajworld.models import names

    return names.load(name)


def save(model: "TrajWorld", name: str | os.PathLike[str]) -> None:
    """Write a model: to a ``.keras`` file, atomically, or to ``hf://USER/REPO[@BRANCH][/FILE.keras]``.

    Raises:
        trajworld.errors.TrajWorldError: The file cannot be written, or the hub does not take it.
    """
    from trajworld.models import names

    names.save(model, name)
