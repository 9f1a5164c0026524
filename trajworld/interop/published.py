"""Published TrajWorld checkpoints as this project's models: sizes from the weights, every shape checked."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trajworld.errors import TrajWorldError, UsageError
from trajworld.interop.restricted_pickle import read_pickle
from trajworld.models.identity import Identity
from trajworld.models.interface import new_model
from trajworld.models.ranges import UNIT_SUPPORT, Support
from trajworld.models.sizes import TDMSizes, TrajWorldSizes
from trajworld.models.transformer import WindowTransformer
from trajworld.versions import versions

Floats = npt.NDArray[np.float32]

_INPUT, _ROWS, _VARIATES = "embed_proj/kernel", "embed_timestep/embedding", "embed_variate/embedding"
# Rows of a window: TDM's table has an entry for each token, but only the first ones, of rows, are ever read.
_WINDOW = 20
# Our layers, and the published ones to concatenate for each; in a block, of temporal attention {0} is 1, of variate
# attention 0, and the others follow from it.
_LAYERS = {
    "input_projection": ["embed_proj"],
    "kind_embedding": ["embed_obs_act"],
    "position_embedding": ["embed_timestep"],
    "variate_embedding": ["embed_variate"],
    "head": ["head"],
    "query_key_value": [f"Attention_{{0}}/Dense_{part}" for part in range(3)],
    "projection": ["Attention_{0}/Dense_3"],
    "attention_norm": ["LayerNorm_{0}"],
    "expansion": ["Dense_{1}"],
    "contraction": ["Dense_{2}"],
    "feed_forward_norm": ["LayerNorm_{3}"],
}
_KINDS = {"kernel": "kernel", "bias": "bias", "embeddings": "embedding", "gamma": "scale", "beta": "bias"}


def import_published(
    path: str | os.PathLike[str], heads: int = 4, environment: str = ""
) -> WindowTransformer:
    """Make a model of a checkpoint that the published code wrote, a TrajWorld or, of its baseline, a TDM.

    The restricted unpickler reads it. All sizes but ``heads`` follow from its weights. Its ranges, already widened, are
    kept, or [0, 1] where pre-training stored one number (it trained on exactly that; the stored widening is ignored).
    It does not name its environment.

    Raises:
        TrajWorldError: The file cannot be read, lacks a weight, has one too many, or one of a
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
    # The baseline has one attention in a block, and does not distinguish variates.
    is_tdm = not any(name.startswith(("embed_variate/", "blocks_0/Attention_0/")) for name in weights)
    tables = (_INPUT, _ROWS) if is_tdm else (_INPUT, _ROWS, _VARIATES)
    for name in tables:
        if name not in weights or weights[name].ndim != 2:
            raise TrajWorldError(f"{path} is not a published checkpoint: it holds no matrix {name!r}")
    if is_tdm:
        weights[_ROWS] = weights[_ROWS][:_WINDOW]
    shapes = {name: array.shape for name, array in weights.items()}
    (bins, width), (window, _) = shapes[_INPUT], shapes[_ROWS]
    blocks = len({name.split("/")[0] for name in weights if name.startswith("blocks_")})
    try:
        sizes: TDMSizes | TrajWorldSizes = (
            TDMSizes(blocks, width, heads, window, bins)
            if is_tdm
            else TrajWorldSizes(blocks, width, heads, window, bins, variates=shapes[_VARIATES][0])
        )
    except UsageError as problem:
        raise UsageError(f"{path}: {problem}") from None
    # Before memory is allocated for them.
    if (count := sum(array.size for array in weights.values())) != sizes.parameters:
        raise TrajWorldError(
            f"{path} holds {count:,} weights, but a model of its sizes has {sizes.parameters:,}"
        )
    history = {"imported": path.name, "versions": versions()}
    model: WindowTransformer = new_model(
        sizes, Identity(_support(path, content), environment=environment, history=history)
    )
    for variable in model.weights:
        names = _published_names(variable.path.removeprefix(f"{model.name}/"))
        shape = (*variable.shape[:-1], variable.shape[-1] // len(names))
        for name in names:
            if shapes.get(name) != shape:
                raise TrajWorldError(f"{path}: the weight {name!r} is missing or not of the shape {shape}")
        variable.assign(np.concatenate([weights[name] for name in names], axis=-1))
    return model


def _published_names(name: str) -> list[str]:
    """The published weights that one of ours, such as ``block_0_time/projection/kernel``, is made of."""
    *block, layer, kind = name.split("/")
    prefix, time = "", 0
    if block:
        _, number, axis = block[0].split("_")
        prefix, time = f"blocks_{number}/", int(axis == "time")
    indices = time, 2 * time, 2 * time + 1, time + 2
    return [f"{prefix}{published.format(*indices)}/{_KINDS[kind]}" for published in _LAYERS[layer]]


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
            continue
        if not isinstance(node, np.ndarray) or node.dtype.kind != "f":
            found = type(node).__name__
            raise TrajWorldError(f"{path}: {name!r} is no array of floating-point numbers but a {found}")
        left -= 4 * node.size
        if left < 0:
            raise TrajWorldError(f"{path} is refused: its weights repeat one another's memory")
        with np.errstate(over="ignore"):
            numbers = np.array(node, dtype=np.float32, order="C")
        if bad := np.count_nonzero(~np.isfinite(numbers)):
            raise TrajWorldError(
                f"{path}: {name!r} holds {bad} value(s) that are NaN or infinite; it is damaged"
            )
        yield name, numbers


def _support(path: Path, content: dict[str, Any]) -> Support:
    """The ranges, two numbers or two arrays ``[M]``, checked."""
    ends = {"lower": content["min_values"], "upper": content["max_values"]}
    for end in ends.values():
        is_number = isinstance(end, int | float | np.number | np.ndarray) and np.size(end)
        if not is_number or np.asarray(end).dtype.kind not in "iuf":
            raise TrajWorldError(
                f"{path}: min_values or max_values is neither a number nor an array of numbers"
            )
    try:
        support = Support.from_config(ends)
    except TrajWorldError as problem:
        raise TrajWorldError(f"{path}: min_values and max_values are no ranges: {problem}") from None
    return UNIT_SUPPORT if support.shared else support
