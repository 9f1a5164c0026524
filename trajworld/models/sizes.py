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
    # Short runs need higher rates than the published ones: each preset has its own peak and a warm-up of at most 5 % of
    # its steps.
    runs: ClassVar[dict[tuple[str, str], dict[str, Any]]] = {
        ("tiny", "pretrain"): {"steps": 300, "batch_size": 16, "learning_rate": 3e-3, "warmup_steps": 15},
        ("tiny", "train"): {"steps": 200, "batch_size": 16, "learning_rate": 3e-3, "warmup_steps": 10},
        ("small", "pretrain"): {
            "steps": 7000,
            "batch_size": 32,
            "learning_rate": 1e-3,
            "warmup_steps": 200,
        },
        ("small", "train"): {"steps": 1000, "batch_size": 32, "learning_rate": 1e-3, "warmup_steps": 50},
        ("paper", "pretrain"): {
            "steps": 1_000_000,
            "batch_size": 64,
            "learning_rate": 1e-4,
            "warmup_steps": 10_000,
            "decay_steps": 10_000_000,
        },
        ("paper", "train"): {
            "steps": 250_000,
            "batch_size": 64,
            "learning_rate": 1e-5,
            "warmup_steps": 10_000,
            "decay_steps": 10_000_000,
        },
    }

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


TrajWorldSizes.presets.update(
    tiny=TrajWorldSizes(blocks=2, width=32, heads=2),
    small=TrajWorldSizes(blocks=3, width=64, heads=4),
    paper=TrajWorldSizes(blocks=6, width=256, heads=4),
)
