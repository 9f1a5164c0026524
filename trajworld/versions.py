"""Versions of what a result depends on, for model files and run directories."""

import importlib.metadata
import platform

from trajworld.version import __version__

_PACKAGES = (
    "keras",
    "jax",
    "tensorflow",
    "tensorflow-cpu",
    "torch",
    "numpy",
    "gymnasium",
    "mujoco",
    "dm_control",
    "minari",
    "grain",
)


def versions() -> dict[str, str]:
    """Name to version of this package, Python and the libraries that are installed; imports none of them."""
    found = {"trajworld": __version__, "python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
