"""Where compiled programs are kept between processes."""

import hashlib
import platform
from pathlib import Path

from trajworld.data.home import home

from .processor import processor_lines


def compilations_folder(framework: str) -> Path:
    """The folder for one framework's programs on processors like this one.

    A program compiled for the CPU uses its instructions and may crash another, and a home folder may be shared by
    machines: each kind of processor gets a folder of its own.
    """
    lines = processor_lines("model name", "flags", "Features")
    description = platform.machine() + platform.processor() + "".join(lines)
    return home() / "compiled" / f"{framework}-{hashlib.sha256(description.encode()).hexdigest()[:12]}"
