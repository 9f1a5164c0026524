"""The sizes of each kind of model and their presets, as plain numbers: a model file is described by them alone."""

from dataclasses import dataclass
from typing import Any, ClassVar

from trajworld.errors import UsageError


@dataclass(frozen=True)
class TrajWorldSizes:
    """The sizes of the transformer over rows and variates.

    Attributes:
        blocks: The number of blocks, each a temporal and a variate attention with their feed-forward nets.
        width: d, of the vector that stands for a token.
        heads: Attention heads; divides ``width``.
        window: T, the most rows a window holds.
        bins: B, of each variate's range.
        variates: How many variates the embedding table holds; wider environments are refused.
        dropout: Its rate.
    """

    presets: ClassVar[dict[str, "TrajWorldSizes"]] = {}
    runs: ClassVar[dict[tuple[str, str], dict[str, Any]]] = {}

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
        # Attention's dense layers, the feed-forward net's, and two norms.
        half = (4 * width * width + 4 * width) + (8 * width * width + 5 * width) + 4 * width
        embeddings = (2 + self.window + self.variates) * width
        return 2 * self.blocks * half + embeddings + 2 * self.bins * width + width + self.bins


TrajWorldSizes.presets.update(
    tiny=TrajWorldSizes(blocks=2, width=32, heads=2),
    small=TrajWorldSizes(blocks=3, width=64, heads=4),
    paper=TrajWorldSizes(blocks=6, width=256, heads=4),
)
# Short runs need higher rates than the published ones: each preset has its own peak and a warm-up of at most 5 % of its
# steps.
_SETTINGS = ("steps", "batch_size", "learning_rate", "warmup_steps", "decay_steps")
for _preset, _kind, *_values in (
    ("tiny", "pretrain", 300, 16, 3e-3, 15),
    ("tiny", "train", 200, 16, 3e-3, 10),
    ("small", "pretrain", 7000, 32, 1e-3, 200),
    ("small", "train", 1000, 32, 1e-3, 50),
    ("paper", "pretrain", 1_000_000, 64, 1e-4, 10_000, 10_000_000),
    ("paper", "train", 250_000, 64, 1e-5, 10_000, 10_000_000),
):
    TrajWorldSizes.runs[_preset, _kind] = dict(zip(_SETTINGS, _values, strict=False))
