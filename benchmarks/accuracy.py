"""How far two backends are apart, by the arrays that the accuracy suite left of each."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trajworld.errors import TrajWorldError
from trajworld.study.cells import Result

TARGETS = {"logits": 1e-4, "loss": 1e-3}
"""What a difference of two backends may be at most: absolute for logits, relative for losses."""

ARRAYS = ".npz"


def difference(settings: Mapping[str, Any], places: Mapping[str, str]) -> Result:
    """Compare the arrays of two cells.

    Args:
        settings: ``cells``: the keys of the reference's and of the other's; ``backend``: the other's name.
        places: ``store``: the folder of cells.

    Returns:
        Rows of ``measure`` and ``difference``: the largest absolute one of the logits, by ``size`` of model; the
        relative one of the loss, by ``step``; that of the holdout error.

    Raises:
        TrajWorldError: A file is damaged, or the two did not compute the same thing.
    """
    theirs, ours = (_arrays(Path(places["store"]) / f"{key}{ARRAYS}") for key in settings["cells"])
    if {name: array.shape for name, array in ours.items()} != {
        name: array.shape for name, array in theirs.items()
    }:
        raise TrajWorldError(
            "the two backends' arrays differ in names or shapes: measure both with the same options"
        )
    rows: list[dict[str, Any]] = []
    for name, array in ours.items():
        if name.startswith("logits/"):
            largest = float(np.max(np.abs(array - theirs[name])))
            size = name.removeprefix("logits/")
            rows.append({"measure": "logits", "size": size, "case": f"logits, {size}", "difference": largest})
    relative = {name: np.abs(ours[name] / theirs[name] - 1) for name in ("losses", "holdout_error")}
    rows += [
        {"measure": "loss", "case": "losses", "step": step, "difference": float(value)}
        for step, value in enumerate(relative["losses"], start=1)
    ]
    rows.append(
        {"measure": "holdout error", "case": "holdout error", "difference": float(relative["holdout_error"])}
    )
    return Result(rows, origin={"backend": settings["backend"], "device": settings["device"]})


def _arrays(path: Path) -> dict[str, NDArray[np.float64]]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name].astype(np.float64) for name in archive}
    # A truncated archive raises whatever its first unreadable byte leads to.
    except Exception as error:
        raise TrajWorldError(f"{path} is not a readable archive of arrays ({error})") from None
