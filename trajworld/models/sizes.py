"""The sizes of each kind of model and their presets, as plain numbers: a model file is described by them alone."""

import itertools
from dataclasses import dataclass
from typing import Any, ClassVar

from trajworld.errors import UsageError


@dataclass(frozen=True)
class TransformerSizes:
    """The sizes of a transformer over windows of rows.

    Attributes:
        blocks: The number of blocks: of TrajWorld, each a temporal and a variate attention with their feed-forward
            nets; of TDM, one attention over all tokens with its net.
        width: The width d of the vector that stands for a token.
        heads: Attention heads; divides ``width``.
        window: The most rows T that a window holds.
        bins: The number B of bins of each variate's range.
        dropout: The share of values that is dropped.
    """

    blocks: int
    width: int
    heads: int
    window: int = 20
    bins: int = 256
    dropout: float = 0.05

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            # A window is a row and the one that is predicted.
            if name != "dropout" and value < (least := 1 + (name == "window")):
                raise UsageError(f"a model's {name} must be at least {least}, not {value}")
        if self.width % self.heads:
            raise UsageError(f"a model's width ({self.width}) must be a multiple of its heads ({self.heads})")
        if not 0 <= self.dropout < 1:
            raise UsageError(f"a model's dropout must lie in [0, 1), not {self.dropout}")

    def _parameters(self, layers: int, entries: int) -> int:
        """The weights of ``layers`` attentions with their nets, and of tables with ``entries`` more than usual."""
        width = self.width
        # Attention's dense layers, the feed-forward net's, and two norms.
        layer = (4 * width * width + 4 * width) + (8 * width * width + 5 * width) + 4 * width
        embeddings = (2 + self.window + entries) * width
        return layers * layer + embeddings + 2 * self.bins * width + width + self.bins


@dataclass(frozen=True)
class TrajWorldSizes(TransformerSizes):
    """The sizes of the transformer over rows and variates.

    Attributes:
        variates: How many variates the embedding table holds; wider environments are refused.
    """

    presets: ClassVar[dict[str, "TrajWorldSizes"]] = {}
    runs: ClassVar[dict[tuple[str, ...], dict[str, Any]]] = {}

    variates: int = 100

    @property
    def parameters(self) -> int:
        """How many weights a model of these sizes has."""
        return self._parameters(2 * self.blocks, self.variates)


@dataclass(frozen=True)
class TDMSizes(TransformerSizes):
    """The sizes of the transformer over one flattened sequence of tokens."""

    presets: ClassVar[dict[str, "TDMSizes"]] = {}
    runs: ClassVar[dict[tuple[str, ...], dict[str, Any]]] = {}

    @property
    def variates(self) -> int:
        """More than there are anywhere: they have no table."""
        return 2**31

    @property
    def parameters(self) -> int:
        """How many weights a model of these sizes has."""
        return self._parameters(self.blocks, 0)


TrajWorldSizes.presets.update(
    tiny=TrajWorldSizes(blocks=2, width=32, heads=2),
    small=TrajWorldSizes(blocks=3, width=64, heads=4),
    paper=TrajWorldSizes(blocks=6, width=256, heads=4),
)
# Half the attentions, and half as wide again: about as many weights.
TDMSizes.presets.update(
    tiny=TDMSizes(blocks=2, width=48, heads=2),
    small=TDMSizes(blocks=3, width=96, heads=4),
    paper=TDMSizes(blocks=6, width=384, heads=4),
)
# Short runs need higher rates than the published ones: each preset has its own peak and share of warm-up, and so do
# runs that start from a model, which need less of it.
_SETTINGS = ("steps", "batch_size", "learning_rate", "warmup_steps", "decay_steps")
for _preset, _kind, *_values in (
    ("tiny", "pretrain", 300, 16, 3e-3, 15),
    ("tiny", "train", 200, 16, 3e-3, 10),
    ("small", "pretrain", 7000, 32, 1e-3, 350),
    ("small", "train", 1000, 32, 1e-2, 300),
    ("small", "init", 1000, 32, 1e-2, 50),
    ("paper", "pretrain", 1_000_000, 64, 1e-4, 10_000, 10_000_000),
    ("paper", "train", 250_000, 64, 1e-5, 10_000, 10_000_000),
):
    TrajWorldSizes.runs[_preset, _kind] = dict(zip(_SETTINGS, _values, strict=False))
for _kind in ("train", "init"):
    # With Muon the error is 0.5 to 0.6 of AdamW's from scratch, and 0.8 to 0.9 fine-tuned (docs/diagnosis.md). At these
    # rates a model memorises the bins of small noisy data: soft targets and weight decay prevent that.
    TrajWorldSizes.runs["small", _kind] |= {"targets": "gauss", "optimizer": "muon"}
# With another optimiser than the preset's.
TrajWorldSizes.runs["small", "train", "adamw"] = {"learning_rate": 3e-3}
TrajWorldSizes.runs["small", "init", "adamw"] = {"learning_rate": 6e-3}
TDMSizes.runs.update(TrajWorldSizes.runs)


@dataclass(frozen=True)
class EnsembleSizes:
    """The sizes of the ensemble of multilayer perceptrons.

    Attributes:
        members: The number of members of the ensemble.
        elites: How many of them predict: those of the least holdout error.
        layers: Hidden layers, at most 4.
        width: The width of each hidden layer.
        observations: Places for observation variates; wider environments are refused.
        actions: Places for action variates.
    """

    presets: ClassVar[dict[str, "EnsembleSizes"]] = {}
    runs: ClassVar[dict[tuple[str, ...], dict[str, Any]]] = {}

    members: int = 7
    elites: int = 5
    layers: int = 4
    width: int = 200
    observations: int = 90
    actions: int = 30

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 1:
                raise UsageError(f"a model's {name} must be at least 1, not {value}")
        if self.elites > self.members or self.layers > 4:
            raise UsageError(
                f"of {self.members} members {self.elites} cannot predict, or {self.layers} layers are above 4"
            )

    @property
    def window(self) -> int:
        """A row and the next one."""
        return 2

    @property
    def variates(self) -> int:
        """The most variates of a row."""
        return self.observations + 1 + self.actions

    @property
    def parameters(self) -> int:
        """How many weights a model of these sizes has, standardisation, elites and sampling included."""
        inputs, predicted = self.observations + self.actions, self.observations + 1
        widths = [inputs, *[self.width] * self.layers, 2 * predicted]
        member = sum((rows + 1) * columns for rows, columns in itertools.pairwise(widths))
        return self.members * member + 2 * predicted + 2 * (inputs + 1) + self.members + 1


EnsembleSizes.presets.update(
    tiny=EnsembleSizes(members=3, elites=2, layers=2, width=32),
    small=EnsembleSizes(),
    paper=EnsembleSizes(),
    # As published for pre-training, on robots of many sizes.
    wide=EnsembleSizes(width=640),
)
for _preset, _steps, _batch_size in (
    ("tiny", 300, 64),
    ("small", 5000, 256),
    ("paper", 250_000, 256),
    ("wide", 250_000, 256),
):
    for _kind in ("train", "pretrain"):
        # Adam at a constant rate, nothing clipped; the weights decay in the loss.
        EnsembleSizes.runs[_preset, _kind] = {
            "steps": _steps,
            "batch_size": _batch_size,
            "learning_rate": 1e-3,
            "warmup_steps": 0,
            "weight_decay": 0.0,
            "clip_norm": 1e9,
            "decay_steps": 10_000_000,
            "patience": 5,
        }
