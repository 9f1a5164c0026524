"""A process that is no robot: two tanks, one above the other, a pump and a valve, measured with noise.

``python tank.py tank.csv`` writes 20,000 rows, ten seconds apart.
"""

import sys

import numpy as np
import pandas as pd


def tank(rows: int = 20_000, seed: int = 0) -> pd.DataFrame:
    """The levels (0 to 1), as measured, and what the pump and the valve between the tanks are set to.

    The outflow of a tank grows with the root of its level. The pump runs at 0 to 1 and is often at either end.
    """
    rng = np.random.default_rng(seed)
    levels, pump, valve, found = np.array([0.4, 0.3]), 0.5, 0.5, []
    for row in range(rows):
        if rng.random() < 0.05:
            pump = float(np.clip(rng.uniform(-0.3, 1.3), 0, 1))
        if rng.random() < 0.02:
            valve = rng.uniform(0.2, 1)
        found.append([10.0 * row, *(levels + 0.002 * rng.normal(size=2)), pump, valve])
        for _ in range(5):
            between, out = 0.03 * valve * np.sqrt(levels[0]), 0.02 * np.sqrt(levels[1])
            change = np.array([0.03 * pump - between, between - out])
            levels = np.clip(levels + change + 0.0005 * rng.normal(size=2), 0, 1)
    names = ["time", "upper level", "lower level", "pump command", "valve command"]
    return pd.DataFrame(found, columns=names).round(5)


if __name__ == "__main__":
    tank().to_csv(sys.argv[1], index=False)
