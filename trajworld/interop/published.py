"""Reading the checkpoints of the published TrajWorld code: sizes from the weights, every shape checked."""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trajworld.errors import TrajWorldError, UsageError
from trajworld.interop.restricted_pickle import read_pickle
from trajworld.models.ranges import UNIT_SUPPORT, Support
from trajworld.models.sizes import TrajWorldSizes

Floats = npt.NDArray[np.float32]

# In a published block, temporal attention is Attention_1, followed by LayerNorm_1, Dense_2, Dense_3 and LayerNorm_3;
# variate attention is Attention_0, followed by LayerNorm_0, Dense_0, Dense_1 and LayerNorm_2.
_HALVES = {
    "time": ("Attention_1", "LayerNorm_1", "Dense_2", "Dense_3", "LayerNorm_3"),
    "variate": ("Attention_0", "LayerNorm_0", "Dense_0", "Dense_1", "LayerNorm_2"),
}


@dataclass(frozen=True, eq=False)
class PublishedCheckpoint:
    """One published TrajWorld model.

    Attributes:
        sizes: As the weights tell; the heads are what the caller said.
        support: The ranges, already widened: of each variate, or [0, 1] for all where pre-training stored one number
            (it trained on exactly that, whatever the stored widening says).
        weights: Float32 arrays by TrajWorld's names, such as ``block_0_time/projection/kernel``, ``[in, out]``.
    """

    sizes: TrajWorldSizes
    support: Support
    weights: Mapping[str, Floats]


def read_published(path: str | os.PathLike[str], heads: int = 4) -> PublishedCheckpoint:
    """Read ``trm_dynamics*.pkl``, through the restricted unpickler; the weights do not tell how many heads there are.

    Raises:
        TrajWorldError: The file cannot be read, is a TDM baseline's, lacks a weight, has one too many, or one of a
            wrong shape or with values that are not finite, or its ranges are not ranges.
        UsageError: ``heads`` does not divide the width.
    """
    path = Path(path)
    content = read_pickle(path)
    if not isinstance(content, dict) or not {"params", "min_values", "max_values"} <= content.keys():
        raise TrajWorldError(
            f"{path} is not a published checkpoint: it is no dict of params, min_values and max_values"
        )
    weights = dict(_flat(path, content["params"]))
    bins, width = _matrix(path, weights, "embed_proj/kernel").shape
    if not any(name.startswith(("embed_variate/", "blocks_0/Attention_0/")) for name in weights):
        raise TrajWorldError(f"{path} holds a TDM baseline; only TrajWorld checkpoints are imported")
    window = _matrix(path, weights, "embed_timestep/embedding").shape[0]
    variates = _matrix(path, weights, "embed_variate/embedding").shape[0]
    blocks = len({name.split("/")[0] for name in weights if re.fullmatch(r"blocks_\d+/.*", name)})
    if blocks == 0:
        raise TrajWorldError(f"{path} is not a published checkpoint: it has no blocks")
    layout = _layout(blocks, width, bins, window, variates)
    expected = {old: shape for olds, shape in layout.values() for old in olds}
    for names, what in (
        (expected.keys() - weights.keys(), "is incomplete: the weight {!r} is missing"),
        (weights.keys() - expected.keys(), "holds {!r}, which no published model has"),
    ):
        if names:
            raise TrajWorldError(f"{path} {what.format(min(names))} ({len(names)} such in all)")
    for name, shape in expected.items():
        if (found := weights[name].shape) != shape:
            raise TrajWorldError(f"{path}: {name!r} has the shape {found}, but its model's sizes ask {shape}")
        if 0 in shape:
            raise TrajWorldError(f"{path}: {name!r} is empty")
    if heads < 1 or width % heads:
        raise UsageError(
            f"{path} has a width of {width}, which {heads} heads do not divide: give the right --heads"
        )
    return PublishedCheckpoint(
        TrajWorldSizes(blocks, width, heads, window, bins, variates),
        _support(path, content["min_values"], content["max_values"]),
        {name: np.concatenate([weights[old] for old in olds], axis=-1) for name, (olds, _) in layout.items()},
    )


def _layout(
    blocks: int, width: int, bins: int, window: int, variates: int
) -> dict[str, tuple[list[str], tuple[int, ...]]]:
    """For each weight of our model: the published weights to concatenate on the last axis, and the shape of each."""
    places: dict[str, tuple[list[str], tuple[int, ...]]] = {
        "kind_embedding/embeddings": (["embed_obs_act/embedding"], (2, width)),
        "position_embedding/embeddings": (["embed_timestep/embedding"], (window, width)),
        "variate_embedding/embeddings": (["embed_variate/embedding"], (variates, width)),
    }

    def dense(ours: str, theirs: list[str], size_in: int, size_out: int) -> None:
        places[f"{ours}/kernel"] = [f"{name}/kernel" for name in theirs], (size_in, size_out)
        places[f"{ours}/bias"] = [f"{name}/bias" for name in theirs], (size_out,)

    dense("input_projection", ["embed_proj"], bins, width)
    dense("head", ["head"], width, bins)
    for block in range(blocks):
        for axis, (attention, norm, expansion, contraction, last_norm) in _HALVES.items():
            ours, theirs = f"block_{block}_{axis}", f"blocks_{block}"
            queries = [f"{theirs}/{attention}/Dense_{index}" for index in range(3)]
            dense(f"{ours}/query_key_value", queries, width, width)
            dense(f"{ours}/projection", [f"{theirs}/{attention}/Dense_3"], width, width)
            dense(f"{ours}/expansion", [f"{theirs}/{expansion}"], width, 4 * width)
            dense(f"{ours}/contraction", [f"{theirs}/{contraction}"], 4 * width, width)
            for part, gamma in (("scale", "gamma"), ("bias", "beta")):
                places[f"{ours}/attention_norm/{gamma}"] = [f"{theirs}/{norm}/{part}"], (width,)
                places[f"{ours}/feed_forward_norm/{gamma}"] = [f"{theirs}/{last_norm}/{part}"], (width,)
    return places


def _flat(path: Path, tree: Any) -> Iterator[tuple[str, Floats]]:
    """Yield (name, float32 array) of nested dicts, below Flax's outer ``params`` where it is there."""
    while isinstance(tree, dict) and tree.keys() == {"params"}:
        tree = tree["params"]
    # Arrays may share one memory in the file; their copies must stay bounded by it.
    left = 4 * path.stat().st_size
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
    """Copy ``values`` as float32; refuse NaN and what is infinite in float32."""
    with np.errstate(over="ignore"):
        numbers = np.array(values, dtype=np.float32, order="C")
    if not np.isfinite(numbers).all():
        bad = np.count_nonzero(~np.isfinite(numbers))
        raise TrajWorldError(f"{path}: {name!r} holds {bad} value(s) that are NaN or infinite; it is damaged")
    return numbers


def _matrix(path: Path, weights: Mapping[str, Floats], name: str) -> Floats:
    if name not in weights:
        raise TrajWorldError(f"{path} is not a published checkpoint: the weight {name!r} is missing")
    if weights[name].ndim != 2:
        raise TrajWorldError(f"{path}: {name!r} has the shape {weights[name].shape}; two axes are expected")
    return weights[name]


def _support(path: Path, minimum: Any, maximum: Any) -> Support:
    """Check the ranges: two numbers, or two arrays ``[M]``, with minimum < maximum."""
    ends = []
    for name, value in (("min_values", minimum), ("max_values", maximum)):
        is_number = isinstance(value, int | float | np.number | np.ndarray)
        if not is_number or np.asarray(value).dtype.kind not in "iuf":
            raise TrajWorldError(f"{path}: {name!r} is neither a number nor an array of numbers")
        ends.append(_finite(path, name, np.asarray(value)))
    low, high = ends
    if low.shape != high.shape or low.ndim > 1 or low.size == 0:
        raise TrajWorldError(
            f"{path}: min_values has the shape {low.shape}, max_values {high.shape}; one of [M] is expected"
        )
    if not (low < high).all():
        raise TrajWorldError(f"{path}: min_values is not below max_values everywhere")
    return Support(low, high) if low.ndim else UNIT_SUPPORT
