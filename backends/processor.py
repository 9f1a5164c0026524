"""What the system says of this machine's processors."""

from pathlib import Path


def processor_lines(*names: str) -> list[str]:
    """The different lines of Linux's description that begin with one of ``names``; none elsewhere."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(errors="replace").splitlines() if path.is_file() else []
    return sorted({line for line in lines if line.startswith(names)})
