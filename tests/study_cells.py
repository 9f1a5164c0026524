"""A small study for the tests of the study machine; in a module of its own, so that workers can import it."""

import os
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pandas as pd
from matplotlib.figure import Figure

from trajworld.charts import Look, lines
from trajworld.errors import TrajWorldError
from trajworld.study.cells import Cell, Result
from trajworld.study.tables import over_seeds


def power(settings: Mapping[str, Any], places: Mapping[str, str]) -> Result:
    """One row for each seed; what the places say goes wrong goes wrong."""
    time.sleep(float(places.get("seconds", 0)))
    trouble = places.get("trouble")
    if trouble == f"fails {settings['base']}":
        raise TrajWorldError("this cell fails")
    if trouble == f"interrupts {settings['base']}":
        raise KeyboardInterrupt
    if trouble == f"dies {settings['base']}":
        os.kill(os.getpid(), signal.SIGKILL)
    value = settings["base"] ** settings["exponent"]
    return Result(
        [{"seed": seed, "value": value + seed / 10} for seed in range(3)], {".txt": str(value).encode()}
    )


@dataclass(frozen=True)
class Powers:
    """Powers of small numbers.

    Every base is raised to the first exponent; the base with the least value then goes on to the others.

    Attributes:
        bases: What is raised.
        exponents: How far.
        trouble: What goes wrong.
        seconds: How long a cell takes.
    """

    name: ClassVar[str] = "powers"
    example: ClassVar[str] = "--bases 2,3"

    bases: tuple[int, ...] = (3, 2, 5)
    exponents: tuple[int, ...] = (1, 2, 3)
    trouble: str = ""
    seconds: float = 0.0

    def prepare(self, workers: int, say: Any) -> None:
        """Nothing is needed."""

    def cells(self, table: pd.DataFrame) -> list[Cell]:
        """The first exponent of every base, then the other exponents of the best."""
        cells = [self._cell(base, self.exponents[0]) for base in self.bases]
        done = table[table["exponent"] == self.exponents[0]] if len(table) else table
        if len(done) and done["base"].nunique() == len(self.bases):
            best = int(done.loc[done["value"].idxmin(), "base"])
            cells += [self._cell(best, exponent) for exponent in self.exponents[1:]]
        return cells

    def _cell(self, base: int, exponent: int) -> Cell:
        settings = {"base": base, "exponent": exponent, "list": [1, 2]}
        return Cell(power, settings, {"trouble": self.trouble, "seconds": str(self.seconds)})

    def tables(self, table: pd.DataFrame) -> dict[str, pd.DataFrame]:
        """Means over seeds."""
        return {"Values": over_seeds(table, ["base", "exponent"], "value")}

    def charts(self, table: pd.DataFrame, look: Look) -> dict[str, Figure]:
        """Value against exponent."""
        found = over_seeds(table, ["base", "exponent"], "value")
        found["name"] = "base " + found["base"].astype(str)
        axes = {"x": "exponent", "y": "value", "x_title": "exponent", "y_title": "value"}
        return {"Value by exponent": lines(found, look, series="name", **axes)}

    def tiles(self, table: pd.DataFrame) -> list[tuple[str, str, bool]]:
        """The greatest value."""
        return [(f"{table['value'].max():g}", "the greatest value", True)]


if __name__ == "__main__":
    from trajworld.study.cells import Store
    from trajworld.study.run import LocalEngine, run_study

    folder, workers, seconds = sys.argv[1:]
    run_study(Powers(seconds=float(seconds)), Store(Path(folder)), LocalEngine(int(workers)))
