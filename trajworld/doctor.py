"""What this machine has for TrajWorld: versions, frameworks and their devices, room, and what is missing.

Each framework is tried in a process of its own: importing several into one process can crash it, and Keras
takes one backend a process. Run as a module, this file is that trial: it prints one JSON line.
"""

import concurrent.futures
import importlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from trajworld.data.home import home
from trajworld.data.minari_datasets import datasets_folder
from trajworld.version import __version__

FRAMEWORKS = ("jax", "tensorflow", "torch")
_LIBRARIES = ("keras", "numpy", "gymnasium", "mujoco", "minari", "grain", "dm_control", "huggingface_hub")
# Libraries that only an extra of this package brings, and nothing breaks without.
_EXTRA_OF = {"dm_control": "dm-control", "huggingface_hub": "hub"}
_GPU_NODES = ("/dev/nvidia0", "/dev/kfd")


@dataclass(frozen=True)
class Framework:
    """One framework that Keras can run on.

    Attributes:
        name: Keras's name for it.
        version: Its version, or None where it is not installed or cannot be imported.
        works: Whether it computed a small product rightly through Keras.
        device: What it computes on, such as ``cpu`` or ``gpu: NVIDIA …``; empty where it does not work.
        devices: How many such devices it sees.
        training: On how many of them a run trains where ``--devices`` does not say.
        problem: Why it does not work; empty where it does.
    """

    name: str
    version: str | None
    works: bool
    device: str = ""
    devices: int = 0
    problem: str = ""
    training: int = 1


@dataclass(frozen=True)
class Missing:
    """Something that is missing or broken, and the command that mends it."""

    what: str
    mend: str


@dataclass(frozen=True)
class Report:
    """What :func:`examine` found.

    Attributes:
        versions: Name to version of Python, this package and the libraries; None for what is not installed.
        frameworks: One entry a framework.
        active: The framework that Keras runs on, as ``KERAS_BACKEND`` names it.
        reason: Why that one.
        cores: Processor cores that this process may use.
        memory: Bytes of memory in the machine, or None where it does not tell.
        home: Where converted datasets are kept.
        home_free: Bytes free there.
        minari: Minari's folder of datasets.
        missing: What is missing or broken.
    """

    versions: dict[str, str | None]
    frameworks: list[Framework]
    active: str
    reason: str
    cores: int
    memory: int | None
    home: str
    home_free: int
    minari: str
    missing: list[Missing]

    @property
    def healthy(self) -> bool:
        """Whether the active framework works."""
        return any(framework.works for framework in self.frameworks if framework.name == self.active)


def examine(timeout: float = 120) -> Report:
    """Examine this machine.

    Args:
        timeout: Seconds that each framework's trial may take; the trials run at the same time.
    """
    with concurrent.futures.ThreadPoolExecutor(len(FRAMEWORKS)) as pool:
        frameworks = list(pool.map(lambda name: try_framework(name, timeout), FRAMEWORKS))
    active = os.environ["KERAS_BACKEND"]
    versions = {"python": platform.python_version(), "trajworld": __version__}
    found = {**versions, **{name: _version(name) for name in _LIBRARIES}}
    return Report(
        versions=found,
        frameworks=frameworks,
        active=active,
        reason=_reason(active),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        memory=_memory(),
        home=str(home()),
        home_free=shutil.disk_usage(_existing(home())).free,
        minari=str(datasets_folder()),
        missing=_missing(found, frameworks, active),
    )


def try_framework(name: str, timeout: float) -> Framework:
    """Import a framework through Keras in a process of its own, compute with it, and ask for its device."""
    if importlib.util.find_spec(name) is None:
        return Framework(name, None, False, problem="not installed")
    # -P: the working folder may hold a folder named like the package (its own checkout does).
    command = [sys.executable, "-P", "-m", "trajworld.doctor"]
    environment = {**os.environ, "KERAS_BACKEND": name, "TF_CPP_MIN_LOG_LEVEL": "3"}
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout)
    except subprocess.TimeoutExpired:
        return Framework(name, _version(name), False, problem=f"did not answer within {timeout:g} s")
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode != 0 or not lines:
        return Framework(name, _version(name), False, problem=_last_line(done.stderr, done.returncode))
    answer = json.loads(lines[-1])
    return Framework(
        name, answer["version"], True, answer["device"], answer["devices"], training=answer["training"]
    )


def trial() -> dict[str, str | int]:
    """Compute a small product in the framework that ``KERAS_BACKEND`` names, and describe its device.

    Raises:
        ArithmeticError: The product is wrong.
    """
    import keras

    from trajworld.backend import active_backend

    name = keras.backend.backend()
    product = keras.ops.convert_to_numpy(keras.ops.matmul(keras.ops.ones((3, 5)), keras.ops.ones((5, 2))))
    if not (product == 5).all():
        raise ArithmeticError(f"{name} computed {product.tolist()} where all is 5")
    device = active_backend().device()
    described = device.kind if device.name.lower() == device.kind else f"{device.kind}: {device.name}"
    return {
        "version": importlib.import_module(name).__version__,
        "device": described,
        "devices": device.count,
        "training": device.training,
    }


def _version(name: str) -> str | None:
    """The version of an installed distribution, or of one that provides the module ``name``."""
    for distribution in (name, f"{name}-cpu"):
        try:
            return importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def _last_line(text: str, code: int) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:200] if lines else f"its process ended with the code {code}"


def _reason(active: str) -> str:
    """Say why this one; importing the package sets an unset KERAS_BACKEND to jax, so jax may be either."""
    return "the default; KERAS_BACKEND changes it" if active == "jax" else "KERAS_BACKEND names it"


def _memory() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


def _existing(path: Path) -> Path:
    """The nearest folder at or above ``path`` that exists."""
    return next(folder for folder in [path.absolute(), *path.absolute().parents] if folder.exists())


def _missing(versions: dict[str, str | None], frameworks: Sequence[Framework], active: str) -> list[Missing]:
    """List what is missing or broken, what hinders most first."""
    missing = []
    if active not in FRAMEWORKS:
        names = ", ".join(FRAMEWORKS)
        missing.append(Missing(f"KERAS_BACKEND={active} is none of {names}", "unset KERAS_BACKEND"))
    for framework in sorted(frameworks, key=lambda framework: framework.name != active):
        if framework.works:
            continue
        needed = "needed" if framework.name == active else "optional"
        again = "" if framework.problem == "not installed" else " --force-reinstall"
        what = f"{framework.name} ({needed}): {framework.problem}"
        missing.append(Missing(what, _pip(framework.name, again)))
    for name, version in versions.items():
        if version is None:
            needed = "optional" if name in _EXTRA_OF else "needed"
            missing.append(Missing(f"{name} ({needed}): not installed", _pip(_EXTRA_OF.get(name, name))))
    if any(Path(node).exists() for node in _GPU_NODES):
        missing.extend(
            Missing(
                f"{framework.name} (optional): computes on the CPU although the machine has a GPU",
                _pip("jax-cuda" if framework.name == "jax" else framework.name, " --force-reinstall"),
            )
            for framework in frameworks
            if framework.works and framework.device.startswith("cpu")
        )
    return missing


def _pip(name: str, options: str = "") -> str:
    """The pip command that installs what this package asks for under ``name``: an extra, or a dependency."""
    try:
        requirements = importlib.metadata.requires("trajworld") or []
    except importlib.metadata.PackageNotFoundError:
        requirements = []
    wanted = []
    for requirement in requirements:
        what, _, condition = (part.strip() for part in requirement.partition(";"))
        project = re.split(r"[^\w.-]", what, maxsplit=1)[0]
        if condition == f'extra == "{name}"' or (not condition and project == name):
            wanted.append(what)
    return " ".join([f"pip install{options}", *(f"'{what}'" for what in wanted or [name])])


if __name__ == "__main__":
    print(json.dumps(trial()))
