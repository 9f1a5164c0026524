"""The range each variate is binned over, as plain NumPy."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from trajworld.errors import TrajWorldError

WIDENING = 1e-5


@dataclass(frozen=True)
class Support:
    """The range of each variate: float32 ends ``[M]``, or scalars where all share one range (a pre-trained model)."""

    lower: NDArray[np.float32]
    upper: NDArray[np.float32]

    def __post_init__(self) -> None:
        lower, upper = np.asarray(self.lower, np.float32), np.asarray(self.upper, np.float32)
        shapes = lower.shape, upper.shape
        if shapes[0] != shapes[1] or lower.ndim > 1:
            raise TrajWorldError(f"a support's ends have shapes {shapes}: two of [M] or () are wanted")
        if not (np.isfinite([lower, upper]).all() and np.all(lower < upper)):
            raise TrajWorldError("a support's ends must be finite, each lower end below its upper end")
        object.__setattr__(self, "lower", lower)
        object.__setattr__(self, "upper", upper)

    @property
    def shared(self) -> bool:
        """Whether one range serves all variates, as in a pre-trained model."""
        return self.lower.ndim == 0

    def to_config(self) -> dict[str, Any]:
        """Plain lists and numbers; float32 survives JSON exactly."""
        return {"lower": self.lower.tolist(), "upper": self.upper.tolist()}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Support":
        """The inverse of :meth:`to_config`."""
        with np.errstate(over="ignore"):
            return cls(np.asarray(config["lower"], np.float32), np.asarray(config["upper"], np.float32))


UNIT_SUPPORT = Support(np.float32(0.0), np.float32(1.0))  # type: ignore[arg-type]


def training_support(minimum: ArrayLike, maximum: ArrayLike) -> Support:
    """The support of one dataset's variates: ``[minimum - 1e-5, maximum + 1e-5]``, or the next wider in float32."""
    low, high = np.asarray(minimum, np.float32), np.asarray(maximum, np.float32)
    lower = np.minimum(low - np.float32(WIDENING), np.nextafter(low, np.float32(-np.inf)))
    upper = np.maximum(high + np.float32(WIDENING), np.nextafter(high, np.float32(np.inf)))
    return Support(lower, upper)


def pretraining_support(minimum: ArrayLike, maximum: ArrayLike) -> Support:
    """The range that scales one pre-training dataset to [0, 1]: its own, widened only where a variate is constant.

    Binning raw values over it is the same as scaling them to [0, 1], clipping, and binning over [0, 1].
    """
    low, high = np.asarray(minimum, np.float32), np.asarray(maximum, np.float32)
    widened = training_support(low, high)
    constant = high - low <= 2 * WIDENING
    return Support(np.where(constant, widened.lower, low), np.where(constant, widened.upper, high))
