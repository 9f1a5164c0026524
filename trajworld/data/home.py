"""Where converted datasets are kept on this machine."""

import os
from pathlib import Path

import platformdirs

from trajworld.files import user_path


def home() -> Path:
    """The library's own folder: ``TRAJWORLD_HOME`` where it is set, else the user's cache folder."""
    return user_path(os.environ.get("TRAJWORLD_HOME") or platformdirs.user_cache_dir("trajworld"))


def stores_folder() -> Path:
    """The folder of the stores converted from outside datasets; it may not exist yet."""
    return home() / "stores"
