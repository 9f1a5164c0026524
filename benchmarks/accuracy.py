"""How far the backends are apart, from the arrays that the accuracy suite left."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trajworld.errors import TrajWorldError
from trajworld.files import atomic_file

REFERENCE = "jax"
LOGITS_TARGET = 1e-4
LOSSES_TARGET = 1e-3

_LOGITS, _PREFIX = "logits/", "accuracy-"

Arrays = Mapping[str, NDArray[np.floating]]


@dataclass(frozen=True)
class Difference:
    """One backend against the reference, from the same weights and batches.

    Attributes:
        backend: Its name.
        reference: The other's.
        logits: Largest absolute difference by model size.
        losses: ``[steps]`` relative difference of each step's loss; None where one of them has none.
        holdout: Relative difference of the final holdout error; None likewise.
    """

    backend: str
    reference: str
    logits: dict[str, float]
    losses: NDArray[np.float64] | None
    holdout: float | None

    @property
    def largest_logits(self) -> float | None:
        """The largest over all sizes."""
        return max(self.logits.values(), default=None)

    @property
    def largest_loss(self) -> float | None:
        """The largest over all steps."""
        return None if self.losses is None else float(self.losses.max())

    @property
    def equal(self) -> bool:
        """Whether what is known lies within the targets."""
        logits, losses = self.largest_logits, self.largest_loss
        return (logits is None or logits <= LOGITS_TARGET) and (losses is None or losses <= LOSSES_TARGET)


def arrays_path(folder: Path, backend: str) -> Path:
    """Where a backend's arrays are kept in a folder of results."""
    return folder / f"{_PREFIX}{backend}.npz"


def write_arrays(path: Path, arrays: Arrays) -> None:
    """Write arrays to an ``.npz``, atomically."""
    with atomic_file(path) as temporary:
        np.savez_compressed(temporary, **arrays)  # type: ignore[arg-type]


def read_arrays(folder: Path) -> dict[str, Arrays]:
    """Every backend's arrays in a folder, the reference first.

    Raises:
        TrajWorldError: A file is no archive of number arrays.
    """
    found: dict[str, Arrays] = {}
    for path in sorted(folder.glob(f"{_PREFIX}*.npz")):
        try:
            with np.load(path, allow_pickle=False) as archive:
                arrays = dict(archive)
        # A truncated archive raises whatever its first unreadable byte leads to.
        except Exception as error:
            raise TrajWorldError(f"{path} is not a readable archive of arrays ({error})") from None
        if any(array.dtype.kind != "f" or not np.isfinite(array).all() for array in arrays.values()):
            raise TrajWorldError(f"{path} holds other things than finite numbers")
        found[path.stem.removeprefix(_PREFIX)] = arrays
    return dict(sorted(found.items(), key=lambda item: item[0] != REFERENCE))


def differences(found: Mapping[str, Arrays]) -> list[Difference]:
    """Each backend against the first, over what both have.

    Raises:
        TrajWorldError: They did not compute the same thing: the shapes differ.
    """
    if not found:
        return []
    (reference, theirs), *others = found.items()
    return [_difference(backend, ours, reference, theirs) for backend, ours in others]


def _difference(backend: str, ours: Arrays, reference: str, theirs: Arrays) -> Difference:
    both = sorted(set(ours) & set(theirs))
    for name in both:
        if ours[name].shape != theirs[name].shape:
            raise TrajWorldError(
                f"{name} of {backend} has the shape {ours[name].shape} and that of {reference} "
                f"{theirs[name].shape}: they are of different versions; run the suite accuracy again for both"
            )
    logits = {
        name.removeprefix(_LOGITS): float(np.max(np.abs(_double(ours[name]) - _double(theirs[name]))))
        for name in both
        if name.startswith(_LOGITS)
    }
    relative = {
        name: np.abs(_double(ours[name]) / _double(theirs[name]) - 1)
        for name in ("losses", "holdout_error")
        if name in both
    }
    holdout = relative.get("holdout_error")
    return Difference(
        backend, reference, logits, relative.get("losses"), None if holdout is None else float(holdout)
    )


def _double(array: NDArray[np.floating]) -> NDArray[np.float64]:
    return array.astype(np.float64)
