"""Published TrajWorld checkpoints as this project's models: which of their weights goes where."""

import os

import numpy as np
from numpy.typing import NDArray

from trajworld.errors import TrajWorldError
from trajworld.interop.published import PublishedCheckpoint, read_published
from trajworld.models.identity import Identity
from trajworld.models.ranges import UNIT_SUPPORT, Support
from trajworld.models.sizes import TrajWorldSizes
from trajworld.models.trajworld import TrajWorld
from trajworld.versions import versions

# In a published block, temporal attention is Attention_1, followed by LayerNorm_1, Dense_2, Dense_3 and LayerNorm_3;
# variate attention is Attention_0, followed by LayerNorm_0, Dense_0, Dense_1 and LayerNorm_2.
_HALVES = {
    "time": ("Attention_1", "LayerNorm_1", "Dense_2", "Dense_3", "LayerNorm_3"),
    "variate": ("Attention_0", "LayerNorm_0", "Dense_0", "Dense_1", "LayerNorm_2"),
}


def import_published(path: str | os.PathLike[str], heads: int = 4, environment: str = "") -> TrajWorld:
    """Make a model of a checkpoint that the published code wrote (``trm_dynamics.pkl``).

    The file is read by the restricted unpickler; the sizes are inferred from its weights and its ranges are kept.

    Args:
        path: The pickle.
        heads: Attention heads, the one size that weights do not tell.
        environment: The environment the checkpoint belongs to, where known; the file does not say.

    Raises:
        TrajWorldError: The file is not such a checkpoint, or is one of another architecture.
    """
    published = read_published(path, heads)
    if published.kind != "trajworld":
        raise TrajWorldError(
            f"{path} holds a {published.kind.upper()} baseline; only TrajWorld checkpoints are imported"
        )
    sizes = TrajWorldSizes(
        blocks=published.layers,
        width=published.width,
        heads=published.heads,
        window=published.window,
        bins=published.bins,
        variates=published.variates,
    )
    # A pre-training checkpoint holds scalars: it trained on exactly [0, 1], whatever widening was stored.
    shared = published.minimum.ndim == 0
    support = UNIT_SUPPORT if shared else Support(published.minimum, published.maximum)
    history = {"imported": os.path.basename(os.fspath(path)), "versions": versions()}
    model = TrajWorld(sizes, Identity(support, environment=environment, history=history))
    weights = keras_weights(published)
    for variable in model.weights:
        variable.assign(weights[variable.path.removeprefix(f"{model.name}/")])
    return model


def keras_weights(published: PublishedCheckpoint) -> dict[str, NDArray[np.float32]]:
    """The weights of a published TrajWorld checkpoint by the names that :class:`TrajWorld`'s have within the model."""
    weights = published.weights
    renamed = {
        "input_projection/kernel": weights["embed_proj/kernel"],
        "input_projection/bias": weights["embed_proj/bias"],
        "kind_embedding/embeddings": weights["embed_obs_act/embedding"],
        "position_embedding/embeddings": weights["embed_timestep/embedding"],
        "variate_embedding/embeddings": weights["embed_variate/embedding"],
        "head/kernel": weights["head/kernel"],
        "head/bias": weights["head/bias"],
    }
    for block in range(published.layers):
        for axis, (attention, norm, expansion, contraction, last_norm) in _HALVES.items():
            ours, theirs = f"block_{block}_{axis}", f"blocks_{block}"
            for part in ("kernel", "bias"):
                triple = [weights[f"{theirs}/{attention}/Dense_{index}/{part}"] for index in range(3)]
                renamed[f"{ours}/query_key_value/{part}"] = np.concatenate(triple, axis=-1)
                renamed[f"{ours}/projection/{part}"] = weights[f"{theirs}/{attention}/Dense_3/{part}"]
                renamed[f"{ours}/expansion/{part}"] = weights[f"{theirs}/{expansion}/{part}"]
                renamed[f"{ours}/contraction/{part}"] = weights[f"{theirs}/{contraction}/{part}"]
            for part, gamma in (("scale", "gamma"), ("bias", "beta")):
                renamed[f"{ours}/attention_norm/{gamma}"] = weights[f"{theirs}/{norm}/{part}"]
                renamed[f"{ours}/feed_forward_norm/{gamma}"] = weights[f"{theirs}/{last_norm}/{part}"]
    return renamed
