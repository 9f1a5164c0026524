"""Model files: Keras's ``.keras`` archive, written atomically and read without trusting it.

An archive holds ``config.json`` (sizes and identity), ``metadata.json`` and ``model.weights.h5``. Keras can
read it too; here it is read more carefully: Keras makes whatever objects a configuration names, this module
makes a world model of a known kind, of checked numbers, and nothing else. It is written part by part as well, because
``model.save`` imports TensorFlow wherever it is installed, whatever the backend.
"""

import contextlib
import dataclasses
import datetime
import io
import json
import lzma
import math
import os
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import h5py
import numpy as np

from trajworld.errors import TrajWorldError
from trajworld.files import atomic_file
from trajworld.models.identity import Identity
from trajworld.models.interface import DEFAULT, MODELS, Kind, Sizes, model_config, model_from_config

SUFFIX = ".keras"

_CONFIG, _METADATA, _WEIGHTS = "config.json", "metadata.json", "model.weights.h5"
_MAX_CONFIG_BYTES = 16 << 20
_MAX_SIZE = 2**31
_MAX_EXPANSION = 20  # Keras stores its members uncompressed; packed again, weights expand by little.
_MAX_OBJECTS = 10_000  # HDF5 groups and arrays; a block of a transformer makes about 56.
_MAX_OBJECT_BYTES = 4096  # Of an HDF5 group or array beside its numbers.
_DTYPES = ("float32", "mixed_bfloat16", "mixed_float16")  # All of them keep their weights in float32.
_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    OSError,
    EOFError,
    NotImplementedError,
    RuntimeError,
    ValueError,
    KeyError,
)


def save_model(model: Any, path: str | os.PathLike[str]) -> None:
    """Write ``model`` as a ``.keras`` file, atomically: sizes, identity and weights.

    Raises:
        TrajWorldError: The name does not end in ``.keras``, a weight is NaN or infinite, the identity holds
            what JSON cannot, or the file cannot be written; a file that was there stays as it was.
    """
    import keras

    path = model_path(path)
    config: dict[str, Any] = {
        "module": type(model).__module__,
        "class_name": type(model).__name__,
        "config": model_config(model),
        "registered_name": MODELS[model.kind].registered_name,
        "build_config": {"shapes_dict": {}},
        "compile_config": None,
    }
    try:
        text = json.dumps(config, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise TrajWorldError(
            f"{path} is not written: the model's identity is not plain data ({error})"
        ) from None
    _parts(path, json.loads(text))  # What could not be read back is not written.
    for variable in model.weights:
        _check_finite(path, variable.path, keras.ops.convert_to_numpy(variable.value))
    metadata = {
        "keras_version": keras.__version__,
        "date_saved": datetime.datetime.now().strftime("%Y-%m-%d@%H:%M:%S"),
    }
    with atomic_file(path) as temporary:
        weights = temporary.with_suffix(".weights.h5")
        try:
            model.save_weights(weights, overwrite=True)
            with zipfile.ZipFile(temporary, "w") as archive:
                archive.writestr(_METADATA, json.dumps(metadata))
                archive.writestr(_CONFIG, text)
                archive.write(weights, _WEIGHTS)
        finally:
            weights.unlink(missing_ok=True)


def load_model(path: str | os.PathLike[str]) -> Any:
    """Read a model that :func:`save_model` wrote, on whatever backend.

    Nothing that the file names is imported or called: its sizes and identity are checked numbers, strings
    and lists, and its weights are arrays of the shapes that the sizes ask for.

    Raises:
        TrajWorldError: The file is missing, damaged, not a world model, or hostile.
    """
    path = model_path(path)
    model = model_from_config(_checked(path)["config"])
    try:
        model.load_weights(path)
    except (ValueError, KeyError, TypeError, OSError, RuntimeError) as error:
        raise TrajWorldError(
            f"{path}: its weights are not those of a model of its sizes ({_first_line(error)})"
        ) from None
    return model


def check_model(path: str | os.PathLike[str]) -> None:
    """Look for everything that :func:`load_model` refuses, without importing Keras.

    Raises:
        TrajWorldError: The file is missing, damaged, not a world model, or hostile.
    """
    _checked(model_path(path))


def describe_model(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Sizes and identity of a model file as plain values, without importing Keras or reading the weights.

    Returns:
        ``path``, ``bytes``, ``saved`` (date and Keras version), ``kind``, ``parameters``, ``dtype``, ``sizes``, and the
        fields of :class:`~trajworld.models.identity.Identity`.

    Raises:
        TrajWorldError: The file is missing, damaged, not a world model, or hostile.
    """
    path = model_path(path)
    with _opened(path) as archive:
        config = _read_config(path, archive)
        kind, sizes, identity = _parts(path, config)
        metadata = _read_json(path, archive, _METADATA) if _METADATA in archive.namelist() else {}
    saved = metadata if isinstance(metadata, dict) else {}
    return {
        "path": str(path),
        "bytes": path.stat().st_size,
        "saved": {name: str(saved.get(name, "")) for name in ("date_saved", "keras_version")},
        "kind": kind.name,
        "parameters": sizes.parameters,
        "dtype": config["config"]["dtype"],
        "sizes": dataclasses.asdict(sizes),
        **identity.to_config(),
    }


def model_path(path: str | os.PathLike[str]) -> Path:
    """The path of a model file, its name checked, before anything long is begun.

    Raises:
        TrajWorldError: It does not end in ``.keras``.
    """
    path = Path(path)
    if path.suffix != SUFFIX:
        raise TrajWorldError(f"{path} does not end in {SUFFIX}, as a model file's name must")
    return path


def _checked(path: Path) -> dict[str, Any]:
    """The configuration of a file that holds a model and nothing else."""
    with _opened(path) as archive:
        config = _read_config(path, archive)
        _, sizes, _ = _parts(path, config)
        _check_weights(path, archive, sizes)
    return config


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    """Yield the archive, its members checked; damage found while it is open becomes one line."""
    if path.is_dir():
        raise TrajWorldError(f"{path} is a folder, not a model file")
    try:
        with zipfile.ZipFile(path) as archive:
            _check_members(path, archive)
            yield archive
    except FileNotFoundError:
        raise TrajWorldError(f"{path} does not exist") from None
    except PermissionError as error:
        raise TrajWorldError(f"cannot read {path}: {error.strerror}") from None
    except _DAMAGE as error:
        why = _first_line(error)
        raise TrajWorldError(f"{path} is not a model file, or is damaged or cut short ({why})") from None


def _check_members(path: Path, archive: zipfile.ZipFile) -> None:
    """Refuse names that escape a folder or repeat, and members that unpack to far more than is stored."""
    names = archive.namelist()
    for name in names:
        parts = PurePosixPath(name.replace("\\", "/"))
        if parts.is_absolute() or ".." in parts.parts or ":" in name:
            raise TrajWorldError(
                f"{path} is refused: its member {name!r} would escape the folder it is unpacked in"
            )
    if len(set(names)) != len(names):
        raise TrajWorldError(f"{path} is refused: it holds two members of one name")
    for name in (_CONFIG, _WEIGHTS):
        if name not in names:
            raise TrajWorldError(f"{path} is not a model file: it holds no {name}")
    for member in archive.infolist():
        if member.file_size > _MAX_EXPANSION * member.compress_size + 4096:
            raise TrajWorldError(
                f"{path} is refused: {member.filename!r} would unpack to {member.file_size:,} bytes, "
                f"from {member.compress_size:,}"
            )


def _read_json(path: Path, archive: zipfile.ZipFile, name: str) -> Any:
    size = archive.getinfo(name).file_size
    if size > _MAX_CONFIG_BYTES:
        raise TrajWorldError(f"{path} is refused: its {name} of {size:,} bytes is no model's")
    try:
        return json.loads(archive.read(name).decode("utf-8"), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise TrajWorldError(f"{path}: its {name} is not readable JSON ({_first_line(error)})") from None


def _no_constant(name: str) -> None:
    raise ValueError(f"it holds {name}")


def _read_config(path: Path, archive: zipfile.ZipFile) -> dict[str, Any]:
    """The archive's configuration, once it is certain that it is a world model's."""
    config = _read_json(path, archive, _CONFIG)
    config = config if isinstance(config, dict) else {}
    found = config.get("registered_name")
    if found not in [kind.registered_name for kind in MODELS.values()]:
        found = found or config.get("class_name")
        of = f" but a Keras {found[:60]!r}" if isinstance(found, str) else ""
        raise TrajWorldError(
            f"{path} is not a world model of this version{of}: `trajworld checkpoint import` and training write them"
        )
    return config


def _parts(path: Path, config: Mapping[str, Any]) -> tuple[Kind, Sizes, Identity]:
    """Check everything in a configuration that a model is built of.

    Raises:
        TrajWorldError: A part is missing, of another type, out of range, or is itself an object to be made.
    """
    inner = config.get("config")
    # Files written before there were several kinds name none.
    if not isinstance(inner, dict) or inner.keys() - {"kind"} != {"sizes", "identity", "dtype", "name"}:
        raise TrajWorldError(f"{path}: its configuration is not a world model's of this version")
    if found := next(_objects(inner), None):
        raise TrajWorldError(f"{path} is refused: its configuration asks to make an object ({found[:60]!r})")
    kind = MODELS.get(name) if isinstance(name := inner.get("kind", DEFAULT), str) else None
    if kind is None or config["registered_name"] != kind.registered_name:
        raise TrajWorldError(
            f"{path}: its kind {str(name)[:60]!r} is not that of a {config['registered_name']!r}"
        )
    if inner["dtype"] not in _DTYPES:
        raise TrajWorldError(
            f"{path}: its dtype {str(inner['dtype'])[:60]!r} is none of {', '.join(_DTYPES)}"
        )
    if not isinstance(inner["name"], str) or not inner["name"].isidentifier():
        raise TrajWorldError(f"{path}: its name {str(inner['name'])[:60]!r} is not a model's")
    try:
        sizes = _sizes(kind, inner["sizes"])
        identity = _identity(inner["identity"])
    except (TrajWorldError, TypeError, ValueError, KeyError, AttributeError, OverflowError) as error:
        raise TrajWorldError(f"{path}: its configuration is damaged: {_first_line(error)}") from None
    variates = identity.support.lower.size
    if variates > sizes.variates:
        raise TrajWorldError(
            f"{path}: it has ranges of {variates} variates, but embeddings for {sizes.variates}"
        )
    return kind, sizes, identity


def _objects(value: Any) -> Iterator[str]:
    """The names of what Keras would take for serialised objects within plain JSON values."""
    if isinstance(value, dict):
        if named := value.keys() & {"class_name", "registered_name"}:
            yield str(value[min(named)])
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _objects(item)


def _sizes(kind: Kind, values: Any) -> Sizes:
    fields = {field.name: field.type for field in dataclasses.fields(kind.sizes)}
    if not isinstance(values, dict) or values.keys() != fields.keys():
        raise ValueError(f"its sizes are not {', '.join(fields)}")
    for name, type_ in fields.items():
        wanted = (int, float) if type_ in (float, "float") else (int,)
        if type(values[name]) not in wanted or not abs(values[name]) < _MAX_SIZE:
            raise ValueError(f"its {name} is not a number of that kind but {str(values[name])[:40]!r}")
    return kind.sizes(**values)


def _identity(values: Any) -> Identity:
    identity = Identity.from_config(values)
    if not isinstance(identity.environment, str) or not isinstance(identity.history, dict):
        raise ValueError("its environment is not a name, or its history not a table")
    counts = (identity.observation_size, identity.action_size)
    for count in counts:
        if count is not None and (type(count) is not int or count < 0):
            raise ValueError("its observation or action size is not a count")
    if None not in counts and not identity.support.shared and sum(counts) + 1 != identity.support.lower.size:  # type: ignore[arg-type]
        raise ValueError(
            f"it has ranges of {identity.support.lower.size} variates, not of {counts} and a reward"
        )
    return identity


def _check_weights(path: Path, archive: zipfile.ZipFile, sizes: Sizes) -> None:
    """Check the weights' number and values before any memory is set aside for a model of ``sizes``.

    Raises:
        TrajWorldError: They are more or fewer than the sizes ask, not numbers, not finite, or kept elsewhere
            than in this file.
    """
    room = 4 * sizes.parameters + _MAX_OBJECT_BYTES * _MAX_OBJECTS
    stored = archive.getinfo(_WEIGHTS).file_size
    if stored < 4 * sizes.parameters or stored > room:
        raise TrajWorldError(
            f"{path}: its sizes ask for {sizes.parameters:,} weights, but it holds {stored:,} bytes of them"
        )
    found = 0
    with h5py.File(io.BytesIO(archive.read(_WEIGHTS)), "r") as weights:
        for name, array in _arrays(path, weights):
            found += array.size
            if found <= sizes.parameters:
                _check_finite(path, name, array[()])
    if found != sizes.parameters:
        raise TrajWorldError(
            f"{path}: its sizes ask for {sizes.parameters:,} weights, but it holds {found:,}"
        )


def _arrays(path: Path, weights: h5py.File) -> Iterator[tuple[str, h5py.Dataset]]:
    """Yield the arrays of an HDF5 file by name; what leads out of the file, or round in it, is refused."""
    waiting: list[tuple[str, h5py.Group]] = [("", weights)]
    seen = 0
    while waiting:
        prefix, group = waiting.pop()
        for key in group:
            name = f"{prefix}/{key}" if prefix else key
            seen += 1
            if seen > _MAX_OBJECTS:
                raise TrajWorldError(f"{path} is refused: it holds more arrays than any model")
            if type(group.get(key, getlink=True)) is not h5py.HardLink:
                raise TrajWorldError(
                    f"{path} is refused: its weights {name[:80]!r} are a link to somewhere else"
                )
            item = group[key]
            if isinstance(item, h5py.Group):
                waiting.append((name, item))
                continue
            if not isinstance(item, h5py.Dataset) or item.dtype != np.float32:
                raise TrajWorldError(f"{path}: its weights {name[:80]!r} are not float32 numbers")
            if item.external or item.is_virtual:
                raise TrajWorldError(f"{path} is refused: its weights {name[:80]!r} are kept in another file")
            if math.prod(item.shape) * item.dtype.itemsize > _MAX_EXPANSION * item.id.get_storage_size():
                raise TrajWorldError(
                    f"{path} is refused: its weights {name[:80]!r} declare more than is stored"
                )
            yield name, item


def _check_finite(path: Path, name: str, values: Any) -> None:
    if not np.isfinite(values).all():
        raise TrajWorldError(f"{path}: the weights {name[:80]!r} hold values that are NaN or infinite")


def _first_line(error: BaseException) -> str:
    """The first line of an error's text, short."""
    text = (
        str(error.args[0] if isinstance(error, KeyError) and error.args else error).strip()
        or type(error).__name__
    )
    return text.splitlines()[0][:200]
