"""What the system says of this machine's processors, and where programs compiled for them are kept."""

import hashlib
import platform
from pathlib import Path

from trajworld.data.home import home


def processor_lines(*names: str) -> list[str]:
    """The different lines of Linux's description that begin with one of ``names``; none elsewhere."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(errors="replace").splitlines() if path.is_file() else []
    return sorted({line for line in lines if line.startswith(names)})


def compilations_folder(framework: str) -> Path:
    """The folder for one framework's programs on processors like this one.

    A program compiled for the CPU uses its instructions and may crash another, and a home folder may be shared by
    machines: each kind of processor gets its own folder.
    """
    lines = processor_lines("model name", "flags", "Features")
    description = platform.machine() + platform.processor() + "".join(lines)
    return home() / "compiled" / f"{framework}-{hashlib.sha256(description.encode()).hexdigest()[:12]}"
