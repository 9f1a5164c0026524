"""Padding the variates of datasets to a few sizes, so that compiled functions stay few."""

from collections.abc import Sequence


def padded_sizes(sizes: Sequence[int], most: int = 3, weights: Sequence[float] | None = None) -> list[int]:
    """The values of M_pad, at most ``most`` of them, that cost the least padding; ascending.

    The cost is the sum over ``sizes``, M of each dataset, of its weight (1 where not given) times the variates added to
    reach the next chosen size. The largest size is always chosen.
    """
    shares: dict[int, float] = {}
    for size, weight in zip(sizes, weights or [1.0] * len(sizes), strict=True):
        shares[size] = shares.get(size, 0.0) + weight
    distinct = sorted(shares)

    def cost(first: int, last: int) -> float:
        return sum(shares[size] * (distinct[last] - size) for size in distinct[first : last + 1])

    def joined(cut: int, last: int) -> tuple[float, list[int]]:
        return best[cut][0] + cost(cut + 1, last), [*best[cut][1], distinct[last]]

    # best[last]: the least cost of all sizes up to distinct[last], which is chosen, and the choice.
    best = [(cost(0, last), [distinct[last]]) for last in range(len(distinct))]
    for _ in range(min(most, len(distinct)) - 1):
        best = [
            min([best[last], *(joined(cut, last) for cut in range(last))]) for last in range(len(distinct))
        ]
    return best[-1][1]
