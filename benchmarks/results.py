"""The reader of what pytest-benchmark writes, and the machine's description."""

import platform
from pathlib import Path
from typing import Any

from trajworld.errors import TrajWorldError
from trajworld.files import read_json
from trajworld.processes import available_cores

_FEATURES = ("avx2", "avx512f", "avx512_bf16", "amx_tile", "amx_bf16", "asimd", "bf16")


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The benchmarks of a JSON file of pytest-benchmark's as tidy rows.

    A row holds what its benchmark kept (see :func:`trajworld.benchmarks.measure.keep`) and ``seconds``,
    ``best_seconds`` and ``rounds``: median and shortest of the rounds, and their number; ``processor`` and
    ``cores``.

    Raises:
        TrajWorldError: The file is truncated, or not one of a suite here.
    """
    found = read_json(path)
    try:
        machine = {name: found["machine_info"][name] for name in ("processor", "cores")}
        return [
            {
                **one["extra_info"],
                **machine,
                "suite": one["extra_info"]["suite"],
                "seconds": one["stats"]["median"],
                "best_seconds": one["stats"]["min"],
                "rounds": one["stats"]["rounds"],
            }
            for one in found["benchmarks"]
        ]
    except (KeyError, TypeError) as error:
        raise TrajWorldError(f"{path} is not pytest-benchmark's JSON of a suite here ({error})") from None


def machine_info() -> dict[str, Any]:
    """The processor's name, what of the wanted it can do, and how many cores this process may use."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(errors="replace").splitlines() if path.is_file() else []

    def value(*names: str) -> str:
        return next((line.partition(":")[2].strip() for line in lines if line.startswith(names)), "")

    flags = value("flags", "Features").split()
    return {
        "processor": value("model name") or platform.processor() or platform.machine(),
        "features": [name for name in _FEATURES if name in flags],
        "cores": len(available_cores()),
        "system": platform.system(),
        "machine": platform.machine(),
    }
