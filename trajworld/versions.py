"""Versions of what a result depends on, for model files and run directories; nothing is imported for them."""

import importlib.metadata
import platform

from trajworld.version import __version__

_FRAMEWORKS = ("keras", "jax", "tensorflow", "tensorflow-cpu", "torch")
_LIBRARIES = ("numpy", "gymnasium", "mujoco", "dm_control", "minari", "grain")

EXTRAS = {
    "dm_control": "dm-control",
    "huggingface_hub": "hub",
    "pyarrow": "parquet",
    "pytest_benchmark": "bench",
    "ray": "ray",
    "stable_baselines3": "agents",
}
"""Packages that only an extra of this one brings, and the extra."""


def version_of(distribution: str) -> str | None:
    """The version of an installed distribution; None where it is not installed."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def versions() -> dict[str, str]:
    """Name to version of this package, Python and the libraries that are installed."""
    found = {name: version for name in (*_FRAMEWORKS, *_LIBRARIES) if (version := version_of(name))}
    return {"trajworld": __version__, "python": platform.python_version(), **found}
