"""What this machine has for TrajWorld: versions, frameworks and their devices, disk space, and what is missing.

Each framework is tried in its own process, as Keras takes only one; run as a module, this file is that trial.
"""

import contextlib
import importlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from trajworld.backend import BACKENDS, active_backend
from trajworld.data.home import home
from trajworld.data.minari_datasets import datasets_folder
from trajworld.processes import available_cores
from trajworld.version import __version__
from trajworld.versions import EXTRAS, pip_command, version_of

FRAMEWORKS = tuple(BACKENDS)
_LIBRARIES = ("keras", "numpy", "pandas", "gymnasium", "mujoco", "minari", "grain")
_GPU_NODE = "/dev/nvidia0"


@dataclass(frozen=True)
class Framework:
    """One framework that Keras can run on, by Keras's name for it.

    ``works`` says whether it computed a small product rightly through Keras, and ``problem`` why not; ``device`` is
    ``cpu`` or ``gpu: NVIDIA …``, of which it sees ``devices`` and a run trains on ``training``.
    """

    name: str
    version: str | None
    works: bool
    device: str = ""
    devices: int = 0
    problem: str = ""
    training: int = 1


def examine(timeout: float = 120) -> dict[str, Any]:
    """Examine this machine; a framework that does not answer within ``timeout`` seconds counts as broken.

    As plain JSON values: sizes in bytes, versions by name, None for what is not installed or not known; ``home`` is
    where converted datasets are kept, ``minari`` Minari's folder of datasets; ``missing`` is what is missing or broken,
    each with the command that fixes it.
    """
    frameworks = try_frameworks(FRAMEWORKS, timeout)
    active, folder = os.environ["KERAS_BACKEND"], home().absolute()
    there = next(one for one in (folder, *folder.parents) if one.exists())
    memory = None
    with contextlib.suppress(AttributeError, OSError, ValueError):
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    libraries = {name: _version(name) for name in (*_LIBRARIES, *EXTRAS)}
    return {
        "versions": {"python": platform.python_version(), "trajworld": __version__, **libraries},
        "frameworks": [asdict(one) for one in frameworks],
        "active": active,
        "reason": "KERAS_BACKEND names it; unset means jax",
        "healthy": any(one.works for one in frameworks if one.name == active),
        "cores": len(available_cores()),
        "memory": memory,
        "home": str(home()),
        "home_free": shutil.disk_usage(there).free,
        "minari": str(datasets_folder()),
        "missing": [{"what": what, "fix": fix} for what, fix in _missing(libraries, frameworks, active)],
    }


def try_frameworks(names: Sequence[str], timeout: float = 120) -> list[Framework]:
    """Try frameworks at the same time, for at most ``timeout`` seconds each."""
    with ThreadPoolExecutor() as pool:
        return list(pool.map(lambda name: try_framework(name, timeout), names))


def try_framework(name: str, timeout: float) -> Framework:
    """Import a framework through Keras in its own process, compute with it, and ask for its device."""
    if importlib.util.find_spec(name) is None:
        return Framework(name, None, False, problem="not installed")
    # -P: the working folder may hold a folder named like the package (its own checkout does).
    command = [sys.executable, "-P", "-m", "trajworld.doctor"]
    environment = {**os.environ, "KERAS_BACKEND": name, "TF_CPP_MIN_LOG_LEVEL": "3"}
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout)
    except subprocess.TimeoutExpired:
        return Framework(name, _version(name), False, problem=f"did not answer within {timeout:g} s")
    answers = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode == 0 and answers:
        return Framework(name, works=True, **json.loads(answers[-1]))
    said = done.stderr.strip() or f"its process ended with the code {done.returncode}"
    return Framework(name, _version(name), False, problem=said.splitlines()[-1].strip()[:200])


def trial() -> dict[str, Any]:
    """Compute a small product in the framework that ``KERAS_BACKEND`` names, and describe its device."""
    from keras import backend, ops

    product = ops.convert_to_numpy(ops.matmul(ops.ones((3, 5)), ops.ones((5, 2))))
    if not (product == 5).all():
        raise ArithmeticError(f"{backend.backend()} computed {product.tolist()} where all is 5")
    device = active_backend().device()
    return {
        "version": importlib.import_module(backend.backend()).__version__,
        "device": device.kind if device.name.lower() == device.kind else f"{device.kind}: {device.name}",
        "devices": device.count,
        "training": device.training,
    }


def _version(name: str) -> str | None:
    """The version of an installed distribution, or of its edition for the CPU."""
    return version_of(name) or version_of(f"{name}-cpu")


def _missing(
    libraries: Mapping[str, str | None], frameworks: Sequence[Framework], active: str
) -> list[tuple[str, str]]:
    """What is missing or broken, most serious first, and the command that fixes it."""
    found = []
    if active not in FRAMEWORKS:
        what = f"KERAS_BACKEND={active} is none of {', '.join(FRAMEWORKS)}"
        found.append((what, "unset KERAS_BACKEND"))
    for one in sorted((one for one in frameworks if not one.works), key=lambda one: one.name != active):
        needed = "needed" if one.name == active else "optional"
        again = "" if one.problem == "not installed" else " --force-reinstall"
        found.append((f"{one.name} ({needed}): {one.problem}", pip_command(one.name, again)))
    for name in (name for name, version in libraries.items() if version is None):
        needed = "optional" if name in EXTRAS else "needed"
        found.append((f"{name} ({needed}): not installed", pip_command(EXTRAS.get(name, name))))
    gpu = Path(_GPU_NODE).exists()
    for one in (one for one in frameworks if gpu and one.works and one.device.startswith("cpu")):
        what = f"{one.name} (optional): computes on the CPU although the machine has a GPU"
        extra = "jax-cuda" if one.name == "jax" else one.name
        found.append((what, pip_command(extra, " --force-reinstall")))
    return found


if __name__ == "__main__":
    print(json.dumps(trial()))
