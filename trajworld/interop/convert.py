"""Published TrajWorld checkpoints as this project's models: a Keras model gets their weights."""

import os

from trajworld.interop.published import read_published
from trajworld.models.identity import Identity
from trajworld.models.trajworld import TrajWorld
from trajworld.versions import versions


def import_published(path: str | os.PathLike[str], heads: int = 4, environment: str = "") -> TrajWorld:
    """Make a model of a checkpoint that the published code wrote (``trm_dynamics.pkl``).

    The file is read by the restricted unpickler; its ranges are kept, and all sizes but ``heads`` inferred from its
    weights. It does not say either which environment it belongs to.

    Raises:
        TrajWorldError: The file is not such a checkpoint, or is one of another architecture.
    """
    published = read_published(path, heads)
    history = {"imported": os.path.basename(os.fspath(path)), "versions": versions()}
    model = TrajWorld(published.sizes, Identity(published.support, environment=environment, history=history))
    for variable in model.weights:
        variable.assign(published.weights[variable.path.removeprefix(f"{model.name}/")])
    return model
