"""One measured result: what a benchmark keeps in pytest-benchmark's ``extra_info``, and what follows from it."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

FORMAT = 1
"""Raised when the fields change their meaning."""


@dataclass(frozen=True)
class Result:
    """What one backend took for one thing.

    Attributes:
        backend: Its name.
        suite: A name of :data:`trajworld.benchmarks.suites.SUITES`.
        measure: What was measured, such as ``training step``.
        size: The model's size, a name of :data:`trajworld.benchmarks.cases.SIZES`; empty where there is no model.
        variates: M; 0 where it does not matter.
        dtype: Keras dtype policy; empty where it does not matter.
        batch: B.
        seconds: Median of the rounds, after warming up.
        minimum: Shortest of the rounds.
        rounds: How many.
        first_seconds: Of the first call, which compiles.
        flops: Nominal operations of the model in one round.
        rows: Rows predicted (or windows, or values: ``unit``) in one round.
        unit: What ``rows`` counts.
        peak_float32: Operations per second of a 2048³ matrix product by this framework in this process.
        peak_bfloat16: The same in bfloat16.
        memory: Bytes above what the process held before.
        facts: Whatever else is worth reading, by name.
    """

    backend: str
    suite: str
    measure: str
    size: str = ""
    variates: int = 0
    dtype: str = ""
    batch: int = 0
    seconds: float | None = None
    minimum: float | None = None
    rounds: int = 0
    first_seconds: float | None = None
    flops: int | None = None
    rows: int | None = None
    unit: str = "rows"
    peak_float32: float | None = None
    peak_bfloat16: float | None = None
    memory: int | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def what(self) -> tuple[str, str, str, int, str, int]:
        """All that two backends' results must share to be compared."""
        return (self.suite, self.measure, self.size, self.variates, self.dtype, self.batch)

    @property
    def compile_seconds(self) -> float | None:
        """What the first call took beyond a usual one."""
        if self.first_seconds is None or self.seconds is None:
            return None
        return max(self.first_seconds - self.seconds, 0.0)

    @property
    def flops_per_second(self) -> float | None:
        """Nominal operations per second."""
        return self.flops / self.seconds if self.flops and self.seconds else None

    @property
    def share_of_peak(self) -> float | None:
        """Nominal operations per second, of the float32 peak of the same framework and process."""
        rate = self.flops_per_second
        return rate / self.peak_float32 if rate and self.peak_float32 else None

    @property
    def rows_per_second(self) -> float | None:
        """Rows predicted per second."""
        return self.rows / self.seconds if self.rows and self.seconds else None

    def to_extra(self) -> dict[str, Any]:
        """As ``extra_info`` keeps it."""
        return {"trajworld_benchmark": FORMAT, **dataclasses.asdict(self)}

    @classmethod
    def from_extra(cls, extra: Any) -> "Result":
        """The inverse of :meth:`to_extra`.

        Raises:
            ValueError: It is no such record.
        """
        if not isinstance(extra, Mapping) or extra.get("trajworld_benchmark") != FORMAT:
            raise ValueError("its benchmarks are not TrajWorld's")
        values = {item.name: extra[item.name] for item in dataclasses.fields(cls) if item.name in extra}
        for name in ("backend", "suite", "measure", "size", "dtype", "unit"):
            if not isinstance(values.get(name, ""), str):
                raise ValueError(f"{name} is not a text")
        for name in ("variates", "batch", "rounds"):
            if not isinstance(values.get(name, 0), int):
                raise ValueError(f"{name} is not a whole number")
        for name in ("seconds", "minimum", "first_seconds", "flops", "rows", *_PEAKS, "memory"):
            value = values.get(name)
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if value is not None and not (number and math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} is not a number of 0 or more")
        if not isinstance(values.get("facts", {}), Mapping):
            raise ValueError("facts is not a table")
        if missing := [name for name in ("backend", "suite", "measure") if not values.get(name)]:
            raise ValueError(f"it lacks {', '.join(missing)}")
        return cls(**values)


_PEAKS = ("peak_float32", "peak_bfloat16")
