"""Named sizes of TrajWorld (DESIGN §4)."""

from dataclasses import dataclass, replace
from typing import Any

from trajworld.errors import UsageError


@dataclass(frozen=True)
class ModelSizes:
    """The sizes of a TrajWorld model.

    Attributes:
        blocks: The number of blocks, each a temporal and a variate attention with their feed-forward nets.
        width: d.
        heads: Attention heads; divides ``width``.
        window: T, the most rows a window holds.
        bins: B.
        variates: How many variates the embedding table holds; wider environments are refused.
        dropout: Rate.
    """

    blocks: int
    width: int
    heads: int
    window: int = 20
    bins: int = 256
    variates: int = 100
    dropout: float = 0.05

    def __post_init__(self) -> None:
        for name in ("blocks", "width", "heads", "window", "bins", "variates"):
            if getattr(self, name) < 1:
                raise UsageError(f"a model's {name} must be at least 1, not {getattr(self, name)}")
        if self.width % self.heads:
            raise UsageError(f"a model's width ({self.width}) must be a multiple of its heads ({self.heads})")
        if not 0 <= self.dropout < 1:
            raise UsageError(f"a model's dropout must lie in [0, 1), not {self.dropout}")

    @property
    def parameters(self) -> int:
        """How many weights a model of these sizes has."""
        width = self.width
        half = (
            (width * 3 * width + 3 * width)
            + (width * width + width)
            + (8 * width * width + 5 * width)
            + 4 * width
        )
        embeddings = (2 + self.window + self.variates) * width
        return 2 * self.blocks * half + embeddings + 2 * self.bins * width + width + self.bins


PRESETS: dict[str, ModelSizes] = {
    "tiny": ModelSizes(blocks=2, width=32, heads=2),
    "small": ModelSizes(blocks=3, width=64, heads=4),
    "paper": ModelSizes(blocks=6, width=256, heads=4),
}


def model_sizes(preset: str, **overrides: Any) -> ModelSizes:
    """The sizes of a preset, with any of them overridden.

    Raises:
        UsageError: The preset is unknown, or a size is out of range.
    """
    if preset not in PRESETS:
        raise UsageError(f"no model preset is called {preset!r}: there are {', '.join(PRESETS)}")
    return replace(PRESETS[preset], **{name: value for name, value in overrides.items() if value is not None})
