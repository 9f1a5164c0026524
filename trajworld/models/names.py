"""What models are called: a shipped name, an address on the Hugging Face hub, or a file."""

import os
import tempfile
from pathlib import Path
from typing import Any

from trajworld.errors import UsageError
from trajworld.files import user_path
from trajworld.models.files import SUFFIX, load_model, model_path, save_model
from trajworld.models.hub import DEFAULT_FILE, PREFIX, download, hub_address, upload
from trajworld.weights import shipped_models

ModelName = str | os.PathLike[str]


def find_model(name: ModelName) -> Path:
    """The local file of a model, without opening it.

    ``name`` is that of a model that ships, such as ``trajworld-small``; ``hf://USER/REPO[@REVISION][/FILE.keras]``,
    which is downloaded into the Hugging Face cache unless it is there; or the path of a ``.keras`` file.

    Raises:
        UsageError: ``name`` is a bare word but no shipped name, or no address on the hub.
        TrajWorldError: A path does not end in ``.keras``, or the hub does not give the file.
    """
    text, shipped = os.fspath(name), shipped_models()
    if text in shipped:
        return shipped[text]
    if text.startswith(PREFIX):
        return download(hub_address(text))
    path = user_path(text)
    # No suffix, no folder, and nothing there of that name: a shipped name was meant.
    if text and path.name == text and not path.suffix and not path.exists():
        raise UsageError(
            f"no model that ships is called {text!r}: there is {', '.join(shipped) or 'none'}; a model of your own is "
            f"named by its file ({SUFFIX}), one on the Hugging Face hub by {PREFIX}USER/REPO"
        )
    return model_path(path)


def load(name: ModelName) -> Any:
    """Read a model by its name, see :func:`find_model`, on any backend; ``TrajWorldError`` for a damaged file."""
    return load_model(find_model(name))


def save(model: Any, name: ModelName) -> None:
    """Write a model to a ``.keras`` file, atomically, or to ``hf://USER/REPO[@BRANCH][/FILE.keras]``.

    A ``UsageError`` for the name of a shipped model; a ``TrajWorldError`` where it cannot be written or uploaded.
    """
    text = os.fspath(name)
    if text in shipped_models():
        raise UsageError(f"{text} is a model that ships: name a file ({SUFFIX}) to write")
    if not text.startswith(PREFIX):
        return save_model(model, user_path(text))
    address = hub_address(text)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / DEFAULT_FILE
        save_model(model, file)
        upload(address, file)


def said_briefly(name: ModelName) -> str:
    """A model's name for a record: a shipped name or an address whole, a path's file name only."""
    text = os.fspath(name)
    return text if text in shipped_models() or text.startswith(PREFIX) else Path(text).name
