"""Reading the checkpoints of the published TrajWorld code: sizes from the weights, every shape checked."""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from trajworld.errors import TrajWorldError, UsageError
from trajworld.interop.restricted_pickle import read_pickle

Floats = npt.NDArray[np.float32]

# The published TDM's position table has this many entries for each row of its window, and uses one.
_TDM_POSITIONS_PER_ROW = 512
_PUBLISHED_WINDOW = 20


@dataclass(frozen=True, eq=False)
class PublishedCheckpoint:
    """One published model: what it is, its sizes, ranges and weights.

    Attributes:
        kind: ``trajworld`` or ``tdm``.
        layers: Number of blocks.
        width: Embedding width d.
        heads: Attention heads; the file does not say, so it is what the caller said.
        bins: Bins B of the tokenizer.
        positions: Rows of the position table.
        window: Rows of a window. TDM's table is larger than its window, so for TDM this is inferred from the
            table and the number of variates, or 20.
        variates: Rows of the variate table; 0 for TDM, which has none.
        minimum: Lower ends of the ranges, already widened: ``[M]``, or ``[]`` where pre-training stored one
            number (it trained on exactly [0, 1], whatever the stored widening says).
        maximum: Upper ends, of the same shape.
        weights: Names such as ``blocks_0/Attention_0/Dense_0/kernel`` to float32 arrays; kernels are
            ``[in, out]``.
    """

    kind: Literal["trajworld", "tdm"]
    layers: int
    width: int
    heads: int
    bins: int
    positions: int
    window: int
    variates: int
    minimum: Floats
    maximum: Floats
    weights: Mapping[str, Floats]


def read_published(path: str | os.PathLike[str], heads: int = 4) -> PublishedCheckpoint:
    """Read ``trm_dynamics*.pkl`` or ``tdm_dynamics*.pkl``, through the restricted unpickler.

    Args:
        path: The file.
        heads: Attention heads; the weights do not tell.

    Raises:
        TrajWorldError: The file cannot be read, lacks a weight, has one too many, or one of a wrong shape or
            with values that are not finite, or its ranges are not ranges.
        UsageError: ``heads`` does not divide the width.
    """
    path = Path(path)
    content = read_pickle(path)
    if not isinstance(content, dict) or not {"params", "min_values", "max_values"} <= content.keys():
        raise TrajWorldError(
            f"{path} is not a published checkpoint: it is no dict of params, min_values and max_values"
        )
    weights = dict(_flat(path, content["params"]))
    kind: Literal["trajworld", "tdm"] = "tdm"
    if "embed_variate/embedding" in weights or any(
        name.startswith("blocks_0/Attention_0/") for name in weights
    ):
        kind = "trajworld"

    bins, width = _matrix(path, weights, "embed_proj/kernel").shape
    positions = _matrix(path, weights, "embed_timestep/embedding").shape[0]
    variates = _matrix(path, weights, "embed_variate/embedding").shape[0] if kind == "trajworld" else 0
    layers = len({name.split("/")[0] for name in weights if re.fullmatch(r"blocks_\d+/.*", name)})
    _check_shapes(path, weights, _expected(kind, layers, width, bins, positions, variates))
    if heads < 1 or width % heads:
        raise UsageError(
            f"{path} has a width of {width}, which {heads} heads do not divide: give the right --heads"
        )

    minimum, maximum = _ranges(path, content["min_values"], content["max_values"])
    window = positions if kind == "trajworld" else _tdm_window(positions, minimum.size if minimum.ndim else 0)
    return PublishedCheckpoint(
        kind, layers, width, heads, bins, positions, window, variates, minimum, maximum, weights
    )


def _flat(path: Path, tree: Any) -> Iterator[tuple[str, Floats]]:
    """Yield (name, float32 array) of nested dicts, below Flax's outer ``params`` where it is there."""
    while isinstance(tree, dict) and tree.keys() == {"params"}:
        tree = tree["params"]
    left = (
        4 * path.stat().st_size
    )  # Arrays may share one memory in the file; their copies must stay bounded by it.
    waiting: list[tuple[str, Any]] = [("", tree)]
    while waiting:
        name, node = waiting.pop()
        if isinstance(node, dict) and all(isinstance(key, str) for key in node):
            waiting.extend((f"{name}/{key}" if name else key, child) for key, child in node.items())
        elif isinstance(node, np.ndarray) and node.dtype.kind == "f":
            left -= 4 * node.size
            if left < 0:
                raise TrajWorldError(f"{path} is refused: its weights repeat one another's memory")
            yield name, _finite(path, name, node)
        else:
            raise TrajWorldError(
                f"{path}: {name!r} is no array of floating-point numbers but a {type(node).__name__}"
            )


def _finite(path: Path, name: str, values: npt.NDArray[Any]) -> Floats:
    """Copy ``values`` as float32.

    Raises:
        TrajWorldError: One is NaN, infinite or beyond float32.
    """
    with np.errstate(over="ignore"):
        numbers = np.array(values, dtype=np.float32, order="C")
    if not np.isfinite(numbers).all():
        bad = int(numbers.size - np.isfinite(numbers).sum())
        raise TrajWorldError(
            f"{path}: {name!r} holds {bad} value(s) that are NaN or infinite; the file is damaged"
        )
    return numbers


def _matrix(path: Path, weights: Mapping[str, Floats], name: str) -> Floats:
    if name not in weights:
        raise TrajWorldError(f"{path} is not a published checkpoint: the weight {name!r} is missing")
    if weights[name].ndim != 2:
        raise TrajWorldError(f"{path}: {name!r} has the shape {weights[name].shape}; two axes are expected")
    return weights[name]


def _expected(
    kind: str, layers: int, width: int, bins: int, positions: int, variates: int
) -> dict[str, tuple[int, ...]]:
    """Name every weight of a model of these sizes, with its shape."""
    shapes: dict[str, tuple[int, ...]] = {
        "embed_obs_act/embedding": (2, width),
        "embed_timestep/embedding": (positions, width),
        **_dense("embed_proj", bins, width),
        **_dense("head", width, bins),
    }
    if kind == "trajworld":
        shapes["embed_variate/embedding"] = (variates, width)
    # Temporal attention goes with LayerNorm 1, Dense 2, Dense 3 and LayerNorm 3; TDM has no more.
    attentions, feed_forwards, norms = [1], [(2, 3)], [1, 3]
    if kind == "trajworld":
        attentions, feed_forwards, norms = [0, 1], [(0, 1), (2, 3)], [0, 1, 2, 3]
    for layer in range(layers):
        block = f"blocks_{layer}"
        for attention in attentions:
            for dense in range(4):
                shapes |= _dense(f"{block}/Attention_{attention}/Dense_{dense}", width, width)
        for wide, narrow in feed_forwards:
            shapes |= _dense(f"{block}/Dense_{wide}", width, 4 * width)
            shapes |= _dense(f"{block}/Dense_{narrow}", 4 * width, width)
        for norm in norms:
            shapes[f"{block}/LayerNorm_{norm}/scale"] = (width,)
            shapes[f"{block}/LayerNorm_{norm}/bias"] = (width,)
    return shapes


def _dense(name: str, size_in: int, size_out: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}/kernel": (size_in, size_out), f"{name}/bias": (size_out,)}


def _check_shapes(path: Path, weights: Mapping[str, Floats], expected: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse a missing, superfluous or wrong-shaped weight by its name."""
    if missing := sorted(expected.keys() - weights.keys()):
        raise TrajWorldError(
            f"{path} is incomplete: the weight {missing[0]!r} is missing ({len(missing)} in all)"
        )
    if extra := sorted(weights.keys() - expected.keys()):
        raise TrajWorldError(
            f"{path} holds {extra[0]!r}, which no published model has ({len(extra)} such in all)"
        )
    if not any(name.startswith("blocks_") for name in weights):
        raise TrajWorldError(f"{path} is not a published checkpoint: it has no blocks")
    for name, shape in expected.items():
        if weights[name].shape != shape:
            raise TrajWorldError(
                f"{path}: {name!r} has the shape {weights[name].shape}, but its model's sizes ask {shape}"
            )
        if 0 in shape:
            raise TrajWorldError(f"{path}: {name!r} is empty")


def _ranges(path: Path, minimum: Any, maximum: Any) -> tuple[Floats, Floats]:
    """Check the ranges: two numbers, or two arrays ``[M]``, with minimum < maximum."""
    ends = []
    for name, value in (("min_values", minimum), ("max_values", maximum)):
        if (
            not isinstance(value, int | float | np.number | np.ndarray)
            or np.asarray(value).dtype.kind not in "iuf"
        ):
            raise TrajWorldError(f"{path}: {name!r} is neither a number nor an array of numbers")
        ends.append(_finite(path, name, np.asarray(value)))
    low, high = ends
    if low.shape != high.shape or low.ndim > 1 or low.size == 0:
        raise TrajWorldError(
            f"{path}: min_values has the shape {low.shape}, max_values {high.shape}; one of [M] is expected"
        )
    if not (low < high).all():
        raise TrajWorldError(f"{path}: min_values is not below max_values everywhere")
    return low, high


def _tdm_window(positions: int, variates: int) -> int:
    """Guess the rows of a TDM window from its oversized position table."""
    for share in (_TDM_POSITIONS_PER_ROW, variates):
        if share and positions % share == 0:
            return positions // share
    return min(positions, _PUBLISHED_WINDOW)
