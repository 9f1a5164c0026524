"""Model files: Keras's ``.keras`` archive, written atomically and read without trusting it.

An archive holds ``config.json`` (sizes and identity), ``metadata.json`` and ``model.weights.h5``. Keras reads it too,
but makes any objects that a configuration names; this module makes a world model of a known kind, of checked numbers,
and nothing else. It writes part by part, because ``model.save`` imports TensorFlow wherever that is installed.
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
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from trajworld.errors import TrajWorldError, one_line
from trajworld.files import atomic_file
from trajworld.models.identity import Identity
from trajworld.models.interface import DEFAULT, MODELS, Kind, Sizes, model_config, model_from_config

SUFFIX = ".keras"

_CONFIG, _METADATA, _WEIGHTS = _MEMBERS = ("config.json", "metadata.json", "model.weights.h5")
_MAX_CONFIG_BYTES = 16 << 20
_MAX_SIZE = 2**31
_MAX_EXPANSION = 20  # Keras stores its members uncompressed; packed again, weights expand by little.
_MAX_OBJECTS = 10_000  # HDF5 groups and arrays; a block of a transformer makes about 56.
_MAX_OBJECT_BYTES = 4096  # Of an HDF5 group or array beside its numbers.
_DTYPES = ("float32", "mixed_bfloat16", "mixed_float16")  # All of them keep their weights in float32.
_PARTS = {"sizes", "identity", "dtype", "name"}


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
        _checked(json.loads(text))  # What could not be read back is not written.
        for variable in model.weights:
            _check_finite(variable.path, keras.ops.convert_to_numpy(variable.value))
    except (TypeError, ValueError, TrajWorldError) as error:
        raise TrajWorldError(f"{path} is not written: {error}") from None
    saved = datetime.datetime.now().strftime("%Y-%m-%d@%H:%M:%S")
    metadata = json.dumps({"keras_version": keras.__version__, "date_saved": saved})
    with atomic_file(path) as temporary:
        weights = temporary.with_suffix(".weights.h5")
        try:
            model.save_weights(weights, overwrite=True)
            contents = (text.encode(), metadata.encode(), weights.read_bytes())
            with zipfile.ZipFile(temporary, "w") as archive:
                for name, content in zip(_MEMBERS, contents, strict=True):
                    # A fixed date: a clock may be wrong, and a zip archive has no date before 1980.
                    archive.writestr(zipfile.ZipInfo(name), content)
        finally:
            weights.unlink(missing_ok=True)


def load_model(path: str | os.PathLike[str]) -> Any:
    """Read a model that :func:`save_model` wrote, on any backend; nothing that it names is imported or called.

    Raises:
        TrajWorldError: The file is missing, damaged, not a world model, or hostile.
    """
    model = model_from_config(check_model(path))
    with _refusals(path):
        model.load_weights(path)
    return model


def check_model(path: str | os.PathLike[str]) -> dict[str, Any]:
    """A model file's configuration, checked as by :func:`load_model`, except weights' names; Keras is not imported."""
    with _opened(path) as archive:
        config = _read_json(archive, _CONFIG)
        _check_weights(archive, _checked(config)[1].parameters)
    return config["config"]


def describe_model(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Sizes and identity of a model file as plain values, without importing Keras or reading the weights.

    That is ``path``, ``bytes``, ``saved`` (date and Keras version), ``kind``, ``parameters``, ``dtype``, ``sizes`` and
    the fields of :class:`~trajworld.models.identity.Identity`. A ``TrajWorldError`` is raised as by :func:`load_model`.
    """
    with _opened(path) as archive:
        config, saved = _read_json(archive, _CONFIG), _read_json(archive, _METADATA)
        kind, sizes, identity = _checked(config)
        return {
            "path": str(path),
            "bytes": Path(path).stat().st_size,
            "saved": {name: str(saved.get(name, "")) for name in ("date_saved", "keras_version")},
            "kind": kind.name,
            "parameters": sizes.parameters,
            "dtype": config["config"]["dtype"],
            "sizes": dataclasses.asdict(sizes),
            **identity.to_config(),
        }


def model_path(path: str | os.PathLike[str]) -> Path:
    """The path of a model file; a ``TrajWorldError`` where it does not end in ``.keras``."""
    path = Path(path)
    if path.suffix != SUFFIX:
        raise TrajWorldError(f"{path} does not end in {SUFFIX}, as a model file's name must")
    return path


def weights_digest(model: Any) -> str:
    """A digest of a model's sizes and weights: equal for equal weights in any file."""
    digest = hashlib.sha256(json.dumps(dataclasses.asdict(model.sizes), sort_keys=True).encode())
    for weights in model.get_weights():
        digest.update(weights.astype("<f4").tobytes())
    return digest.hexdigest()[:16]


class _Refused(ValueError):
    """What is wrong with a file; the text completes "PATH: ..."."""


def _require(holds: Any, problem: str) -> None:
    if not holds:
        raise _Refused(problem)


@contextlib.contextmanager
def _refusals(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn any problem with a file into one line that names it."""
    try:
        yield
    except _Refused as problem:
        why = f": {problem}"
    except FileNotFoundError:
        why = " does not exist"
    except (PermissionError, IsADirectoryError) as error:
        why = f" cannot be read: {error.strerror}"
    except Exception as error:  # Damaged bytes make zipfile, zlib, json and h5py raise a dozen types.
        why = f" is not a model file, or is damaged or cut short ({one_line(error, 200)})"
    else:
        return
    raise TrajWorldError(f"{path}{why}") from None


@contextlib.contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[zipfile.ZipFile]:
    """Yield the archive once it has only the three members, and none unpacks to far more than is stored."""
    path = model_path(path)
    with _refusals(path), zipfile.ZipFile(path) as archive:
        # Keras might unpack anything else in it, even by a name that leads out of the folder.
        wanted, names = ", ".join(_MEMBERS), ", ".join(sorted(archive.namelist()))
        _require(names == wanted, f"it is not a model file: it holds {names[:120]!r}, not {wanted}")
        for member in archive.infolist():
            name, size, stored = member.filename, member.file_size, member.compress_size
            bounded = size <= _MAX_EXPANSION * stored + 4096
            _require(bounded, f"refused: {name} would unpack to {size:,} bytes, from {stored:,}")
            small = name == _WEIGHTS or size <= _MAX_CONFIG_BYTES
            _require(small, f"refused: its {name} of {size:,} bytes is no model's")
        yield archive


def _read_json(archive: zipfile.ZipFile, name: str) -> dict[str, Any]:
    def refuse(constant: str) -> None:
        raise _Refused(f"its {name} holds {constant}")

    found = json.loads(archive.read(name), parse_constant=refuse)
    _require(isinstance(found, dict), f"its {name} is not a table")
    return found


def _checked(config: dict[str, Any]) -> tuple[Kind, Sizes, Identity]:
    """Check everything in a configuration that a model is built of; any exception says what is wrong with it."""
    named = str(config.get("registered_name") or config.get("class_name"))[:60]
    kind = next((kind for kind in MODELS.values() if kind.registered_name == named), None)
    if kind is None:
        raise _Refused(
            f"it is not a world model of this version but a Keras {named!r}: name one that training wrote"
        )
    inner = config["config"]
    # Files written before there were several kinds name none.
    _require(inner.keys() - {"kind"} == _PARTS, "its configuration is not a world model's of this version")
    made = next(_objects(inner), None)
    _require(made is None, f"refused: its configuration asks to make an object ({_shown(made)})")
    name, dtype, called = inner.get("kind", DEFAULT), inner["dtype"], inner["name"]
    _require(name == kind.name, f"its kind {_shown(name)} is not that of a {named!r}")
    _require(dtype in _DTYPES, f"its dtype {_shown(dtype)} is none of {', '.join(_DTYPES)}")
    is_name = isinstance(called, str) and called.isidentifier()
    _require(is_name, f"its name {_shown(called)} is not a model's")
    sizes, identity = _sizes(kind, inner["sizes"]), Identity.from_config(inner["identity"])
    counts = [identity.observation_size, identity.action_size]
    kinds = ((identity.environment, str), (identity.history, dict), (identity.reward, bool))
    plain = all(isinstance(value, type_) for value, type_ in kinds)
    plain = plain and all(count is None or (type(count) is int and count >= 0) for count in counts)
    _require(plain, "its environment is not a name, its history not a table, or a size not a count")
    variates = identity.support.lower.size
    fits = None in counts or identity.support.shared or sum(count or 0 for count in counts) + 1 == variates
    _require(fits, f"it has ranges of {variates} variates, not of {counts} and a reward")
    held = sizes.variates
    _require(variates <= held, f"it has ranges of {variates} variates, but embeddings for {held}")
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
    _require(values.keys() == fields.keys(), f"its sizes are not {', '.join(fields)}")
    for name, type_ in fields.items():
        wanted = (int, float) if type_ in (float, "float") else (int,)
        good = type(values[name]) in wanted and abs(values[name]) < _MAX_SIZE
        _require(good, f"its {name} is not a number of that kind but {_shown(values[name])}")
    return kind.sizes(**values)


def _check_weights(archive: zipfile.ZipFile, wanted: int) -> None:
    """Check the weights' number and values before any memory is allocated for the model.

    They must be numbers, finite, and within this file: links out of it, or in cycles, are refused.
    """
    stored, asked = archive.getinfo(_WEIGHTS).file_size, f"its sizes ask for {wanted:,} weights, but it holds"
    room = 4 * wanted + _MAX_OBJECT_BYTES * _MAX_OBJECTS
    _require(4 * wanted <= stored <= room, f"{asked} {stored:,} bytes of them")
    found = seen = 0
    with h5py.File(io.BytesIO(archive.read(_WEIGHTS)), "r") as weights:
        waiting: list[h5py.Group] = [weights]
        while waiting:
            group = waiting.pop()
            for key in group:
                seen, those = seen + 1, f"its weights {_shown(f'{group.name}/{key}')}"
                _require(seen <= _MAX_OBJECTS, "refused: it holds more arrays than any model")
                local = type(group.get(key, getlink=True)) is h5py.HardLink
                _require(local, f"refused: {those} are a link to somewhere else")
                item = group[key]
                if isinstance(item, h5py.Group):
                    waiting.append(item)
                    continue
                numbers = isinstance(item, h5py.Dataset) and item.dtype == np.float32
                _require(numbers, f"{those} are not float32 numbers")
                inside = not (item.external or item.is_virtual)
                _require(inside, f"refused: {those} are kept in another file")
                kept = 4 * math.prod(item.shape) <= _MAX_EXPANSION * item.id.get_storage_size()
                _require(kept, f"refused: {those} declare more than is stored")
                found += item.size
                if found <= wanted:
                    _check_finite(item.name, item[()])
    _require(found == wanted, f"{asked} {found:,}")


def _check_finite(name: str, values: Any) -> None:
    _require(np.isfinite(values).all(), f"the weights {_shown(name)} hold values that are NaN or infinite")


def _shown(value: Any) -> str:
    return repr(str(value)[:60])
