"""Model files: Keras's ``.keras`` archive, written atomically and read without trusting it.

An archive holds ``config.json`` (sizes and identity), ``metadata.json`` and ``model.weights.h5``. Keras can
read it too; here it is read more carefully: Keras makes whatever objects a configuration names, this module
makes a world model of a known kind, of checked numbers, and nothing else. It is written part by part as well, because
``model.save`` imports TensorFlow wherever it is installed, whatever the backend.
"""

import contextlib
import dataclasses
import datetime
import hashlib
import io
import json
import math
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

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
_PARTS = {"sizes", "identity", "dtype", "name"}


class _Parts(NamedTuple):
    """What a configuration says, checked."""

    kind: Kind
    sizes: Sizes
    identity: Identity
    config: dict[str, Any]


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
    with _refusals(path):
        _parts(json.loads(text))  # What could not be read back is not written.
        for variable in model.weights:
            _check_finite(variable.path, keras.ops.convert_to_numpy(variable.value))
    saved = datetime.datetime.now().strftime("%Y-%m-%d@%H:%M:%S")
    metadata = json.dumps({"keras_version": keras.__version__, "date_saved": saved})
    with atomic_file(path) as temporary:
        weights = temporary.with_suffix(".weights.h5")
        try:
            model.save_weights(weights, overwrite=True)
            # Of one fixed date: a zip archive knows none before 1980, whatever the clock says.
            with zipfile.ZipFile(temporary, "w") as archive:
                for name, content in (
                    (_METADATA, metadata.encode()),
                    (_CONFIG, text.encode()),
                    (_WEIGHTS, weights.read_bytes()),
                ):
                    archive.writestr(zipfile.ZipInfo(name), content)
        finally:
            weights.unlink(missing_ok=True)


def load_model(path: str | os.PathLike[str]) -> Any:
    """Read a model that :func:`save_model` wrote, on whatever backend.

    Nothing that the file names is imported or called: its sizes and identity are checked numbers, strings
    and lists, and its weights are arrays of the shapes that the sizes ask for.

    Raises:
        TrajWorldError: The file is missing, damaged, not a world model, or hostile.
    """
    model = model_from_config(check_model(path))
    try:
        model.load_weights(path)
    except (ValueError, KeyError, TypeError, OSError, RuntimeError) as error:
        raise TrajWorldError(
            f"{path}: its weights are not those of a model of its sizes ({_first_line(error)})"
        ) from None
    return model


def check_model(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Look for everything that :func:`load_model` refuses, without importing Keras.

    Returns:
        The model's configuration, see :func:`trajworld.models.interface.model_from_config`.

    Raises:
        TrajWorldError: The file is missing, damaged, not a world model, or hostile.
    """
    with _opened(path) as archive:
        parts = _parts(_read_json(archive, _CONFIG))
        _check_weights(archive, parts.sizes.parameters)
    return parts.config


def describe_model(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Sizes and identity of a model file as plain values, without importing Keras or reading the weights.

    Returns:
        ``path``, ``bytes``, ``saved`` (date and Keras version), ``kind``, ``parameters``, ``dtype``, ``sizes``, and the
        fields of :class:`~trajworld.models.identity.Identity`.

    Raises:
        TrajWorldError: The file is missing, damaged, not a world model, or hostile.
    """
    with _opened(path) as archive:
        kind, sizes, identity, config = _parts(_read_json(archive, _CONFIG))
        saved = _read_json(archive, _METADATA) if _METADATA in archive.namelist() else {}
        saved = saved if isinstance(saved, dict) else {}
        return {
            "path": str(path),
            "bytes": Path(path).stat().st_size,
            "saved": {name: str(saved.get(name, "")) for name in ("date_saved", "keras_version")},
            "kind": kind.name,
            "parameters": sizes.parameters,
            "dtype": config["dtype"],
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


def weights_digest(model: Any) -> str:
    """A digest of a model's sizes and weights: equal for equal weights, whatever their file is called."""
    digest = hashlib.sha256(json.dumps(dataclasses.asdict(model.sizes), sort_keys=True).encode())
    for weights in model.get_weights():
        digest.update(weights.astype("<f4").tobytes())
    return digest.hexdigest()[:16]


class _Refused(Exception):
    """What is the matter with a file; the text completes "PATH: ..."."""


def _require(holds: Any, problem: str) -> None:
    if not holds:
        raise _Refused(problem)


@contextlib.contextmanager
def _refusals(path: Path) -> Iterator[None]:
    """Turn whatever is the matter with a file into one line that names it."""
    try:
        yield
    except _Refused as problem:
        why = f": {problem}"
    except FileNotFoundError:
        why = " does not exist"
    except (PermissionError, IsADirectoryError) as error:
        why = f" cannot be read: {error.strerror}"
    except Exception as error:  # Damaged bytes make zipfile, zlib and h5py raise a dozen types.
        why = f" is not a model file, or is damaged or cut short ({_first_line(error)})"
    else:
        return
    raise TrajWorldError(f"{path}{why}") from None


@contextlib.contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[zipfile.ZipFile]:
    """Yield the archive once no member's name escapes or repeats, and none unpacks to far more than is stored."""
    path = model_path(path)
    with _refusals(path), zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        for member in archive.infolist():
            name, size, stored = member.filename, member.file_size, member.compress_size
            parts = PurePosixPath(name.replace("\\", "/"))
            escapes = parts.is_absolute() or ".." in parts.parts or ":" in name
            _require(not escapes, f"refused: its member {name!r} would escape the folder it is unpacked in")
            expands = size > _MAX_EXPANSION * stored + 4096
            _require(not expands, f"refused: {name!r} would unpack to {size:,} bytes, from {stored:,}")
        _require(len(set(names)) == len(names), "refused: it holds two members of one name")
        for name in (_CONFIG, _WEIGHTS):
            _require(name in names, f"it is not a model file: it holds no {name}")
        yield archive


def _read_json(archive: zipfile.ZipFile, name: str) -> Any:
    size = archive.getinfo(name).file_size
    _require(size <= _MAX_CONFIG_BYTES, f"refused: its {name} of {size:,} bytes is no model's")

    def refuse(constant: str) -> None:
        raise ValueError(f"it holds {constant}")

    try:
        return json.loads(archive.read(name).decode("utf-8"), parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise _Refused(f"its {name} is not readable JSON ({_first_line(error)})") from None


def _parts(config: Any) -> _Parts:
    """Check everything in a configuration that a model is built of.

    Raises:
        _Refused: It is another Keras model's, or a part is missing, of another type, out of range, or itself an object
            to be made.
    """
    config = config if isinstance(config, dict) else {}
    found, inner = config.get("registered_name"), config.get("config")
    if found not in [kind.registered_name for kind in MODELS.values()]:
        found = found or config.get("class_name")
        of = f" but a Keras {found[:60]!r}" if isinstance(found, str) else ""
        raise _Refused(
            f"it is not a world model of this version{of}: `trajworld checkpoint import` and training write them"
        )
    # Files written before there were several kinds name none.
    if not isinstance(inner, dict) or inner.keys() - {"kind"} != _PARTS:
        raise _Refused("its configuration is not a world model's of this version")
    made = next(_objects(inner), None)
    _require(made is None, f"refused: its configuration asks to make an object ({_shown(made)})")
    name, dtype, called = inner.get("kind", DEFAULT), inner["dtype"], inner["name"]
    kind = next(
        (kind for kind in MODELS.values() if (kind.name, kind.registered_name) == (name, found)), None
    )
    if kind is None:
        raise _Refused(f"its kind {_shown(name)} is not that of a {found!r}")
    _require(dtype in _DTYPES, f"its dtype {_shown(dtype)} is none of {', '.join(_DTYPES)}")
    named = isinstance(called, str) and called.isidentifier()
    _require(named, f"its name {_shown(called)} is not a model's")
    try:
        sizes, identity = _sizes(kind, inner["sizes"]), Identity.from_config(inner["identity"])
        counts = [identity.observation_size, identity.action_size]
        kinds = ((identity.environment, str), (identity.history, dict), (identity.reward, bool))
        if not all(isinstance(value, type_) for value, type_ in kinds):
            raise ValueError(
                "its environment is not a name, its history not a table, or its reward not a yes or no"
            )
        if any(count is not None and (type(count) is not int or count < 0) for count in counts):
            raise ValueError("its observation or action size is not a count")
    except Exception as error:  # Whatever a value of another type makes of the checks.
        raise _Refused(f"its configuration is damaged: {_first_line(error)}") from None
    variates = identity.support.lower.size
    if None not in counts and not identity.support.shared:
        fits = sum(count or 0 for count in counts) + 1 == variates
        _require(fits, f"it has ranges of {variates} variates, not of {counts} and a reward")
    held = sizes.variates
    _require(variates <= held, f"it has ranges of {variates} variates, but embeddings for {held}")
    return _Parts(kind, sizes, identity, inner)


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


def _check_weights(archive: zipfile.ZipFile, wanted: int) -> None:
    """Check the weights' number and values before any memory is set aside for a model that has so many.

    Raises:
        _Refused: They are more or fewer, not numbers, not finite, or kept elsewhere than in this file.
    """
    stored, asked = archive.getinfo(_WEIGHTS).file_size, f"its sizes ask for {wanted:,} weights, but it holds"
    room = 4 * wanted + _MAX_OBJECT_BYTES * _MAX_OBJECTS
    _require(4 * wanted <= stored <= room, f"{asked} {stored:,} bytes of them")
    found = 0
    with h5py.File(io.BytesIO(archive.read(_WEIGHTS)), "r") as weights:
        for name, array in _arrays(weights):
            found += array.size
            if found <= wanted:
                _check_finite(name, array[()])
    _require(found == wanted, f"{asked} {found:,}")


def _arrays(weights: h5py.File) -> Iterator[tuple[str, h5py.Dataset]]:
    """Yield the arrays of an HDF5 file by name; what leads out of the file, or round in it, is refused."""
    waiting: list[tuple[str, h5py.Group]] = [("", weights)]
    seen = 0
    while waiting:
        prefix, group = waiting.pop()
        for key in group:
            name = f"{prefix}/{key}" if prefix else key
            seen, those = seen + 1, f"its weights {name[:80]!r}"
            _require(seen <= _MAX_OBJECTS, "refused: it holds more arrays than any model")
            local = type(group.get(key, getlink=True)) is h5py.HardLink
            _require(local, f"refused: {those} are a link to somewhere else")
            item = group[key]
            if isinstance(item, h5py.Group):
                waiting.append((name, item))
                continue
            numbers = isinstance(item, h5py.Dataset) and item.dtype == np.float32
            _require(numbers, f"{those} are not float32 numbers")
            _require(not (item.external or item.is_virtual), f"refused: {those} are kept in another file")
            declared = math.prod(item.shape) * item.dtype.itemsize
            stored = declared <= _MAX_EXPANSION * item.id.get_storage_size()
            _require(stored, f"refused: {those} declare more than is stored")
            yield name, item


def _check_finite(name: str, values: Any) -> None:
    _require(np.isfinite(values).all(), f"the weights {name[:80]!r} hold values that are NaN or infinite")


def _shown(value: Any) -> str:
    return repr(str(value)[:60])


def _first_line(error: BaseException) -> str:
    """The first line of an error's text, short."""
    text = str(error.args[0] if isinstance(error, KeyError) and error.args else error).strip()
    return (text or type(error).__name__).splitlines()[0][:200]
