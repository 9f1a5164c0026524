"""What is measured: the suites, the sizes, numbers of variates and dtypes each goes through, and their nominal work."""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from trajworld.models.sizes import TrajWorldSizes

FOLDER = Path(__file__).parent


class Suite(NamedTuple):
    """A suite: its file in this folder, the question that it answers, and whether times are the answer."""

    file: str
    question: str
    timed: bool = True


SUITES: dict[str, Suite] = {
    "accuracy": Suite("test_accuracy.py", "Is it the same model on each backend?", timed=False),
    "training": Suite("test_training_step.py", "How fast is a training step?"),
    "rollout": Suite("test_rollout.py", "How fast is a cached open-loop rollout?"),
    "forward": Suite("test_forward.py", "How fast is a forward pass?"),
    "tokenizing": Suite("test_tokenizing.py", "How fast are values encoded and targets binned?"),
    "windows": Suite("test_windows.py", "How fast are windows cut and batches made?"),
    "startup": Suite("test_start_up.py", "How long until the first answer?"),
    "memory": Suite("test_memory.py", "How much memory do a training step and a rollout take?", timed=False),
}
"""In the order in which they run and are reported."""

PRESETS = TrajWorldSizes.presets
SIZES: dict[str, TrajWorldSizes] = {
    "tiny": PRESETS["tiny"],
    "small": PRESETS["small"],
    "d64x2": TrajWorldSizes(blocks=2, width=64, heads=4),
    "paper": PRESETS["paper"],
}
"""The presets, and the width of 64 in 2 blocks that earlier measurements were made at."""

DTYPES = ("float32", "mixed_bfloat16")
BATCH = 32
VARIATES = (6, 15, 40)
HORIZONS = (10, 25, 100)
"""Steps of a rollout, the first of them compiled first."""

_QUICK_VARIATES = 15
_QUICK_HORIZONS = (10, 30)


@dataclass(frozen=True)
class Case:
    """One thing to measure.

    Attributes:
        size: A name of :data:`SIZES`.
        variates: M.
        dtype: Keras dtype policy.
        batch: B.
    """

    size: str
    variates: int
    dtype: str
    batch: int = BATCH

    @property
    def sizes(self) -> TrajWorldSizes:
        """The model's sizes."""
        return SIZES[self.size]

    @property
    def actions(self) -> int:
        """A: a fifth of the variates."""
        return max(1, self.variates // 5)

    @property
    def observations(self) -> int:
        """O."""
        return self.variates - 1 - self.actions

    @property
    def rows_read(self) -> int:
        """Rows of a training window that the model reads: all but the last, which is only predicted."""
        return self.sizes.window - 1

    def __str__(self) -> str:
        return f"{self.size}-M{self.variates}-{self.dtype}"

    @property
    def title(self) -> str:
        """As tables name it."""
        return f"{self.size}, M = {self.variates}, {self.dtype.removeprefix('mixed_')}"


def cases(suite: str, quick: bool) -> list[Case]:
    """The cases of a suite that goes through sizes, numbers of variates and dtypes.

    Args:
        suite: A name of :data:`SUITES` whose tests take a ``case``.
        quick: Only ``tiny`` and ``small`` at one M; ``paper`` once, in a training step and a rollout.
    """
    if suite == "memory":
        return [
            Case(size, _QUICK_VARIATES, dtype)
            for size in (("small",) if quick else ("small", "paper"))
            for dtype in (("float32",) if quick else DTYPES)
        ]
    if suite == "tokenizing":
        # What it costs depends on the width and M alone.
        counts, dtypes = ((_QUICK_VARIATES,), DTYPES[:1]) if quick else (VARIATES, DTYPES)
        return [
            Case(size, count, dtype) for size in ("small", "paper") for count in counts for dtype in dtypes
        ]
    if not quick:
        chosen = [Case(size, count, dtype) for size in PRESETS for count in VARIATES for dtype in DTYPES]
        return [*chosen, *(Case("d64x2", 18, dtype) for dtype in DTYPES)]
    chosen = [Case(size, _QUICK_VARIATES, DTYPES[0]) for size in ("tiny", "small")]
    if suite in ("training", "forward"):
        chosen.append(Case("small", _QUICK_VARIATES, DTYPES[1]))
    if suite == "training":
        chosen.append(Case("d64x2", 18, "float32"))
    if suite in ("training", "rollout"):
        chosen.append(Case("paper", _QUICK_VARIATES, "float32"))
    return chosen


def horizons(case: Case, quick: bool) -> tuple[int, ...]:
    """Steps of the rollouts of a case; for ``paper`` in a quick run, one chunk."""
    if not quick:
        return HORIZONS
    return (10,) if case.size == "paper" else _QUICK_HORIZONS


def forward_flops(case: Case, rows: int) -> int:
    """Nominal operations of a forward pass over ``rows`` rows: 48 d² for each block and each row's variate.

    Attention's own products, the tokenizer and the head are left out, so that a change of formulation leaves the
    figure as it is.
    """
    return 48 * case.sizes.width**2 * case.sizes.blocks * case.batch * rows * case.variates


def training_flops(case: Case) -> int:
    """Nominal operations of a training step: three times the forward pass over the rows that are read."""
    return 3 * forward_flops(case, case.rows_read)


def rollout_flops(case: Case, horizon: int, context: int, chunk: int) -> int:
    """Nominal operations of a rollout: each chunk of K predictions encodes W rows and then K - 1 single ones."""
    chunks = -(-horizon // chunk)
    return forward_flops(case, chunks * (context + chunk - 1))


def projection_flops(case: Case) -> int:
    """Operations of the dense product of the encoded values, ``[B T M, 256]``, with the kernel ``[256, d]``."""
    return 2 * case.sizes.bins * case.sizes.width * case.batch * case.sizes.window * case.variates
