"""Versions of what a result depends on, for model files and run directories; nothing is imported for them."""

import contextlib
import importlib.metadata
import platform
import re

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


def pip_command(name: str, options: str = "") -> str:
    """The pip command that installs what this package asks for under ``name``: an extra, or a dependency.

    By the packages' own names: wherever this one was installed from.
    """
    wanted = []
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        for requirement in importlib.metadata.requires("trajworld") or []:
            what, _, condition = (part.strip() for part in requirement.partition(";"))
            project = re.split(r"[^\w.-]", what, maxsplit=1)[0]
            if condition == f'extra == "{name}"' or (not condition and project == name):
                wanted.append(what)
    return " ".join([f"pip install{options}", *(f"'{what}'" for what in wanted or [name])])
