"""Batches of windows, mixed over datasets by weight with Grain; each batch is a pure function of (seed, step)."""

import contextlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from typing import Literal

import grain
import numpy as np
from numpy.typing import ArrayLike, NDArray

from trajworld.data.augmentation import augmented
from trajworld.data.batch import Batch, variates_of
from trajworld.data.dataset import Dataset
from trajworld.data.windows import WindowIndex, gather_windows

Sampling = Literal["window", "episode"]

_READ_THREADS = 2
_BATCHES_AHEAD = 4
_STEPS_DRAWN = 64


@dataclass(frozen=True, eq=False)
class Source:
    """One dataset of a mixture, the support of its variates (ends ``[M]``), and its share of the batches.

    ``sampling`` by ``window`` draws windows uniformly; by ``episode`` it draws an episode, then one of its windows
    (UniTraj). ``episodes`` are the numbers of those to draw from, None for all.
    """

    dataset: Dataset
    lower: NDArray[np.float32]
    upper: NDArray[np.float32]
    weight: float = 1.0
    sampling: Sampling = "window"
    episodes: NDArray[np.int64] | None = None

    @cached_property
    def index(self) -> WindowIndex:
        """The windows that are drawn from."""
        return WindowIndex.of(self.dataset, self.episodes)

    def draw(self, numbers: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The windows that random ``numbers [2, B]`` select: their ends, and their episodes' first rows.

        The numbers are uniform over 64 bits, so that their remainders are uniform within 2^-30.
        """
        index = self.index
        if self.sampling == "window":
            return index.locate(numbers[0] % np.uint64(len(index)))
        episode = (numbers[0] % np.uint64(len(index.first_rows))).astype(np.int64)
        first, windows = index.first_rows[episode], np.diff(index.first_ranks)[episode]
        return first + 1 + (numbers[1] % windows.astype(np.uint64)).astype(np.int64), first


@dataclass(eq=False)
class Mixture:
    """Batches of ``batch_size`` windows of ``window`` rows, drawn from several datasets, each batch from one.

    Which source a step draws from is Grain's deterministic interleaving of the weights; which windows, a generator
    seeded with (seed, step). Nothing else is state: a resumed run sees exactly the batches that it would have seen.
    ``augment`` is the share of batches that are changed. ``sizes`` are the values of M_pad, at most ``most_sizes``;
    ``variates`` each source's, padded to the smallest that holds its M.
    """

    sources: Sequence[Source]
    batch_size: int
    window: int = 20
    seed: int = 0
    most_sizes: int = 3
    augment: float = 0.0

    def __post_init__(self) -> None:
        counts = [source.dataset.num_variates for source in self.sources]
        weights = [source.weight for source in self.sources]
        self.sizes = padded_sizes(counts, self.most_sizes, weights)
        self.variates = [
            variates_of(source.dataset, source.lower, source.upper, min(n for n in self.sizes if n >= m))
            for source, m in zip(self.sources, counts, strict=True)
        ]
        parts = [grain.MapDataset.source([number]).repeat() for number in range(len(self.sources))]
        self._order = grain.MapDataset.mix(parts, weights)

    def batch(self, step: int) -> Batch:
        """The batch of a step: the same for every call with the same sources, sizes and seed."""
        number = int(self._order[step])
        source, variates = self.sources[number], self.variates[number]
        block, place = divmod(step, _STEPS_DRAWN)
        ends, first = source.draw(_drawn(self.seed, block, self.batch_size)[place])
        values, time_mask = gather_windows(source.dataset, ends, first, self.window)
        missing = len(variates.lower) - values.shape[2]
        if missing:
            values = np.pad(values, ((0, 0), (0, 0), (0, missing)))
        values, variates = augmented(values, variates, self.augment, self.seed, step)
        return Batch(values, time_mask, variates, number)

    def iterate(self, start: int, stop: int) -> Iterator[Batch]:
        """``batch(step)`` of the steps ``start`` to ``stop - 1``, a few prepared ahead in Grain's reading threads."""
        if start >= stop:
            return
        steps = grain.MapDataset.source(range(start, stop)).map(self.batch)
        options = grain.ReadOptions(num_threads=_READ_THREADS, prefetch_buffer_size=_BATCHES_AHEAD)
        with contextlib.closing(iter(steps.to_iter_dataset(options))) as iterator:
            yield from iterator


def padded_sizes(sizes: Sequence[int], most: int, weights: Sequence[float]) -> list[int]:
    """The values of M_pad, at most ``most``, that cost the least padding; ascending, the largest size among them.

    The cost is the sum over datasets of weight times the variates added to M to reach the next chosen size.
    """
    shares: defaultdict[int, float] = defaultdict(float)
    for size, weight in zip(sizes, weights, strict=True):
        shares[size] += weight
    distinct = sorted(shares)

    def cost(first: int, last: int) -> float:
        return sum(shares[size] * (distinct[last] - size) for size in distinct[first : last + 1])

    @cache
    def best(last: int, most: int) -> tuple[float, list[int]]:
        """The least cost of all sizes up to ``distinct[last]``, which is chosen, and the choice."""
        found = [(cost(0, last), [distinct[last]])]
        for cut in range(last) if most > 1 else ():
            before, chosen = best(cut, most - 1)
            found.append((before + cost(cut + 1, last), [*chosen, distinct[last]]))
        return min(found)

    return best(len(distinct) - 1, most)[1]


@lru_cache(maxsize=8)
def _drawn(seed: int, block: int, batch_size: int) -> NDArray[np.uint64]:
    """The random numbers of a block of steps, ``[steps, 2, B]``; a generator per step would cost more."""
    generator = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, block])))
    return generator.integers(0, 2**64, size=(_STEPS_DRAWN, 2, batch_size), dtype=np.uint64)


def windows_in_order(
    dataset: Dataset,
    episodes: ArrayLike | None,
    batch_size: int,
    window: int = 20,
    limit: int | None = None,
    seed: int = 0,
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """The windows of ``episodes`` (all where None) in order, as ``gather_windows`` returns them, for evaluation.

    Where there are more than ``limit``, a random choice of that many, in order. The last batch may be smaller.
    """
    index = WindowIndex.of(dataset, episodes)
    ranks = np.arange(len(index))
    if limit is not None and limit < len(index):
        ranks = np.sort(np.random.default_rng(seed).choice(len(index), size=limit, replace=False))
    for start in range(0, len(ranks), batch_size):
        yield gather_windows(dataset, *index.locate(ranks[start : start + batch_size]), window)
