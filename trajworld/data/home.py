"""Where converted datasets are kept on this machine."""

import os
from pathlib import Path

import platformdirs


def home() -> Path:
    """The library's own folder: ``TRAJWORLD_HOME`` where it is set, else the user's cache folder."""
    chosen = os.environ.get("TRAJWORLD_HOME")
    return Path(chosen).expanduser() if chosen else Path(platformdirs.user_cache_dir("trajworld"))


def stores_folder() -> Path:
    """The folder that holds the stores converted from outside datasets; it may not exist yet."""
    return home() / "stores"
