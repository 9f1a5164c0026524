"""Where compiled programs are kept between processes."""

import hashlib
import platform
from pathlib import Path

from trajworld.data.home import home


def compilations_folder(framework: str) -> Path:
    """The folder for one framework's programs on processors like this one.

    A program compiled for the CPU uses its instructions and may crash another, and a home folder may be shared by
    machines: each kind of processor gets a folder of its own.
    """
    description = platform.machine() + platform.processor()
    processors = Path("/proc/cpuinfo")
    if processors.is_file():
        lines = processors.read_text(errors="replace").splitlines()
        description += "".join(
            sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))})
        )
    return home() / "compiled" / f"{framework}-{hashlib.sha256(description.encode()).hexdigest()[:12]}"
