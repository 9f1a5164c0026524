"""What is measured: the suites, and the sizes, numbers of variates and dtypes that they go through."""

from dataclasses import dataclass
from itertools import product
from pathlib import Path

from trajworld.models.sizes import TrajWorldSizes

FOLDER = Path(__file__).parent

SUITES = {
    "accuracy": "Is it the same model on each backend?",
    "training": "How fast is a training step?",
    "rollout": "How fast is a cached open-loop rollout?",
    "forward": "How fast is a forward pass?",
    "tokenizing": "How fast are values encoded and targets binned?",
    "windows": "How fast are windows cut and batches made?",
    "startup": "How long until the first answer?",
    "memory": "How much memory do a training step and a rollout take?",
}
"""The question that each suite answers, in the order in which they run and are reported."""

DTYPES = ("float32", "mixed_bfloat16")
VARIATES = (6, 15, 40)


@dataclass(frozen=True)
class Case:
    """One thing to measure: a preset's sizes, M, the dtype policy, and B."""

    size: str
    variates: int = 15
    dtype: str = "float32"
    batch: int = 32

    @property
    def sizes(self) -> TrajWorldSizes:
        return TrajWorldSizes.presets[self.size]

    @property
    def actions(self) -> int:
        return max(1, self.variates // 5)

    @property
    def observations(self) -> int:
        return self.variates - 1 - self.actions

    @property
    def rows_read(self) -> int:
        """Rows of a training window that the model reads: all but the last, which is only predicted."""
        return self.sizes.window - 1

    def flops(self, rows: int) -> int:
        """Nominal operations of a forward pass over ``rows`` rows: 48 d² for each block and each row's variate.

        Without attention's own products, tokenizer and head: a change of formulation leaves the figure as it is.
        """
        return 48 * self.sizes.width**2 * self.sizes.blocks * self.batch * rows * self.variates

    def rollout_flops(self, horizon: int, context: int, chunk: int) -> int:
        """Nominal operations of a rollout: each chunk of K predictions encodes W rows and then K - 1 single ones."""
        return self.flops(-(-horizon // chunk) * (context + chunk - 1))

    def __str__(self) -> str:
        return f"{self.size}, M = {self.variates}, {self.dtype.removeprefix('mixed_')}"


_FAST = [Case("tiny"), Case("small"), Case("small", dtype=DTYPES[1])]
_QUICK = {
    "training": [*_FAST, Case("paper")],
    "rollout": [Case("tiny"), Case("small"), Case("paper")],
    "forward": _FAST,
    "tokenizing": [Case("small"), Case("paper")],
    "memory": [Case("small")],
}


def cases(suite: str, quick: bool) -> list[Case]:
    """The cases of a suite, none where its tests take no ``case``; few of them in a quick run."""
    if quick or suite not in _QUICK:
        return _QUICK.get(suite, [])
    if suite == "memory":
        return [Case(size, dtype=dtype) for size in ("small", "paper") for dtype in DTYPES]
    # The cost of tokenizing depends only on the width and M.
    sizes = ("small", "paper") if suite == "tokenizing" else tuple(TrajWorldSizes.presets)
    return [Case(*one) for one in product(sizes, VARIATES, DTYPES)]
