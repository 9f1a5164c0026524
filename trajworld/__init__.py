"""Trajectory world models across heterogeneous environments.

Importing this package chooses Keras's backend: ``KERAS_BACKEND`` where it is set, JAX otherwise. It imports no
deep-learning framework by itself; the modules that need one do.
"""

import os

# Keras reads this once, when it is first imported, and falls back to TensorFlow: so it is set here, before anything
# in the package can import Keras, and nowhere else.
os.environ.setdefault("KERAS_BACKEND", "jax")

from trajworld.version import __version__

__all__ = ["__version__"]
